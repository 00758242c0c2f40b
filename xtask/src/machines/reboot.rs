//! A machine that loses its power while its data is restored: etcd's own boot finds one whole tree, and the next action
//! finishes or undoes what was begun.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::machine::Machine;
use super::{Stage, scenario};

const WORK: &str = "/var/lib/etcd/default/.etcd-restore";
/// A unit whose etcd takes its time, so that there is a moment to pull the plug in.
const SLOW: &str = "[Service]\nExecStop=/bin/sleep 2\nExecStartPre=/bin/sleep 2\n";

/// A point of a restore.
struct Point {
    name: &'static str,
    /// The journal's phase there; none where there is no journal yet.
    phase: Option<&'static str>,
    /// Whether etcd boots on the new data.
    is_new: bool,
    /// What the next action must say.
    recovered: &'static str,
}

const POINTS: [Point; 3] = [
    Point { name: "staging", phase: None, is_new: false, recovered: "had changed nothing" },
    Point { name: "stopping", phase: Some("stopping"), is_new: false, recovered: "was undone" },
    Point { name: "exchanged", phase: Some("exchanging"), is_new: true, recovered: "was finished" },
];

/// The three points, on one machine.
pub fn thrice(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.write("/etc/systemd/system/etcd.service.d/slow.conf", SLOW)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    scenario::fill(&machine)?;
    let archive = scenario::snapshot(&machine)?;
    let new = scenario::digest(&machine)?;
    scenario::wreck(&machine)?;
    let old = scenario::digest(&machine)?;
    let mut told = Vec::new();
    for point in &POINTS {
        pull_the_plug(&mut machine, &archive, point)?;
        ensure!(is_at(&machine, point)?, "{}: the power went at another point", point.name);
        scenario::wait_until_healthy(&machine)?;
        let live = if point.is_new { &new } else { &old };
        ensure!(scenario::digest(&machine)? == *live, "{}: etcd booted on other data", point.name);
        let results = scenario::action(&machine, "restore", &["--recover"])?;
        let recovered = scenario::text(&results, &["restore", "recovered"])?;
        ensure!(recovered.contains(point.recovered), "{}: {recovered}", point.name);
        ensure!(scenario::digest(&machine)? == *live, "{}: other data is live than was said", point.name);
        scenario::nothing_is_left(&machine)?;
        told.push(format!("{}: {}", point.name, point.recovered));
    }
    Ok(told.join("; "))
}

fn pull_the_plug(machine: &mut Machine, archive: &str, point: &Point) -> Result<()> {
    let program = format!("{}/actions/restore", scenario::CHARM);
    let mut restore = machine.start(&[&program, &format!("snapshot={archive}"), "skip-backup=true"])?;
    let until = Instant::now() + Duration::from_secs(60);
    while !is_at(machine, point)? {
        if restore.try_wait()?.is_some() || Instant::now() > until {
            bail!("{}: the restore never came there", point.name);
        }
        sleep(Duration::from_millis(2));
    }
    if point.phase.is_some() {
        // The exchange follows its entry in the journal at once; the sleep of the unit comes after it.
        sleep(Duration::from_millis(500));
    }
    machine.reboot()?;
    restore.wait()?;
    Ok(())
}

fn is_at(machine: &Machine, point: &Point) -> Result<bool> {
    let journal = std::fs::read_to_string(machine.path(&format!("{WORK}/journal.json"))?).unwrap_or_default();
    match point.phase {
        None => Ok(journal.is_empty() && machine.path(&format!("{WORK}/db"))?.exists()),
        Some(phase) => Ok(journal.contains(&format!("\"phase\": \"{phase}\""))),
    }
}
