//! Owns the story that every home of etcd is told: fill, snapshot, wreck, restore, compare.
//!
//! It must never know which home it is, nor say where etcd is: finding that out is what is tried.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::machine::Machine;

/// Where a unit has its charm.
pub const CHARM: &str = "/var/lib/juju/agents/unit-etcd-0/charm";
const TARGET: &str = "/home/ubuntu/etcd-snapshots";
const KEYS: usize = 300;

/// Puts the charm's files on the machine, as a unit has them. `built` is where cargo put the programs.
pub fn install(machine: &Machine, built: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the project")?;
    for file in ["actions.yaml", "metadata.yaml"] {
        machine.copy_in(&source.join(file), &format!("{CHARM}/{file}"))?;
    }
    for action in ["snapshot", "restore", "site", "backup", "schedule", "check", "list-snapshots"] {
        machine.copy_in(&built.join(action), &format!("{CHARM}/actions/{action}"))?;
    }
    Ok(())
}

/// The whole story on an etcd that serves; the closing words are for the table.
pub fn tell(machine: &Machine) -> Result<String> {
    fill(machine)?;
    let before = digest(machine)?;
    let archive = snapshot(machine)?;
    wreck(machine)?;
    ensure!(digest(machine)? != before, "the wreck changed nothing");
    let restored = action(machine, "restore", &[&format!("snapshot={archive}")])?;
    ensure!(digest(machine)? == before, "the keys are not those of the snapshot");
    nothing_is_left(machine)?;
    Ok(format!("{KEYS} keys are back, etcd was down for {}", text(&restored, &["restore", "downtime"])?))
}

/// The whole story without a password, and then once more with authentication on.
pub fn tell_twice(machine: &mut Machine) -> Result<String> {
    let told = tell(machine)?;
    lock(machine)?;
    tell(machine).context("with authentication on")?;
    Ok(format!("{told}, and the same with authentication on"))
}

/// Turns authentication on. A snapshot takes the password of root, and it comes by the environment.
pub fn lock(machine: &mut Machine) -> Result<()> {
    machine.feed(&["etcdctl", "user", "add", "root", "--interactive=false"], "hunter2\n")?;
    machine.run(&["etcdctl", "user", "grant-role", "root", "root"])?;
    machine.run(&["etcdctl", "auth", "enable"])?;
    let output = machine.attempt(&[&format!("{CHARM}/actions/snapshot")])?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    // Where clients show a certificate, the name in it is taken for a user's.
    ensure!(
        output.status.code() == Some(1) && complaint.contains("ETCDCTL_PASSWORD"),
        "without a password: {complaint}"
    );
    machine.set("ETCDCTL_USER", "root");
    machine.set("ETCDCTL_PASSWORD", "hunter2");
    Ok(())
}

/// Waits until etcd answers etcdctl as it is set up on the machine.
pub fn wait_until_healthy(machine: &Machine) -> Result<()> {
    let script = "until etcdctl endpoint health >/dev/null 2>&1; do sleep 0.1; done";
    machine.run(&["timeout", "60", "sh", "-c", script]).context("etcd does not become healthy").map(drop)
}

/// Puts keys and values, all of them different.
pub fn fill(machine: &Machine) -> Result<()> {
    for hundred in (0..KEYS).step_by(100) {
        let puts: String =
            (hundred..hundred + 100).map(|n| format!("put /registry/pods/pod-{n} value-{n}\n")).collect();
        machine.feed(&["etcdctl", "txn"], &format!("\n{puts}\n\n"))?;
    }
    Ok(())
}

/// Deletes most, overwrites one, and adds one.
pub fn wreck(machine: &Machine) -> Result<()> {
    machine.run(&["etcdctl", "del", "--prefix", "/registry/pods/pod-1"])?;
    machine.run(&["etcdctl", "put", "/registry/pods/pod-2", "overwritten by mistake"])?;
    machine.run(&["etcdctl", "put", "/registry/pods/intruder", "{}"])?;
    Ok(())
}

/// Takes a snapshot and returns where it is.
pub fn snapshot(machine: &Machine) -> Result<String> {
    text(&action(machine, "snapshot", &[])?, &["snapshot", "path"])
}

/// A hash over all keys and values, and over the revisions at which they were put.
pub fn digest(machine: &Machine) -> Result<String> {
    let printed = machine.run(&["etcdctl", "get", "", "--from-key", "--write-out=json"])?;
    let printed: Value = serde_json::from_str(&printed).context("etcdctl get printed no JSON")?;
    let hash = Sha256::digest(printed["kvs"].to_string());
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs an action as a person does on a unit, and returns its results.
pub fn action(machine: &Machine, name: &str, words: &[&str]) -> Result<Value> {
    let program = format!("{CHARM}/actions/{name}");
    let printed = machine.run(&[&[program.as_str()], words].concat())?;
    serde_yaml::from_str(&printed).with_context(|| format!("the results of {name} are not YAML: {printed}"))
}

/// Runs an action that must refuse, with status 2, and say all that is in `said`.
pub fn refused(machine: &Machine, name: &str, words: &[&str], said: &[&str]) -> Result<()> {
    ends(machine, name, words, 2, said)
}

/// Runs an action that must fail, with status 1, and say all that is in `said`.
pub fn failed(machine: &Machine, name: &str, words: &[&str], said: &[&str]) -> Result<()> {
    ends(machine, name, words, 1, said)
}

fn ends(machine: &Machine, name: &str, words: &[&str], status: i32, said: &[&str]) -> Result<()> {
    let program = format!("{CHARM}/actions/{name}");
    let output = machine.attempt(&[&[program.as_str()], words].concat())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(status) || !said.iter().all(|part| complaint.contains(part)) {
        bail!("{name} should have ended with status {status} and {said:?}: {}\n{complaint}", output.status);
    }
    Ok(())
}

/// A result, by its path.
pub fn text(results: &Value, path: &[&str]) -> Result<String> {
    let found = path.iter().try_fold(results, |value, key| value.get(key));
    let found = found.and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {} in the results: {results}", path.join(".")))?.to_owned())
}

/// Neither a working directory nor half an archive.
pub fn nothing_is_left(machine: &Machine) -> Result<()> {
    let left = machine.run(&["find", "/var", TARGET, "-name", ".etcd-restore", "-o", "-name", "*.part"])?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    Ok(())
}
