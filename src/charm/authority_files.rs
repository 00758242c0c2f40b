//! Reads which certificate authorities the files of a unit use and trust.

use super::authorities::Authorities;
use super::authority_rotation::RotationFacts;
use super::certificate_files::{ISSUER, TRUSTED};
use super::certificates::Certificates;
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use std::path::Path;

/// Returns the facts about the certificates in `dir`; nothing is issued, and there are no peers. `is_loaded` is whether etcd is
/// known to have started after they were written.
///
/// # Errors
/// If a file cannot be read.
pub fn gather(dir: &Path, is_loaded: bool, now: Timestamp) -> Result<RotationFacts> {
    if !dir.exists() {
        return Ok(RotationFacts { is_loaded, ..RotationFacts::default() });
    }
    let is_usable = Certificates::check(dir, None, now) == Certificates::All;
    let dir = Dir::open(&dir.canonicalize()?)?;
    // An operator, and the charm before it could change authorities, have only one file for both.
    let issuer = if dir.inode(ISSUER)?.is_some() { ISSUER } else { TRUSTED };
    let (used, used_for) = read(&dir, issuer, now)?;
    let (trusted, trusted_for) = read(&dir, TRUSTED, now)?;
    let used = if dir.inode("server.crt")?.is_some() { used } else { Authorities::default() };
    Ok(RotationFacts {
        used,
        used_for,
        is_usable,
        trusted,
        trusted_for,
        is_loaded,
        ..RotationFacts::default()
    })
}

/// Returns the authorities in a file, and how long it has had this content. After a change of the clock, the time may be wrong:
/// a date in the future counts as long ago.
fn read(dir: &Dir, name: &str, now: Timestamp) -> Result<(Authorities, SignedDuration)> {
    let Some(bytes) = dir.read_small(name)? else { return Ok((Authorities::default(), SignedDuration::MAX)) };
    let modified = dir.read(name)?.metadata()?.modified().context("reading its time")?;
    let since = now.duration_since(Timestamp::try_from(modified)?);
    let since = if since.is_negative() { SignedDuration::MAX } else { since };
    Ok((Authorities::parse(&String::from_utf8_lossy(&bytes)), since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::authority_rotation::SETTLING_TIME;
    use crate::charm::certificates::tests::system_time;

    #[test]
    fn reads_the_authorities_and_their_ages() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        assert_eq!(gather(&home.path().join("none"), true, now).unwrap().used, Authorities::default());
        let ca = || rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
        let (old, new) = (ca(), ca());
        let put = |name: &str, text: &str, time: &str| {
            dir.replace(name, text.as_bytes()).unwrap();
            let file = std::fs::File::open(home.path().join(name)).unwrap();
            file.set_modified(system_time(time.parse().unwrap())).unwrap();
        };
        put("server.crt", &old, "2026-01-01T00:00:00Z");
        put(TRUSTED, &old, "2026-01-01T00:00:00Z");
        let found = gather(home.path(), true, now).unwrap();
        assert_eq!((&found.used, &found.trusted), (&Authorities::parse(&old), &Authorities::parse(&old)));
        assert!(found.used_for > SETTLING_TIME && !found.is_usable);
        put(TRUSTED, &format!("{old}{new}"), "2026-06-01T11:59:00Z");
        put(ISSUER, &new, "2027-01-01T00:00:00Z");
        let found = gather(home.path(), false, now).unwrap();
        assert_eq!(found.used, Authorities::parse(&new));
        assert_eq!(found.trusted, Authorities::parse(&format!("{new}{old}")));
        assert_eq!(found.trusted_for, SignedDuration::from_mins(1));
        assert_eq!(found.used_for, SignedDuration::MAX);
    }
}
