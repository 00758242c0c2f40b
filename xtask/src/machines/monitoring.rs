//! A unit that is monitored: by a real NRPE daemon, and by an observability agent that reads metrics on loopback.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::charm::{HEALTHY, check_listens_on_loopback_only, downloaded, empty, offer_packages, pid};
use super::machine::Machine;
use super::scenario::{self, CHARM};
use super::test_bed::TestBed;
use super::unit::Unit;

/// NRPE with its client and sudo, and the libraries that a small Debian lacks for them.
const NRPE_PACKAGES: [&str; 13] = [
    "nagios-nrpe-server",
    "nagios-nrpe-plugin",
    "sudo",
    "libwrap0",
    "libnsl2",
    "libtirpc3",
    "libtirpc-common",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libk5crypto3",
    "libkrb5support0",
    "libkeyutils1",
    "libcom-err2",
];
const COMMAND: &str = "/etc/nagios/nrpe.d/check_etcd_backup.cfg";
const RULE: &str = "/etc/sudoers.d/etcd-charm-nrpe";
const NRPE: &str = "nrpe-external-master:7";
const AGENT: &str = "cos-agent:8";

/// A real NRPE daemon runs the check by sudo, as its user nagios, which may run nothing else as root.
pub fn nrpe(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy_built(&machine, test_bed)?;
    unit.hook("install", &[HEALTHY])?;
    unit.relate(NRPE, "nrpe")?;
    unit.relation_hook("nrpe-external-master-relation-created", NRPE)?;
    ensure!(!machine.path(COMMAND)?.exists(), "there is a command before NRPE is installed");
    let monitors = unit.relation_data(NRPE)?;
    let monitors: Value = serde_yaml::from_str(monitors["monitors"].as_str().context("no monitors")?)?;
    let announced = monitors["monitors"]["remote"]["nrpe"]["etcd_backup"]["command"].clone();
    ensure!(announced == "check_etcd_backup", "{monitors}");

    install_nrpe(&machine)?;
    unit.relation_hook("nrpe-external-master-relation-changed", NRPE)?;
    expect(&machine, 2, &["BACKUP CRITICAL - there is no good backup", "| age=U;"])?;
    scenario::fill(&machine)?;
    unit.action("backup", json!({}))?;
    expect(&machine, 0, &["BACKUP OK - ", "archives=1"])?;
    // The daemon is not restarted without need.
    let daemon = nrpe_pid(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(nrpe_pid(&machine)? == daemon, "NRPE was restarted");
    damage_archive(&machine)?;
    let verdict = unit.action("verify-snapshot", json!({"snapshot": "latest"}));
    let verdict = verdict.err().context("the archive is damaged")?.to_string();
    ensure!(verdict.contains("damaged"), "{verdict}");
    expect(&machine, 2, &["BACKUP CRITICAL - ", "damaged=1"])?;

    for forbidden in ["check --help", "check warn=1s", "restore", "snapshot"] {
        let words = format!("runuser -u nagios -- sudo -n {CHARM}/actions/{forbidden}");
        let out = machine.attempt(&words.split(' ').collect::<Vec<_>>())?;
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(stderr.contains("a password is required"), "nagios may run {forbidden:?} as root: {stderr}");
    }
    unit.relation_hook("nrpe-external-master-relation-broken", NRPE)?;
    for file in [COMMAND, RULE] {
        ensure!(!machine.path(file)?.exists(), "{file} is left");
    }
    expect(&machine, 3, &["not defined"])?;
    Ok("check_nrpe printed the words and statuses of check: no backup, a good one, a damaged one".to_owned())
}

/// Installs NRPE and sudo, as the charm of NRPE does. The packages are downloaded once.
fn install_nrpe(machine: &Machine) -> Result<()> {
    for deb in downloaded("nrpe", &NRPE_PACKAGES)? {
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        machine.copy_in(&deb, &format!("/srv/nrpe/{name}"))?;
    }
    machine.run(&["sh", "-c", "DEBIAN_FRONTEND=noninteractive dpkg --install /srv/nrpe/*.deb"]).map(drop)
}

fn nrpe_pid(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "--property=MainPID", "nagios-nrpe-server.service"])
}

/// Runs check_nrpe, which must print all `parts` and end with `status`.
fn expect(machine: &Machine, status: i32, parts: &[&str]) -> Result<()> {
    // The daemon may be starting.
    let ask = "for n in 1 2 3 4 5 6 7 8 9; do \
                   out=$(/usr/lib/nagios/plugins/check_nrpe -H 127.0.0.1 -c check_etcd_backup); code=$?; \
                   case $out in *refused*) sleep 0.3;; *) break;; esac; \
               done; printf %s \"$out\"; exit $code";
    let out = machine.attempt(&["sh", "-c", ask])?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.code() != Some(status) || !parts.iter().all(|part| stdout.contains(part)) {
        bail!("check_nrpe should end with {status} and {parts:?}: {} {stdout}", out.status);
    }
    Ok(())
}

