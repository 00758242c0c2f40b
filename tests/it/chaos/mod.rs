//! Fault injection: interrupts the actions at every system call that touches a file or a process, and checks
//! that no data is lost.
//!
//! The smoke tests inject faults at a few points, spread over a run. `cargo xtask chaos` injects faults at
//! all points: it calls [`matrix`], which prints a row for each point.

mod calls;
mod disk;
mod disk_full;
mod empty;
mod fixture;
mod injection;
mod pairs;
#[cfg(feature = "sabotage")]
mod sabotage;
mod symlink_race;
pub mod table;

use disk::{Flush, Kind};
use fixture::Action;
use injection::Mode;
use table::Table;

use crate::corruption::{ALL_FLIPS, flips_of_a_large_archive};

/// The number of points of each mode and action in a smoke test, spread evenly.
const SMOKE: usize = 6;

#[test]
fn a_kill_anywhere_in_a_restore_loses_no_data() {
    injection::inject_at_points(Action::Restore, Mode::Kill, SMOKE, 1).done();
}

#[test]
fn a_kill_anywhere_in_a_snapshot_leaves_no_partial_archive() {
    injection::inject_at_points(Action::Snapshot, Mode::Kill, SMOKE, 1).done();
}

#[test]
fn a_killed_tool_fails_the_restore_and_loses_no_data() {
    injection::inject_at_points(Action::Restore, Mode::Child, SMOKE, 1).done();
}

#[test]
fn a_failed_call_anywhere_in_a_restore_loses_no_data() {
    injection::inject_at_points(Action::Restore, Mode::Errno, SMOKE, 1).done();
}

#[test]
fn a_failed_call_in_a_snapshot_leaves_no_partial_archive() {
    injection::inject_at_points(Action::Snapshot, Mode::Errno, SMOKE, 1).done();
}

#[test]
fn sigterm_anywhere_in_a_restore_stops_it_cleanly() {
    injection::inject_at_points(Action::Restore, Mode::Term, SMOKE, 1).done();
}

#[test]
fn a_power_cut_anywhere_in_a_restore_loses_no_data() {
    if let Err(why) = disk::can_cut() {
        eprintln!("skipped: {why}");
        return;
    }
    for kind in Kind::ALL {
        injection::inject_at_points(Action::Restore, Mode::Power(kind, Flush::Nothing), SMOKE / 2, 1).done();
    }
}

#[test]
fn a_disk_of_any_size_is_enough_or_refused() {
    if !crate::common::world::is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    disk_full::sizes(Action::Snapshot, SMOKE as u64).done();
    disk_full::sizes(Action::Restore, SMOKE as u64).done();
}

#[test]
fn one_of_two_concurrent_runs_proceeds() {
    pairs::at_once(SMOKE).done();
}

#[test]
fn a_target_replaced_by_a_symlink_is_not_followed() {
    if !crate::common::world::is_root() {
        return eprintln!("skipped: {}", symlink_race::ROOT_REQUIRED);
    }
    symlink_race::swap_target_during_runs(SMOKE * 2, None).done();
}

#[test]
fn a_kill_in_a_restore_without_a_backup_loses_no_data() {
    injection::inject_at_points(Action::Unsaved, Mode::Kill, SMOKE, 1).done();
}

#[test]
fn a_kill_in_a_restore_of_an_empty_etcd_is_all_or_nothing() {
    injection::inject_at_points(Action::Empty, Mode::Kill, SMOKE, 1).done();
}

/// Injects the faults that `cargo xtask chaos` selects by environment variables.
#[test]
#[ignore = "takes hours: cargo xtask chaos"]
fn matrix() {
    let asked = |name: &str| std::env::var(format!("CHAOS_{name}")).ok();
    let wanted = |name: &str, word: &str| asked(name).is_none_or(|asked| asked == word);
    let strikes = Action::ALL
        .into_iter()
        .filter(|action| wanted("ACTION", action.name()))
        .flat_map(|action| Mode::of(action).map(move |mode| (action, mode)))
        .filter(|(_, mode)| wanted("MODE", mode.name()));
    if asked("LIST").is_some() {
        for (series, points) in strikes.map(|(action, mode)| injection::count(action, mode)) {
            eprintln!("{series}: {points} points");
        }
        return;
    }
    let points = |all: usize| match asked("POINTS").as_deref() {
        None => all,
        Some("smoke") => SMOKE,
        Some(number) => number.parse().unwrap(),
    };
    // Each job mostly waits for its etcd.
    let twice = || 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = asked("JOBS").map_or_else(twice, |jobs| jobs.parse().unwrap());
    let mut table = Table::new();
    let mut add = |part: Table| {
        table.append(part);
        // Writes the report after each part, so that an interrupted run keeps its results.
        if let Some(path) = asked("REPORT") {
            std::fs::write(path, table.report()).unwrap();
        }
    };
    for (action, mode) in strikes {
        if let (Mode::Power(..), Err(why)) = (mode, disk::can_cut()) {
            panic!("cannot cut the power: {why}");
        }
        add(injection::inject_at_points(action, mode, points(usize::MAX), jobs));
    }
    for action in [Action::Snapshot, Action::Restore] {
        if wanted("MODE", "disk") && wanted("ACTION", action.name()) {
            add(disk_full::sizes(action, points(disk_full::ALL as usize) as u64));
        }
    }
    if wanted("MODE", "concurrent") && asked("ACTION").is_none() {
        add(pairs::at_once(points(pairs::ALL)));
    }
    if wanted("MODE", "directories") && asked("ACTION").is_none() {
        add(symlink_race::swap_target_during_runs(points(symlink_race::ALL), None));
    }
    if wanted("MODE", "corruption") && asked("ACTION").is_none() {
        add(flips_of_a_large_archive(points(ALL_FLIPS)));
    }
    table.done();
}
