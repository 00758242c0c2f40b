//! A power failure during a restore: etcd boots on the complete old or the complete new data, and the boot, or if the exchange had
//! not begun, the next action, completes the restore or rolls it back.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;

const WORK: &str = "/var/lib/etcd/default/.etcd-restore";
/// Makes etcd slow to start and stop, so that there is time to cut the power.
const SLOW: &str = "[Service]\nExecStop=/bin/sleep 2\nExecStartPre=/bin/sleep 2\n";

/// A point of a restore.
struct Point {
    name: &'static str,
    /// The phase in the journal, or `None` if there is no journal yet.
    phase: Option<&'static str>,
    /// Whether etcd boots on the restored data.
    is_new: bool,
    /// Part of the report of the recovery.
    recovered: &'static str,
}

const POINTS: [Point; 3] = [
    Point { name: "staging", phase: None, is_new: false, recovered: "had changed nothing" },
    Point { name: "stopping", phase: Some("stopping"), is_new: false, recovered: "was rolled back" },
    Point { name: "exchanged", phase: Some("exchanging"), is_new: true, recovered: "was completed" },
];

/// Cuts the power at three points, on one machine.
pub fn at_three_points(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    machine.write("/etc/systemd/system/etcd.service.d/slow.conf", SLOW)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    scenario::fill(&machine)?;
    let archive = scenario::snapshot(&machine)?;
    let new = scenario::digest(&machine)?;
    scenario::damage(&machine)?;
    let old = scenario::digest(&machine)?;
    let mut summary = Vec::new();
    for point in &POINTS {
        cut_power_at(&machine, &archive, point)?;
        scenario::wait_until_healthy(&machine)?;
        let live = if point.is_new { &new } else { &old };
        ensure!(scenario::digest(&machine)? == *live, "{}: etcd booted on other data", point.name);
        let recovered = match point.phase {
            Some(_) => scenario::recovered_at_boot(&machine)?,
            None => {
                let results = scenario::action(&machine, "restore", &["--recover"])?;
                scenario::text(&results, &["restore", "recovered"])?
            }
        };
        ensure!(recovered.contains(point.recovered), "{}: {recovered}", point.name);
        ensure!(scenario::digest(&machine)? == *live, "{}: the live data is not as reported", point.name);
        scenario::check_nothing_is_left(&machine)?;
        summary.push(format!("{}: {}", point.name, point.recovered));
    }
    Ok(summary.join("; "))
}

fn cut_power_at(machine: &Machine, archive: &str, point: &Point) -> Result<()> {
    let program = format!("{}/actions/restore", scenario::CHARM);
    let mut restore = machine.start(&[&program, &format!("snapshot={archive}"), "skip-backup=true"])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_at(machine, point)? {
        if restore.try_wait()?.is_some() || Instant::now() > deadline {
            bail!("{}: the restore did not reach this point", point.name);
        }
        sleep(Duration::from_millis(2));
    }
    if point.phase.is_some() {
        // The exchange follows its journal entry at once, before the sleep in the systemd unit.
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
