//! Turns the data of the relation `s3-parameters` into a destination for archives. Pure.
//!
//! Both versions of the interface `s3` are understood: keys in the relation data, and keys in a Juju secret whose id is in
//! the relation data. Must never let a value change anything but the setting that it is written to.

use super::relation_overrides::RelationOverrides;
use crate::error::Refusal;
use crate::store::s3::S3Config;
use crate::system::secret::Secret;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The file name of the credentials, in the directory of the settings.
pub const CREDENTIALS: &str = "s3-credentials";
/// The file name of the CA certificates of the server.
pub const CA_CERTIFICATES: &str = "s3-ca.crt";
/// The key in the relation data that holds the id of the secret.
const SECRET_KEY: &str = "secret-extra";

/// A bucket that the relation provides.
#[derive(Debug, Clone)]
pub struct RelationBucket {
    /// The description of the bucket, as in the settings file.
    pub description: Map<String, Value>,
    /// The text of the credentials file.
    pub credentials: Secret,
    /// The CA certificates in PEM, if the relation provides any.
    pub ca_certificates: Option<String>,
}

/// Returns the id of the Juju secret with the keys, if the other application uses one.
pub fn secret_id(data: &BTreeMap<String, Secret>) -> Option<String> {
    value(data, SECRET_KEY).filter(|id| id.starts_with("secret:"))
}

impl RelationBucket {
    /// Reads the bucket from the relation data of the application `app` and the content `keys` of its secret.
    ///
    /// The files of the bucket are in `dir`. `overrides` are added to its description.
    ///
    /// # Errors
    /// If a value is missing or invalid. The error never contains a value.
    pub fn from_relation_data(
        app: &str,
        data: &BTreeMap<String, Secret>,
        keys: &BTreeMap<String, Secret>,
        dir: &Path,
        overrides: &RelationOverrides,
    ) -> Result<Self, Refusal> {
        let data: BTreeMap<String, Secret> =
            data.iter().chain(keys).map(|(key, value)| (key.clone(), value.clone())).collect();
        let refuse = |reason: String| {
            let next = format!("juju config {app}; juju status {app}");
            Refusal::new(format!("the bucket from {app} cannot be used: {reason}"), next)
        };
        let required = ["access-key", "secret-key", "bucket"];
        let missing: Vec<&str> = required.into_iter().filter(|key| value(&data, key).is_none()).collect();
        if !missing.is_empty() {
            return Err(refuse(format!("missing {}", missing.join(", "))));
        }
        let key = |name: &str| match value(&data, name) {
            Some(value) if !value.contains(char::is_whitespace) => Ok(value),
            _ => Err(refuse(format!("{name} contains white space"))),
        };
        let (access, secret) = (key("access-key")?, key("secret-key")?);
        let credentials = Secret::new(format!(
            "[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        ));
        let ca_certificates = ca_certificates(&data).map_err(refuse)?;
        let description = overrides.apply_to_bucket(description(&data, ca_certificates.is_some(), dir));
        let parsed: S3Config = serde_json::from_value(Value::Object(description.clone()))
            .map_err(|error| refuse(error.to_string()))?;
        parsed.check().map_err(|refusal| refuse(refusal.reason))?;
        Ok(Self { description, credentials, ca_certificates })
    }
}

fn description(data: &BTreeMap<String, Secret>, has_ca: bool, dir: &Path) -> Map<String, Value> {
    let mut description = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            description.insert(name.to_owned(), json!(value));
        }
    };
    let trimmed = |name: &str| value(data, name).map(|value| value.trim_matches('/').to_owned());
    put("bucket", trimmed("bucket"));
    put("folder", trimmed("path"));
    put("region", value(data, "region"));
    put("endpoint", value(data, "endpoint").map(|url| url.trim_end_matches('/').to_owned()));
    put("style", value(data, "s3-uri-style").map(|style| style.replace("virtual", "host")));
    put("credentials-file", Some(dir.join(CREDENTIALS).display().to_string()));
    put("ca", has_ca.then(|| dir.join(CA_CERTIFICATES).display().to_string()));
    description
}

