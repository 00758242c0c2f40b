//! Disks of every size from none to twice what is needed, under the target and under the data.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ground::{Action, Ground};
use super::strike::in_words;
use super::table::{Row, Table};
use crate::mount;
use crate::run::Out;
use crate::world::{Setup, Version, World};

/// What a snapshot of these small worlds needs: the database, its archive, and what is to stay free.
const TARGET_NEED: u64 = 1 << 20;
/// etcd itself needs so much, for its write-ahead logs most of all.
const DATA_LEAST: u64 = 200 << 20;
/// And a restore so much more.
const DATA_NEED: u64 = 200 << 20;

/// Tries an action with `steps` sizes of the target's disk, evenly spread from none to twice the need; and a restore with as
/// many of the data's.
pub fn sizes(action: Action, steps: u64) -> Table {
    let mut table = Table::new();
    let mut row = |place: &str, size: u64, outcome: std::thread::Result<&'static str>| {
        table.add(Row {
            series: format!("{} disk", action.name()),
            point: format!("{place} {} KiB", size >> 10),
            outcome: outcome.map(|how| (how, "")).map_err(|panic| in_words(panic.as_ref())),
        });
    };
    let mut ground = Ground::new(action, None);
    for step in 0..steps {
        let size = (2 * TARGET_NEED * step / steps).max(4096);
        row("target", size, catch_unwind(AssertUnwindSafe(|| in_small_target(&mut ground, size))));
    }
    for step in 0..steps {
        if action == Action::Restore {
            let size = DATA_LEAST + 2 * DATA_NEED * step / steps;
            row("data", size, catch_unwind(|| in_small_data(size)));
        }
    }
    table
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
    let outcome = ground.stands(&out);
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
