//! A machine that loses its power while its data is restored: etcd's own boot finds one whole tree, and the next action
//! finishes or undoes what was begun.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::machine::Machine;
use super::{Stage, story};

const WORK: &str = "/var/lib/etcd/default/.etcd-restore";
/// A unit whose etcd takes its time, so that there is a moment to pull the plug in.
const SLOW: &str = "[Service]\nExecStop=/bin/sleep 2\nExecStartPre=/bin/sleep 2\n";

/// A point of a restore.
struct Point {
    name: &'static str,
    is_reached: fn(&Machine) -> Result<bool>,
    /// What the next action must say.
    recovered: &'static str,
}

const POINTS: [Point; 3] = [
    Point { name: "staging", is_reached: |machine| has(machine, "db"), recovered: "had changed nothing" },
    Point { name: "stopping", is_reached: |machine| is_at(machine, "stopping"), recovered: "was undone" },
    Point {
        name: "exchanged",
        is_reached: |machine| is_at(machine, "exchanging"),
        recovered: "was finished",
    },
];

/// The three points, on one machine.
pub fn thrice(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.write("/etc/systemd/system/etcd.service.d/slow.conf", SLOW)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    story::fill(&machine)?;
    let archive = story::snapshot(&machine)?;
    let new = story::digest(&machine)?;
    story::wreck(&machine)?;
    let mut told = Vec::new();
    for point in &POINTS {
        let old = story::digest(&machine)?;
        pull_the_plug(&mut machine, &archive, point)?;
        story::wait_until_healthy(&machine)?;
        let booted = story::digest(&machine)?;
        ensure!(
            booted == old || booted == new,
            "{}: etcd booted on data that is neither old nor new",
            point.name
        );
        let results = story::action(&machine, "restore", &["--recover"])?;
        let recovered = story::text(&results, &["restore", "recovered"])?;
        ensure!(recovered.contains(point.recovered), "{}: {recovered}", point.name);
        let wanted = if point.recovered == "was finished" { &new } else { &old };
        ensure!(story::digest(&machine)? == *wanted, "{}: other data is live than was said", point.name);
        story::nothing_is_left(&machine)?;
        told.push(format!("{}: {}", point.name, point.recovered));
    }
    Ok(told.join("; "))
}

fn pull_the_plug(machine: &mut Machine, archive: &str, point: &Point) -> Result<()> {
    let program = format!("{}/actions/restore", story::CHARM);
    let mut restore = machine.start(&[&program, &format!("snapshot={archive}"), "skip-backup=true"])?;
    let until = Instant::now() + Duration::from_secs(60);
    while !(point.is_reached)(machine)? {
        if restore.try_wait()?.is_some() || Instant::now() > until {
            bail!("{}: the restore never came there", point.name);
        }
        sleep(Duration::from_millis(2));
    }
    machine.reboot()?;
    restore.wait()?;
    Ok(())
}

fn has(machine: &Machine, name: &str) -> Result<bool> {
    Ok(machine.path(&format!("{WORK}/{name}"))?.exists())
}

fn is_at(machine: &Machine, phase: &str) -> Result<bool> {
    let journal = std::fs::read_to_string(machine.path(&format!("{WORK}/journal.json"))?).unwrap_or_default();
    // The exchange follows its entry in the journal at once; the sleep of the unit comes after it.
    let there = journal.contains(&format!("\"phase\": \"{phase}\""));
    if there {
        sleep(Duration::from_millis(500));
    }
    Ok(there)
}
