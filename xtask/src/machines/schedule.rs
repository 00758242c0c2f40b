//! Backups that a timer takes: put in, run, tried again, caught up with after a boot, watched, and taken away.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::Machine;
use super::{Stage, scenario};

const SETTINGS: &str = "/etc/etcd-charm/backup.yaml";
const STAMP: &str = "/var/lib/systemd/timers/stamp-etcd-backup.timer";
const METRICS: &str = "/var/lib/node-exporter";
/// A hook that takes longer than the timer waits between two runs.
const SLOW: &str = "#!/bin/sh\ncat >/dev/null\nexec sleep 13\n";
/// What stands before `/usr/bin/systemctl` where our programs look.
const ASKED: &str = "/usr/local/bin/systemctl";
/// A run takes seconds where two processors run four machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// The whole life of a timer, on one machine.
pub fn life(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    scenario::fill(&machine)?;
    machine.run(&["mkdir", "-p", METRICS])?;
    scenario::refused(&machine, "schedule", &[], &["no schedule is written down"])?;
    settings(&machine, "when: '*:*:0/10', retries: 2, retry-after: 2s", "")?;
    let put = scenario::action(&machine, "schedule", &[])?;
    ensure!(scenario::text(&put, &["schedule", "active"])? == "true", "{put}");
    let again = scenario::action(&machine, "schedule", &[])?;
    ensure!(scenario::text(&again, &["schedule", "changed"])? == "false", "{again}");

    let first = until(&machine, "a run of the timer's", |run| is(run, "Completed"))?;
    ensure!(first["scheduled_time"].is_string(), "{first}");
    check(&machine, &["warn=1h", "crit=2h"], 0, "BACKUP OK")?;
    let metrics = machine.run(&["cat", &format!("{METRICS}/etcd_backup.prom")])?;
    let is_interval =
        |line: &str| line.starts_with("etcd_backup_interval_seconds{target=") && line.ends_with("} 10");
    ensure!(metrics.lines().any(is_interval), "{metrics}");

    unasked(&machine)?;
    let tries = tried_again(&machine)?;
    let watched = never_two(&machine)?;
    let caught = caught_up(&mut machine)?;
    gone(&machine)?;
    Ok(format!(
        "{watched} runs of a slow one, none at a time; {tries} tries; {caught} caught up; nothing is left"
    ))
}

fn settings(machine: &Machine, schedule: &str, more: &str) -> Result<()> {
    machine.write(SETTINGS, &format!("schedule: {{{schedule}}}\nmetrics: {METRICS}\n{more}"))
}

/// The runs that are remembered, the newest first.
fn runs(machine: &Machine) -> Result<Vec<Value>> {
    let listed = scenario::action(machine, "list-snapshots", &["runs=true", "format=json"])?;
    serde_json::from_str(&scenario::text(&listed, &["runs"])?).context("the runs are no JSON")
}

/// Waits until a run is as `is_so` says, and returns it.
fn until(machine: &Machine, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        let all = runs(machine)?;
        if let Some(run) = all.iter().find(|run| is_so(run)) {
            return Ok(run.clone());
        }
        if since.elapsed() > PATIENCE {
            bail!("{what} does not come: {all:?}\n{}", journal(machine)?);
        }
        sleep(Duration::from_millis(500));
    }
}

fn journal(machine: &Machine) -> Result<String> {
    machine.run(&["journalctl", "--no-pager", "--lines=40", "--output=short-precise", "--unit=etcd-backup.*"])
}

fn is(run: &Value, phase: &str) -> bool {
    run["backup_phase"] == phase
}

/// What `check` ends with, and how its line begins.
fn check(machine: &Machine, words: &[&str], status: i32, said: &str) -> Result<()> {
    let program = format!("{}/actions/check", scenario::CHARM);
    let output = machine.attempt(&[&[program.as_str()], words].concat())?;
    let line = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(status) && line.starts_with(said),
        "check: {} {line}",
        output.status
    );
    Ok(())
}

/// A timer that cannot be asked when it went off costs no backup; a run that is stopped while it asks was none.
fn unasked(machine: &Machine) -> Result<()> {
    let asked = |then: &str| {
        machine.write(
            ASKED,
            &format!("#!/bin/sh\ncase $* in *LastTrigger*) {then};; esac\nexec /usr/bin/systemctl \"$@\"\n"),
        )?;
        machine.run(&["chmod", "755", ASKED])
    };
    asked("echo no bus >&2; exit 1")?;
    let told = |run: &Value| run["notice_message"].as_str().is_some_and(|told| told.contains("no bus"));
    let run = until(machine, "a run that could not ask", |run| told(run) && !is(run, "Running"))?;
    ensure!(is(&run, "Completed") && run["scheduled_time"].is_null(), "{run}");
    asked("touch /run/asked; exec sleep 60")?;
    machine.run(&[
        "sh",
        "-c",
        "until test -e /run/asked; do sleep 0.1; done; systemctl stop etcd-backup.timer",
    ])?;
    let before = runs(machine)?.len();
    machine.run(&["systemctl", "stop", "etcd-backup.service"])?;
    ensure!(runs(machine)?.len() == before, "a run is remembered that did nothing: {:?}", runs(machine)?);
    machine.run(&["rm", ASKED])?;
    machine.run(&["systemctl", "start", "etcd-backup.timer"]).map(drop)
}

