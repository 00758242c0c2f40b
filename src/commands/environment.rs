//! The environment and the command line. This is the only module that reads them.
//!
//! Must never show the password, or keep it among the variables that other modules can read.

use crate::etcd::paths::SITE_FILE;
use crate::store::cloud::{MetadataServices, Proxies};
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::s3::{AmazonEnvironment, ContainerVariables, Credentials, WebIdentityVariables};
use crate::system::proxy;
use crate::system::secret::Secret;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// The variable with the path of the site file.
pub(super) const SITE: &str = "ETCD_SITE";
/// The variable with the path of the settings file.
pub(super) const SETTINGS: &str = "ETCD_BACKUP";
/// The variable from which etcd's tools read the password.
pub(super) const PASSWORD: &str = "ETCDCTL_PASSWORD";

/// The default directory for archives outside of the charm.
const USUAL_TARGET: &str = "/var/backups/etcd";
/// The home directory of the user that `juju scp` logs in as, if that user exists.
const CHARM_HOME: &str = "/home/ubuntu";
/// The default directory for archives in the charm, which `juju scp` can read.
const CHARM_TARGET: &str = "/home/ubuntu/etcd-snapshots";
/// The address at which Amazon ECS gives out the access keys of its tasks. The environment names only the path.
const ECS_CREDENTIALS: &str = "http://169.254.170.2";

/// The values that were read from the environment.
#[derive(Debug, Default)]
pub struct Environment {
    /// The path of the site file, from `ETCD_SITE`.
    pub site: Option<PathBuf>,
    /// The password of the etcd user, from `ETCDCTL_PASSWORD`.
    pub password: Option<Secret>,
    /// The path of the settings file, from `ETCD_BACKUP`.
    pub settings: Option<PathBuf>,
    /// The access to clouds, from the variables that their own tools read.
    pub clouds: CloudEnvironment,
    /// The unit that Juju runs this process on, in an action and under `juju exec`.
    pub unit: Option<String>,
    /// Whether this process runs in the charm: as an action, a hook, or by a link in its directory.
    pub in_charm: bool,
    /// Whether the output of this process is a terminal.
    pub stdout_is_terminal: bool,
    /// All other variables.
    pub(super) variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the only code that reads the environment")]
    pub fn read() -> Self {
        let stdout_is_terminal = std::io::stdout().is_terminal();
        let environment = Self { stdout_is_terminal, ..Self::of(std::env::vars_os()) };
        let in_charm = environment.in_charm || is_in_charm();
        if in_charm {
            return Self { in_charm, ..environment };
        }
        let site_file = Some(PathBuf::from(SITE_FILE)).filter(|path| path.exists());
        Self { site: environment.site.or(site_file), ..environment }
    }

    /// Returns the directory for archives if neither the caller nor the settings name one.
    pub fn default_target(&self) -> &'static Path {
        // Without that user, `juju scp` logs in as root, and its home directory must not be created.
        let is_for_charm = self.in_charm && Path::new(CHARM_HOME).is_dir();
        Path::new(if is_for_charm { CHARM_TARGET } else { USUAL_TARGET })
    }

    /// Takes the environment from `variables`. A variable that is empty counts as not set.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut variables: BTreeMap<_, _> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let in_charm = ["JUJU_UNIT_NAME", "JUJU_CHARM_DIR"].into_iter().map(OsString::from);
        Self {
            stdout_is_terminal: false,
            in_charm: in_charm.into_iter().any(|name| variables.contains_key(&name)),
            site: variables.get(&OsString::from(SITE)).map(PathBuf::from),
            settings: variables.get(&OsString::from(SETTINGS)).map(PathBuf::from),
            clouds: clouds(&mut variables),
            // etcd does not support a password that is not UTF-8, and rejects it with its own message.
            password: variables
                .remove(&OsString::from(PASSWORD))
                .map(|password| Secret::new(password.to_string_lossy())),
            unit: variables
                .get(&OsString::from("JUJU_UNIT_NAME"))
                .and_then(|unit| unit.to_str())
                .map(str::to_owned),
            variables,
        }
    }

    /// Returns all variables except those above. They never include the password.
    pub fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// Returns the value of one of these variables.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }
}

/// The variables of a process.
type Variables = BTreeMap<OsString, OsString>;

