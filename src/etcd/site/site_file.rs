//! The site file: where etcd is, in the operator's words.
//!
//! Must never fill in what the file leaves out by looking at the machine.

use super::settings::{Said, Settings, Told};
use super::{CertificateProblems, Login, Origin, Quota, Service, Site, Tls, Tools};
use crate::error::Refusal;
use crate::system::durable::read_small_text;
use crate::system::owner::Owner;
use crate::system::secret::Secret;
use crate::system::trust::{self, Distrust};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::os::unix::fs::MetadataExt;
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

impl SiteFile {
    /// Refuses a file or a command of the site file that users other than root can change. What only etcd is told may also
    /// belong to the owner of the data, who can read and change everything in etcd already.
    fn check_what_root_is_to_believe(&self) -> Result<(), Refusal> {
        let owner = self.owner_of_data();
        let files = [
            (&self.cacert, "the certificate"),
            (&self.cert, "the certificate"),
            (&self.key, "the certificate's key"),
            (&self.password_file, "the password file"),
            (&self.config_file, "etcd's configuration file"),
        ];
        for (file, what) in files {
            let Some(file) = file else { continue };
            match trust::check_for(owner, file) {
                // Whoever reads it reports that it is missing.
                Err(distrust) if !distrust.is_missing() => return Err(self.refuse(&distrust, what)),
                _ => {}
            }
        }
        self.service.check_commands()
    }

    /// The user whom the data belongs to. If there is no data directory, that is the user whom the service runs as.
    fn owner_of_data(&self) -> Option<u32> {
        let named = || Owner::named(&self.service.user()?).ok().flatten().map(|owner| owner.uid);
        std::fs::metadata(&self.data_dir).ok().map(|found| found.uid()).or_else(named)
    }

    /// The refusal of a file that root or etcd's user may own. etcd itself must still be able to read it.
    fn refuse(&self, distrust: &Distrust, what: &str) -> Refusal {
        let refusal = distrust.refusal(what);
        if !distrust.is_of_another_owner() {
            return refusal;
        }
        let data = self.data_dir.display();
        let next = match self.data_dir.exists() {
            true => format!("sudo chown --reference={data} {}", distrust.culprit().display()),
            false => {
                format!("make {data} for the user that etcd runs as, who may own this file as well as root")
            }
        };
        Refusal::new(refusal.reason, next)
    }
}

/// The site that `file` describes. `password` is the one from the environment; a password file comes before it.
pub(super) fn read(file: &Path, password: Option<Secret>) -> Result<Site> {
    let path = std::path::absolute(file).map_err(|error| unusable(file, &error.to_string()))?;
    trust::check(&path).map_err(|distrust| match distrust.is_missing() {
        true => unusable(file, &distrust.to_string()),
        false => distrust.refusal("the site file"),
    })?;
    let text = read_small_text(&path).map_err(|error| unusable(file, &error.to_string()))?;
    let said: SiteFile = serde_yaml::from_str(&text).map_err(|error| unusable(file, &error.to_string()))?;
    if said.cert.is_some() != said.key.is_some() {
        return Err(unusable(file, "cert and key go together").into());
    }
    if !said.data_dir.is_absolute() {
        return Err(unusable(file, "data-dir must be an absolute path").into());
    }
    said.check_what_root_is_to_believe()?;
    let told_by = file.display().to_string();
    let configured = said.config_file.as_deref().and_then(configured);
    Ok(Site {
        description: format!("the etcd of the site file {told_by}"),
        from: Origin { endpoint: told_by.clone(), data_dir: told_by },
        drift: None,
        pid: None,
        login: login(said.username, said.password_file.as_deref(), password)?,
        endpoint: one_endpoint(file, said.endpoint)?,
        server_certificate: None,
        certificate_problems: CertificateProblems::default(),
        tls: Tls { cacert: said.cacert, cert: said.cert, key: said.key },
        data_dir: said.data_dir,
        wal_dir: None,
        initial_member: configured.as_ref().map(|said| said.settings.initial()).unwrap_or_default(),
        quota: configured.as_ref().and_then(Quota::of),
        is_from_site_file: true,
        config_file: said.config_file,
        tools: Tools::find(said.bin_dir.as_deref())?,
        service: said.service,
    })
}

/// What etcd's own configuration says, which the site file names. One that is not there says nothing.
fn configured(config_file: &Path) -> Option<Said> {
    let settings = Settings::of_file(&read_small_text(config_file).ok()?).ok()?;
    Some(Said::new(Told::default(), Some(config_file.to_owned()), settings))
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
