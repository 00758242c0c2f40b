//! The settings of a bucket, and the checks on them that need neither its files nor the network.

use super::encryption::{Encryption, RequestedEncryption};
use super::endpoint::{AddressingStyle, Endpoint, server_name};
use super::web_identity::{WebIdentity, WebIdentityNames};
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
    /// The file with a token of this workload, which a role trusts (web identity).
    pub web_identity_token_file: Option<PathBuf>,
    /// The ARN of the role that trusts this workload.
    pub role_arn: Option<String>,
    /// The name of this role's sessions. The default is `etcd-backup`.
    pub role_session_name: Option<String>,
    /// The URL of the security token service. The default is Amazon's service of the region.
    pub sts_endpoint: Option<String>,
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

/// What grants access to the bucket.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// A file with an access key.
    File(PathBuf),
    /// The role of this machine.
    InstanceRole,
    /// The role that trusts this workload.
    WebIdentity(WebIdentity),
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
        self.access()?;
        self.connection().check(&endpoint.server)?;
        self.requested_encryption().map(|_| ())
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, environment: &Proxies) -> bool {
        let server = self.server().ok().map(|endpoint| endpoint.server);
        let token_service = match self.access() {
            Ok(Some(Access::WebIdentity(identity))) => Some(identity.server),
            _ => None,
        };
        let needs_login = |server| self.connection().needs_proxy_login(&server, environment);
        [server, token_service].into_iter().flatten().any(needs_login)
    }

    /// Returns what grants access, if the configuration names it.
    ///
    /// # Errors
    /// Refuses a configuration that names more than one access, and keys that its access does not use.
    pub(super) fn access(&self) -> Result<Option<Access>, Refusal> {
        let web_identity = self.web_identity()?;
        let all = [
            self.credentials_file.clone().map(|path| ("credentials-file", Access::File(path))),
            self.instance_role.then_some(("instance-role", Access::InstanceRole)),
            web_identity.map(|identity| ("web-identity-token-file", Access::WebIdentity(identity))),
        ];
        let mut named = all.into_iter().flatten();
        let first = named.next();
        match (&first, named.next()) {
            (Some((one, _)), Some((other, _))) => {
                Err(Refusal::new(format!("it has both {one} and {other}"), "remove one of them"))
            }
            _ => Ok(first.map(|(_, access)| access)),
        }
    }

    /// Returns the role that trusts this workload.
    fn web_identity(&self) -> Result<Option<WebIdentity>, Refusal> {
        let Self { web_identity_token_file, role_arn, role_session_name, sts_endpoint, .. } = self;
        let Some(token_file) = web_identity_token_file else {
            let all = [
                ("role-arn", role_arn),
                ("role-session-name", role_session_name),
                ("sts-endpoint", sts_endpoint),
            ];
            return match all.into_iter().find(|(_, value)| value.is_some()) {
                Some((key, _)) => Err(Refusal::new(
                    format!("{key} is only used with web-identity-token-file"),
                    format!("remove {key}, or set web-identity-token-file"),
                )),
                None => Ok(None),
            };
        };
        let role_arn = role_arn.as_deref().ok_or_else(|| {
            Refusal::new(
                "web-identity-token-file needs role-arn",
                "set role-arn to the role, as AWS_ROLE_ARN in the environment of the pod",
            )
        })?;
        let server = self.server()?;
        let names = WebIdentityNames {
            role_arn,
            session_name: role_session_name.as_deref(),
            token_file,
            endpoint: sts_endpoint.as_deref(),
            region: server.region(),
        };
        WebIdentity::new(names).map(Some)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_at_most_one_access() {
        let check = |more: &str| {
            let config: S3Config = serde_yaml::from_str(&format!("{{bucket: b, {more}}}")).unwrap();
            config.check().map_err(|refusal| refusal.to_string())
        };
        let role = "role-arn: 'arn:aws:iam::1:role/a', web-identity-token-file: /t";
        for (more, words) in [
            ("credentials-file: /k, instance-role: true", "both credentials-file and instance-role"),
            (&format!("instance-role: true, {role}"), "both instance-role and web-identity-token-file"),
            ("web-identity-token-file: /t", "web-identity-token-file needs role-arn"),
            ("role-arn: 'arn:aws:iam::1:role/a'", "role-arn is only used with web-identity-token-file"),
            ("sts-endpoint: 'https://a', credentials-file: /k", "sts-endpoint is only used with"),
            (&format!("{role}, role-session-name: a/b"), "is not the name of a session"),
            (&format!("{role}, sts-endpoint: 'http://a'"), "is not the URL of a security token service"),
            ("web-identity-token-file: /t, role-arn: backup", "is not the ARN of a role"),
        ] {
            let refusal = check(more).unwrap_err();
            assert!(refusal.contains(words), "{more}: {refusal}");
        }
        for more in ["folder: a", "credentials-file: /k", "instance-role: true", role] {
            check(more).unwrap();
        }
    }
}
