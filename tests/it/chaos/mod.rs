//! Nothing is lost: the actions struck at every system call that touches a file or a process, and what is left then.
//!
//! The smoke tests strike at a few points spread over a walk. `cargo xtask chaos` strikes at all of them; it calls
//! [`matrix`], which prints a row for each.

mod astray;
mod calls;
mod disk;
mod empty;
mod ground;
mod pairs;
mod room;
#[cfg(feature = "sabotage")]
mod sabotage;
mod strike;
pub mod table;
pub mod tracer;

use disk::{Flush, Kind};
use ground::Action;
use strike::Mode;
use table::Table;

use crate::corruption::flips_of_a_large_archive;

/// Strikes at so many points of each mode and action, spread evenly.
const SMOKE: usize = 6;

#[test]
fn a_kill_anywhere_in_a_restore_loses_nothing() {
    strike::some(Action::Restore, Mode::Kill, SMOKE, 1).done();
}

#[test]
fn a_kill_anywhere_in_a_snapshot_leaves_no_half_archive() {
    strike::some(Action::Snapshot, Mode::Kill, SMOKE, 1).done();
}

#[test]
fn a_killed_tool_fails_the_restore_and_loses_nothing() {
    strike::some(Action::Restore, Mode::Child, SMOKE, 1).done();
}

#[test]
fn a_call_that_fails_anywhere_in_a_restore_loses_nothing() {
    strike::some(Action::Restore, Mode::Errno, SMOKE, 1).done();
}

#[test]
fn a_call_that_fails_anywhere_in_a_snapshot_leaves_no_half_archive() {
    strike::some(Action::Snapshot, Mode::Errno, SMOKE, 1).done();
}

#[test]
fn a_term_anywhere_in_a_restore_is_an_end_in_good_order() {
    strike::some(Action::Restore, Mode::Term, SMOKE, 1).done();
}

#[test]
fn a_power_cut_anywhere_in_a_restore_loses_nothing() {
    if let Err(why) = disk::can_cut() {
        eprintln!("skipped: {why}");
        return;
    }
    for kind in Kind::ALL {
        strike::some(Action::Restore, Mode::Power(kind, Flush::Nothing), SMOKE / 2, 1).done();
    }
}

#[test]
fn a_disk_of_any_size_is_enough_or_refused() {
    if crate::world::is_root() {
        room::sizes(Action::Snapshot, SMOKE as u64).done();
        room::sizes(Action::Restore, SMOKE as u64).done();
    }
}

#[test]
fn of_two_at_once_one_proceeds() {
    pairs::at_once(SMOKE).done();
}

#[test]
fn a_target_that_becomes_a_link_leads_nowhere() {
    if crate::world::is_root() {
        astray::led_astray(SMOKE * 2).done();
    }
}

/// What `cargo xtask chaos` asks for by the variables that it sets.
#[test]
#[ignore = "takes hours: cargo xtask chaos"]
fn matrix() {
    let asked = |name: &str| std::env::var(format!("CHAOS_{name}")).ok();
    let wanted = |name: &str, word: &str| asked(name).is_none_or(|asked| asked == word);
    let points = |all: usize| match asked("POINTS").as_deref() {
        None => all,
        Some("smoke") => SMOKE,
        Some(number) => number.parse().unwrap(),
    };
    let jobs = asked("JOBS").map_or(1, |jobs| jobs.parse().unwrap());
    let mut table = Table::new();
    for action in [Action::Snapshot, Action::Restore] {
        if !wanted("ACTION", action.name()) {
            continue;
        }
        for mode in Mode::all().into_iter().filter(|mode| wanted("MODE", mode.name())) {
            table.append(strike::some(action, mode, points(usize::MAX), jobs));
        }
        if wanted("MODE", "disk") {
            table.append(room::sizes(action, points(64) as u64));
        }
    }
    if wanted("MODE", "concurrent") {
        table.append(pairs::at_once(points(200)));
    }
    if wanted("MODE", "directories") && asked("ACTION").is_none() {
        table.append(astray::led_astray(points(1000)));
    }
    if wanted("MODE", "corruption") && asked("ACTION").is_none() {
        table.append(flips_of_a_large_archive(points(10_000)));
    }
    if let Ok(path) = std::env::var("CHAOS_REPORT") {
        std::fs::write(path, table.report()).unwrap();
    }
    table.done();
}
