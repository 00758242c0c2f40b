//! Tests of the fault injection itself: it detects each flaw that was built into the program on purpose.

use super::disk::{Flush, Kind, can_cut};
use super::fixture::Action;
use super::injection::{Mode, Series};
use super::symlink_race;
use crate::common::world::{Version, World, is_root};

/// The number of runs with a swapped target. More than half of them detect the flaw.
const SWAPPED: usize = 30;

/// Each flaw, with the action, the mode and the calls that detect it.
const FLAWS: [(&str, Action, Mode, &[&str]); 5] = [
    // A restore cannot detect it: etcd syncs files later, and that syncs the directories too.
    ("NoDirectorySync", Action::Snapshot, Mode::Power(Kind::Ext4, Flush::Nothing), &["the end"]),
    ("NoDirectorySync", Action::Snapshot, Mode::Power(Kind::Xfs, Flush::Nothing), &["the end"]),
    ("RemoveThenRename", Action::Restore, Mode::Kill, &["renameat2"]),
    ("PanicForThread", Action::Snapshot, Mode::Errno, &["clone3"]),
    ("LateJournal", Action::Restore, Mode::Kill, &["flock"]),
];

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn fault_injection_detects_every_flaw() {
    for (flaw, action, mode, about) in FLAWS {
        if let (Mode::Power(..), Err(why)) = (mode, can_cut()) {
            panic!("cannot test {flaw}: {why}");
        }
        // The record of a run is synced after the archive is renamed, which would sync the directory too.
        let series = Series { recorded: flaw != "NoDirectorySync", ..Series::of(action, mode) };
        let sound = series.inject_at_calls(about);
        assert!(sound.broken().is_empty(), "without {flaw}");
        let flawed = Series { flaw: Some(flaw), ..series }.inject_at_calls(about);
        eprintln!("{flaw}: detected by {} at the points {about:?}: {:?}", mode.name(), flawed.broken());
        assert!(!flawed.broken().is_empty(), "{flaw} was not detected");
    }
}

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn detects_a_program_that_follows_symlinks() {
    let flaw = "FollowLinks";
    assert!(is_root(), "cannot test {flaw}: {}", symlink_race::ROOT_REQUIRED);
    let sound = symlink_race::swap_target_during_runs(SWAPPED, None);
    assert!(sound.broken().is_empty(), "without {flaw}");
    let flawed = symlink_race::swap_target_during_runs(SWAPPED, Some(flaw));
    eprintln!("{flaw}: detected by directories in the runs {:?} of {SWAPPED}", flawed.broken());
    assert!(!flawed.broken().is_empty(), "{flaw} was not detected");
}

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn detects_a_hash_trailer_that_is_not_checked() {
    for (flaw, published) in [("none", false), ("NoSeal", true)] {
        let world = World::plain(Version::V35);
        world.fill();
        let tools = world.stand_in_tools();
        tools.corrupt("etcdctl *snapshot*save*");
        let mut command = world.action(program!("snapshot"), &[&world.to_target()]);
        let _ = command.env("ETCD_SABOTAGE", flaw).output().unwrap();
        assert_eq!(!world.in_target().is_empty(), published, "{flaw}");
    }
}
