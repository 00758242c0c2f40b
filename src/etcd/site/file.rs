//! The site file: where etcd is, in the operator's words.
//!
//! Must never fill in what the file leaves out by looking at the machine.

use super::settings::Settings;
use super::{Initial, Login, Origin, Service, Site, Tls, Tools, Trouble};
use crate::stop::Refusal;
use crate::system::durable::read_found_text;
use crate::system::secret::Secret;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SiteFile {
    endpoint: String,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    data_dir: PathBuf,
    config_file: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
    service: Service,
}

/// The site that `file` describes. `password` is the one from the environment; a password file comes before it.
pub(super) fn read(file: &Path, password: Option<Secret>) -> Result<Site> {
    let text = std::fs::read_to_string(file).map_err(|error| unusable(file, &error.to_string()))?;
    let said: SiteFile = serde_yaml::from_str(&text).map_err(|error| unusable(file, &error.to_string()))?;
    if said.cert.is_some() != said.key.is_some() {
        return Err(unusable(file, "cert and key go together").into());
    }
    if !said.data_dir.is_absolute() {
        return Err(unusable(file, "data-dir must be an absolute path").into());
    }
    let told_by = file.display().to_string();
    Ok(Site {
        called: format!("the etcd of the site file {told_by}"),
        from: Origin { endpoint: told_by.clone(), data_dir: told_by },
        drift: None,
        pid: None,
        login: login(said.username, said.password_file.as_deref(), password)?,
        endpoint: one_endpoint(file, said.endpoint)?,
        certificate: None,
        trouble: Trouble::default(),
        tls: Tls { cacert: said.cacert, cert: said.cert, key: said.key },
        data_dir: said.data_dir,
        wal_dir: None,
        initial: initial(said.config_file.as_deref()),
        is_told: true,
        config_file: said.config_file,
        tools: Tools::find(said.bin_dir.as_deref())?,
        service: said.service,
    })
}

/// Who the member is to be, by etcd's own configuration where the site file names that. One that is not there says nothing.
fn initial(config_file: Option<&Path>) -> Initial {
    let text = config_file.and_then(|file| read_found_text(file).ok());
    let said = text.and_then(|text| Settings::of_file(&text).ok());
    said.map(|said| said.initial()).unwrap_or_default()
}

fn unusable(file: &Path, why: &str) -> Refusal {
    Refusal::new(
        format!("the site file {} cannot be used: {why}", file.display()),
        "correct it, or unset ETCD_SITE to have etcd looked for",
    )
}

/// A snapshot comes from one member: etcdctl refuses several (`snapshot must be requested to one selected node`).
fn one_endpoint(file: &Path, endpoint: String) -> Result<String> {
    let scheme = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
    if !scheme || endpoint.contains([',', ' ']) {
        return Err(
            unusable(file, &format!("endpoint must be one http:// or https:// URL, not {endpoint}")).into()
        );
    }
    Ok(endpoint)
}

fn login(
    user: Option<String>,
    password_file: Option<&Path>,
    from_environment: Option<Secret>,
) -> Result<Option<Login>> {
    let Some(user) = user else { return Ok(None) };
    let password = match password_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading the password file {}", path.display()))?;
            Secret::new(text.trim_end_matches(['\r', '\n']))
        }
        None => from_environment.ok_or_else(|| {
            Refusal::new(
                format!("there is no password for etcd's user {user}"),
                "name a password-file in the site file, or set ETCDCTL_PASSWORD",
            )
        })?,
    };
    Ok(Some(Login { user, password }))
}
