//! The files of the signing requests: the keys, which only root can read, and the requests as the relation's data repeats them.
//!
//! The requests that are made for a renewal replace the earlier ones as a whole. The certificates in place have keys of their
//! own, so they are not affected.

use super::files::replace_dir;
use super::signing_relation::SigningRequests;
use super::signing_request::SigningRequest;
use crate::system::durable::Dir;
use crate::system::secret::Secret;
use anyhow::Result;
use rustix::fs::Mode;
use std::path::{Path, PathBuf};

/// Returns the directory of the requests for the certificates in `certificate_dir`.
pub fn request_dir(certificate_dir: &Path) -> PathBuf {
    let mut name = certificate_dir.file_name().unwrap_or_default().to_owned();
    name.push("-requests");
    certificate_dir.with_file_name(name)
}

/// Reads the requests in `dir`. `None` if there are none.
///
/// # Errors
/// If a file cannot be read.
pub fn read(dir: &Path) -> Result<Option<SigningRequests>> {
    if !dir.exists() {
        return Ok(None);
    }
    let dir = Dir::open(&dir.canonicalize()?)?;
    let text = |name: String| -> Result<Option<String>> {
        Ok(dir.read_small(&name)?.and_then(|bytes| String::from_utf8(bytes).ok()))
    };
    let request = |name: &str| -> Result<Option<SigningRequest>> {
        let (key, request) = (text(format!("{name}.key"))?, text(format!("{name}.csr"))?);
        Ok(key.zip(request).map(|(key, request)| SigningRequest { key: Secret::new(key), request }))
    };
    let (server, client) = (request("server")?, request("client")?);
    Ok(server.zip(client).map(|(server, client)| SigningRequests { server, client }))
}

/// Writes the requests into `dir`, in place of those that are there.
///
/// # Errors
/// If they cannot be written. Then the earlier ones are still there.
pub fn write(dir: &Path, requests: &SigningRequests) -> Result<()> {
    replace_dir(dir, Mode::RWXU, |new| {
        for (name, one) in [("server", &requests.server), ("client", &requests.client)] {
            new.replace(&format!("{name}.key"), one.key.reveal().as_bytes())?;
            new.replace(&format!("{name}.csr"), one.request.as_bytes())?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::certificates::CertificateNames;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn requests_are_read_as_they_were_written_and_only_by_root() {
        let home = tempfile::tempdir().unwrap();
        let dir = request_dir(&home.path().join("etcd/relation-tls"));
        assert_eq!(dir, home.path().join("etcd/relation-tls-requests"));
        assert!(read(&dir).unwrap().is_none());
        let names = CertificateNames { common_name: "etcd-0".into(), hosts: ["127.0.0.1".to_owned()].into() };
        let mut last = String::new();
        for _ in 0..2 {
            let made = SigningRequests::generate(&names).unwrap();
            write(&dir, &made).unwrap();
            let found = read(&dir).unwrap().unwrap();
            assert_eq!(found.data(), made.data());
            assert_eq!(found.server.key.reveal(), made.server.key.reveal());
            assert_eq!(found.client.key.reveal(), made.client.key.reveal());
            assert_ne!(found.server.request, last);
            last = found.server.request;
        }
        assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
        for name in ["server.key", "client.key", "server.csr"] {
            assert_eq!(dir.join(name).metadata().unwrap().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(Dir::open(&home.path().join("etcd")).unwrap().names().unwrap(), ["relation-tls-requests"]);
        // Killed in between: incomplete requests are made anew.
        Dir::open(&dir).unwrap().remove_file("client.key").unwrap();
        assert!(read(&dir).unwrap().is_none());
    }
}