/// Overwrites bytes of the database in the only archive.
fn damage_archive(machine: &Machine) -> Result<()> {
    let script = "cd /home/ubuntu/etcd-snapshots && set -- *.tar.gz && [ $# = 1 ] && \
                  printf damaged | dd of=\"$1\" bs=1 seek=2000 conv=notrunc status=none";
    machine.run(&["sh", "-c", script]).map(drop)
}

/// An agent reads the metrics of etcd and of the backups on loopback. Nothing is left after it, and etcd is not restarted.
pub fn agent(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy_built(&machine, test_bed)?;
    unit.hook("install", &[HEALTHY])?;
    let etcd = pid(&machine)?;
    unit.relate(AGENT, "opentelemetry-collector")?;
    unit.relation_hook("cos-agent-relation-created", AGENT)?;
    let config = unit.relation_data(AGENT)?;
    let config: Value = serde_json::from_str(config["config"].as_str().context("no document")?)?;
    let jobs = config["metrics_scrape_jobs"].as_array().context("no scrape jobs")?;
    let targets: Vec<&str> =
        jobs.iter().filter_map(|job| job["static_configs"][0]["targets"][0].as_str()).collect();
    ensure!(targets == ["127.0.0.1:2382", "127.0.0.1:2381"], "{targets:?}");
    let metrics = get(&machine, 2381, "/metrics")?;
    ensure!(metrics.contains("\netcd_server_has_leader 1\n"), "no metrics of etcd: {metrics}");
    for path in ["/v2/keys", "/v3/kv/range", "/members", "/debug/pprof/", "/"] {
        let answer = get(&machine, 2381, path)?;
        ensure!(answer.starts_with("HTTP/1.1 404 "), "the port of metrics answers to {path}: {answer}");
    }
    ensure!(get(&machine, 2382, "/metrics")?.starts_with("HTTP/1.1 200 "), "no server of metrics");
    scenario::fill(&machine)?;
    unit.action("backup", json!({}))?;
    let metrics = get(&machine, 2382, "/metrics")?;
    ensure!(metrics.contains("\netcd_backup_last_run_success{"), "no metrics of backups: {metrics}");
    check_listens_on_loopback_only(&machine)?;
    let main_pid = ["systemctl", "show", "--value", "--property=MainPID", "etcd-backup-metrics.service"];
    let process = format!("/proc/{}", machine.run(&main_pid)?.trim());
    let user = machine.run(&["stat", "--format=%u", &process])?;
    ensure!(user.trim() != "0", "the server of metrics runs as root");

    // The data is set once, and again only after a change.
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(!unit.trace("calls")?.contains("relation-set -r cos-agent"), "the data was set without need");
    unit.configure(&[("metrics-port", json!(9100))])?;
    unit.hook("config-changed", &[HEALTHY])?;
    ensure!(unit.trace("calls")?.contains("relation-set -r cos-agent"), "the data was not set");
    ensure!(get(&machine, 9100, "/metrics")?.contains("etcd_server_has_leader"), "the port was not changed");
    ensure!(get(&machine, 9101, "/metrics")?.contains("etcd_backup_info"), "the port was not changed");
    unit.configure(&[])?;
    unit.hook("config-changed", &[HEALTHY])?;
    let restarted = pid(&machine)?;
    ensure!(etcd != restarted, "etcd was not restarted for another port");

    unit.relation_hook("cos-agent-relation-broken", AGENT)?;
    ensure!(pid(&machine)? == restarted, "etcd was restarted for the agent");
    for left in ["/etc/systemd/system/etcd-backup-metrics.service", "/var/lib/etcd-backup-metrics"] {
        ensure!(!machine.path(left)?.exists(), "{left} is left");
    }
    get(&machine, 2382, "/metrics").err().context("the server of metrics still runs")?;
    Ok("metrics of etcd and of backups on loopback; nothing left without the agent".to_owned())
}

/// Returns the answer of a server on loopback. The machine has no program for HTTP.
fn get(machine: &Machine, port: u16, path: &str) -> Result<String> {
    // A server that was just started may not listen yet.
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8 9; do exec 3<>/dev/tcp/127.0.0.1/{port} && break; sleep 0.2; done 2>/dev/null; \
         printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3"
    );
    machine.run(&["bash", "-c", &script])
}
