//! A target whose owner swaps it for a symlink again and again while snapshots are taken and restored: nothing it leads to
//! is touched, and what is said to be saved lies in the owner's own directory.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::fixture::{Action, Ground};
use super::injection::in_words;
use super::table::{Row, Table};
use crate::common::command::{Out, Run};
use crate::common::fs_util::{Closely, names, sha256sum, shape};
use crate::common::world::RUNS;
use crate::owner::{UBUNTU, beside_ubuntu};
use crate::restore::from;

/// What it takes.
pub const ROOTS: &str = "only root lends a machine another user";

/// What of the target is swapped.
const PLACES: [(&str, &str); 3] =
    [("the target", ""), ("its parent", "inner"), ("its parent, to be made", "new/er")];

/// One run in so many is a restore, which takes longer.
const RESTORES: usize = 10;

/// How many runs are all.
pub const ALL: usize = 1000;

/// Runs so many snapshots, and restores among them, with a target that its owner, the user `ubuntu`, keeps exchanging for a
/// link to root's directory.
pub fn led_astray(count: usize, flaw: Option<&str>) -> Table {
    let mut table = Table::new();
    let mut ground = Ground::new(Action::Restore, None);
    let (home, outside) = (ground.world.path("home"), ground.world.path("outside"));
    make(&home, &outside);
    fs::set_permissions(ground.world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    // By descriptor: the name leads elsewhere half of the time.
    let opened = File::open(home.join("swapped")).unwrap();
    let own = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()));
    let (swaps, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&home, &swaps, &enough));
        for number in 0..count {
            let (what, place) = PLACES[number % PLACES.len()];
            let action = if (number + 1) % RESTORES == 0 { Action::Restore } else { Action::Snapshot };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                furnish(&own);
                let before = shape(&outside, Closely::Times);
                let target = home.join("swapped").join(place);
                let out = run(&mut ground, action, &target, flaw);
                let touched: Vec<_> = shape(&outside, Closely::Times)
                    .into_iter()
                    .filter(|line| !before.contains(line))
                    .collect();
                assert!(touched.is_empty(), "touched: {touched:?}: {}", out.told());
                out.is_in_good_order();
                judge(&ground, action, &own.join(place), out, &files(&own))
            }));
            table.add(Row {
                series: series(action),
                point: format!("{} {what}", number + 1),
                outcome: outcome.map_err(|panic| in_words(panic.as_ref())),
            });
        }
        enough.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    assert!(swaps > count * 100, "{swaps} swaps in {count} runs");
    table.of(&series(Action::Snapshot), ALL - ALL / RESTORES);
    table.of(&series(Action::Restore), ALL / RESTORES);
    table
}

fn series(action: Action) -> String {
    format!("{} directories", action.series())
}

fn run(ground: &mut Ground, action: Action, target: &Path, flaw: Option<&str>) -> Out {
    let (source, target) = (from(&ground.archive), format!("target={}", target.display()));
    let mut command = if action == Action::Restore {
        ground.begin();
        beside_ubuntu(&ground.world, program!("restore"), &[&source, &target])
    } else {
        beside_ubuntu(&ground.world, program!("snapshot"), &[&target])
    };
    command.envs(flaw.map(|flaw| ("ETCD_SABOTAGE", flaw)));
    Run::start(command, &ground.world.path("runs")).finish()
}

/// What came of a run that touched nothing of root's: all that was asked for, in the owner's directory, or nothing.
fn judge(
    ground: &Ground,
    action: Action,
    target: &Path,
    out: Out,
    found: &[PathBuf],
) -> (&'static str, &'static str) {
    let is_done = match out.status.code() {
        Some(0) => true,
        Some(1 | 2) => false,
        _ => panic!("{}", out.told()),
    };
    let outcome = match (action, is_done) {
        (Action::Snapshot, true) => "PLUS",
        (Action::Snapshot, false) => "SAME",
        _ => ground.stands(&out),
    };
    assert!(matches!(outcome, "PLUS" | "NEW") == is_done, "{outcome}, and it said: {}", out.told());
    if !is_done {
        assert!(found.is_empty(), "{found:?} lie there: {}", out.told());
        return (outcome, "not taken");
    }
    let results = out.completed();
    let word = if action == Action::Snapshot { "snapshot" } else { "backup" };
    let archive = PathBuf::from(results.get(&format!("{word}.path")));
    let archive = target.join(archive.file_name().unwrap());
    assert_eq!(found, [archive.as_path()], "it said: {}", results.out.told());
    assert_eq!(sha256sum(&archive), results.get(&format!("{word}.sha256")));
    (outcome, "in the owner's directory")
}

/// `home` is ubuntu's, with a directory and a link in it; the link leads to `outside`, which is root's.
fn make(home: &Path, outside: &Path) {
    for dir in [home, &home.join("swapped")] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(UBUNTU), Some(UBUNTU)).unwrap();
    }
    fs::create_dir_all(outside.join("inner")).unwrap();
    fs::write(outside.join("canary"), "sings").unwrap();
    symlink(outside, home.join("other")).unwrap();
}

/// Has the owner's directory hold what it is to hold before a run, and no more: what is to be made is made by each.
fn furnish(own: &Path) {
    for name in names(own) {
        let path = own.join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let inner = own.join("inner");
    fs::create_dir(&inner).unwrap();
    chown(inner, Some(UBUNTU), Some(UBUNTU)).unwrap();
}

/// The files below a directory, without the records of runs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let below = |name: String| {
        let path = dir.join(name);
        if path.is_dir() { files(&path) } else { vec![path] }
    };
    names(dir).into_iter().filter(|name| name != RUNS).flat_map(below).collect()
}

/// As the owner, until it is enough.
fn swap(home: &Path, swaps: &AtomicUsize, enough: &AtomicBool) {
    // Of this thread alone, as the kernel has it.
    setfsgid(Gid::from_raw(UBUNTU));
    setfsuid(Uid::from_raw(UBUNTU));
    let [one, other] = ["swapped", "other"].map(|name| home.join(name));
    while !enough.load(Ordering::Relaxed) {
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        swaps.fetch_add(1, Ordering::Relaxed);
        // Now and then it stays for a moment as it is: a link or a directory in turn.
        if swaps.load(Ordering::Relaxed).is_multiple_of(7) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}
