//! The action `site`: which etcd the other actions work on, where that was learned, and whether it answers.
//!
//! Must never fail for an etcd that does not answer: that is what it is asked about.

mod versions;

use super::results::Results;
use super::{Call, key};
use crate::archive::human_size;
use crate::error::ActionError;
use crate::etcd::certificates::{Validity, expiry_warning};
use crate::etcd::client::Client;
use crate::etcd::site::{Site, Sourced};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// Says what was found.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    let site = super::site(call)?;
    tell(&site, call.now, results);
    let version = ask(&site, results);
    versions::report(&site, results);
    if let Some(warning) = super::v2_keys::warning(&site, &version.unwrap_or_default()) {
        let others = results.get("site.warning").map(|others| format!("{others}; {warning}"));
        results.set(key!("site.warning"), others.unwrap_or(warning));
    }
    Ok(())
}

/// What was found on the machine, and where.
pub(super) fn tell(site: &Site, now: Timestamp, results: &mut Results) {
    results.set(key!("site.etcd"), &*site.description);
    results.set(key!("site.endpoint"), &**site.endpoint);
    results.set(key!("site.endpoint-from"), site.endpoint.origin.to_string());
    results.set(key!("site.data-dir"), site.data_dir.display().to_string());
    results.set(key!("site.data-dir-from"), site.data_dir.origin.to_string());
    if let Some(real) = real(&site.data_dir) {
        results.set(key!("site.data-dir-is"), real);
    }
    let files = [
        (key!("site.wal-dir"), path(&site.wal_dir)),
        (key!("site.config-file"), path(&site.config_file)),
        (key!("site.cacert"), site.tls.cacert.as_ref()),
        (key!("site.cert"), site.tls.cert.as_ref()),
        (key!("site.key"), site.tls.key.as_ref()),
        (key!("site.server-cert"), path(&site.server_certificate)),
        (key!("site.etcdutl"), site.tools.etcdutl.as_ref()),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            results.set(key, file.display().to_string());
        }
    }
    results.set(key!("site.etcdctl"), site.tools.etcdctl.display().to_string());
    results.set(key!("site.server"), site.tools.etcd.display().to_string());
    results.set(key!("site.stop"), site.service.stop_command());
    results.set(key!("site.start"), site.service.start_command());
    let mut origins = vec![
        (key!("site.programs-from"), &site.tools.origin),
        (key!("site.service-from"), &site.service.origin),
    ];
    if site.tls.cacert.is_some() || site.tls.cert.is_some() {
        origins.push((key!("site.certificates-from"), &site.tls.origin));
    }
    origins.extend(site.config_file.as_ref().map(|file| (key!("site.config-file-from"), &file.origin)));
    origins.extend(site.login.as_ref().map(|login| (key!("site.password-from"), &login.password_origin)));
    let quota = site.quota();
    origins.extend(quota.as_ref().map(|quota| (key!("site.quota-from"), &quota.origin)));
    for (key, origin) in origins {
        results.set(key, origin.to_string());
    }
    if let Some(quota) = &quota {
        results.set(key!("site.quota"), quota.bytes.map_or_else(|| "none".to_owned(), human_size));
    }
    let expires = [
        (key!("site.cert-expires"), site.tls.cert.as_ref()),
        (key!("site.server-cert-expires"), path(&site.server_certificate)),
    ];
    for (key, cert) in expires {
        if let Some(validity) = cert.and_then(|cert| Validity::read(cert).ok()) {
            results.set(key, validity.not_after.to_string());
        }
    }
    let troubles =
        [&site.certificate_problems.client, &site.certificate_problems.server].into_iter().flatten().cloned();
    let warnings: Vec<String> = warnings(site, now).into_iter().chain(troubles).collect();
    if !warnings.is_empty() {
        results.set(key!("site.warning"), warnings.join("; "));
    }
}

/// Returns the path without its origin.
fn path(path: &Option<Sourced<PathBuf>>) -> Option<&PathBuf> {
    path.as_ref().map(|path| &path.value)
}

/// What works now and will not for long.
pub(super) fn warnings(site: &Site, now: Timestamp) -> Vec<String> {
    let drift = site.drift.as_ref();
    let drift = drift.map(|drift| format!("after a restart this etcd would be another: {drift}"));
    let shown = [site.tls.cert.as_ref(), path(&site.server_certificate)].into_iter().flatten();
    let mut ends: Vec<String> = shown.filter_map(|cert| expiry_warning(cert, now)).collect();
    // One pair may serve both.
    ends.dedup();
    drift.into_iter().chain(ends).collect()
}

/// The directory itself, where its path leads through symlinks.
fn real(dir: &Path) -> Option<String> {
    let real = dir.canonicalize().ok().filter(|real| real != dir);
    real.map(|real| real.display().to_string())
}

/// Asks etcd, and returns its version if it answers.
fn ask(site: &Site, results: &mut Results) -> Option<String> {
    let client = Client::new(site);
    // The status is for everybody; a read shows that the login and the cluster are good for more.
    let version = match client.status().and_then(|status| client.count_keys(0).map(|_| status)) {
        Ok(status) => {
            results.set(key!("site.answers"), "true");
            results.set(key!("site.version"), &*status.version);
            results.set(key!("site.revision"), status.revision.to_string());
            if !status.errors.is_empty() {
                results.set(key!("site.alarms"), status.errors.join("; "));
            }
            status.version
        }
        Err(error) => {
            results.set(key!("site.answers"), "false");
            results.set(key!("site.error"), format!("{error:#}"));
            return None;
        }
    };
    if let Ok(members) = client.members() {
        let names = members.iter().map(crate::restore::called).collect::<Vec<_>>();
        results.set(key!("site.members"), names.join(", "));
    }
    Some(version)
}
