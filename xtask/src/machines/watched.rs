//! Clients watch and write while an etcd in a systemd unit is restored. etcd's graceful stop waits for watches (7 s in 3.6
//! and later), so `restore` ends it; the unit must not fail, and no acknowledged write may be lost: each is in the kept data, or
//! in the restored data if a client connected again.

use anyhow::{Context, Result, bail, ensure};

use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use crate::etcd;

const UNIT: &str = "\
[Unit]
StartLimitIntervalSec=0
OnFailure=failed.service

[Service]
Type=notify
Restart=always
RestartSec=100ms
ExecStart=/opt/etcd/etcd --name=db1 --data-dir=/srv/db --listen-client-urls=http://127.0.0.1:2379 \
  --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 \
  --initial-advertise-peer-urls=http://127.0.0.1:2380 --initial-cluster=db1=http://127.0.0.1:2380
";
const FAILED: &str = "[Service]\nType=oneshot\nExecStart=/bin/touch /srv/unit-failed\n";
/// Writes keys one after the other, and names the acknowledged ones in a file. Ends at the first error. A put that starts
/// while etcd is down waits, and succeeds if etcd is back within the timeout.
const WRITER: &str = "n=1; while /opt/etcd/etcdctl --command-timeout=10s put acknowledged-$n x >/dev/null 2>&1; do \
     echo acknowledged-$n >>/srv/acknowledged; n=$((n+1)); done";
/// The number of acknowledged writes before the restore starts.
const WRITES_BEFORE: usize = 10;
const WATCHES: usize = 3;
const ROUNDS: usize = 3;
/// The maximum of the shortest downtime, in seconds. A graceful stop would add 7 s to each; a busy disk adds seconds to some.
const MAX_DOWNTIME: f64 = 5.0;

/// Restores several times while clients watch and write.
pub fn watched(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    let programs = etcd::newest(&test_bed.target)?;
    for program in ["etcd", "etcdctl", "etcdutl"] {
        machine.copy_in(&programs.join(program), &format!("/opt/etcd/{program}"))?;
    }
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    machine.write("/etc/systemd/system/config-store.service", UNIT)?;
    machine.write("/etc/systemd/system/failed.service", FAILED)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    scenario::wait_until_healthy(&machine)?;
    scenario::fill(&machine)?;
    let archive = scenario::snapshot(&machine)?;
    let (mut downtimes, mut writes) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let (downtime, written) = restore(&machine, &archive).with_context(|| format!("round {round}"))?;
        downtimes.push(downtime);
        writes += written;
    }
    let shortest = downtimes.iter().copied().fold(f64::INFINITY, f64::min);
    ensure!(shortest <= MAX_DOWNTIME, "etcd was down for {shortest} s or more in each of {ROUNDS} restores");
    let longest = downtimes.into_iter().fold(0.0, f64::max);
    Ok(format!(
        "{ROUNDS} restores kept all {writes} acknowledged writes, etcd was down for {longest:.2} s at most"
    ))
}

/// Restores once. Returns the downtime in seconds, and the number of writes that were acknowledged.
fn restore(machine: &Machine, archive: &str) -> Result<(f64, usize)> {
    let mut clients = Vec::new();
    let mut start = |name: String, words: &[&str]| {
        let unit = format!("--unit={name}");
        clients.push(name);
        machine.run(&[&["systemd-run", "--quiet", "--collect", &unit], words].concat()).map(drop)
    };
    for number in 0..WATCHES {
        start(format!("watch-{number}"), &["/opt/etcd/etcdctl", "watch", "--prefix", ""])?;
    }
    machine.run(&["rm", "-f", "/srv/acknowledged"])?;
    start("writer".to_owned(), &["sh", "-c", WRITER])?;
    let count = "until [ \"$(grep -c . /srv/acknowledged 2>/dev/null)\" -ge \"$1\" ] 2>/dev/null; do sleep 0.05; done";
    machine.run(&["timeout", "30", "sh", "-c", count, "sh", &WRITES_BEFORE.to_string()])?;
    let restored = scenario::action(machine, "restore", &[&format!("snapshot={archive}")])?;
    for client in clients {
        // A client that has ended with etcd is an unknown unit now.
        machine.attempt(&["systemctl", "stop", &client])?;
    }
    let downtime = scenario::text(&restored, &["restore", "downtime"])?;
    let downtime = downtime.trim_end_matches('s').parse().context("the downtime is not a number")?;
    let state = machine.run(&["systemctl", "show", "--property=Result,NRestarts", "config-store.service"])?;
    ensure!(state.contains("Result=success") && state.contains("NRestarts=0"), "{state}");
    ensure!(!machine.path("/srv/unit-failed")?.exists(), "the unit has failed");
    let kept = scenario::text(&restored, &["backup", "old-data"])?;
    let written = machine.run(&["cat", "/srv/acknowledged"])?;
    let written: Vec<&str> = written.lines().collect();
    check_writes(machine, &kept, &written)?;
    Ok((downtime, written.len()))
}

/// Looks for each acknowledged write in the kept data, and for those after the restore in the restored data. Starts an etcd on
/// the kept data for that, in the place of the restored data.
fn check_writes(machine: &Machine, kept: &str, written: &[&str]) -> Result<()> {
    let keys = || machine.run(&["etcdctl", "get", "--prefix", "acknowledged-", "--keys-only"]);
    let shell = |script: &str| machine.run(&["sh", "-ec", script]);
    let restored = keys()?;
    shell(&format!(
        "systemctl stop config-store; mv /srv/db/member /srv/restored; mv {kept} /srv/db/member"
    ))?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    scenario::wait_until_healthy(machine)?;
    let kept = keys()?;
    let has = |keys: &str, key: &str| keys.lines().any(|line| line == key);
    let before = written.iter().take_while(|key| has(&kept, key)).count();
    ensure!(before >= WRITES_BEFORE, "the kept data has {before} of {} acknowledged writes", written.len());
    if let Some(lost) = written[before..].iter().find(|key| !has(&restored, key)) {
        bail!(
            "neither the kept nor the restored data has {lost}, one of {} acknowledged writes",
            written.len()
        );
    }
    shell("systemctl stop config-store; rm -r /srv/db/member; mv /srv/restored /srv/db/member")?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    scenario::wait_until_healthy(machine)
}
