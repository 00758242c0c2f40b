//! Two runs at the same time: one proceeds, and the other is refused at once and names the first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::injection::panic_message;
use super::table::{Row, Table};
use crate::common::command::{Out, Run};
use crate::common::world::{Version, World};
use crate::restore::from;

/// The time within which the second run must be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// The number of pairs in a full run.
pub const ALL: usize = 200;
const SERIES: &str = "pairs concurrent";

/// Runs `count` pairs. In turn, a pair is two snapshots, a snapshot and a restore, or two restores.
pub fn at_once(count: usize) -> Table {
    let mut table = Table::new();
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.path("the-archive.tar.gz");
    std::fs::copy(world.saved(), &archive).unwrap();
    let (archive, target) = (from(&archive), world.to_target());
    let snapshot = || world.start_snapshot(&[&target]);
    let restore = || world.start_restore(&[&archive, &target]);
    for number in 0..count {
        let (what, pair): (_, &dyn Fn() -> [Run; 2]) = match number % 3 {
            0 => ("two snapshots", &|| [snapshot(), snapshot()]),
            1 => ("snapshot and restore", &|| [snapshot(), restore()]),
            _ => ("two restores", &|| [restore(), restore()]),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| assert_refused_soon(pair)));
        table.add(Row {
            series: SERIES.to_owned(),
            point: format!("{} {what}{}", number + 1, outcome.as_deref().unwrap_or_default()),
            outcome: outcome.map(|_| ("ONE", "")).map_err(|panic| panic_message(panic.as_ref())),
        });
    }
    table.set_total(SERIES, ALL);
    assert!(world.healthy() && world.leftovers().is_empty(), "{:?}", world.leftovers());
    table
}

/// Checks that the second run is refused in time, and returns a text with the measured times. A late refusal
/// is tried once more: a busy machine delays only one of the two, but waiting for a lock delays both.
fn assert_refused_soon(pair: &dyn Fn() -> [Run; 2]) -> String {
    let took = one_proceeds(pair());
    if took < REFUSED_WITHIN {
        return format!(", refused after {} ms", took.as_millis());
    }
    let again = one_proceeds(pair());
    assert!(again < REFUSED_WITHIN, "refused late, twice: after {again:?}");
    format!(", refused after {} ms, and after {} ms when tried again", took.as_millis(), again.as_millis())
}

/// Checks that exactly one run succeeded. Returns the time until the other was refused.
fn one_proceeds(pair: [Run; 2]) -> Duration {
    let pids = pair.each_ref().map(Run::pid);
    // Waits in two threads, so that each run is timed to its own end.
    let outs = pair.map(|run| std::thread::spawn(|| run.finish())).map(|thread| thread.join().unwrap());
    let [first, second] = outs.each_ref().map(|out| out.status.success());
    assert!(
        first != second,
        "expected exactly one of two to succeed: {}{}",
        outs[0].describe(),
        outs[1].describe()
    );
    let (loser, winner) = if first { (&outs[1], pids[0]) } else { (&outs[0], pids[1]) };
    assert_is_refused(loser, winner)
}

fn assert_is_refused(loser: &Out, winner: i32) -> Duration {
    assert_eq!(loser.status.code(), Some(3), "{}", loser.describe());
    assert!(
        loser.stderr.contains(&winner.to_string()),
        "the refusal does not name the other process: {}",
        loser.describe()
    );
    loser.took
}
