//! The source of tokens: the key of a service account, which signs them, or the metadata server.
//!
//! Google accepts a token that the account signs itself ("self-signed JWT", AIP-4111), so that no other server is asked
//! for one. A secret is never printed, and never read from a file that other users can read.

use super::instance::InstanceServiceAccount;
use crate::error::Refusal;
use crate::store::cloud::access_token::AccessToken;
use crate::store::cloud::secret_file::{SecretFile, read_secret};
use crate::system::secret::Secret;
use anyhow::{Result, anyhow, ensure};
use base64ct::{Base64UrlUnpadded, Encoding};
use graviola::signing::rsa::SigningKey;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use ureq::tls::PrivateKey;

/// What a token allows: to read and write objects.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// How long a token is valid: Google's limit.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// The kind of key that is supported.
const SERVICE_ACCOUNT: &str = "service_account";

/// The source of tokens.
#[derive(Debug)]
pub(super) enum TokenSource {
    /// The file with the key of a service account.
    Key(PathBuf),
    /// The service account of this machine.
    Instance(InstanceServiceAccount),
}

impl TokenSource {
    /// Returns a token for requests from `now` on.
    ///
    /// # Errors
    /// Refuses a file that cannot be used, and fails if the metadata server gives no token.
    pub fn token(&self, now: Timestamp) -> Result<AccessToken> {
        match self {
            Self::Key(path) => {
                Ok(AccessToken { secret: ServiceAccount::read(path)?.token(now)?, end: now + LIFETIME })
            }
            Self::Instance(account) => account.token(now),
        }
    }
}

/// The file of a key as Google's console writes it.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: String,
}

/// The key of a service account.
pub(super) struct ServiceAccount {
    email: String,
    key_id: String,
    key: SigningKey,
}

impl ServiceAccount {
    /// Reads the key from a file.
    ///
    /// # Errors
    /// Refuses a file that other users can read, and one with another kind of key.
    pub fn read(path: &Path) -> Result<Self> {
        let file = SecretFile {
            path,
            what: "the credentials file",
            content: "the key of a service account, as JSON",
        };
        let text = read_secret(&file)?;
        // The error of serde may quote the document, which holds the secret.
        let parsed: KeyFile = serde_json::from_str(text.reveal()).map_err(|_| file.invalid_content())?;
        if parsed.kind != SERVICE_ACCOUNT {
            return Err(Refusal::new(
                format!("the credentials file {} is not the key of a service account", path.display()),
                "create one in Google's console: IAM, Service Accounts, Keys, Create new key, JSON",
            )
            .into());
        }
        Self::new(parsed).ok_or_else(|| file.invalid_content().into())
    }

    fn new(file: KeyFile) -> Option<Self> {
        let pem = PrivateKey::from_pem(file.private_key.as_bytes()).ok()?;
        let key = SigningKey::from_pkcs8_der(pem.der()).ok()?;
        (!file.client_email.is_empty()).then_some(Self {
            email: file.client_email,
            key_id: file.private_key_id,
            key,
        })
    }

    /// Returns a token that is valid from `now` on, for [`LIFETIME`].
    ///
    /// # Errors
    /// Fails if the key cannot sign.
    pub fn token(&self, now: Timestamp) -> Result<Secret> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let claims = json!({
            "iss": self.email,
            "sub": self.email,
            "scope": SCOPE,
            "iat": now.as_second(),
            "exp": (now + LIFETIME).as_second(),
        });
        let encode =
            |value: serde_json::Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let unsigned = format!("{}.{}", encode(header), encode(claims));
        let signature = sign(&self.key, unsigned.as_bytes())?;
        Ok(Secret::new(format!("{unsigned}.{}", Base64UrlUnpadded::encode_string(&signature))))
    }
}

/// Signs a message with RSASSA-PKCS1-v1_5 and SHA-256: `RS256` of RFC 7518.
fn sign(key: &SigningKey, message: &[u8]) -> Result<Vec<u8>> {
    let mut signature = vec![0; key.modulus_len_bytes()];
    let length = key
        .sign_pkcs1_sha256(&mut signature, message)
        .map_err(|_| anyhow!("the key of the service account cannot sign"))
        .map(<[u8]>::len)?;
    ensure!(length == signature.len(), "the key of the service account made a signature of {length} bytes");
    Ok(signature)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// The key of RFC 7515, appendix A.2.
    const KEY: &str = include_str!("../../../tests/data/rfc7515-a2-key.pem");

    fn account() -> KeyFile {
        KeyFile {
            kind: SERVICE_ACCOUNT.to_owned(),
            client_email: "etcd@project.iam.gserviceaccount.com".to_owned(),
            private_key_id: "id".to_owned(),
            private_key: KEY.to_owned(),
        }
    }

    /// The message and the signature of RFC 7515, appendix A.2.
    #[test]
    fn signatures_match_the_example_of_the_standard() {
        let account = ServiceAccount::new(account()).unwrap();
        let message = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9p\
                       c19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
                         bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
                         0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
                         LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let made = sign(&account.key, message.as_bytes()).unwrap();
        assert_eq!(Base64UrlUnpadded::encode_string(&made), signature);
    }

    #[test]
    fn a_token_names_the_account_and_its_scope() {
        let account = ServiceAccount::new(account()).unwrap();
        let token = account.token("2026-11-20T20:00:00Z".parse().unwrap()).unwrap();
        let parts: Vec<_> = token.reveal().split('.').collect();
        let decode = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).unwrap()).unwrap()
        };
        assert_eq!(decode(parts[0]), json!({"alg": "RS256", "typ": "JWT", "kid": "id"}));
        let claims = decode(parts[1]);
        assert_eq!(claims["iss"], "etcd@project.iam.gserviceaccount.com");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
        let made = sign(&account.key, format!("{}.{}", parts[0], parts[1]).as_bytes()).unwrap();
        assert_eq!(Base64UrlUnpadded::encode_string(&made), parts[2]);
    }

    #[test]
    fn refuses_a_file_that_is_not_the_key_of_a_service_account() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key.json");
        let key = json!(KEY);
        for (text, mode, words) in [
            ("{}".to_owned(), 0o600, "does not contain the key of a service account"),
            ("{\"type\": \"authorized_user\"}".to_owned(), 0o600, "is not the key of a service account"),
            (
                "{\"type\": \"service_account\", \"client_email\": \"a\", \"private_key\": \"canary\"}"
                    .to_owned(),
                0o600,
                "does not contain the key of a service account",
            ),
            (
                format!("{{\"type\": \"service_account\", \"client_email\": \"a\", \"private_key\": {key}}}"),
                0o644,
                "users other than root can read it",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = ServiceAccount::read(&path).err().unwrap().to_string();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
        assert!(ServiceAccount::read(Path::new("/no/such")).err().unwrap().to_string().contains("mode 0600"));
    }
}
