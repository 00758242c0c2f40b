//! Disks of every size from none to twice what is needed, under the target and under the data.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::fixture::{Action, Ground, Next};
use super::injection::in_words;
use super::table::{Row, Table};
use crate::common::command::Out;
use crate::common::fs_util::succeed;
use crate::common::mount;
use crate::common::world::{Setup, Version, World};

/// What etcd itself may still write while a restore goes on.
const MARGIN: u64 = 8 << 20;
/// How many steps there are to twice the need.
pub const ALL: u64 = 64;
/// Two write-ahead logs of etcd's, preallocated, and change: what a restored member has besides its database.
const LOGS: u64 = 144 << 20;

/// What a snapshot of this world needs: the database with a tenth to grow, half of what is used in it for the archive, and
/// what is to stay free.
fn target_need(world: &World) -> u64 {
    let (database, used) = world.sizes();
    database + database / 10 + used / 2 + (1 << 20)
}

/// What a restore into this world needs beside its data: the database twice, and its logs.
fn data_need(world: &World) -> u64 {
    2 * world.sizes().0 + LOGS
}

/// What a world's data takes on disk.
fn taken(world: &World) -> u64 {
    let out = std::process::Command::new("du").arg("-sB1").arg(world.path("data")).output().unwrap();
    succeed(out, "du").split_whitespace().next().unwrap().parse().unwrap()
}

/// Tries an action with sizes of the target's disk from none to twice the need, in so many steps; and a restore with as many
/// of the data's, beyond what the data takes.
pub fn sizes(action: Action, steps: u64) -> Table {
    let mut table = Table::new();
    let series = format!("{} disk", action.series());
    let mut row = |place: &str, size: u64, outcome: std::thread::Result<&'static str>| {
        table.add(Row {
            series: series.clone(),
            point: format!("{place} {} KiB", size >> 10),
            outcome: outcome.map(|how| (how, "")).map_err(|panic| in_words(panic.as_ref())),
        });
    };
    let mut ground = Ground::new(action, None);
    let need = target_need(&ground.world);
    let (least, data_need) = (taken(&ground.world) + MARGIN, data_need(&ground.world));
    for step in 0..=steps {
        // A disk of no bytes is one without a limit.
        let size = (2 * need * step / steps).max(4096);
        row("target", size, catch_unwind(AssertUnwindSafe(|| in_small_target(&mut ground, size))));
    }
    for step in 0..=steps {
        if action == Action::Restore {
            let size = least + 2 * data_need * step / steps;
            row("data", size, catch_unwind(|| in_small_data(size)));
        }
    }
    let disks = if action == Action::Restore { 2 } else { 1 };
    table.of(&series, disks * (usize::try_from(ALL).unwrap() + 1));
    // At both ends it is clear what has to come of it.
    let outcomes = table.outcomes();
    let [no, yes] = if action == Action::Restore { ["OLD", "NEW"] } else { ["SAME", "PLUS"] };
    for part in outcomes.chunks(usize::try_from(steps).unwrap() + 1) {
        assert_eq!([part.first(), part.last()], [Some(&no), Some(&yes)], "{outcomes:?}");
    }
    table
}

#[test]
fn a_backup_needs_room_for_the_database_and_not_for_its_logs() {
    if !crate::common::world::is_root() {
        return eprintln!("skipped: only root mounts a small file system");
    }
    let ground = Ground::new(Action::Restore, None);
    let need = target_need(&ground.world);
    assert!(taken(&ground.world) > 8 * need, "the logs are small");
    // A disk's own names and pages, besides.
    let _mounted = mount::small(&ground.world.target(), &(need + (128 << 10)).to_string());
    let _ = ground.run_alone().completed();
}

fn in_small_target(ground: &mut Ground, size: u64) -> &'static str {
    let mounted = mount::small(&ground.world.target(), &size.to_string());
    let out = ground.run_alone();
    let outcome = ground.stands(&out);
    judge_words(&out, outcome);
    drop(mounted);
    ground.begin();
    outcome
}

fn in_small_data(size: u64) -> &'static str {
    let world = World::prepare(Setup::plain(Version::V35));
    let mounted = mount::small(&world.path("data"), &size.to_string());
    world.found(&world.as_initial_member(), "new");
    world.start();
    let ground = Ground::in_world(Action::Restore, world, None);
    let out = ground.run_alone();
    // On a full disk, the end of a journal may be left to the next run.
    let (outcome, _) = ground.settle(&out, Next::Recover);
    judge_words(&out, outcome);
    ground.world.stop();
    drop(mounted);
    outcome
}

/// Where there is no room, that is said; where there is, all went well.
fn judge_words(out: &Out, outcome: &str) {
    if matches!(outcome, "NEW" | "PLUS") {
        assert!(out.status.success(), "{}", out.told());
        return;
    }
    assert!(!out.status.success() && out.stderr.contains("Next:"), "{}", out.told());
    let told = out.stderr.to_lowercase();
    assert!(["room", "space", "free"].iter().any(|word| told.contains(word)), "{}", out.told());
}
