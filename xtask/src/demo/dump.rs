//! Owns what etcd holds at one moment, and whether two moments are alike.
//!
//! It must never judge by counts or health: keys and values are compared one by one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::server::Server;
use crate::command;

/// Every key and its value, in etcdctl's base64.
pub struct Dump {
    keys: BTreeMap<String, String>,
}

/// How a dump differs from an earlier one.
#[derive(Debug, PartialEq)]
pub struct Differences {
    gone: usize,
    changed: usize,
    new: usize,
}

impl Dump {
    /// Reads all of etcd, and keeps what etcdctl printed in `file`.
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
        let printed: Value = serde_json::from_str(printed).context("etcdctl get printed no JSON")?;
        let pairs = match &printed["kvs"] {
            Value::Null => &[],
            pairs => pairs.as_array().context("etcdctl get printed no list of keys")?.as_slice(),
        };
        // An empty value is left out of the JSON, a key never is.
        let pair = |pair: &Value| {
            let key = pair["key"].as_str().context("etcdctl get printed a pair without a key")?;
            anyhow::Ok((key.to_owned(), pair["value"].as_str().unwrap_or_default().to_owned()))
        };
        Ok(Self { keys: pairs.iter().map(pair).collect::<Result<_>>()? })
    }

    /// One line per key, sorted: the key, a tab, the value, both in base64.
    fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in &self.keys {
            hash.update(format!("{key}\t{value}\n"));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What became of `before`.
    pub fn differences(&self, before: &Self) -> Differences {
        let in_both = before.keys.iter().filter_map(|(key, old)| self.keys.get(key).map(|now| (old, now)));
        let (kept, changed) =
            in_both.fold((0, 0), |(kept, changed), (old, now)| (kept + 1, changed + usize::from(old != now)));
        Differences { gone: before.keys.len() - kept, changed, new: self.keys.len() - kept }
    }

    /// The closing line, or an error if a single key differs.
    pub fn must_equal(&self, before: &Self) -> Result<String> {
        let differences = self.differences(before);
        if differences != (Differences { gone: 0, changed: 0, new: 0 }) {
            bail!("the restored data is not what it was: {differences}; compare before.json and after.json");
        }
        Ok(format!(
            "Restored: all {} keys are back, byte for byte the same as before the accident.",
            self.keys.len()
        ))
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gone, changed, new } = self;
        write!(to, "{gone} keys are gone, {changed} changed, {new} new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"{"header":{},"kvs":[{"key":"YQ==","value":"MQ=="},{"key":"Yg==","value":"Mg=="},{"key":"Yw=="}],"count":3}"#;

    #[test]
    fn each_kind_of_difference_is_counted() {
        let before = Dump::read(BEFORE).unwrap();
        let now =
            Dump::read(r#"{"kvs":[{"key":"Yg==","value":"OQ=="},{"key":"Yw=="},{"key":"ZA=="}]}"#).unwrap();
        assert_eq!(now.differences(&before), Differences { gone: 1, changed: 1, new: 1 });
        assert!(now.must_equal(&before).is_err());
    }

    #[test]
    fn an_empty_etcd_lost_every_key() {
        let before = Dump::read(BEFORE).unwrap();
        let empty = Dump::read(r#"{"header":{}}"#).unwrap();
        assert_eq!(empty.differences(&before), Differences { gone: 3, changed: 0, new: 0 });
    }

    #[test]
    fn the_order_of_the_keys_is_no_difference() {
        let before = Dump::read(BEFORE).unwrap();
        let now = Dump::read(
            r#"{"kvs":[{"key":"Yw=="},{"key":"Yg==","value":"Mg=="},{"key":"YQ==","value":"MQ=="}]}"#,
        )
        .unwrap();
        assert_eq!(now.sha256(), before.sha256());
        assert!(now.must_equal(&before).is_ok());
    }
}
