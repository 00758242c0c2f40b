//! Two runs at the same moment: one proceeds, and the other hears at once who does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::injection::in_words;
use super::table::{Row, Table};
use crate::common::command::{Out, Run};
use crate::common::world::{Version, World};
use crate::restore::from;

/// How long the other may wait to be told.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How many pairs are all.
pub const ALL: usize = 200;
const SERIES: &str = "pairs concurrent";

/// Tries `count` pairs, in turn of two snapshots, a snapshot and a restore, and two restores.
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
        let outcome = catch_unwind(AssertUnwindSafe(|| soon(pair)));
        table.add(Row {
            series: SERIES.to_owned(),
            point: format!("{} {what}{}", number + 1, outcome.as_deref().unwrap_or_default()),
            outcome: outcome.map(|_| ("ONE", "")).map_err(|panic| in_words(panic.as_ref())),
        });
    }
    table.of(SERIES, ALL);
    assert!(world.healthy() && world.leftovers().is_empty(), "{:?}", world.leftovers());
    table
}

/// Who is told late because the machine is busy is told in time when asked again; who waits for a lock is late twice. When
/// it was told, in words.
fn soon(pair: &dyn Fn() -> [Run; 2]) -> String {
    let took = one_proceeds(pair());
    if took < TOLD_WITHIN {
        return format!(", told after {} ms", took.as_millis());
    }
    let again = one_proceeds(pair());
    assert!(again < TOLD_WITHIN, "told late, twice: after {again:?}");
    format!(", told after {} ms, and {} ms when tried again", took.as_millis(), again.as_millis())
}

/// How long the other took to be told.
fn one_proceeds(pair: [Run; 2]) -> Duration {
    let pids = pair.each_ref().map(Run::pid);
    // Both at once: each is timed to its own end.
    let outs = pair.map(|run| std::thread::spawn(|| run.finish())).map(|thread| thread.join().unwrap());
    let [first, second] = outs.each_ref().map(|out| out.status.success());
    assert!(first != second, "not one of two: {}{}", outs[0].told(), outs[1].told());
    let (loser, winner) = if first { (&outs[1], pids[0]) } else { (&outs[0], pids[1]) };
    is_told(loser, winner)
}

fn is_told(loser: &Out, winner: i32) -> Duration {
    assert_eq!(loser.status.code(), Some(3), "{}", loser.told());
    assert!(loser.stderr.contains(&winner.to_string()), "not told who: {}", loser.told());
    loser.took
}
