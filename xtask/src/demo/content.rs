//! The content of the demo's etcd: keys and values like those of a small Kubernetes, and the accident that damages them.
//!
//! Every name, address and secret is generated from a counter.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::server::Server;
use crate::command;

/// The number of puts in a transaction. etcd accepts at most 128 operations.
const PUTS_PER_TRANSACTION: usize = 100;
const NAMESPACES: [&str; 5] = ["default", "kube-system", "monitoring", "shop", "staging"];
const APPS: [&str; 6] = ["cart", "checkout", "gateway", "ledger", "search", "web"];

/// Resources whose keys the accident deletes.
const DELETED: [&str; 5] = ["deployments", "events", "pods", "replicasets", "secrets"];
/// The number of other keys that the accident overwrites.
const OVERWRITTEN: usize = 3;

/// All keys and values, in order.
pub struct Content {
    entries: Vec<Entry>,
}

struct Entry {
    resource: &'static str,
    key: String,
    value: Value,
}

impl Content {
    /// Returns about two thousand keys.
    pub fn kubernetes() -> Self {
        let mut entries = Vec::new();
        for (resource, count, object) in RESOURCES {
            entries.extend((0..*count).map(|number| entry(resource, number, *object)));
        }
        Self { entries }
    }

    /// Puts all keys into etcd, a hundred at a time. Events get a lease, as in Kubernetes.
    pub fn write_to(&self, server: &Server, home: &Path) -> Result<()> {
        let lease = lease(server)?;
        let directory = home.join("fill");
        fs::create_dir(&directory).context("creating a directory for the transactions")?;
        let shown = command::quote(&command::short_path(&directory));
        println!("$ for t in {shown}/*.txn; do {} <$t; done", command::as_typed(&server.etcdctl(&["txn"])));
        let mut transactions = 0;
        for puts in self.entries.chunks(PUTS_PER_TRANSACTION) {
            let file = directory.join(format!("{transactions:03}.txn"));
            fs::write(&file, transaction(puts, &lease))
                .with_context(|| format!("writing {}", file.display()))?;
            commit(server, &file)?;
            transactions += 1;
        }
        println!("SUCCESS, {transactions} times: {} keys put", self.entries.len());
        Ok(())
    }

    /// Deletes most keys, overwrites a few, and adds a new one.
    pub fn damage(&self, server: &Server) -> Result<()> {
        for resource in DELETED {
            command::run_checked(&mut server.etcdctl(&[
                "del",
                "--prefix",
                &format!("/registry/{resource}/"),
            ]))?;
        }
        let kept = self.entries.iter().filter(|entry| entry.resource == "configmaps");
        for entry in kept.take(OVERWRITTEN) {
            command::run_checked(&mut server.etcdctl(&["put", &entry.key, "overwritten by mistake"]))?;
        }
        command::run_checked(&mut server.etcdctl(&["put", "/registry/pods/default/intruder", "{}"]))
    }
}

/// Grants a lease of one hour, and returns its id.
fn lease(server: &Server) -> Result<String> {
    let output = command::run_capturing(&mut server.etcdctl(&["lease", "grant", "3600"]))?;
    let id = output.strip_prefix("lease ").and_then(|rest| rest.split(' ').next());
    Ok(id.context("etcdctl printed no lease id")?.to_owned())
}

/// Returns the input of `etcdctl txn`: no comparisons, the puts, and an empty else branch.
fn transaction(puts: &[Entry], lease: &str) -> String {
    let mut text = String::from("\n");
    for Entry { resource, key, value } in puts {
        let option = if *resource == "events" { format!("--lease={lease} ") } else { String::new() };
        text.push_str(&format!("put {option}{key} '{value}'\n"));
    }
    text.push_str("\n\n");
    text
}

fn commit(server: &Server, transaction: &Path) -> Result<()> {
    let input = File::open(transaction).with_context(|| format!("opening {}", transaction.display()))?;
    let mut etcdctl = server.etcdctl(&["txn"]);
    let output = etcdctl.stdin(Stdio::from(input)).output().context("etcdctl could not be started")?;
    crate::interrupt::check()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !stdout.contains("SUCCESS") {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("etcdctl txn failed ({}) on {}:\n{stderr}", output.status, transaction.display());
    }
    Ok(())
}

