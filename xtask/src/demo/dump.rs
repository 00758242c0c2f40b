//! The content of etcd at one moment, and the comparison of two such dumps.
//!
//! Compares keys and values one by one, never only counts or health.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::server::Server;
use crate::command;

/// Every key and its value, in base64 as etcdctl prints them.
pub struct Dump {
    keys: BTreeMap<String, String>,
}

/// How a dump differs from an earlier one.
#[derive(Debug, PartialEq)]
pub struct Differences {
    deleted: usize,
    changed: usize,
    new: usize,
}

impl Dump {
    /// Reads all keys from etcd, and saves the output of etcdctl in `file`.
    pub fn take(server: &Server, file: &Path) -> Result<Self> {
        let mut etcdctl = server.etcdctl(&["get", "", "--from-key", "--write-out=json"]);
        println!("$ {} >{}", command::as_typed(&etcdctl), command::quote(&command::short_path(file)));
        let printed = command::output(&mut etcdctl)?;
        fs::write(file, &printed).with_context(|| format!("writing {}", file.display()))?;
        let dump = Self::read(&printed)?;
        println!("{} keys; sha256 of all keys and values {}", dump.keys.len(), dump.sha256());
        Ok(dump)
    }

    fn read(printed: &str) -> Result<Self> {
        let printed: Value =
            serde_json::from_str(printed).context("the output of etcdctl get is not JSON")?;
        let pairs = match &printed["kvs"] {
            Value::Null => &[],
            pairs => pairs.as_array().context("the output of etcdctl get has no list of keys")?.as_slice(),
        };
        // etcdctl omits an empty value, but never a key.
        let pair = |pair: &Value| {
            let key = pair["key"].as_str().context("etcdctl get printed a pair without a key")?;
            anyhow::Ok((key.to_owned(), pair["value"].as_str().unwrap_or_default().to_owned()))
        };
        Ok(Self { keys: pairs.iter().map(pair).collect::<Result<_>>()? })
    }

    /// Returns a hash of one line for each key, sorted: the key, a tab and the value, both in base64.
    fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.keys {
            hash.update(format!("{key}\t{value}\n"));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns how this dump differs from `before`.
    pub fn differences(&self, before: &Self) -> Differences {
        let in_both = before.keys.iter().filter_map(|(key, old)| self.keys.get(key).map(|now| (old, now)));
        let (kept, changed) =
            in_both.fold((0, 0), |(kept, changed), (old, now)| (kept + 1, changed + usize::from(old != now)));
        Differences { deleted: before.keys.len() - kept, changed, new: self.keys.len() - kept }
    }

    /// Returns the closing line, or an error if any key differs.
    pub fn must_equal(&self, before: &Self) -> Result<String> {
        let differences = self.differences(before);
        if differences != (Differences { deleted: 0, changed: 0, new: 0 }) {
            bail!(
                "the restored data differs from the original: {differences}; compare before.json and after.json"
            );
        }
        Ok(format!(
            "Restored: all {} keys are the same as before the accident, byte for byte.",
            self.keys.len()
        ))
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deleted, changed, new } = self;
        write!(to, "{deleted} keys deleted, {changed} changed, {new} new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"{"header":{},"kvs":[{"key":"YQ==","value":"MQ=="},{"key":"Yg==","value":"Mg=="},{"key":"Yw=="}],"count":3}"#;

    #[test]
    fn counts_each_kind_of_difference() {
        let before = Dump::read(BEFORE).unwrap();
        let after =
            Dump::read(r#"{"kvs":[{"key":"Yg==","value":"OQ=="},{"key":"Yw=="},{"key":"ZA=="}]}"#).unwrap();
        assert_eq!(after.differences(&before), Differences { deleted: 1, changed: 1, new: 1 });
        assert!(after.must_equal(&before).is_err());
    }

    #[test]
    fn an_empty_etcd_has_lost_every_key() {
        let before = Dump::read(BEFORE).unwrap();
        let empty = Dump::read(r#"{"header":{}}"#).unwrap();
        assert_eq!(empty.differences(&before), Differences { deleted: 3, changed: 0, new: 0 });
    }

    #[test]
    fn ignores_the_order_of_the_keys() {
        let before = Dump::read(BEFORE).unwrap();
        let after = Dump::read(
            r#"{"kvs":[{"key":"Yw=="},{"key":"Yg==","value":"Mg=="},{"key":"YQ==","value":"MQ=="}]}"#,
        )
        .unwrap();
        assert_eq!(after.sha256(), before.sha256());
        assert!(after.must_equal(&before).is_ok());
    }
}
