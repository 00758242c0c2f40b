//! Reads which certificate authorities the files of a unit use and trust.

use super::authorities::Authorities;
use super::authority_rotation::RotationFacts;
use super::certificate_files::{ISSUER, TRUSTED};
use super::certificates::check_pairs;
use super::files::{open_certificate_dir, read_certificate_file};
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use std::fs;
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
    // A damaged file of authorities is written again. Other certificates are not used earlier because of it.
    let are_pairs_usable = check_pairs(dir, now).is_ok();
    let dir = open_certificate_dir(dir)?;
    // An operator, and the charm before it could change authorities, have only one file for both.
    let issuer = if dir.inode(ISSUER)?.is_some() { ISSUER } else { TRUSTED };
    let (used, used_for) = read(&dir, issuer, now)?;
    let used = Authorities::parse(&used.text());
    let (trusted, trusted_for) = read(&dir, TRUSTED, now)?;
    let is_usable = are_pairs_usable && used.has_valid(now);
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
    let Some(bytes) = read_certificate_file(dir, name)? else {
        return Ok((Authorities::default(), SignedDuration::MAX));
    };
    let modified = fs::metadata(dir.handle(name))?.modified().context("reading its time")?;
    let since = now.duration_since(Timestamp::try_from(modified)?);
    let since = if since.is_negative() { SignedDuration::MAX } else { since };
    Ok((Authorities::of_file(&String::from_utf8_lossy(&bytes)), since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::authority_rotation::SETTLING_TIME;
    use crate::charm::certificates::tests::{make_certificates, system_time};

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

    #[test]
    fn a_damaged_file_of_authorities_is_no_reason_to_change_certificates_at_once() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        make_certificates(home.path(), "127.0.0.1");
        let good = dir.read_small(TRUSTED).unwrap().unwrap();
        let is_usable = |day: &str| {
            let now = format!("{day}T00:00:00Z").parse().unwrap();
            gather(home.path(), true, now).unwrap().is_usable
        };
        dir.replace(ISSUER, &good).unwrap();
        let bogus = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        dir.replace(TRUSTED, &[bogus, &*good].concat()).unwrap();
        assert!(is_usable("2026-06-01") && !is_usable("2027-06-01"));
        let found = gather(home.path(), true, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!((found.used.hashes().len(), found.trusted.hashes().len()), (1, 2));
        // An operator may place links.
        let links = dir.make_child("links", None).unwrap();
        for name in ["server.crt", TRUSTED] {
            std::os::unix::fs::symlink(home.path().join(name), links.path().join(name)).unwrap();
        }
        let found = gather(links.path(), true, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!((found.used.hashes().len(), found.trusted.hashes().len()), (1, 2));
        // No peer accepts certificates of an authority that has ended.
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let ended = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        dir.replace(ISSUER, ended.as_bytes()).unwrap();
        assert!(!is_usable("2026-06-01"));
    }
}