/// Generates the rest of an object from its number.
type Object = fn(usize) -> Value;

const RESOURCES: &[(&str, usize, Object)] = &[
    ("configmaps", 240, config_map),
    ("deployments", 120, deployment),
    ("events", 160, event),
    ("leases", 40, lease_object),
    ("pods", 760, pod),
    ("replicasets", 160, deployment),
    ("secrets", 280, secret),
    ("serviceaccounts", 80, |_| json!({"automountServiceAccountToken": false})),
    ("services", 180, service),
];

fn entry(resource: &'static str, number: usize, object: Object) -> Entry {
    let namespace = NAMESPACES[number % NAMESPACES.len()];
    let hash = hash(resource, number);
    let app = APPS[number % APPS.len()];
    let name = format!("{app}-{number:04}-{}", &hash[..5]);
    let mut value = json!({
        "apiVersion": "v1",
        "kind": resource,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": format!("{}-{}-{}-{}-{}", &hash[..8], &hash[8..12], &hash[12..16], &hash[16..20], &hash[20..32]),
            "labels": {"app.kubernetes.io/name": app, "pod-template-hash": &hash[32..42]},
            "creationTimestamp": format!("2024-03-{:02}T{:02}:{:02}:00Z", 1 + number % 28, number % 24, number % 60),
        },
    });
    merge(&mut value, object(number));
    Entry { resource, key: format!("/registry/{resource}/{namespace}/{name}"), value }
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

/// Returns a hash that looks random and is the same in every run.
fn hash(salt: &str, number: usize) -> String {
    let digest = Sha256::digest(format!("{salt}/{number}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pod(number: usize) -> Value {
    json!({
        "spec": {
            "nodeName": format!("node-{}", number % 9),
            "serviceAccountName": "default",
            "containers": [{
                "name": "main",
                "image": format!("images.example/shop/{}@sha256:{}", APPS[number % APPS.len()], hash("image", number % 6)),
                "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "SHARD", "value": number.to_string()}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": format!("config-{}", number % 240)}}],
        },
        "status": {
            "phase": "Running",
            "podIP": format!("10.42.{}.{}", number / 250, 2 + number % 250),
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
        },
    })
}

fn deployment(number: usize) -> Value {
    json!({"spec": {"replicas": 1 + number % 5, "template": pod(number)}, "status": {"readyReplicas": 1 + number % 5}})
}

fn secret(number: usize) -> Value {
    json!({"type": "Opaque", "data": {"password": hash("password", number), "token": hash("token", number)}})
}

fn config_map(number: usize) -> Value {
    let settings: Vec<String> =
        (0..12).map(|line| format!("setting.{line} = {}", hash("line", number + line))).collect();
    json!({"data": {"app.properties": settings.join("\n")}})
}

fn service(number: usize) -> Value {
    json!({"spec": {
        "clusterIP": format!("10.96.{}.{}", number / 250, 2 + number % 250),
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    }})
}

fn event(number: usize) -> Value {
    json!({"reason": "Pulled", "count": 1 + number % 7, "type": "Normal", "message": "Container image is already present"})
}

fn lease_object(number: usize) -> Value {
    json!({"spec": {"holderIdentity": format!("node-{}", number % 9), "leaseDurationSeconds": 40}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn generates_about_two_thousand_different_keys() {
        let content = Content::kubernetes();
        let keys: BTreeSet<_> = content.entries.iter().map(|entry| &entry.key).collect();
        assert_eq!(keys.len(), content.entries.len());
        assert!((1900..2200).contains(&keys.len()), "{}", keys.len());
    }

    #[test]
    fn no_value_contains_a_quote_or_newline() {
        for entry in Content::kubernetes().entries {
            assert!(!entry.value.to_string().contains(['\'', '\n']), "{}", entry.key);
        }
    }
}