/// Returns the CA certificates: a JSON list of PEM texts, or one PEM text.
fn ca_certificates(data: &BTreeMap<String, Secret>) -> Result<Option<String>, String> {
    let Some(text) = value(data, "tls-ca-chain") else { return Ok(None) };
    let list: Vec<String> = serde_json::from_str(&text).unwrap_or_else(|_| vec![text]);
    let chain: String = list.iter().map(|pem| format!("{}\n", pem.trim())).collect();
    match list.iter().all(|pem| pem.contains("-----BEGIN CERTIFICATE-----")) {
        true if list.is_empty() => Ok(None),
        true => Ok(Some(chain)),
        false => Err("tls-ca-chain is not a list of certificates".to_owned()),
    }
}

/// Returns a value without surrounding white space, and without the JSON quotes that some versions add.
fn value(data: &BTreeMap<String, Secret>, name: &str) -> Option<String> {
    let value = data.get(name)?.reveal().trim();
    let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    Some(value.trim().to_owned()).filter(|value| !value.is_empty() && value != "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect()
    }

    fn bucket(pairs: &[(&str, &str)], keys: &[(&str, &str)]) -> Result<RelationBucket, Refusal> {
        RelationBucket::from_relation_data(
            "s3-integrator",
            &data(pairs),
            &data(keys),
            Path::new("/etc/etcd-charm"),
            &RelationOverrides::default(),
        )
    }

    #[test]
    fn reads_keys_from_the_relation_data_or_from_a_secret() {
        let rest = [
            ("bucket", "/backups/"),
            ("path", "/etcd/prod/"),
            ("endpoint", "https://minio.example:9000/"),
            ("region", "\"eu-central-1\""),
            ("s3-uri-style", "path"),
            ("attributes", "[]"),
            ("delete-older-than-days", "30"),
        ];
        let keys = [("access-key", " AK "), ("secret-key", "canary=")];
        let plain = bucket(&[&rest[..], &keys].concat(), &[]).unwrap();
        let secret = bucket(&[&rest[..], &[("secret-extra", "secret:1")]].concat(), &keys).unwrap();
        assert_eq!(plain.description, secret.description);
        assert_eq!(
            Value::Object(plain.description.clone()),
            json!({"bucket": "backups", "folder": "etcd/prod", "endpoint": "https://minio.example:9000",
                   "region": "eu-central-1", "style": "path", "credentials-file": "/etc/etcd-charm/s3-credentials"})
        );
        let text = plain.credentials.reveal();
        assert!(text.contains("aws_access_key_id = AK\naws_secret_access_key = canary=\n"), "{text}");
        assert!(plain.ca_certificates.is_none() && !format!("{plain:?}").contains("canary"));
        assert_eq!(secret_id(&data(&[("secret-extra", "secret:1")])).as_deref(), Some("secret:1"));
        assert_eq!(secret_id(&data(&keys)), None);
    }

    #[test]
    fn writes_ca_certificates_to_their_own_file() {
        let all = [("bucket", "b"), ("access-key", "a"), ("secret-key", "s")];
        let list = serde_json::to_string(&[PEM, PEM]).unwrap();
        for (text, count) in [(list.as_str(), 2), (PEM, 1)] {
            let found = bucket(&[&all[..], &[("tls-ca-chain", text)]].concat(), &[]).unwrap();
            assert_eq!(found.ca_certificates.unwrap().matches("BEGIN").count(), count);
            assert_eq!(found.description["ca"], "/etc/etcd-charm/s3-ca.crt");
        }
        assert!(
            bucket(&[&all[..], &[("tls-ca-chain", "[]")]].concat(), &[]).unwrap().ca_certificates.is_none()
        );
    }

    #[test]
    fn names_a_missing_or_invalid_value_without_showing_it() {
        let good = [("bucket", "b"), ("access-key", "a"), ("secret-key", "canary")];
        for (change, reason) in [
            (("access-key", ""), "missing access-key"),
            (("secret-key", "null"), "missing secret-key"),
            (("bucket", " "), "missing bucket"),
            (("secret-key", "canary\naws_session_token = x"), "secret-key contains white space"),
            (("bucket", "a/b"), "not the name of a bucket"),
            (("endpoint", "minio:9000"), "must be https://HOST"),
            (("endpoint", "http://10.0.0.1:9000"), "sent unencrypted"),
            (("s3-uri-style", "sideways"), "unknown variant"),
            (("tls-ca-chain", "[\"canary\"]"), "not a list of certificates"),
        ] {
            let refusal = bucket(&[&good[..], &[change]].concat(), &[]).unwrap_err().to_string();
            assert!(refusal.contains(reason) && !refusal.contains("canary"), "{change:?}: {refusal}");
            assert!(refusal.contains("juju config s3-integrator"), "{refusal}");
        }
    }
}
