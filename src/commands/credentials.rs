//! The command `package-client-credentials`: packs the files that a client of this etcd needs into one private
//! archive.
//!
//! Must never include the key of the server.

use super::next::repeat;
use super::{Call, SiteRequest};
use crate::archive::bundle;
use crate::error::{ActionError, Refusal};
use crate::etcd::site::Site;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::PRIVATE;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The file name of the archive, as in the older charm.
const NAME: &str = "etcd_credentials.tar.gz";
/// The file name of a client's key, as in the charms.
const KEY: &str = "client.key";

/// The location of the credentials.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archive with the certificates and the key of a client.
    pub path: Option<PathBuf>,
    /// The command that copies the archive to the operator's machine.
    pub copy_command: Option<String>,
}

/// Packs the certificates and the key of a client.
pub fn perform(call: &Call<'_>, request: &SiteRequest, outcome: &mut Outcome) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    let files = files(&site)?;
    let (user, owner) = archive_owner()
        .map_err(|error| ActionError::from_error(error, "nothing was changed", call.typed.to_string()))?;
    let home = if user == "root" { PathBuf::from("/root") } else { Path::new("/home").join(&user) };
    let pack = || {
        let mut contents = vec![("README", readme(&site).into_bytes())];
        for (name, path) in files {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            contents.push((name, bytes));
        }
        let dir = TrustedPath::open(&home, owner)?.create()?;
        dir.replace_for(NAME, &bundle(&contents, call.now)?, PRIVATE, Some(owner))
    };
    pack().map_err(|error| {
        let next = repeat(&error, &home, &call.typed);
        ActionError::from_error(error, "nothing was changed", next)
    })?;
    let path = home.join(NAME);
    outcome.copy_command = Some(call.copy_command(&user, &path));
    outcome.path = Some(path);
    Ok(())
}

/// Returns the authority, the certificate and the key. If a site file names them, the operator has declared them to
/// be a client's.
fn files(site: &Site) -> Result<[(&'static str, &Path); 3], Refusal> {
    let (Some(ca), Some(cert), Some(key)) = (&site.tls.cacert, &site.tls.cert, &site.tls.key) else {
        return Err(Refusal::new(
            format!("etcd at {} does not ask its clients for a certificate", site.endpoint),
            "configure client certificates for etcd first",
        ));
    };
    if !site.is_from_site_file && !key.ends_with(KEY) {
        return Err(Refusal::new(
            "only the key of the server was found on this machine, and clients must not get that key",
            "set the certificate and key of a client in a site file, and give its path as site=PATH",
        ));
    }
    Ok([("ca.crt", ca), ("client.crt", cert), (KEY, key)])
}

fn readme(site: &Site) -> String {
    let port = site.endpoint.rsplit_once(':').map_or("2379", |(_, port)| port);
    format!(
        "etcdctl --endpoints=https://ADDRESS-OF-THE-UNIT:{port} --cacert=ca.crt --cert=client.crt --key=client.key \
         endpoint health\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::tests::site;
    use crate::system::durable::Dir;

    #[test]
    fn a_site_file_vouches_for_its_pair_whoever_names_it() {
        let mut site = site(Path::new("/d"), Service::Unknown { pid: 42 });
        assert!(files(&site).unwrap_err().reason.contains("does not ask its clients for a certificate"));
        for (told, key, vouched) in
            [(false, "server.key", false), (false, "client.key", true), (true, "reader.key", true)]
        {
            site.is_from_site_file = told;
            (site.tls.cacert, site.tls.cert) = (Some("/c/ca.crt".into()), Some("/c/x.crt".into()));
            site.tls.key = Some(Path::new("/c").join(key));
            let found = files(&site).map(|files| files[2].1.to_owned());
            assert_eq!(found.is_ok(), vouched, "{key}: {found:?}");
            assert!(found.err().is_none_or(|refusal| refusal.next.contains("site=PATH")));
        }
    }

    #[test]
    fn a_site_file_is_told_though_no_variable_names_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("site.yaml");
        std::os::unix::fs::symlink("/bin/true", home.path().join("etcdctl")).unwrap();
        let text = format!(
            "endpoint: https://127.0.0.1:1\ncacert: /c/ca.crt\ncert: /c/r.crt\nkey: /c/r.key\ndata-dir: /d\n\
             bin-dir: {}\nservice: {{systemd: x.service}}\n",
            home.path().display()
        );
        Dir::open(home.path()).unwrap().replace("site.yaml", text.as_bytes()).unwrap();
        let site = Site::select(None, file.to_str().unwrap(), None).unwrap();
        assert!(files(&site).unwrap()[2].1.ends_with("r.key"));
    }
}
