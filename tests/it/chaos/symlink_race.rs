//! The owner of a target directory keeps replacing it by a symlink while snapshots are taken and restored.
//! The actions must not change the directory that the symlink points to. A reported archive must be in the
//! owner's directory.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::fixture::{Action, Fixture};
use super::injection::panic_message;
use super::table::{Row, Table};
use crate::archive_owner::{UBUNTU, with_ubuntu_user};
use crate::common::command::{Out, Run};
use crate::common::fs_util::{Detail, names, sha256sum, shape};
use crate::common::world::RUNS;
use crate::restore::from;

/// The reason for which these tests are skipped for other users.
pub const ROOT_REQUIRED: &str = "only root can run a process as another user";

/// The path components that are swapped: a description, and the target below the swapped directory.
const PLACES: [(&str, &str); 3] =
    [("the target", ""), ("its parent", "inner"), ("its parent, to be made", "new/er")];

/// Every tenth run is a restore, which takes longer.
const RESTORES: usize = 10;

/// The number of runs in a full test.
pub const ALL: usize = 1000;

/// Runs `count` snapshots and restores. A thread that runs as the owner of the target, `ubuntu`, keeps
/// exchanging the target with a symlink to a directory of root.
pub fn swap_target_during_runs(count: usize, flaw: Option<&str>) -> Table {
    let mut table = Table::new();
    let mut fixture = Fixture::new(Action::Restore, None);
    let (home, outside) = (fixture.world.path("home"), fixture.world.path("outside"));
    make(&home, &outside);
    fs::set_permissions(fixture.world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    // Uses a descriptor, because the name points to another directory half of the time.
    let opened = File::open(home.join("swapped")).unwrap();
    let own = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()));
    let (swaps, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&home, &swaps, &enough));
        for number in 0..count {
            let (what, place) = PLACES[number % PLACES.len()];
            let action = if (number + 1) % RESTORES == 0 { Action::Restore } else { Action::Snapshot };
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                reset(&own);
                let before = shape(&outside, Detail::Times);
                let target = home.join("swapped").join(place);
                let out = run(&mut fixture, action, &target, flaw);
                let touched: Vec<_> = shape(&outside, Detail::Times)
                    .into_iter()
                    .filter(|line| !before.contains(line))
                    .collect();
                assert!(touched.is_empty(), "touched: {touched:?}: {}", out.describe());
                out.assert_no_panic();
                judge(&fixture, action, &own.join(place), out, &files(&own))
            }));
            table.add(Row {
                series: series(action),
                point: format!("{} {what}", number + 1),
                outcome: outcome.map_err(|panic| panic_message(panic.as_ref())),
            });
        }
        enough.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    assert!(swaps > count * 100, "{swaps} swaps in {count} runs");
    table.set_total(&series(Action::Snapshot), ALL - ALL / RESTORES);
    table.set_total(&series(Action::Restore), ALL / RESTORES);
    table
}

fn series(action: Action) -> String {
    format!("{} directories", action.series())
}

fn run(fixture: &mut Fixture, action: Action, target: &Path, flaw: Option<&str>) -> Out {
    let (source, target) = (from(&fixture.archive), format!("target={}", target.display()));
    let mut command = if action == Action::Restore {
        fixture.begin();
        with_ubuntu_user(&fixture.world, program!("restore"), &[&source, &target])
    } else {
        with_ubuntu_user(&fixture.world, program!("snapshot"), &[&target])
    };
    command.envs(flaw.map(|flaw| ("ETCD_SABOTAGE", flaw)));
    Run::start(command, &fixture.world.path("runs")).finish()
}

/// Returns the outcome of a run that changed no files of root. It must have written the archive to the
/// owner's directory, or have written no files.
fn judge(
    fixture: &Fixture,
    action: Action,
    target: &Path,
    out: Out,
    found: &[PathBuf],
) -> (&'static str, &'static str) {
    let is_done = match out.status.code() {
        Some(0) => true,
        Some(1 | 2) => false,
        _ => panic!("{}", out.describe()),
    };
    let outcome = match (action, is_done) {
        (Action::Snapshot, true) => "PLUS",
        (Action::Snapshot, false) => "SAME",
        _ => fixture.outcome(&out),
    };
    assert!(matches!(outcome, "PLUS" | "NEW") == is_done, "{outcome}, with the output: {}", out.describe());
    if !is_done {
        assert!(found.is_empty(), "{found:?} were left behind: {}", out.describe());
        return (outcome, "not taken");
    }
    let results = out.completed();
    let word = if action == Action::Snapshot { "snapshot" } else { "backup" };
    let archive = PathBuf::from(results.get(&format!("{word}.path")));
    let archive = target.join(archive.file_name().unwrap());
    assert_eq!(found, [archive.as_path()], "output: {}", results.out.describe());
    assert_eq!(sha256sum(&archive), results.get(&format!("{word}.sha256")));
    (outcome, "in the owner's directory")
}

/// Creates `home`, which belongs to `ubuntu` and contains a directory and a symlink. The symlink points to
/// `outside`, which belongs to root.
fn make(home: &Path, outside: &Path) {
    for dir in [home, &home.join("swapped")] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(UBUNTU), Some(UBUNTU)).unwrap();
    }
    fs::create_dir_all(outside.join("inner")).unwrap();
    fs::write(outside.join("canary"), "sings").unwrap();
    symlink(outside, home.join("other")).unwrap();
}

/// Resets the owner's directory to its state before a run. Each run creates the other directories itself.
fn reset(own: &Path) {
    for name in names(own) {
        let path = own.join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let inner = own.join("inner");
    fs::create_dir(&inner).unwrap();
    chown(inner, Some(UBUNTU), Some(UBUNTU)).unwrap();
}

/// Returns the files below a directory, except for the records of runs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let below = |name: String| {
        let path = dir.join(name);
        if path.is_dir() { files(&path) } else { vec![path] }
    };
    names(dir).into_iter().filter(|name| name != RUNS).flat_map(below).collect()
}

/// Swaps the directory and the symlink as the owner, until `enough` is set.
fn swap(home: &Path, swaps: &AtomicUsize, enough: &AtomicBool) {
    // In Linux, these set the ids of this thread only.
    setfsgid(Gid::from_raw(UBUNTU));
    setfsuid(Uid::from_raw(UBUNTU));
    let [one, other] = ["swapped", "other"].map(|name| home.join(name));
    while !enough.load(Ordering::Relaxed) {
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        swaps.fetch_add(1, Ordering::Relaxed);
        // Sometimes pauses for a moment, alternately on the symlink and on the directory.
        if swaps.load(Ordering::Relaxed).is_multiple_of(7) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}
