//! Scheduled backups: the timer is installed, runs, retries, catches up after a boot, is monitored and is removed.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;

const SETTINGS: &str = "/etc/etcd-backup/config.yaml";
const STAMP: &str = "/var/lib/systemd/timers/stamp-etcd-backup.timer";
const METRICS: &str = "/var/lib/node-exporter";
/// A user hook that takes longer than the interval between two runs.
const SLOW: &str = "#!/bin/sh\ncat >/dev/null\nexec sleep 13\n";
/// A fake systemctl, found before `/usr/bin/systemctl`.
const FAKE_SYSTEMCTL: &str = "/usr/local/bin/systemctl";
/// Time limit of each step. A run takes seconds if two processors run four machines.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The life of a timer, on one machine.
pub fn life(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    scenario::fill(&machine)?;
    machine.run(&["mkdir", "-p", METRICS])?;
    scenario::refused(&machine, "schedule", &[], &["no schedule is configured"])?;
    write_settings(&machine, "when: '*:*:0/10', retries: 2, retry-after: 2s", "")?;
    let installed = scenario::action(&machine, "schedule", &[])?;
    ensure!(scenario::text(&installed, &["schedule", "active"])? == "true", "{installed}");
    let again = scenario::action(&machine, "schedule", &[])?;
    ensure!(scenario::text(&again, &["schedule", "changed"])? == "false", "{again}");
    repairs_timer(&machine)?;

    let first = wait_for_run(&machine, "a scheduled run", |run| has_phase(run, "Completed"))?;
    ensure!(first["scheduled_time"].is_string(), "{first}");
    check(&machine, &["warn=1h", "crit=2h"], 0, "BACKUP OK")?;
    let metrics = machine.run(&["cat", &format!("{METRICS}/etcd_backup.prom")])?;
    let is_interval =
        |line: &str| line.starts_with("etcd_backup_interval_seconds{target=") && line.ends_with("} 10");
    ensure!(metrics.lines().any(is_interval), "{metrics}");

    with_a_broken_systemctl(&machine)?;
    let tries = retries_while_etcd_is_stopped(&machine)?;
    let slow = never_two_at_a_time(&machine)?;
    let caught_up = catches_up_after_boot(&machine)?;
    removes_timer(&machine)?;
    Ok(format!(
        "{slow} slow runs, never two at a time; {tries} tries; {caught_up} missed run caught up; all files removed"
    ))
}

/// A timer that systemd has not read, or does not start at boot, is repaired, and one for other settings is reported.
fn repairs_timer(machine: &Machine) -> Result<()> {
    for damage in [
        "touch /etc/systemd/system/etcd-backup.service",
        "systemctl disable --quiet etcd-backup.timer",
        "systemctl stop etcd-backup.timer",
    ] {
        machine.run(&["sh", "-c", damage])?;
        for changed in ["true", "false"] {
            let again = scenario::action(machine, "schedule", &[])?;
            ensure!(scenario::text(&again, &["schedule", "changed"])? == changed, "{damage}: {again}");
        }
    }
    let settings = machine.run(&["cat", SETTINGS])?;
    for (settings, words) in [
        (settings.replace("0/10", "0/20"), "the timer was installed for other settings"),
        (settings, "the next run is at"),
    ] {
        machine.write(SETTINGS, &settings)?;
        // It ends with 1 for a warning.
        let checked = machine.attempt(&[&format!("{}/actions/check-config", scenario::CHARM)])?;
        let checked = String::from_utf8_lossy(&checked.stdout);
        ensure!(checked.contains(words), "{checked}");
    }
    Ok(())
}

fn write_settings(machine: &Machine, schedule: &str, more: &str) -> Result<()> {
    machine.write(SETTINGS, &format!("schedule: {{{schedule}}}\nmetrics: {METRICS}\n{more}"))
}

/// Returns the recorded runs, the newest first.
fn runs(machine: &Machine) -> Result<Vec<Value>> {
    let listed = scenario::action(machine, "list-snapshots", &["runs=true", "format=json"])?;
    serde_json::from_str(&scenario::text(&listed, &["runs"])?).context("the runs are not JSON")
}

