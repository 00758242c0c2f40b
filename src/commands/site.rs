//! The command `site`: reports the etcd that the other commands use, the source of each fact, and whether it answers.
//!
//! Must never fail because etcd does not answer: it reports that.

mod versions;
mod write;

pub(super) use versions::check as check_programs;

use super::Call;
use crate::error::ActionError;
use crate::etcd::certificates::{Validity, expiry_warning};
use crate::etcd::client::Client;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::site::{Site, Sourced};
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A request about the etcd of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The etcd, if the machine has several: its unit, its process id, its data directory, or a site file.
    pub site: Option<String>,
    /// What to do.
    pub task: Task,
}

/// What to do with the etcd that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Report it.
    Report,
    /// Write a site file that describes it.
    Write {
        /// Whether to replace a file that exists.
        force: bool,
    },
}

/// The etcd of this machine.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The unfinished restore of this etcd, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_restore: Option<String>,
    /// A description of the etcd, such as its systemd unit.
    pub etcd: String,
    /// The URL of the member on this machine.
    pub endpoint: String,
    /// The source of the endpoint.
    pub endpoint_from: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The source of the data directory.
    pub data_dir_from: String,
    /// The data directory without symlinks, if that is another path.
    pub data_dir_real: Option<PathBuf>,
    /// The directory of the write-ahead log, if it is not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// etcd's configuration file.
    pub config_file: Option<PathBuf>,
    /// The source of the path of the configuration file.
    pub config_file_from: Option<String>,
    /// The certificate authority of the server.
    pub cacert: Option<PathBuf>,
    /// The certificate of the client.
    pub cert: Option<PathBuf>,
    /// The key of the client.
    pub key: Option<PathBuf>,
    /// The source of the certificates.
    pub certificates_from: Option<String>,
    /// When the certificate of the client expires, in RFC 3339.
    pub cert_expires: Option<String>,
    /// The certificate of the server.
    pub server_cert: Option<PathBuf>,
    /// When the certificate of the server expires, in RFC 3339.
    pub server_cert_expires: Option<String>,
    /// The source of the password, if etcd needs one.
    pub password_from: Option<String>,
    /// The path of etcdctl.
    pub etcdctl: PathBuf,
    /// The path of etcdutl, if there is one.
    pub etcdutl: Option<PathBuf>,
    /// The path of etcd itself.
    pub server: PathBuf,
    /// The source of the programs.
    pub programs_from: String,
    /// The versions of these programs.
    pub programs: Vec<String>,
    /// The command that stops etcd.
    pub stop: String,
    /// The command that starts etcd.
    pub start: String,
    /// The source of these commands.
    pub service_from: String,
    /// The quota of the database in bytes. Missing if no quota is set, or if it is unknown.
    pub quota_bytes: Option<u64>,
    /// The source of the quota.
    pub quota_from: Option<String>,
    /// Whether etcd answers. Missing if it was not queried.
    pub answers: Option<bool>,
    /// The reason why etcd does not answer.
    pub answer_error: Option<String>,
    /// The version of the running etcd.
    pub etcd_version: Option<String>,
    /// The present revision of the data.
    pub revision: Option<i64>,
    /// The alarms of etcd.
    pub alarms: Vec<String>,
    /// The members of the cluster.
    pub members: Vec<String>,
    /// Warnings about settings that do not work or will stop working.
    pub warnings: Vec<String>,
    /// The site file that was written, if that was requested.
    pub site_file: Option<PathBuf>,
    /// The lines of that site file, also if it was not written.
    pub site_file_text: Option<String>,
}

/// Describes the etcd of this machine.
///
/// # Errors
/// Fails if it finds no etcd, or several. Does not fail if etcd does not answer.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let choice = request.site.as_deref();
    if let Task::Write { force } = request.task {
        return write_file(call, choice, force, outcome);
    }
    let site = super::site(call, choice)?;
    *outcome = look(&site, call.now);
    outcome.unfinished_restore = super::unfinished::describe_at(&site);
    let programs = versions::check(&site, outcome.etcd_version.as_deref());
    outcome.programs = programs.versions;
    outcome.warnings.extend(programs.warnings);
    let version = outcome.etcd_version.clone().unwrap_or_default();
    outcome.warnings.extend(super::v2_keys::warning(&site, &version));
    Ok(())
}

