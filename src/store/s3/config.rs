//! The settings of a bucket, and the checks on them that need neither its files nor the network.

use super::encryption::{Encryption, RequestedEncryption};
use super::endpoint::{AddressingStyle, Endpoint, server_name};
use super::http::DEFAULT_STALL_TIMEOUT;
use super::proxy::{self, Proxies};
use crate::error::Refusal;
use crate::schedule::parse_seconds;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The longest time for which a server may be silent, in seconds.
const MAX_STALL_SECONDS: u64 = 3600;

/// A bucket as the settings describe it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct S3Config {
    /// The server's URL. The default is Amazon's server of the region.
    pub endpoint: Option<String>,
    /// The region in signatures. The default is `us-east-1`.
    pub region: Option<String>,
    /// The bucket's name.
    pub bucket: String,
    /// The folder that contains all keys.
    #[serde(default)]
    pub folder: String,
    /// The position of the bucket in a URL. The default is the host name for Amazon, and the path for other servers.
    pub style: Option<AddressingStyle>,
    /// A PEM file with the authorities to trust in place of the machine's.
    pub ca: Option<PathBuf>,
    /// The file with the access key.
    pub credentials_file: Option<PathBuf>,
    /// Whether to use the access key of the machine's role.
    #[serde(default)]
    pub instance_role: bool,
    /// The encryption that the server must use.
    pub encryption: Option<Encryption>,
    /// The key in the server's key service. `None` selects the service's default key.
    pub kms_key: Option<String>,
    /// The proxy, `http://HOST:PORT`. The default is the proxy in the environment.
    pub proxy: Option<String>,
    /// Whether archives may be sent over the network without TLS.
    #[serde(default)]
    pub allow_http: bool,
    /// How long the server may be silent before a request counts as failed, such as `90s`. The default is a minute.
    pub stall_timeout: Option<String>,
}

impl S3Config {
    /// Returns the name of the bucket's folder in results: a URL that ends in a slash.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix())
    }

    /// Returns a name that is the same for all configurations of the same folder of the same bucket, however they spell
    /// the server.
    pub fn identity(&self) -> String {
        format!("s3://{}/{}/{}", server_name(self.endpoint.as_deref()), self.bucket, self.prefix())
    }

    /// Returns the prefix of all keys: empty, or the folder and a slash.
    pub(super) fn prefix(&self) -> String {
        match self.folder.trim_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        }
    }

    /// Checks the configuration, without its files and the network.
    ///
    /// # Errors
    /// Refuses a configuration that cannot open a bucket.
    pub fn check(&self) -> Result<(), Refusal> {
        let endpoint = self.server()?;
        self.check_folder()?;
        proxy::choose(endpoint.host(), endpoint.is_tls(), self.proxy.as_deref(), &Proxies::default())?;
        self.silence()?;
        self.requested_encryption().map(|_| ())
    }

    /// Refuses a folder with empty, `.` and `..` parts. Servers rewrite such a key (versitygw) or refuse it (MinIO), so an
    /// archive that was uploaded could not be found again.
    fn check_folder(&self) -> Result<(), Refusal> {
        let folder = self.folder.trim_matches('/');
        let parts = || folder.split('/').filter(|part| !["", ".", ".."].contains(part));
        let is_plain = folder.is_empty() || folder.split('/').count() == parts().count();
        if is_plain && !folder.contains(char::is_control) {
            return Ok(());
        }
        let plain: Vec<&str> = parts().collect();
        Err(Refusal::new(
            format!("folder {folder:?} has an empty part, `.`, `..` or a control character"),
            format!("write folder: {}", plain.join("/")),
        ))
    }

    /// Returns how long the server may be silent.
    pub(super) fn silence(&self) -> Result<Duration, Refusal> {
        let Some(text) = &self.stall_timeout else { return Ok(DEFAULT_STALL_TIMEOUT) };
        let seconds = parse_seconds(text).filter(|seconds| (1..=MAX_STALL_SECONDS).contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            Refusal::new(
                format!("stall-timeout is {text:?}"),
                "give a duration between 1s and 1h, such as 90s or 5m",
            )
        })
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, environment: &Proxies) -> bool {
        let needs_login = |endpoint: Endpoint| {
            let proxy = environment.for_host(endpoint.host(), endpoint.is_tls());
            proxy.is_some_and(|url| proxy::has_login(url.reveal()))
        };
        self.proxy.is_none() && self.server().is_ok_and(needs_login)
    }

    /// Returns the server and how it addresses the bucket.
    pub(super) fn server(&self) -> Result<Endpoint, Refusal> {
        let endpoint = self.endpoint.as_deref();
        Endpoint::new(endpoint, self.region.as_deref(), &self.bucket, self.style, self.allow_http)
    }

    /// Returns the encryption that the server is asked for, if any.
    pub(super) fn requested_encryption(&self) -> Result<Option<RequestedEncryption>, Refusal> {
        RequestedEncryption::new(self.encryption, self.kms_key.as_deref())
    }
}