/// Waits for a run that `is_wanted` accepts, and returns it. `what` describes it.
fn wait_for_run(machine: &Machine, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let since = Instant::now();
    loop {
        let all = runs(machine)?;
        if let Some(run) = all.iter().find(|run| is_wanted(run)) {
            return Ok(run.clone());
        }
        if since.elapsed() > TIMEOUT {
            bail!("{what} was not recorded: {all:?}\n{}", journal(machine)?);
        }
        sleep(Duration::from_millis(500));
    }
}

fn journal(machine: &Machine) -> Result<String> {
    machine.run(&["journalctl", "--no-pager", "--lines=40", "--output=short-precise", "--unit=etcd-backup.*"])
}

fn has_phase(run: &Value, phase: &str) -> bool {
    run["backup_phase"] == phase
}

/// Checks the exit status of `check` and the beginning of its output.
fn check(machine: &Machine, arguments: &[&str], status: i32, prefix: &str) -> Result<()> {
    let program = format!("{}/actions/check", scenario::CHARM);
    let output = machine.attempt(&[&[program.as_str()], arguments].concat())?;
    let line = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(status) && line.starts_with(prefix),
        "check: {} {line}",
        output.status
    );
    Ok(())
}

/// If systemctl cannot report when the timer elapsed, the backup is taken all the same. A run that is stopped while it waits
/// for systemctl is not recorded.
fn with_a_broken_systemctl(machine: &Machine) -> Result<()> {
    let replace_systemctl = |then: &str| {
        machine.write(
            FAKE_SYSTEMCTL,
            &format!("#!/bin/sh\ncase $* in *LastTrigger*) {then};; esac\nexec /usr/bin/systemctl \"$@\"\n"),
        )?;
        machine.run(&["chmod", "755", FAKE_SYSTEMCTL])
    };
    replace_systemctl("echo no bus >&2; exit 1")?;
    let reports_error =
        |run: &Value| run["notice_message"].as_str().is_some_and(|message| message.contains("no bus"));
    let run = wait_for_run(machine, "a run without systemctl", |run| {
        reports_error(run) && !has_phase(run, "Running")
    })?;
    ensure!(has_phase(&run, "Completed") && run["scheduled_time"].is_null(), "{run}");
    replace_systemctl("touch /run/asked; exec sleep 60")?;
    machine.run(&[
        "sh",
        "-c",
        "until test -e /run/asked; do sleep 0.1; done; systemctl stop etcd-backup.timer",
    ])?;
    let before = runs(machine)?.len();
    machine.run(&["systemctl", "stop", "etcd-backup.service"])?;
    ensure!(runs(machine)?.len() == before, "an empty run was recorded: {:?}", runs(machine)?);
    machine.run(&["rm", FAKE_SYSTEMCTL])?;
    machine.run(&["systemctl", "start", "etcd-backup.timer"]).map(drop)
}

/// While etcd is stopped, a run fails after three tries, and `check` reports it. The run after etcd's start succeeds.
fn retries_while_etcd_is_stopped(machine: &Machine) -> Result<u64> {
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    let failed = wait_for_run(machine, "a failed run", |run| has_phase(run, "Failed"))?;
    ensure!(failed["tries"] == 3, "{failed}");
    let since = Instant::now();
    // With a run every 10 s, two missing runs are critical.
    while check(machine, &[], 2, "BACKUP CRITICAL").is_err() {
        ensure!(since.elapsed() < TIMEOUT, "check does not become critical");
        sleep(Duration::from_secs(1));
    }
    machine.run(&["systemctl", "start", "etcd.service"])?;
    let at = failed["started_time"].as_str().unwrap_or_default().to_owned();
    wait_for_run(machine, "a successful run after that", |run| {
        has_phase(run, "Completed") && run["started_time"].as_str().is_some_and(|time| time > at.as_str())
    })?;
    failed["tries"].as_u64().context("the run has no tries")
}

