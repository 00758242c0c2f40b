//! The source of an access key: a file, the environment, or a role of this machine, workload or container.

use super::config::{Access, S3Config};
use super::container_role::ContainerRole;
use super::credentials::Credentials;
use super::credentials_file::read_file;
use super::instance_role::InstanceRole;
use super::role_session::RoleSession;
use super::web_identity::{WebIdentity, WebIdentityRole};
use crate::error::Refusal;
use crate::store::cloud::access_token::TokenCache;
use crate::store::cloud_environment::CloudEnvironment;
use anyhow::{Result, bail};
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Mutex;

/// The source of an access key.
#[derive(Debug)]
pub(super) enum CredentialSource {
    /// A file, and its content, which is read once.
    File(PathBuf, Mutex<Option<Credentials>>),
    /// The environment of this process.
    Environment(Credentials),
    /// A role, and its session.
    Role(Box<Role>, TokenCache<RoleSession>),
}

/// A role, and how its sessions are requested.
#[derive(Debug)]
pub(super) enum Role {
    Instance(InstanceRole),
    WebIdentity(WebIdentityRole),
    Container(ContainerRole),
}

impl CredentialSource {
    /// Returns the source that the configuration names, or else the one in the environment. Sends no request.
    ///
    /// # Errors
    /// Refuses a configuration and variables that cannot be used, and if neither names a source.
    pub fn new(config: &S3Config, environment: &CloudEnvironment) -> Result<Self> {
        let role = match config.access()? {
            Some(Access::File(path)) => return Ok(Self::File(path, Mutex::default())),
            Some(Access::InstanceRole) => Role::Instance(InstanceRole::new(&environment.metadata)),
            Some(Access::WebIdentity(identity)) => web_identity(config, identity, environment)?,
            None => match &environment.amazon.credentials {
                Some(credentials) => return Ok(Self::Environment(credentials.clone())),
                None => role_in(config, environment)?,
            },
        };
        Ok(Self::Role(Box::new(role), TokenCache::default()))
    }

    /// Returns the access key for a request at `now`.
    ///
    /// # Errors
    /// Refuses a file that cannot be used, and fails if a role has no session.
    pub fn credentials(&self, now: Timestamp) -> Result<Credentials> {
        match self {
            Self::File(path, cached) => {
                let Ok(mut cached) = cached.lock() else { bail!("another thread of this program failed") };
                match &*cached {
                    Some(credentials) => Ok(credentials.clone()),
                    None => Ok(cached.insert(read_file(path)?).clone()),
                }
            }
            Self::Environment(credentials) => Ok(credentials.clone()),
            Self::Role(role, cache) => Ok(cache.get(now, || role.session(now))?.credentials),
        }
    }

    /// Discards the session that a request at `sent` was signed with, because the server refused it. Returns whether the
    /// request may be repeated with another one.
    pub fn discard_session(&self, sent: Timestamp) -> bool {
        match self {
            Self::File(..) | Self::Environment(_) => false,
            Self::Role(_, cache) => cache.discard(sent),
        }
    }
}

impl Role {
    fn session(&self, now: Timestamp) -> Result<RoleSession> {
        match self {
            Self::Instance(role) => role.session(now),
            Self::WebIdentity(role) => role.session(now),
            Self::Container(role) => role.session(now),
        }
    }
}

/// Returns the role that the environment names.
fn role_in(config: &S3Config, environment: &CloudEnvironment) -> Result<Role> {
    let amazon = &environment.amazon;
    if let Some(variables) = &amazon.web_identity {
        let identity = WebIdentity::from_environment(variables, config.server()?.region())?;
        return web_identity(config, identity, environment);
    }
    if let Some(variables) = &amazon.container {
        return Ok(Role::Container(ContainerRole::new(variables)?));
    }
    Err(Refusal::new(
        "it has no access key",
        "set its credentials-file, instance-role: true or web-identity-token-file, or set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY",
    )
    .into())
}

/// Prepares a role. Its security token service is reached like the bucket.
fn web_identity(config: &S3Config, identity: WebIdentity, environment: &CloudEnvironment) -> Result<Role> {
    let agent = config.connection().login_agent(&identity.server, &environment.proxies)?;
    Ok(Role::WebIdentity(WebIdentityRole::new(identity, agent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::{AmazonEnvironment, ContainerVariables, WebIdentityVariables};
    use crate::system::secret::Secret;

    fn source(more: &str, amazon: AmazonEnvironment) -> Result<CredentialSource> {
        let config: S3Config = serde_yaml::from_str(&format!("{{bucket: b{more}}}")).unwrap();
        let environment = CloudEnvironment { amazon, ..CloudEnvironment::default() };
        CredentialSource::new(&config, &environment)
    }

    fn granted() -> AmazonEnvironment {
        AmazonEnvironment {
            credentials: Some(Credentials {
                access_key: "AK".to_owned(),
                secret: Secret::new("canary"),
                token: None,
            }),
            web_identity: Some(WebIdentityVariables {
                role_arn: "arn:aws:iam::1:role/a".to_owned(),
                token_file: PathBuf::from("/t"),
                session_name: None,
                region: None,
                // The machine that runs the tests may have no authorities for TLS.
                endpoint: Some("http://127.0.0.1:1".to_owned()),
            }),
            container: Some(ContainerVariables {
                url: "http://169.254.170.23/v1/credentials".to_owned(),
                token_file: None,
                token: Some(Secret::new("canary")),
            }),
        }
    }

    fn kind(source: &CredentialSource) -> &'static str {
        match source {
            CredentialSource::File(..) => "file",
            CredentialSource::Environment(_) => "environment",
            CredentialSource::Role(role, _) => match **role {
                Role::Instance(_) => "instance",
                Role::WebIdentity(_) => "web identity",
                Role::Container(_) => "container",
            },
        }
    }

    #[test]
    fn the_settings_come_before_the_environment_and_its_variables_in_amazons_order() {
        let no_key = AmazonEnvironment { credentials: None, ..granted() };
        let only_container = AmazonEnvironment { web_identity: None, ..no_key.clone() };
        for (more, environment, expected) in [
            (", credentials-file: /x", granted(), "file"),
            (", instance-role: true", granted(), "instance"),
            ("", granted(), "environment"),
            ("", no_key, "web identity"),
            ("", only_container, "container"),
        ] {
            let found = source(more, environment).unwrap();
            assert_eq!(kind(&found), expected);
            assert!(!format!("{found:?}").contains("canary"));
        }
        let refusal = source("", AmazonEnvironment::default()).unwrap_err().to_string();
        assert!(refusal.contains("it has no access key"), "{refusal}");
    }
}
