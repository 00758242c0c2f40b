//! The access to an account: one of its keys, a shared access signature (SAS), or the token of an identity.
//!
//! A secret is never printed, and never read from a file that other users can read.

use super::identity::Identity;
use crate::store::cloud::access_token::TokenCache;
use crate::store::cloud::secret_file::{SecretFile, read_secret};
use crate::system::secret::Secret;
use anyhow::{Result, bail};
use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Mutex;

/// The name of the key in a connection string.
const CONNECTION_STRING_KEY: &str = "AccountKey=";

/// The file that grants access.
#[derive(Debug, Clone)]
pub(super) enum CredentialFile {
    /// A key of the account, in Base64, or a connection string that contains one.
    Key(PathBuf),
    /// A shared access signature, or a URL that contains one.
    Sas(PathBuf),
}

/// The source of the access.
#[derive(Debug)]
pub(super) enum CredentialSource {
    /// A file, and its content, which is read once.
    File(CredentialFile, Mutex<Option<Credentials>>),
    /// An identity, and its token.
    Identity(Identity, TokenCache),
}

/// What grants access.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// A key of the account, in Base64.
    Key(Secret),
    /// The query that grants access, encoded.
    Sas(Secret),
    /// The access token of an identity.
    Token(Secret),
}

impl CredentialSource {
    /// A file.
    pub fn file(file: CredentialFile) -> Self {
        Self::File(file, Mutex::default())
    }

    /// An identity.
    pub fn identity(identity: Identity) -> Self {
        Self::Identity(identity, TokenCache::default())
    }

    /// Returns what grants access at `now`.
    ///
    /// # Errors
    /// Refuses a file that cannot be used, and fails if an identity has no token.
    pub fn credentials(&self, now: Timestamp) -> Result<Credentials> {
        match self {
            Self::File(file, cached) => {
                let Ok(mut cached) = cached.lock() else { bail!("another thread of this program failed") };
                match &*cached {
                    Some(credentials) => Ok(credentials.clone()),
                    None => Ok(cached.insert(file.read()?).clone()),
                }
            }
            Self::Identity(identity, cache) => {
                cache.get(now, || identity.token(now)).map(|token| Credentials::Token(token.secret))
            }
        }
    }
}

impl CredentialFile {
    /// Reads the file as it is now.
    ///
    /// # Errors
    /// Refuses a file that other users can read, and one without a key.
    pub fn read(&self) -> Result<Credentials> {
        match self {
            Self::Key(path) => {
                let file = SecretFile { path, what: "the key file", content: "a key of the storage account" };
                let text = read_secret(&file)?;
                let key = key_in(text.reveal()).filter(|key| is_key(key));
                key.map(|key| Credentials::Key(Secret::new(key))).ok_or_else(|| file.invalid_content().into())
            }
            Self::Sas(path) => {
                let file = SecretFile { path, what: "the SAS file", content: "a SAS token (…&sig=…)" };
                let text = read_secret(&file)?;
                sas_in(text.reveal()).map(Credentials::Sas).ok_or_else(|| file.invalid_content().into())
            }
        }
    }
}

/// Returns the key in a text: a connection string, or only a key.
fn key_in(text: &str) -> Option<&str> {
    match text.split_once(CONNECTION_STRING_KEY) {
        Some((_, rest)) => rest.split(';').next().map(str::trim),
        None => Some(text.trim()),
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && Base64::decode_vec(text).is_ok()
}

/// Returns the token in a text: a URL, or only a token, perhaps with its question mark.
fn sas_in(text: &str) -> Option<Secret> {
    let token = text.trim().rsplit('?').next().unwrap_or_default();
    let is_token = token.split('&').any(|pair| pair.starts_with("sig="))
        && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    is_token.then(|| Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_in_a_connection_string() {
        let text = "DefaultEndpointsProtocol=https;AccountName=etcd;AccountKey=a2V5==;EndpointSuffix=core.windows.net\n";
        assert_eq!(key_in(text), Some("a2V5=="));
        assert_eq!(key_in("a2V5==\n"), Some("a2V5=="));
        assert!(is_key("a2V5") && !is_key("") && !is_key("a key"));
        assert!(!format!("{:?}", Credentials::Key(Secret::new("a2V5"))).contains("a2V5"));
    }

    #[test]
    fn a_sas_may_be_in_a_url() {
        for text in
            ["sv=1&sig=a%3D\n", "?sv=1&sig=a%3D", "https://etcd.blob.core.windows.net/backups?sv=1&sig=a%3D"]
        {
            assert_eq!(sas_in(text).unwrap().reveal(), "sv=1&sig=a%3D");
        }
        for text in ["", "sv=1", "sv=1&sig=a b", "https://etcd.blob.core.windows.net/"] {
            assert!(sas_in(text).is_none(), "{text}");
        }
    }
}
