//! The bucket that the relation `s3-parameters` offers: from the words of its other side to a destination. Pure.
//!
//! Two versions of the interface `s3` are understood: keys in the databag, and keys in a secret of Juju that the databag
//! names. Must never let a value break out of the place that it is written to.

use super::besides::Besides;
use crate::error::Refusal;
use crate::store::s3::Description;
use crate::system::secret::Secret;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The files that a bucket needs beside its description, by their names in the settings' directory.
pub const CREDENTIALS: &str = "s3-credentials";
/// The authorities that vouch for the server.
pub const AUTHORITIES: &str = "s3-ca.crt";
/// Where the databag names the secret with the keys.
const SECRET: &str = "secret-extra";

/// A bucket as it is written down.
#[derive(Debug, Clone)]
pub struct Offered {
    /// Its description, as in the file of settings.
    pub description: Map<String, Value>,
    /// The credentials file.
    pub credentials: Secret,
    /// The PEM of the authorities, where there are some.
    pub authorities: Option<String>,
}

/// The id of the secret that holds the keys, where the other side keeps them in one.
pub fn secret_of(bag: &BTreeMap<String, Secret>) -> Option<String> {
    word(bag, SECRET).filter(|id| id.starts_with("secret:"))
}

/// The bucket that `bag` and the secret's content `keys` describe, with its files in `place`, and with what the operator says
/// `besides`; `app` is whose words these are.
pub fn offered(
    app: &str,
    bag: &BTreeMap<String, Secret>,
    keys: &BTreeMap<String, Secret>,
    place: &Path,
    besides: &Besides,
) -> Result<Offered, Refusal> {
    let all: BTreeMap<String, Secret> = bag.iter().chain(keys).map(|(k, v)| (k.clone(), v.clone())).collect();
    let no = |why: String| {
        let next = format!("see to the configuration of {app}: juju config {app}; juju status {app}");
        Refusal::new(format!("what {app} says of its bucket cannot be used: {why}"), next)
    };
    let missing: Vec<&str> =
        ["access-key", "secret-key", "bucket"].into_iter().filter(|key| word(&all, key).is_none()).collect();
    if !missing.is_empty() {
        return Err(no(format!("there is no {}", missing.join(" and no "))));
    }
    let key = |name: &str| match word(&all, name) {
        Some(value) if !value.contains(char::is_whitespace) => Ok(value),
        _ => Err(no(format!("its {name} is more than one word"))),
    };
    let (access, secret) = (key("access-key")?, key("secret-key")?);
    let credentials =
        Secret::new(format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"));
    let authorities = authorities(&all).map_err(no)?;
    let description = besides.bucket(described(&all, authorities.is_some(), place));
    let read: Description =
        serde_json::from_value(Value::Object(description.clone())).map_err(|error| no(error.to_string()))?;
    read.check().map_err(|refusal| no(refusal.reason))?;
    Ok(Offered { description, credentials, authorities })
}

fn described(all: &BTreeMap<String, Secret>, has_authorities: bool, place: &Path) -> Map<String, Value> {
    let mut said = Map::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            said.insert(name.to_owned(), json!(value));
        }
    };
    let trimmed = |name: &str| word(all, name).map(|value| value.trim_matches('/').to_owned());
    put("bucket", trimmed("bucket"));
    put("folder", trimmed("path"));
    put("region", word(all, "region"));
    put("endpoint", word(all, "endpoint").map(|url| url.trim_end_matches('/').to_owned()));
    put("style", word(all, "s3-uri-style").map(|style| style.replace("virtual", "host")));
    put("credentials-file", Some(place.join(CREDENTIALS).display().to_string()));
    put("ca", has_authorities.then(|| place.join(AUTHORITIES).display().to_string()));
    said
}

