//! The settings of a bucket, and the checks on them that need neither its files nor the network.

use super::encryption::{Encryption, RequestedEncryption};
use super::endpoint::{AddressingStyle, Endpoint, server_name};
use crate::error::Refusal;
use crate::store::cloud::connection::{ConnectionSettings, check_folder, prefix_of};
use crate::store::cloud::proxy::Proxies;
use serde::Deserialize;
use std::path::PathBuf;

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
        prefix_of(&self.folder)
    }

    /// Checks the configuration, without its files and the network.
    ///
    /// # Errors
    /// Refuses a configuration that cannot open a bucket.
    pub fn check(&self) -> Result<(), Refusal> {
        let endpoint = self.server()?;
        check_folder(&self.folder)?;
        self.connection().check(&endpoint.server)?;
        self.requested_encryption().map(|_| ())
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, environment: &Proxies) -> bool {
        let needs_login =
            |endpoint: Endpoint| self.connection().needs_proxy_login(&endpoint.server, environment);
        self.server().is_ok_and(needs_login)
    }

    /// Returns how the server is reached.
    pub(super) fn connection(&self) -> ConnectionSettings<'_> {
        ConnectionSettings {
            ca: self.ca.as_deref(),
            proxy: self.proxy.as_deref(),
            stall_timeout: self.stall_timeout.as_deref(),
        }
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