/// The timer elapses during a run, and an operator starts another one. No run starts before the previous one has ended.
fn never_two_at_a_time(machine: &Machine) -> Result<usize> {
    machine.write("/etc/etcd-charm/slow", SLOW)?;
    machine.run(&["chmod", "755", "/etc/etcd-charm/slow"])?;
    write_settings(machine, "when: '*:*:0/10'", "hooks: {before: /etc/etcd-charm/slow}\n")?;
    let before = runs(machine)?.len();
    let since = Instant::now();
    while runs(machine)?.len() < before + 3 {
        // Returns when the present run has ended.
        let started = machine.attempt(&["systemctl", "start", "etcd-backup.service"])?;
        ensure!(
            started.status.success(),
            "starting the service: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        ensure!(since.elapsed() < TIMEOUT, "the runs were not recorded in time");
    }
    machine.run(&["systemctl", "stop", "etcd-backup.timer"])?;
    machine.run(&["systemctl", "stop", "etcd-backup.service"])?;
    let mut times: Vec<(String, String)> = Vec::new();
    for run in runs(machine)?.iter().rev().skip(before) {
        times.push((time(run, "started_time")?, time(run, "backup_finished_time")?));
    }
    ensure!(times.windows(2).all(|two| two[0].1 <= two[1].0), "two runs at a time: {times:?}");
    Ok(times.len())
}

fn time(run: &Value, name: &str) -> Result<String> {
    Ok(run[name].as_str().with_context(|| format!("no {name}: {run}"))?.to_owned())
}

/// A machine that was off at midnight runs the missed backup once after its boot, and not after the next boot.
fn catches_up_after_boot(machine: &Machine) -> Result<usize> {
    write_settings(machine, "when: '@daily', zone: Europe/Berlin, retry-after: 2s", "")?;
    scenario::action(machine, "schedule", &[])?;
    let before = runs(machine)?.len();
    // systemd writes this file when a timer elapses, and reads it at a boot.
    machine.run(&["touch", "--date=2 days ago", STAMP])?;
    // Runs are distinguished by the second in which the timer elapsed: wait for another than that of the last run.
    sleep(Duration::from_secs(1));
    machine.reboot()?;
    wait_for_run_count(machine, before + 1)?;
    let made_up = runs(machine)?.remove(0);
    if !(has_phase(&made_up, "Completed") && made_up["scheduled_time"].is_string()) {
        bail!("{made_up}\n{}", journal(machine)?);
    }
    machine.reboot()?;
    scenario::wait_until_healthy(machine)?;
    sleep(Duration::from_secs(5));
    let after = runs(machine)?.len();
    ensure!(after == before + 1, "after another boot there are {after} runs instead of {}", before + 1);
    Ok(after - before)
}

fn wait_for_run_count(machine: &Machine, count: usize) -> Result<()> {
    let since = Instant::now();
    while runs(machine)?.iter().filter(|run| !has_phase(run, "Running")).count() < count {
        ensure!(since.elapsed() < TIMEOUT, "the missed run was not caught up: {:?}", runs(machine)?);
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Removes the timer, and checks that its files are gone and the recorded runs are kept.
fn removes_timer(machine: &Machine) -> Result<()> {
    let removed = scenario::action(machine, "schedule", &["remove=true"])?;
    ensure!(scenario::text(&removed, &["schedule", "removed"])? == "true", "{removed}");
    let left = machine.run(&[
        "find",
        "/etc/systemd",
        "/run/systemd",
        "/var/lib/systemd",
        "-name",
        "*etcd-backup*",
    ])?;
    ensure!(left.is_empty(), "files are left:\n{left}");
    let state = machine.attempt(&["systemctl", "status", "etcd-backup.timer"])?;
    ensure!(
        state.status.code() == Some(4),
        "systemd still knows the timer: {}",
        String::from_utf8_lossy(&state.stdout)
    );
    ensure!(runs(machine)?.len() > 1, "the recorded runs were removed");
    Ok(())
}
