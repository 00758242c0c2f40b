//! The fault matrix can fail: flaws built into our own code on purpose are each seen by it.

use super::disk::{Flush, Kind, can_cut};
use super::fixture::Action;
use super::injection::{Mode, Series};
use super::symlink_race;
use crate::common::world::{Version, World, is_root};

/// Runs with a swapped target: more than half of them show the flaw.
const SWAPPED: usize = 30;

/// Each flaw, the way to strike that shows it, and where.
const FLAWS: [(&str, Action, Mode, &[&str]); 5] = [
    // A restore is not the place: what etcd itself syncs later takes the directories along.
    ("NoDirectorySync", Action::Snapshot, Mode::Power(Kind::Ext4, Flush::Nothing), &["the end"]),
    ("NoDirectorySync", Action::Snapshot, Mode::Power(Kind::Xfs, Flush::Nothing), &["the end"]),
    ("RemoveThenRename", Action::Restore, Mode::Kill, &["renameat2"]),
    ("PanicForThread", Action::Snapshot, Mode::Errno, &["clone3"]),
    ("LateJournal", Action::Restore, Mode::Kill, &["flock"]),
];

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn every_flaw_is_seen() {
    for (flaw, action, mode, about) in FLAWS {
        if let (Mode::Power(..), Err(why)) = (mode, can_cut()) {
            panic!("{flaw} cannot be shown: {why}");
        }
        // The record of a run is synced when the archive has its name, which would take the directory along.
        let series = Series { recorded: flaw != "NoDirectorySync", ..Series::of(action, mode) };
        let sound = series.strike_about(about);
        assert!(sound.broken().is_empty(), "without {flaw}");
        let flawed = Series { flaw: Some(flaw), ..series }.strike_about(about);
        eprintln!("{flaw}: seen by {} of the points {about:?}: {:?}", mode.name(), flawed.broken());
        assert!(!flawed.broken().is_empty(), "{flaw} was not seen");
    }
}

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn a_symlink_that_is_followed_is_seen() {
    let flaw = "FollowLinks";
    assert!(is_root(), "{flaw} cannot be shown: {}", symlink_race::ROOTS);
    let sound = symlink_race::led_astray(SWAPPED, None);
    assert!(sound.broken().is_empty(), "without {flaw}");
    let flawed = symlink_race::led_astray(SWAPPED, Some(flaw));
    eprintln!("{flaw}: seen by directories in the runs {:?} of {SWAPPED}", flawed.broken());
    assert!(!flawed.broken().is_empty(), "{flaw} was not seen");
}

#[test]
#[ignore = "takes a build with flaws: cargo xtask chaos --sabotage"]
fn a_seal_that_is_not_checked_is_seen() {
    for (flaw, published) in [("none", false), ("NoSeal", true)] {
        let world = World::plain(Version::V35);
        world.fill();
        let tools = world.stand_in_tools();
        tools.spoil("etcdctl *snapshot*save*");
        let mut command = world.action(program!("snapshot"), &[&world.to_target()]);
        let _ = command.env("ETCD_SABOTAGE", flaw).output().unwrap();
        assert_eq!(!world.in_target().is_empty(), published, "{flaw}");
    }
}
