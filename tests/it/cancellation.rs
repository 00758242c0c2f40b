//! Snapshots that fail after etcdctl has saved the database: they end at once, without waiting for the
//! remaining steps.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::command::Run;
use crate::common::fs_util::names;
use crate::common::world::{Version, World};

/// The progress message after etcdctl succeeded.
const SAVED: &str = "verifying the snapshot";

fn await_saved(run: &Run) {
    run.await_until(&|| run.stderr_so_far().contains(SAVED));
}

/// Returns the path of the archive that is not yet published.
fn unpublished_archive(world: &World) -> PathBuf {
    let stages: Vec<String> =
        names(&world.target()).into_iter().filter(|name| name.starts_with(".etcd-snapshot-")).collect();
    let [stage] = &stages[..] else { panic!("{stages:?}") };
    world.target().join(stage).join("archive")
}

/// Something appends bytes to the archive, which the read-back detects.
#[test]
fn fails_at_once_if_the_archive_is_damaged_during_a_check() {
    let world = World::plain(Version::V35);
    world.fill();
    let tools = world.stand_in_tools();
    tools.hang("etcdutl snapshot status*");
    let run = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "snapshot status", &run);
    await_saved(&run);
    OpenOptions::new()
        .append(true)
        .open(unpublished_archive(&world))
        .unwrap()
        .write_all(&[0xff; 64 << 10])
        .unwrap();
    // The stand-in tool hangs for more than a minute.
    run.finish_within(Duration::from_secs(30)).failed(&["reading the archive back"]);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_all_gone(&tools);
}

#[test]
fn a_signal_cancels_packing_at_once() {
    let world = World::plain(Version::V35);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    for number in 0..60 {
        let value: Vec<u8> = std::iter::repeat_with(&mut noise).take(1 << 17).flatten().collect();
        world.put_bytes(&format!("noise-{number}"), &value);
    }
    let args = [&*world.to_target(), "compression=small"];
    let since_saved = |signal: Option<Signal>| {
        let run = world.start_snapshot(&args);
        await_saved(&run);
        let saved = Instant::now();
        signal.into_iter().for_each(|signal| kill(Pid::from_raw(run.pid()), signal).unwrap());
        (run.finish(), saved.elapsed())
    };
    let (whole, long) = since_saved(None);
    let _ = whole.completed();
    let (out, short) = since_saved(Some(Signal::SIGTERM));
    assert_eq!(out.status.code(), Some(128 + Signal::SIGTERM as i32), "{}", out.describe());
    assert!(out.stderr.contains("interrupted by SIGTERM"), "{}", out.describe());
    assert!(short < long / 2, "{short:?} of {long:?}");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}
