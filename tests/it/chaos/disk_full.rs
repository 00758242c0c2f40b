//! Disks of many sizes, from zero to twice the required size, for the target and for the data.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::fixture::{Action, Fixture, Next};
use super::injection::panic_message;
use super::table::{Row, Table};
use crate::common::command::Out;
use crate::common::fs_util::succeed;
use crate::common::mount;
use crate::common::world::{Setup, Version, World};

/// The number of bytes that etcd itself may still write during a restore.
const MARGIN: u64 = 8 << 20;
/// The number of steps to twice the required size.
pub const ALL: u64 = 64;
/// The size of a restored member and its booted copy without their databases: three preallocated write-ahead logs and small
/// files, in bytes.
const LOGS: u64 = 208 << 20;

/// Returns the space that a snapshot of this world needs, in bytes. It is the sum of:
///
/// - the database plus a tenth, because the database can grow
/// - half of the used part of the database, for the archive
/// - the space that must stay free
fn target_need(world: &World) -> u64 {
    let (database, used) = world.sizes();
    database + database / 10 + used / 2 + (1 << 20)
}

/// Returns the space that a restore needs next to the data, in bytes: twice the database, plus its logs.
fn data_need(world: &World) -> u64 {
    2 * world.sizes().0 + LOGS
}

/// Returns the disk usage of the data of a world, in bytes.
fn taken(world: &World) -> u64 {
    let out = std::process::Command::new("du").arg("-sB1").arg(world.path("data")).output().unwrap();
    succeed(out, "du").split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs an action with a target disk of each size from zero to twice the required size, in `steps` steps. For
/// a restore, does the same with the disk of the data, in addition to the space that the data uses already.
pub fn sizes(action: Action, steps: u64) -> Table {
    let mut table = Table::new();
    let series = format!("{} disk", action.series());
    let mut row = |place: &str, size: u64, outcome: std::thread::Result<&'static str>| {
        table.add(Row {
            series: series.clone(),
            point: format!("{place} {} KiB", size >> 10),
            outcome: outcome.map(|how| (how, "")).map_err(|panic| panic_message(panic.as_ref())),
        });
    };
    let mut fixture = Fixture::new(action, None);
    let need = target_need(&fixture.world);
    let (least, data_need) = (taken(&fixture.world) + MARGIN, data_need(&fixture.world));
    for step in 0..=steps {
        // A tmpfs of size 0 has no limit.
        let size = (2 * need * step / steps).max(4096);
        row("target", size, catch_unwind(AssertUnwindSafe(|| in_small_target(&mut fixture, size))));
    }
    for step in 0..=steps {
        if action == Action::Restore {
            let size = least + 2 * data_need * step / steps;
            row("data", size, catch_unwind(|| in_small_data(size)));
        }
    }
    let disks = if action == Action::Restore { 2 } else { 1 };
    table.set_total(&series, disks * (usize::try_from(ALL).unwrap() + 1));
    // The smallest disk must fail, and the largest must succeed.
    let outcomes = table.outcomes();
    let [no, yes] = if action == Action::Restore { ["OLD", "NEW"] } else { ["SAME", "PLUS"] };
    for part in outcomes.chunks(usize::try_from(steps).unwrap() + 1) {
        assert_eq!([part.first(), part.last()], [Some(&no), Some(&yes)], "{outcomes:?}");
    }
    table
}

#[test]
fn a_backup_needs_space_for_the_database_but_not_its_logs() {
    if !crate::common::world::is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let fixture = Fixture::new(Action::Restore, None);
    let need = target_need(&fixture.world);
    assert!(taken(&fixture.world) > 8 * need, "the logs are small");
    // Plus space for the metadata of the file system.
    let _mounted = mount::small(&fixture.world.target(), &(need + (128 << 10)).to_string());
    let _ = fixture.run_alone().completed();
}

fn in_small_target(fixture: &mut Fixture, size: u64) -> &'static str {
    let mounted = mount::small(&fixture.world.target(), &size.to_string());
    let out = fixture.run_alone();
    let outcome = fixture.outcome(&out);
    check_message(&out, outcome);
    drop(mounted);
    fixture.begin();
    outcome
}

fn in_small_data(size: u64) -> &'static str {
    let world = World::prepare(Setup::plain(Version::V35));
    let mounted = mount::small(&world.path("data"), &size.to_string());
    world.write_command_line(&world.as_initial_member(), "new");
    world.start();
    let fixture = Fixture::in_world(Action::Restore, world, None);
    let out = fixture.run_alone();
    // On a full disk, the next run may have to finish the journal.
    let (outcome, _) = fixture.settle(&out, Next::Recover);
    check_message(&out, outcome);
    fixture.world.stop();
    drop(mounted);
    outcome
}

/// Checks that a failed run reports a full disk, and that every other run succeeded.
fn check_message(out: &Out, outcome: &str) {
    if matches!(outcome, "NEW" | "PLUS") {
        assert!(out.status.success(), "{}", out.describe());
        return;
    }
    assert!(!out.status.success() && out.stderr.contains("Next:"), "{}", out.describe());
    let message = out.stderr.to_lowercase();
    assert!(["room", "space", "free"].iter().any(|word| message.contains(word)), "{}", out.describe());
}
