//! The names of archives. They sort by time, to the second.

use crate::system::clock::{format_timestamp, parse_timestamp};
use jiff::Timestamp;

const BEGINNING: &str = "etcd-snapshot-";
const ENDING: &str = ".tar.gz";

/// The name of an archive taken at `now` (in UTC), the `nth` of that second, counted from 1.
pub fn archive_name(now: Timestamp, nth: u32) -> String {
    let stamp = format_timestamp(now);
    match nth {
        0 | 1 => format!("{BEGINNING}{stamp}{ENDING}"),
        _ => format!("{BEGINNING}{stamp}-{nth}{ENDING}"),
    }
}

/// Returns the name of an archive in a destination in which another archive has the name `name`. It contains the first
/// digits of the archive's SHA-256, so it is unique. A name that already contains them stays unchanged.
pub fn distinct_name(name: &str, sha256: &str) -> String {
    let digits = sha256.get(..12).unwrap_or(sha256);
    let (stem, ending) = match name.find(ENDING) {
        Some(at) => name.split_at(at),
        None => (name, ""),
    };
    match stem.ends_with(&format!("-{digits}")) {
        true => name.to_owned(),
        false => format!("{stem}-{digits}{ending}"),
    }
}

/// Returns when the archive `name` was taken, to the second, if its name contains the time.
pub fn taken(name: &str) -> Option<Timestamp> {
    let (_, behind) = name.split_once(BEGINNING)?;
    parse_timestamp(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_of_the_older_charm() {
        let now: Timestamp = "2016-11-09T02:41:47.9Z".parse().unwrap();
        assert_eq!(archive_name(now, 1), "etcd-snapshot-2016-11-09-02.41.47.tar.gz");
        assert_eq!(archive_name(now, 2), "etcd-snapshot-2016-11-09-02.41.47-2.tar.gz");
    }

    #[test]
    fn a_distinct_name_has_a_piece_of_the_hash_once() {
        let sha256 = "0123456789abcdef".repeat(4);
        for (name, distinct) in [
            (
                "c/u/etcd-snapshot-2016-11-09-02.41.47.tar.gz",
                "c/u/etcd-snapshot-2016-11-09-02.41.47-0123456789ab.tar.gz",
            ),
            (
                "etcd-snapshot-2016-11-09-02.41.47-2.tar.gz.age",
                "etcd-snapshot-2016-11-09-02.41.47-2-0123456789ab.tar.gz.age",
            ),
        ] {
            assert_eq!(distinct_name(name, &sha256), distinct);
            assert_eq!(distinct_name(distinct, &sha256), distinct);
            assert_eq!(taken(distinct), taken(name));
        }
    }

    #[test]
    fn a_name_tells_when_it_was_taken() {
        let taken_at = |name| taken(name).map(|taken| taken.to_string());
        for (name, told) in [
            ("etcd-snapshot-2016-11-09-02.41.47.tar.gz", Some("2016-11-09T02:41:47Z")),
            ("etcd-snapshot-2016-11-09-02.41.47-2.tar.gz.age", Some("2016-11-09T02:41:47Z")),
            ("m1-etcd-snapshot-2016-11-09-02.41.47.tar.gz", Some("2016-11-09T02:41:47Z")),
            ("etcd-snapshot-2016-13-09-02.41.47.tar.gz", None),
            ("etcd-snapshot-2016-11-09.tar.gz", None),
            ("before-the-upgrade.tar.gz", None),
        ] {
            assert_eq!(taken_at(name).as_deref(), told, "{name}");
        }
    }
}
