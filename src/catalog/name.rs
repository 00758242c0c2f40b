//! The names of archives. They sort as time within one second's grain; the manifest knows better.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The name of an archive taken at `now` (in UTC), the `nth` of that second, counted from 1.
pub fn archive_name(now: Timestamp, nth: u32) -> String {
    let stamp = now.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d-%H.%M.%S");
    match nth {
        0 | 1 => format!("etcd-snapshot-{stamp}.tar.gz"),
        _ => format!("etcd-snapshot-{stamp}-{nth}.tar.gz"),
    }
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
}
