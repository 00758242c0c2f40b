//! The settings of a bucket, and the checks on them that need neither its files nor the network.

use crate::error::Refusal;
use crate::store::cloud::connection::{ConnectionSettings, check_folder, prefix_of};
use crate::store::cloud::proxy::Proxies;
use crate::store::cloud::server::{Server, server_name};
use serde::Deserialize;
use std::path::PathBuf;

/// Google's server.
const GOOGLE: &str = "https://storage.googleapis.com";

/// A bucket as the settings describe it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GoogleConfig {
    /// The bucket's name.
    pub bucket: String,
    /// The folder that contains all names.
    #[serde(default)]
    pub folder: String,
    /// The file with the key of a service account, as Google's console writes it.
    pub credentials_file: Option<PathBuf>,
    /// Whether to use the service account of this machine.
    #[serde(default)]
    pub instance_service_account: bool,
    /// The server's URL. The default is Google's.
    pub endpoint: Option<String>,
    /// A PEM file with the authorities to trust in place of the machine's.
    pub ca: Option<PathBuf>,
    /// The proxy, `http://HOST:PORT`. The default is the proxy in the environment.
    pub proxy: Option<String>,
    /// Whether archives may be sent over the network without TLS.
    #[serde(default)]
    pub allow_http: bool,
    /// How long the server may be silent before a request counts as failed, such as `90s`. The default is a minute.
    pub stall_timeout: Option<String>,
}

impl GoogleConfig {
    /// Returns the name of the bucket's folder in results: a URL that ends in a slash.
    pub fn url(&self) -> String {
        format!("gs://{}/{}", self.bucket, self.prefix())
    }

    /// Returns a name that is the same for all configurations of the same folder of the same bucket.
    pub fn identity(&self) -> String {
        format!("gs://{}/{}/{}", server_name(self.endpoint()), self.bucket, self.prefix())
    }

    /// Checks the configuration, without its files and the network.
    ///
    /// # Errors
    /// Refuses a configuration that cannot open a bucket.
    pub fn check(&self) -> Result<(), Refusal> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        if self.bucket.len() < 3 || self.bucket.starts_with('.') || !self.bucket.chars().all(is_allowed) {
            return Err(Refusal::new(
                format!("bucket {:?} is not the name of a bucket", self.bucket),
                "give only the bucket's name, without gs://, of lower-case letters, digits, hyphens and dots",
            ));
        }
        check_folder(&self.folder)?;
        let access = match (&self.credentials_file, self.instance_service_account) {
            (Some(_), true) => Some(("it has both credentials-file and instance-service-account", "remove")),
            (None, false) => Some(("it has no access to the bucket", "set")),
            _ => None,
        };
        if let Some((reason, verb)) = access {
            let next = format!("{verb} credentials-file or instance-service-account: true");
            return Err(Refusal::new(reason, next));
        }
        self.connection().check(&self.server()?)
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, environment: &Proxies) -> bool {
        self.server().is_ok_and(|server| self.connection().needs_proxy_login(&server, environment))
    }

    /// Returns the prefix of all names: empty, or the folder and a slash.
    pub(super) fn prefix(&self) -> String {
        prefix_of(&self.folder)
    }

    /// Returns the server.
    ///
    /// # Errors
    /// Refuses an endpoint that cannot be used.
    pub(super) fn server(&self) -> Result<Server, Refusal> {
        Server::parse(self.endpoint(), self.allow_http)
    }

    /// Returns how the server is reached.
    pub(super) fn connection(&self) -> ConnectionSettings<'_> {
        ConnectionSettings {
            ca: self.ca.as_deref(),
            proxy: self.proxy.as_deref(),
            stall_timeout: self.stall_timeout.as_deref(),
        }
    }

    fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(GOOGLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_open_a_bucket() {
        for (text, words) in [
            ("{bucket: 'gs://backups', credentials-file: /k}", "is not the name of a bucket"),
            ("{bucket: Backups, credentials-file: /k}", "is not the name of a bucket"),
            ("{bucket: backups, credentials-file: /k, folder: a/../b}", "write folder: a/b"),
            ("{bucket: backups, credentials-file: /k, endpoint: 'http://a'}", "plain http"),
            ("{bucket: backups, credentials-file: /k, proxy: 'ftp://a'}", "proxy"),
            ("{bucket: backups}", "it has no access to the bucket"),
            (
                "{bucket: backups, credentials-file: /k, instance-service-account: true}",
                "both credentials-file and instance-service-account",
            ),
        ] {
            let refusal =
                serde_yaml::from_str::<GoogleConfig>(text).unwrap().check().unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
        let config: GoogleConfig =
            serde_yaml::from_str("{bucket: backups, credentials-file: /k, folder: /etcd/}").unwrap();
        config.check().unwrap();
        assert_eq!(config.url(), "gs://backups/etcd/");
        let config: GoogleConfig =
            serde_yaml::from_str("{bucket: backups, instance-service-account: true}").unwrap();
        config.check().unwrap();
    }
}
