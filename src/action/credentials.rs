//! The action `package-client-credentials`: what a client of this etcd needs, in one archive for its owner alone.
//!
//! Must never hand out the server's own key.

use super::results::Results;
use super::{Call, key};
use crate::archive::bundle;
use crate::etcd::site::Site;
use crate::stop::{Refusal, Stop};
use crate::store::directory::{Approach, archive_owner};
use crate::system::durable::PRIVATE;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The archive, by the name that the older charm gives it.
const NAME: &str = "etcd_credentials.tar.gz";
/// A client's key, as the charms call it.
const KEY: &str = "client.key";

/// Packs the certificates of a client and says where they are.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let site = super::site(call)?;
    let files = files(&site, call.environment.site.is_some())?;
    let untouched = |error| Stop::of(error, "nothing was changed", "mend the cause and run it again");
    let (user, owner) = archive_owner().map_err(untouched)?;
    let home = if user == "root" { PathBuf::from("/root") } else { Path::new("/home").join(&user) };
    let pack = || {
        let mut contents = vec![("README", readme(&site).into_bytes())];
        for (name, path) in files {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            contents.push((name, bytes));
        }
        let dir = Approach::to(&home, owner)?.make()?;
        dir.replace_for(NAME, &bundle(&contents, call.now)?, PRIVATE, Some(owner))
    };
    pack().map_err(untouched)?;
    let path = home.join(NAME);
    results.set(key!("copy.cmd"), call.copy_command(&user, &path));
    results.set(key!("credentials.path"), path.display().to_string());
    Ok(())
}

/// The authority, the certificate and the key. `named` says that a site file vouches that they are a client's.
fn files(site: &Site, named: bool) -> Result<[(&'static str, &Path); 3], Refusal> {
    let (Some(ca), Some(cert), Some(key)) = (&site.tls.cacert, &site.tls.cert, &site.tls.key) else {
        return Err(Refusal::new(
            format!("etcd at {} asks its clients for no certificate", site.endpoint),
            "there is nothing to package; put certificates in place first",
        ));
    };
    if !named && !key.ends_with(KEY) {
        return Err(Refusal::new(
            "only the server's own key is known here, which no client may have",
            "name the certificate and the key of a client in a site file, and the file in ETCD_SITE",
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