/// With etcd stopped, a run fails after its three tries, and `check` sees it; the run after etcd's return is good.
fn tried_again(machine: &Machine) -> Result<u64> {
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    let failed = until(machine, "a run that failed", |run| is(run, "Failed"))?;
    ensure!(failed["tries"] == 3, "{failed}");
    let since = Instant::now();
    // One run every 10 s: two of them missing are critical.
    while check(machine, &[], 2, "BACKUP CRITICAL").is_err() {
        ensure!(since.elapsed() < PATIENCE, "check does not become critical");
        sleep(Duration::from_secs(1));
    }
    machine.run(&["systemctl", "start", "etcd.service"])?;
    let at = failed["started_time"].as_str().unwrap_or_default().to_owned();
    until(machine, "a good run after that", |run| {
        is(run, "Completed") && run["started_time"].as_str().is_some_and(|time| time > at.as_str())
    })?;
    failed["tries"].as_u64().context("no tries")
}

/// The timer goes off while a run is at work, and so does somebody: of the runs none began before another had ended.
fn never_two(machine: &Machine) -> Result<usize> {
    machine.write("/etc/etcd-charm/slow", SLOW)?;
    machine.run(&["chmod", "755", "/etc/etcd-charm/slow"])?;
    settings(machine, "when: '*:*:0/10'", "hooks: {before: /etc/etcd-charm/slow}\n")?;
    let before = runs(machine)?.len();
    let since = Instant::now();
    while runs(machine)?.len() < before + 3 {
        // Comes back when the run that is at work has ended.
        let started = machine.attempt(&["systemctl", "start", "etcd-backup.service"])?;
        ensure!(started.status.success(), "the service: {}", String::from_utf8_lossy(&started.stderr));
        ensure!(since.elapsed() < PATIENCE, "the runs do not come");
    }
    machine.run(&["systemctl", "stop", "etcd-backup.timer"])?;
    machine.run(&["systemctl", "stop", "etcd-backup.service"])?;
    let mut times: Vec<(String, String)> = Vec::new();
    for run in runs(machine)?.iter().rev().skip(before) {
        times.push((time(run, "started_time")?, time(run, "backup_finished_time")?));
    }
    ensure!(times.windows(2).all(|two| two[0].1 <= two[1].0), "two at a time: {times:?}");
    Ok(times.len())
}

fn time(run: &Value, name: &str) -> Result<String> {
    Ok(run[name].as_str().with_context(|| format!("no {name}: {run}"))?.to_owned())
}

/// A machine that was off at midnight makes up for it once when it boots, and not again.
fn caught_up(machine: &mut Machine) -> Result<usize> {
    settings(machine, "when: '@daily', zone: Europe/Berlin, retry-after: 2s", "")?;
    scenario::action(machine, "schedule", &[])?;
    let before = runs(machine)?.len();
    // What systemd goes by: it writes this when a timer goes off.
    machine.run(&["touch", "--date=2 days ago", STAMP])?;
    // Runs are told apart by when the timer went off, to the second: not in the one in which the last run was stopped.
    sleep(Duration::from_secs(1));
    machine.reboot()?;
    until_count(machine, before + 1)?;
    let made_up = runs(machine)?.remove(0);
    if !(is(&made_up, "Completed") && made_up["scheduled_time"].is_string()) {
        bail!("{made_up}\n{}", journal(machine)?);
    }
    machine.reboot()?;
    scenario::wait_until_healthy(machine)?;
    sleep(Duration::from_secs(5));
    let after = runs(machine)?.len();
    ensure!(after == before + 1, "after another boot there are {after} runs and not {}", before + 1);
    Ok(after - before)
}

fn until_count(machine: &Machine, count: usize) -> Result<()> {
    let since = Instant::now();
    while runs(machine)?.iter().filter(|run| !is(run, "Running")).count() < count {
        ensure!(since.elapsed() < PATIENCE, "the missed run does not come: {:?}", runs(machine)?);
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Taken away, and nothing of it is left; the archives are.
fn gone(machine: &Machine) -> Result<()> {
    let taken = scenario::action(machine, "schedule", &["remove=true"])?;
    ensure!(scenario::text(&taken, &["schedule", "removed"])? == "true", "{taken}");
    let left = machine.run(&[
        "find",
        "/etc/systemd",
        "/run/systemd",
        "/var/lib/systemd",
        "-name",
        "*etcd-backup*",
    ])?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    let state = machine.attempt(&["systemctl", "status", "etcd-backup.timer"])?;
    ensure!(
        state.status.code() == Some(4),
        "the timer is still known: {}",
        String::from_utf8_lossy(&state.stdout)
    );
    ensure!(runs(machine)?.len() > 1, "the runs went with it");
    Ok(())
}
