//! The settings of a container, and the checks on them that need neither its files nor the network.

use super::credentials::CredentialFile;
use super::identity::WorkloadIdentity;
use crate::error::Refusal;
use crate::store::cloud::connection::{ConnectionSettings, check_folder, prefix_of};
use crate::store::cloud::proxy::Proxies;
use crate::store::cloud::server::{Server, server_name};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The domain of the public Azure cloud.
const AZURE: &str = "blob.core.windows.net";
/// The login server of the public Azure cloud.
const AUTHORITY: &str = "https://login.microsoftonline.com";

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
    /// Whether to use the managed identity of this machine.
    #[serde(default)]
    pub managed_identity: bool,
    /// The file with a token of this workload, which an identity trusts (workload identity).
    pub federated_token_file: Option<PathBuf>,
    /// The client id of the identity. A machine with one managed identity needs none.
    pub client_id: Option<String>,
    /// The tenant of the identity that trusts this workload.
    pub tenant_id: Option<String>,
    /// The URL of the login server for workload identities. The default is that of the public Azure cloud.
    pub authority_host: Option<String>,
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

/// What grants access to the container.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// A file.
    File(CredentialFile),
    /// The managed identity of this machine, or the one with this client id.
    ManagedIdentity(Option<String>),
    /// The identity that trusts this workload.
    WorkloadIdentity(WorkloadIdentity),
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
        self.access()?;
        self.connection().check(&self.server()?)
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, environment: &Proxies) -> bool {
        let needs_login = |server: Server| self.connection().needs_proxy_login(&server, environment);
        let authority = self.federated_token_file.as_ref().map(|_| self.authority());
        [Some(self.server()), authority].into_iter().flatten().any(|server| server.is_ok_and(needs_login))
    }

    /// Returns the prefix of all names: empty, or the folder and a slash.
    pub(super) fn prefix(&self) -> String {
        prefix_of(&self.folder)
    }

    /// Returns what grants access.
    ///
    /// # Errors
    /// Refuses a configuration that does not name exactly one access, and keys that this access does not use.
    pub(super) fn access(&self) -> Result<Access, Refusal> {
        let Self { key_file, sas_file, federated_token_file, client_id, tenant_id, authority_host, .. } =
            self;
        let all = [
            key_file.clone().map(|path| ("key-file", Access::File(CredentialFile::Key(path)))),
            sas_file.clone().map(|path| ("sas-file", Access::File(CredentialFile::Sas(path)))),
            self.managed_identity.then(|| ("managed-identity", Access::ManagedIdentity(client_id.clone()))),
            match federated_token_file {
                Some(path) => Some(("federated-token-file", self.workload_identity(path)?)),
                None => None,
            },
        ];
        let mut named = all.into_iter().flatten();
        let (key, access) = named.next().ok_or_else(|| {
            Refusal::new(
                "it has no access to the account",
                "set one of key-file, sas-file, managed-identity and federated-token-file",
            )
        })?;
        if let Some((other, _)) = named.next() {
            return Err(Refusal::new(format!("it has both {key} and {other}"), "remove one of them"));
        }
        let unused = [
            (client_id.is_some() && matches!(access, Access::File(_)), "client-id"),
            (tenant_id.is_some() && !matches!(access, Access::WorkloadIdentity(_)), "tenant-id"),
            (authority_host.is_some() && !matches!(access, Access::WorkloadIdentity(_)), "authority-host"),
        ];
        match unused.into_iter().find(|(is_unused, _)| *is_unused) {
            Some((_, unused)) => {
                Err(Refusal::new(format!("{unused} is not used with {key}"), format!("remove {unused}")))
            }
            None => check_id("client-id", client_id.as_deref()).map(|()| access),
        }
    }

    /// Returns the identity that trusts the token in the file at `path`.
    fn workload_identity(&self, path: &Path) -> Result<Access, Refusal> {
        let required = |key: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| {
                let next =
                    format!("set {key} as in the environment of the pod, or as `az identity show` prints it");
                Refusal::new(format!("federated-token-file needs {key}"), next)
            })
        };
        let identity = WorkloadIdentity {
            client_id: required("client-id", &self.client_id)?,
            tenant_id: required("tenant-id", &self.tenant_id)?,
            token_file: path.to_owned(),
            authority: self.authority()?,
        };
        check_id("tenant-id", Some(&identity.tenant_id))?;
        Ok(Access::WorkloadIdentity(identity))
    }

    /// Returns the login server.
    fn authority(&self) -> Result<Server, Refusal> {
        let text = self.authority_host.as_deref().unwrap_or(AUTHORITY);
        let server = Server::parse(text, true);
        let is_private = |server: &Server| server.is_tls() || server.is_loopback();
        server.ok().filter(is_private).ok_or_else(|| {
            Refusal::new(
                format!("authority-host {text:?} is not the URL of a login server"),
                format!("write it as {AUTHORITY}: with https, and without a path"),
            )
        })
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

/// Refuses an id that cannot be one: the id of an application, or the id or the domain of a tenant.
fn check_id(key: &str, id: Option<&str>) -> Result<(), Refusal> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match id {
        Some(id) if id.is_empty() || id.starts_with('.') || !id.chars().all(is_allowed) => Err(Refusal::new(
            format!("{key} {id:?} is not an id"),
            format!("write {key}: 00000000-0000-0000-0000-000000000000 with the digits of the id"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::secret::Secret;

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
    fn an_identity_needs_no_file_with_a_key() {
        let access = |more: &str| {
            let config = config(&format!("{{account: etcd, container: backups, {more}}}"));
            config.check().unwrap();
            config.access().unwrap()
        };
        assert!(matches!(access("managed-identity: true"), Access::ManagedIdentity(None)));
        let selected = access("managed-identity: true, client-id: 0-a");
        assert!(matches!(selected, Access::ManagedIdentity(Some(id)) if id == "0-a"));
        let workload = "federated-token-file: /t, client-id: a, tenant-id: b";
        for (more, url) in [
            ("", "https://login.microsoftonline.com"),
            (", authority-host: 'https://login.microsoftonline.us/'", "https://login.microsoftonline.us"),
            (", authority-host: 'http://127.0.0.1:1'", "http://127.0.0.1:1"),
        ] {
            let Access::WorkloadIdentity(identity) = access(&format!("{workload}{more}")) else {
                panic!("{more}");
            };
            assert_eq!(identity.authority.url(), url);
            assert_eq!((identity.client_id.as_str(), identity.tenant_id.as_str()), ("a", "b"));
        }
    }

    #[test]
    fn the_login_server_may_need_the_proxy_too() {
        let proxies = Proxies {
            https: Some(Secret::new("http://user:word@proxy:3128")),
            exempt: ".core.windows.net".to_owned(),
            ..Proxies::default()
        };
        for (more, expected) in [
            ("managed-identity: true", false),
            ("federated-token-file: /t, client-id: a, tenant-id: b", true),
            ("federated-token-file: /t, client-id: a, tenant-id: b, proxy: 'http://proxy:3128'", false),
        ] {
            let config = config(&format!("{{account: etcd, container: backups, {more}}}"));
            assert_eq!(config.needs_proxy_login(&proxies), expected, "{more}");
        }
    }

    #[test]
    fn refuses_what_cannot_open_a_container() {
        for (text, words) in [
            ("{account: Etcd, container: backups, key-file: /k}", "account \"Etcd\" is not the name"),
            ("{account: etcd, container: a/b, key-file: /k}", "container \"a/b\" is not the name"),
            ("{account: etcd, container: backups, key-file: /k, folder: a//b}", "folder \"a//b\""),
            ("{account: etcd, container: backups, key-file: /k, endpoint: 'http://a'}", "plain http"),
            ("{account: etcd, container: backups, key-file: /k, stall-timeout: 2h}", "stall-timeout"),
        ] {
            let refusal = config(text).check().unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn refuses_all_but_one_access() {
        let workload = "federated-token-file: /t, client-id: a, tenant-id: b";
        for (access, words) in [
            (String::new(), "it has no access to the account"),
            ("managed-identity: false".to_owned(), "it has no access to the account"),
            ("key-file: /k, sas-file: /s".to_owned(), "both key-file and sas-file"),
            ("key-file: /k, managed-identity: true".to_owned(), "both key-file and managed-identity"),
            (format!("managed-identity: true, {workload}"), "both managed-identity and federated-token-file"),
            ("key-file: /k, client-id: a".to_owned(), "client-id is not used with key-file"),
            (
                "managed-identity: true, tenant-id: a".to_owned(),
                "tenant-id is not used with managed-identity",
            ),
            (
                "sas-file: /s, authority-host: 'https://a'".to_owned(),
                "authority-host is not used with sas-file",
            ),
            ("managed-identity: true, client-id: 'a b'".to_owned(), "client-id \"a b\" is not an id"),
            ("federated-token-file: /t, tenant-id: a".to_owned(), "federated-token-file needs client-id"),
            ("federated-token-file: /t, client-id: a".to_owned(), "federated-token-file needs tenant-id"),
            (
                "federated-token-file: /t, client-id: a, tenant-id: ../b".to_owned(),
                "tenant-id \"../b\" is not an id",
            ),
            (
                format!("{workload}, authority-host: 'http://login'"),
                "\"http://login\" is not the URL of a login",
            ),
            (format!("{workload}, authority-host: 'https://login/b'"), "\"https://login/b\" is not the URL"),
        ] {
            let text = format!("{{account: etcd, container: backups, {access}}}");
            let refusal = config(&text).check().unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