/// The chain, which is a list of PEMs in JSON, or one PEM.
fn authorities(all: &BTreeMap<String, Secret>) -> Result<Option<String>, String> {
    let Some(text) = word(all, "tls-ca-chain") else { return Ok(None) };
    let list: Vec<String> = serde_json::from_str(&text).unwrap_or_else(|_| vec![text]);
    let chain: String = list.iter().map(|pem| format!("{}\n", pem.trim())).collect();
    match list.iter().all(|pem| pem.contains("-----BEGIN CERTIFICATE-----")) {
        true if list.is_empty() => Ok(None),
        true => Ok(Some(chain)),
        false => Err("its tls-ca-chain is no list of certificates".to_owned()),
    }
}

/// A value without the space around it, and without the quotes of JSON that some versions put there.
fn word(bag: &BTreeMap<String, Secret>, name: &str) -> Option<String> {
    let value = bag.get(name)?.reveal().trim();
    let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    Some(value.trim().to_owned()).filter(|value| !value.is_empty() && value != "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";

    fn bag(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect()
    }

    fn of(pairs: &[(&str, &str)], keys: &[(&str, &str)]) -> Result<Offered, Refusal> {
        offered("s3-integrator", &bag(pairs), &bag(keys), Path::new("/etc/etcd-charm"), &Besides::default())
    }

    #[test]
    fn keys_in_the_databag_and_keys_in_a_secret_are_the_same_bucket() {
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
        let plain = of(&[&rest[..], &keys].concat(), &[]).unwrap();
        let secret = of(&[&rest[..], &[("secret-extra", "secret:1")]].concat(), &keys).unwrap();
        assert_eq!(plain.description, secret.description);
        assert_eq!(
            Value::Object(plain.description.clone()),
            json!({"bucket": "backups", "folder": "etcd/prod", "endpoint": "https://minio.example:9000",
                   "region": "eu-central-1", "style": "path", "credentials-file": "/etc/etcd-charm/s3-credentials"})
        );
        let text = plain.credentials.reveal();
        assert!(text.contains("aws_access_key_id = AK\naws_secret_access_key = canary=\n"), "{text}");
        assert!(plain.authorities.is_none() && !format!("{plain:?}").contains("canary"));
        assert_eq!(secret_of(&bag(&[("secret-extra", "secret:1")])).as_deref(), Some("secret:1"));
        assert_eq!(secret_of(&bag(&keys)), None);
    }

    #[test]
    fn a_chain_of_authorities_is_a_file_of_its_own() {
        let all = [("bucket", "b"), ("access-key", "a"), ("secret-key", "s")];
        let list = serde_json::to_string(&[PEM, PEM]).unwrap();
        for (text, count) in [(list.as_str(), 2), (PEM, 1)] {
            let found = of(&[&all[..], &[("tls-ca-chain", text)]].concat(), &[]).unwrap();
            assert_eq!(found.authorities.unwrap().matches("BEGIN").count(), count);
            assert_eq!(found.description["ca"], "/etc/etcd-charm/s3-ca.crt");
        }
        assert!(of(&[&all[..], &[("tls-ca-chain", "[]")]].concat(), &[]).unwrap().authorities.is_none());
    }

    #[test]
    fn what_is_missing_or_cannot_be_used_is_told_by_its_name_and_never_by_its_value() {
        let good = [("bucket", "b"), ("access-key", "a"), ("secret-key", "canary")];
        for (change, why) in [
            (("access-key", ""), "there is no access-key"),
            (("secret-key", "null"), "there is no secret-key"),
            (("bucket", " "), "there is no bucket"),
            (("secret-key", "canary\naws_session_token = x"), "secret-key is more than one word"),
            (("bucket", "a/b"), "no name of a bucket"),
            (("endpoint", "minio:9000"), "is no URL"),
            (("endpoint", "http://10.0.0.1:9000"), "in clear"),
            (("s3-uri-style", "sideways"), "unknown variant"),
            (("tls-ca-chain", "[\"canary\"]"), "no list of certificates"),
        ] {
            let refusal = of(&[&good[..], &[change]].concat(), &[]).unwrap_err().to_string();
            assert!(refusal.contains(why) && !refusal.contains("canary"), "{change:?}: {refusal}");
            assert!(refusal.contains("juju config s3-integrator"), "{refusal}");
        }
    }
}
