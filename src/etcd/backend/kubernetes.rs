//! Recognises the data of a Kubernetes cluster, and the keys with which its API server encrypted values.
//!
//! The API server writes most objects as `k8s\0` and a protocol buffers message (`apimachinery`
//! `runtime/serializer/protobuf`), and encrypted objects as `k8s:enc:PROVIDER:VERSION:KEY:` and the ciphertext
//! (`apiserver` `server/options/encryptionconfig/config.go`). Must never keep or report any other part of a value.

use super::Backend;
use crate::etcd::protobuf::{FieldValue, MessageFields};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The first bytes of an object that the API server wrote as protocol buffers.
const PROTOBUF: &[u8] = b"k8s\0";
/// The first bytes of an object that it encrypted.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// The providers, each with its versions (`config.go`, `aesCBCTransformerPrefixV1` and the others).
const PROVIDERS: [&str; 5] = ["aescbc:v1", "aesgcm:v1", "secretbox:v1", "kms:v1", "kms:v2"];
/// The name that stands for every key that does not look like one of them.
const UNKNOWN: &str = "unknown";
/// The longest name of a key, in bytes. Kubernetes has no limit.
const MAX_NAME: usize = 64;
/// The most keys that are recorded. A cluster has one or two.
const MAX_KEYS: usize = 32;
/// Number of the field with the value in a record (`mvccpb.KeyValue`).
const VALUE: u64 = 5;

/// The data of a Kubernetes cluster in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KubernetesData {
    /// The encryption keys of the API server that are needed to read the values, as `PROVIDER:VERSION:NAME`. Empty if
    /// no value is encrypted.
    #[serde(default)]
    pub encryption_keys: BTreeSet<String>,
}

impl KubernetesData {
    /// Returns the names of the encryption keys in words. `None` if no value is encrypted.
    #[must_use]
    pub fn describe_keys(&self) -> Option<String> {
        let keys: Vec<&str> = self.encryption_keys.iter().map(String::as_str).collect();
        (!keys.is_empty()).then(|| keys.join(", "))
    }
}

/// Looks for Kubernetes data in the records of a database.
#[derive(Debug, Default)]
pub(super) struct KubernetesFinder {
    found: Option<KubernetesData>,
}

impl KubernetesFinder {
    /// Looks at a record of bucket `key`. It ignores a malformed one: the check of the structure reports that.
    pub fn look_at(&mut self, record: &[u8]) {
        let Some(value) = value_of(record) else { return };
        if let Some(encrypted) = value.strip_prefix(ENCRYPTED) {
            let keys = &mut self.found.get_or_insert_default().encryption_keys;
            let name = key_name(encrypted).unwrap_or(UNKNOWN);
            if keys.len() < MAX_KEYS && !keys.contains(name) {
                keys.insert(name.to_owned());
            }
        } else if value.starts_with(PROTOBUF) {
            self.found.get_or_insert_default();
        }
    }

    /// Returns the Kubernetes data that was found.
    pub fn finish(self) -> Option<KubernetesData> {
        self.found
    }
}

impl Backend {
    /// Returns the Kubernetes data in the file, or `None` if it has none. An error from `wanted` cancels the search.
    ///
    /// # Errors
    /// Fails if the file cannot be read or the search is cancelled.
    pub fn kubernetes(&self, wanted: &dyn Fn() -> Result<()>) -> Result<Option<KubernetesData>> {
        let mut finder = KubernetesFinder::default();
        self.for_each_record(0, wanted, |_, _, record| {
            finder.look_at(record);
            Ok(true)
        })?;
        Ok(finder.finish())
    }
}

/// Returns the value of a record.
fn value_of(record: &[u8]) -> Option<&[u8]> {
    MessageFields::new(record).map_while(Result::ok).find_map(|field| match field {
        (VALUE, FieldValue::Bytes(value)) => Some(value),
        _ => None,
    })
}

/// Returns the name of the key in the prefix of an encrypted value, after `k8s:enc:`. `None` if it is not one that
/// Kubernetes writes: the bytes could then be anything, and are not reported.
fn key_name(encrypted: &[u8]) -> Option<&str> {
    let ends = encrypted.iter().take(MAX_NAME).enumerate().filter(|(_, byte)| **byte == b':');
    let end = ends.map(|(at, _)| at).nth(2)?;
    let name = std::str::from_utf8(encrypted.get(..end)?).ok()?;
    let key = PROVIDERS.iter().find_map(|provider| name.strip_prefix(provider)?.strip_prefix(':'))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_plain)).then_some(name)
}