/// Writes the site file of the etcd that is discovered. A site file that exists is not read.
fn write_file(
    call: &Call<'_>,
    choice: Option<&str>,
    force: bool,
    outcome: &mut Outcome,
) -> Result<(), ActionError> {
    let site = super::discovered_site(call, choice)?;
    *outcome = look(&site, call.now);
    outcome.site_file_text = Some(site.to_site_file_draft());
    let file = call.environment.site.as_deref().unwrap_or(Path::new(SITE_FILE));
    let written = write::write(&site, file, force).map_err(|error| {
        ActionError::from_error(error, "no site file was written", call.typed.to_string())
    })?;
    outcome.site_file = Some(written);
    Ok(())
}

/// Returns the facts found on the machine, and the answers of etcd.
pub(super) fn look(site: &Site, now: Timestamp) -> Outcome {
    let mut outcome = describe(site, now);
    ask(site, &mut outcome);
    outcome
}

/// Returns the facts found on the machine, without querying etcd.
pub(super) fn describe(site: &Site, now: Timestamp) -> Outcome {
    let expires = |cert: Option<&PathBuf>| {
        let validity = cert.and_then(|cert| Validity::read(cert).ok());
        validity.map(|validity| validity.not_after.to_string())
    };
    let problems = [&site.certificate_problems.client, &site.certificate_problems.server];
    let problems = problems.into_iter().flatten().cloned();
    let has_certificates = site.tls.cacert.is_some() || site.tls.cert.is_some();
    let quota = site.quota();
    Outcome {
        etcd: site.description.to_string(),
        endpoint: site.endpoint.value.to_string(),
        endpoint_from: site.endpoint.origin.to_string(),
        data_dir: site.data_dir.value.clone(),
        data_dir_from: site.data_dir.origin.to_string(),
        data_dir_real: real(&site.data_dir),
        wal_dir: path(&site.wal_dir).cloned(),
        config_file: path(&site.config_file).cloned(),
        config_file_from: site.config_file.as_ref().map(|file| file.origin.to_string()),
        cacert: site.tls.cacert.clone(),
        cert: site.tls.cert.clone(),
        key: site.tls.key.clone(),
        certificates_from: has_certificates.then(|| site.tls.origin.to_string()),
        cert_expires: expires(site.tls.cert.as_ref()),
        server_cert: path(&site.server_certificate).cloned(),
        server_cert_expires: expires(path(&site.server_certificate)),
        password_from: site.login.as_ref().map(|login| login.password_origin.to_string()),
        etcdctl: site.tools.etcdctl.clone(),
        etcdutl: site.tools.etcdutl.clone(),
        server: site.tools.etcd.clone(),
        programs_from: site.tools.origin.to_string(),
        service_from: site.service.origin.to_string(),
        quota_bytes: quota.as_ref().and_then(|quota| quota.bytes),
        quota_from: quota.as_ref().map(|quota| quota.origin.to_string()),
        stop: site.service.stop_command(),
        start: site.service.start_command(),
        warnings: warnings(site, now).into_iter().chain(problems).collect(),
        ..Outcome::default()
    }
}

/// Returns the path without its source.
fn path(path: &Option<Sourced<PathBuf>>) -> Option<&PathBuf> {
    path.as_ref().map(|path| &path.value)
}

/// Returns warnings about settings and certificates that will stop working soon.
pub(super) fn warnings(site: &Site, now: Timestamp) -> Vec<String> {
    let drift = site.drift.as_ref();
    let drift = drift.map(|drift| format!("etcd's configuration has changed since it started: {drift}"));
    let shown = [site.tls.cert.as_ref(), path(&site.server_certificate)].into_iter().flatten();
    let mut ends: Vec<String> = shown.filter_map(|cert| expiry_warning(cert, now)).collect();
    // The client and the server may use the same certificate.
    ends.dedup();
    drift.into_iter().chain(ends).collect()
}

/// Returns the directory without symlinks, if its path contains any.
fn real(dir: &Path) -> Option<PathBuf> {
    dir.canonicalize().ok().filter(|real| real != dir)
}

/// Queries etcd for its version, its revision and its members.
fn ask(site: &Site, outcome: &mut Outcome) {
    let client = Client::new(site);
    // Every user may read the status. Reading keys shows that the login and the cluster allow more.
    match client.status().and_then(|status| client.count_keys(0).map(|_| status)) {
        Ok(status) => {
            outcome.answers = Some(true);
            outcome.revision = Some(status.revision);
            outcome.alarms = status.errors;
            outcome.etcd_version = Some(status.version);
        }
        Err(error) => {
            outcome.answers = Some(false);
            outcome.answer_error = Some(format!("{error:#}"));
            return;
        }
    }
    if let Ok(members) = client.members() {
        outcome.members = members.iter().map(crate::restore::describe_member).collect();
    }
}
