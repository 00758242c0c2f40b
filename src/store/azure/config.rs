//! The settings of a container, and the checks on them that need neither its files nor the network.

use super::credentials::CredentialFile;
use crate::error::Refusal;
use crate::store::cloud::connection::{ConnectionSettings, check_folder, prefix_of};
use crate::store::cloud::proxy::Proxies;
use crate::store::cloud::server::{Server, server_name};
use serde::Deserialize;
use std::path::PathBuf;

/// The domain of the public Azure cloud.
const AZURE: &str = "blob.core.windows.net";

/// A container as the settings describe it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AzureConfig {
    /// The storage account.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// The folder that contains all names.
    #[serde(default)]
    pub folder: String,
    /// The server's URL. The default is that of the account in the public Azure cloud.
    pub endpoint: Option<String>,
    /// The file with a key of the account.
    pub key_file: Option<PathBuf>,
    /// The file with a shared access signature (SAS) of the account or the container.
    pub sas_file: Option<PathBuf>,
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

impl AzureConfig {
    /// Returns the name of the container's folder in results: a URL that ends in a slash.
    pub fn url(&self) -> String {
        format!("azure://{}/{}/{}", self.account, self.container, self.prefix())
    }

    /// Returns a name that is the same for all configurations of the same folder of the same container.
    pub fn identity(&self) -> String {
        let server = server_name(&self.endpoint());
        format!("azure://{server}/{}/{}/{}", self.account, self.container, self.prefix())
    }

    /// Checks the configuration, without its files and the network.
    ///
    /// # Errors
    /// Refuses a configuration that cannot open a container.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("account", &self.account, 24, "letters and digits", char::is_ascii_alphanumeric)?;
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        check_name("container", &self.container, 63, "letters, digits and hyphens", is_allowed)?;
        check_folder(&self.folder)?;
        self.credential_file()?;
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

    /// Returns the file that grants access.
    ///
    /// # Errors
    /// Refuses a configuration with no such file, and one with two.
    pub(super) fn credential_file(&self) -> Result<CredentialFile, Refusal> {
        let reason = match (&self.key_file, &self.sas_file) {
            (Some(key), None) => return Ok(CredentialFile::Key(key.clone())),
            (None, Some(sas)) => return Ok(CredentialFile::Sas(sas.clone())),
            (Some(_), Some(_)) => "it has both a key-file and a sas-file",
            (None, None) => "it has neither a key-file nor a sas-file",
        };
        Err(Refusal::new(reason, "set one of them"))
    }

    /// Returns the server.
    ///
    /// # Errors
    /// Refuses an endpoint that cannot be used.
    pub(super) fn server(&self) -> Result<Server, Refusal> {
        Server::parse(&self.endpoint(), self.allow_http)
    }

    /// Returns the path of the container. A server whose host does not begin with the account, as that of an emulator,
    /// expects the account in the path.
    pub(super) fn container_path(&self, server: &Server) -> String {
        match server.host().starts_with(&format!("{}.", self.account)) {
            true => format!("/{}", self.container),
            false => format!("/{}/{}", self.account, self.container),
        }
    }

    /// Returns how the server is reached.
    pub(super) fn connection(&self) -> ConnectionSettings<'_> {
        ConnectionSettings {
            ca: self.ca.as_deref(),
            proxy: self.proxy.as_deref(),
            stall_timeout: self.stall_timeout.as_deref(),
        }
    }

    fn endpoint(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("https://{}.{AZURE}", self.account))
    }
}

/// Refuses a name that Azure does not allow: in lower case, and from 3 to `max` characters.
fn check_name(
    what: &str,
    name: &str,
    max: usize,
    allowed: &str,
    is_allowed: impl Fn(&char) -> bool,
) -> Result<(), Refusal> {
    let is_valid =
        (3..=max).contains(&name.len()) && name.chars().all(|c| is_allowed(&c) && !c.is_ascii_uppercase());
    if is_valid {
        return Ok(());
    }
    Err(Refusal::new(
        format!("{what} {name:?} is not the name of one"),
        format!("give only its name: 3 to {max} lower-case {allowed}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> AzureConfig {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn an_account_is_named_in_the_host_or_the_path() {
        for (endpoint, url) in [
            ("", "https://etcd.blob.core.windows.net/backups"),
            (
                ", endpoint: 'https://etcd.blob.core.chinacloudapi.cn'",
                "https://etcd.blob.core.chinacloudapi.cn/backups",
            ),
            (", endpoint: 'http://127.0.0.1:10000'", "http://127.0.0.1:10000/etcd/backups"),
        ] {
            let config = config(&format!("{{account: etcd, container: backups, key-file: /k{endpoint}}}"));
            config.check().unwrap();
            let server = config.server().unwrap();
            assert_eq!(server.url_of(&config.container_path(&server), ""), url);
        }
    }

    #[test]
    fn refuses_what_cannot_open_a_container() {
        for (text, words) in [
            ("{account: Etcd, container: backups, key-file: /k}", "account \"Etcd\" is not the name"),
            ("{account: etcd, container: a/b, key-file: /k}", "container \"a/b\" is not the name"),
            ("{account: etcd, container: backups}", "neither a key-file nor a sas-file"),
            (
                "{account: etcd, container: backups, key-file: /k, sas-file: /s}",
                "both a key-file and a sas-file",
            ),
            ("{account: etcd, container: backups, key-file: /k, folder: a//b}", "folder \"a//b\""),
            ("{account: etcd, container: backups, key-file: /k, endpoint: 'http://a'}", "plain http"),
            ("{account: etcd, container: backups, key-file: /k, stall-timeout: 2h}", "stall-timeout"),
        ] {
            let refusal = config(text).check().unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
