//! A unit that is monitored by an observability agent, which reads metrics on loopback.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::charm::{HEALTHY, check_listens_on_loopback_only, empty, offer_packages, pid};
use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use super::unit::Unit;

const AGENT: &str = "cos-agent:8";

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