/// Returns the access to clouds. Removes the secrets from `variables`.
fn clouds(variables: &mut Variables) -> CloudEnvironment {
    let metadata = MetadataServices {
        amazon: take(variables, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        azure: take(variables, "AZURE_POD_IDENTITY_AUTHORITY_HOST"),
        google: take(variables, "GCE_METADATA_HOST"),
    };
    CloudEnvironment { amazon: amazon(variables), metadata, proxies: proxies(variables) }
}

/// Returns the access to buckets of S3. Removes the secrets from `variables`.
fn amazon(variables: &mut Variables) -> AmazonEnvironment {
    let access_key = take(variables, "AWS_ACCESS_KEY_ID").zip(take(variables, "AWS_SECRET_ACCESS_KEY"));
    let token = take(variables, "AWS_SESSION_TOKEN").map(Secret::new);
    let credentials =
        access_key.map(|(access_key, secret)| Credentials { access_key, secret: Secret::new(secret), token });
    AmazonEnvironment { credentials, web_identity: web_identity(variables), container: container(variables) }
}

fn web_identity(variables: &Variables) -> Option<WebIdentityVariables> {
    Some(WebIdentityVariables {
        role_arn: read(variables, "AWS_ROLE_ARN")?,
        token_file: read(variables, "AWS_WEB_IDENTITY_TOKEN_FILE")?.into(),
        session_name: read(variables, "AWS_ROLE_SESSION_NAME"),
        region: read(variables, "AWS_REGION").or_else(|| read(variables, "AWS_DEFAULT_REGION")),
        endpoint: read(variables, "AWS_ENDPOINT_URL_STS"),
    })
}

fn container(variables: &mut Variables) -> Option<ContainerVariables> {
    let token = take(variables, "AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new);
    // The path is secret.
    let relative = take(variables, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let relative = relative.map(|path| format!("{ECS_CREDENTIALS}/{}", path.trim_start_matches('/')));
    Some(ContainerVariables {
        url: relative.or_else(|| read(variables, "AWS_CONTAINER_CREDENTIALS_FULL_URI"))?,
        token_file: read(variables, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
        token,
    })
}

fn read(variables: &Variables, name: &str) -> Option<String> {
    variables.get(OsStr::new(name))?.to_str().map(str::to_owned)
}

/// Removes a variable, and returns its value.
fn take(variables: &mut Variables, name: &str) -> Option<String> {
    variables.remove(OsStr::new(name)).and_then(|value| value.into_string().ok())
}

/// Returns the proxies from the usual variables, or from those that the operator set for charms.
fn proxies(variables: &Variables) -> Proxies {
    let first = |names: [&str; 3]| {
        let mut found = names.iter().filter_map(|name| variables.get(OsStr::new(name))?.to_str());
        found.next().map(str::to_owned)
    };
    Proxies {
        http: first(proxy::HTTP).map(Secret::new),
        https: first(proxy::HTTPS).map(Secret::new),
        exempt: first(proxy::EXEMPT).unwrap_or_default(),
    }
}

/// Returns the name that this process was started by: a link may have another name than the program.
pub fn called_as() -> String {
    let name = first_word().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    name.unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the only code that reads the command line")]
fn first_word() -> Option<PathBuf> {
    std::env::args_os().next().map(PathBuf::from)
}

/// Returns the path that this process was started by. Symlinks are not resolved, because the name of a link selects a
/// command.
pub(super) fn called_path() -> Option<PathBuf> {
    let word = first_word()?;
    let path = if word.components().count() > 1 { word } else { which::which(word).ok()? };
    std::path::absolute(path).ok()
}

/// Returns whether this process was started by a link in the directory `actions` of an unpacked charm.
fn is_in_charm() -> bool {
    let dir = called_path().and_then(|path| path.parent().map(Path::to_owned));
    dir.is_some_and(|dir| dir.ends_with("actions") && dir.with_file_name("metadata.yaml").is_file())
}

/// Returns the words after the name of the program.
#[expect(clippy::disallowed_methods, reason = "the only code that reads the command line")]
pub(crate) fn words() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// Returns the time of this run.
#[expect(clippy::disallowed_methods, reason = "the only code that reads the time of a run")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_key_is_taken_out_of_sight() {
        let named = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let environment = Environment::of(named.map(|name| (name.into(), "canary".into())));
        let found = environment.clouds.amazon.credentials.as_ref().unwrap();
        assert_eq!((found.access_key.as_str(), found.secret.reveal()), ("canary", "canary"));
        assert!(found.token.is_some() && environment.variables.is_empty());
        assert!(!format!("{:?}", found.secret).contains("canary"));
    }

    #[test]
    fn the_roles_of_pods_and_containers_are_named_as_by_amazon() {
        let of = |set: &[(&str, &str)]| {
            let set = set.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let environment = Environment::of(set);
            assert!(!format!("{environment:?}").contains("canary"));
            environment.clouds.amazon
        };
        let role = of(&[
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/a"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_ROLE_SESSION_NAME", "s"),
        ]);
        let role = role.web_identity.unwrap();
        assert_eq!(
            (role.role_arn.as_str(), role.token_file.as_path()),
            ("arn:aws:iam::1:role/a", Path::new("/t"))
        );
        assert_eq!((role.region.as_deref(), role.session_name.as_deref()), (Some("eu-west-1"), Some("s")));
        assert!(!of(&[("AWS_ROLE_ARN", "arn:aws:iam::1:role/a"), ("AWS_REGION", "a")]).grants_access());
        let pod = of(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "canary"),
        ]);
        let pod = pod.container.unwrap();
        assert_eq!(
            (pod.url.as_str(), pod.token.unwrap().reveal()),
            ("http://169.254.170.23/v1/credentials", "canary")
        );
        let task = of(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1")]);
        assert_eq!(task.container.unwrap().url, "http://169.254.170.2/v2/credentials/1");
    }

    #[test]
    fn the_way_out_is_that_of_the_terminal_or_of_charms() {
        let of = |set: &[(&str, &str)]| {
            let set = set.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            Environment::of(set).clouds.proxies
        };
        let charms = of(&[("JUJU_CHARM_HTTPS_PROXY", "http://canary"), ("JUJU_CHARM_NO_PROXY", "a,b")]);
        assert_eq!(charms.https.as_ref().unwrap().reveal(), "http://canary");
        assert!(charms.exempt == "a,b" && charms.http.is_none() && !format!("{charms:?}").contains("canary"));
        let terminal = of(&[("https_proxy", "one"), ("HTTPS_PROXY", "two")]);
        assert_eq!(terminal.https.unwrap().reveal(), "one");
    }

    #[test]
    fn the_password_is_taken_out_of_sight() {
        let environment = Environment::of(
            [("ETCDCTL_PASSWORD", "hunter2"), ("ETCD_SITE", ""), ("JUJU_UNIT_NAME", "etcd/0")]
                .map(|(name, value)| (name.into(), value.into())),
        );
        assert!(environment.password.is_some());
        assert_eq!(environment.site, None);
        assert_eq!(environment.unit.as_deref(), Some("etcd/0"));
        assert!(!format!("{environment:?}").contains("hunter2"));
    }
}
