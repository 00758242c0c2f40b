//! The steps that the scenarios share: fill etcd, take a snapshot, damage the data, restore, compare.
//!
//! They do not tell the actions where etcd is: the actions have to discover it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::machine::Machine;

/// The charm directory of a unit.
pub const CHARM: &str = "/var/lib/juju/agents/unit-etcd-0/charm";
const TARGET: &str = "/home/ubuntu/etcd-snapshots";
const KEYS: usize = 300;

/// Copies the charm's files and the built `programs` to the machine, to the places that they have in a unit.
pub fn install(machine: &Machine, programs: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
    for file in ["actions.yaml", "metadata.yaml"] {
        machine.copy_in(&source.join(file), &format!("{CHARM}/{file}"))?;
    }
    for action in
        ["snapshot", "restore", "site", "backup", "schedule", "check", "check-config", "list-snapshots"]
    {
        machine.copy_in(&programs.join("etcd-backup"), &format!("{CHARM}/actions/{action}"))?;
    }
    Ok(())
}

/// Takes a snapshot of a serving etcd, damages its data and restores it. Returns a summary for the table.
pub fn round_trip(machine: &Machine) -> Result<String> {
    fill(machine)?;
    let before = digest(machine)?;
    let archive = snapshot(machine)?;
    damage(machine)?;
    ensure!(digest(machine)? != before, "the damage did not change the data");
    let restored = action(machine, "restore", &[&format!("snapshot={archive}")])?;
    ensure!(digest(machine)? == before, "the keys differ from those of the snapshot");
    check_nothing_is_left(machine)?;
    Ok(format!("{KEYS} keys restored, etcd was down for {}", text(&restored, &["restore", "downtime"])?))
}

/// Runs [`round_trip`] without authentication, and again with it.
pub fn round_trip_with_and_without_auth(machine: &mut Machine) -> Result<String> {
    let summary = round_trip(machine)?;
    enable_auth(machine)?;
    round_trip(machine).context("with authentication")?;
    Ok(format!("{summary}, and the same with authentication"))
}

/// Enables authentication. From then on a snapshot needs the password of root, from the environment.
pub fn enable_auth(machine: &mut Machine) -> Result<()> {
    machine.feed(&["etcdctl", "user", "add", "root", "--interactive=false"], "hunter2\n")?;
    machine.run(&["etcdctl", "user", "grant-role", "root", "root"])?;
    machine.run(&["etcdctl", "auth", "enable"])?;
    let output = machine.attempt(&[&format!("{CHARM}/actions/snapshot")])?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // If clients have a certificate, etcd takes the name in it as the user.
    ensure!(
        output.status.code() == Some(1) && stderr.contains("ETCDCTL_PASSWORD"),
        "without a password: {stderr}"
    );
    machine.set("ETCDCTL_USER", "root");
    machine.set("ETCDCTL_PASSWORD", "hunter2");
    // etcd writes a login to its log, and several scenarios keep the disk busy. etcdctl would wait for 2 s.
    machine.set("ETCDCTL_DIAL_TIMEOUT", "10s");
    Ok(())
}

/// Waits until etcd is healthy, by the machine's etcdctl.
pub fn wait_until_healthy(machine: &Machine) -> Result<()> {
    let script = "until etcdctl endpoint health >/dev/null 2>&1; do sleep 0.1; done";
    machine.run(&["timeout", "60", "sh", "-c", script]).context("etcd did not become healthy").map(drop)
}

/// Puts different keys and values into etcd.
pub fn fill(machine: &Machine) -> Result<()> {
    for hundred in (0..KEYS).step_by(100) {
        let puts: String =
            (hundred..hundred + 100).map(|n| format!("put /registry/pods/pod-{n} value-{n}\n")).collect();
        machine.feed(&["etcdctl", "txn"], &format!("\n{puts}\n\n"))?;
    }
    Ok(())
}

/// Deletes most, overwrites one, and adds one.
pub fn damage(machine: &Machine) -> Result<()> {
    machine.run(&["etcdctl", "del", "--prefix", "/registry/pods/pod-1"])?;
    machine.run(&["etcdctl", "put", "/registry/pods/pod-2", "overwritten by mistake"])?;
    machine.run(&["etcdctl", "put", "/registry/pods/intruder", "{}"])?;
    Ok(())
}

/// Takes a snapshot and returns the path of the archive.
pub fn snapshot(machine: &Machine) -> Result<String> {
    text(&action(machine, "snapshot", &[])?, &["snapshot", "path"])
}

/// Returns a hash of all keys, their values and their revisions.
pub fn digest(machine: &Machine) -> Result<String> {
    let printed = machine.run(&["etcdctl", "get", "", "--from-key", "--write-out=json"])?;
    let printed: Value = serde_json::from_str(&printed).context("etcdctl get printed no JSON")?;
    let hash = Sha256::digest(printed["kvs"].to_string());
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs an action as in a terminal on a unit, and returns its results.
pub fn action(machine: &Machine, name: &str, arguments: &[&str]) -> Result<Value> {
    let program = format!("{CHARM}/actions/{name}");
    let printed = machine.run(&[&[program.as_str()], arguments].concat())?;
    serde_yaml::from_str(&printed).with_context(|| format!("the results of {name} are not YAML: {printed}"))
}

/// Runs an action that must refuse (exit status 2), with all `parts` in its stderr.
pub fn refused(machine: &Machine, name: &str, arguments: &[&str], parts: &[&str]) -> Result<()> {
    ends_with(machine, name, arguments, 2, parts)
}

/// Runs an action that must fail (exit status 1), with all `parts` in its stderr.
pub fn failed(machine: &Machine, name: &str, arguments: &[&str], parts: &[&str]) -> Result<()> {
    ends_with(machine, name, arguments, 1, parts)
}

fn ends_with(machine: &Machine, name: &str, arguments: &[&str], status: i32, parts: &[&str]) -> Result<()> {
    let program = format!("{CHARM}/actions/{name}");
    let output = machine.attempt(&[&[program.as_str()], arguments].concat())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(status) || !parts.iter().all(|part| stderr.contains(part)) {
        bail!("{name} should have ended with status {status} and {parts:?}: {}\n{stderr}", output.status);
    }
    Ok(())
}

/// Returns a result by its path.
pub fn text(results: &Value, path: &[&str]) -> Result<String> {
    let found = path.iter().try_fold(results, |value, key| value.get(key));
    let found = found.and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {} in the results: {results}", path.join(".")))?.to_owned())
}

/// Waits until the unit that recovers an interrupted restore at a boot has ended, and returns its output.
pub fn recovered_at_boot(machine: &Machine) -> Result<String> {
    let journal = "journalctl --no-pager --output=cat --boot --unit='etcd-backup-recover-*'";
    let ended = format!("until {journal} | grep -q -e ^Finished -e ^Failed; do sleep 0.2; done; {journal}");
    machine.run(&["timeout", "180", "sh", "-c", &ended]).context("nothing was recovered at the boot")
}

/// Checks that no working directory, no partial archive and no unit for a boot is left.
pub fn check_nothing_is_left(machine: &Machine) -> Result<()> {
    let names = ["-name", ".etcd-restore", "-o", "-name", "*.part", "-o", "-name", "etcd-backup-recover-*"];
    let words = [&["find", "/var", "/etc/systemd", TARGET][..], &names].concat();
    let left = machine.run(&words)?;
    ensure!(left.is_empty(), "files are left:\n{left}");
    Ok(())
}
