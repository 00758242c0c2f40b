//! A target whose owner swaps it for a symlink again and again while a snapshot is taken: nothing it leads to is touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::table::{Row, Table};
use crate::look::{Closely, shape};
use crate::owner::{UBUNTU, snapshot_beside_ubuntu};
use crate::world::{Version, World};

/// What of the target is swapped.
const PLACES: [(&str, &str); 3] = [
    ("the target", "swapped"),
    ("its parent", "swapped/inner"),
    ("its parent, to be made", "swapped/new/er"),
];

/// Takes `count` snapshots into a directory that its owner, the user `ubuntu`, keeps exchanging for a link to root's.
pub fn led_astray(count: usize) -> Table {
    let mut table = Table::new();
    let world = World::plain(Version::V35);
    world.put(0..20, "few");
    let (home, outside) = (world.path("home"), world.path("outside"));
    make(&home, &outside);
    fs::set_permissions(world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let (before, swaps, enough) =
        (shape(&outside, Closely::Times), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&home, &swaps, &enough));
        for number in 0..count {
            let (what, place) = PLACES[number % PLACES.len()];
            let out = snapshot_beside_ubuntu(&world, home.join(place).to_str().unwrap());
            let outcome = match out.status.code() {
                _ if shape(&outside, Closely::Times) != before => Err(format!("touched: {}", out.told())),
                Some(0) => Ok(("PLUS", "in the owner's directory")),
                Some(1 | 2) if out.tells_no_bug().is_ok() => Ok(("SAME", "not taken")),
                _ => Err(out.told()),
            };
            table.add(Row {
                series: "snapshot directories".to_owned(),
                point: format!("{} {what}", number + 1),
                outcome,
            });
        }
        enough.store(true, Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    assert!(swaps > count * 100, "{swaps} swaps in {count} runs");
    table
}

/// `home` is ubuntu's, with a directory and a link in it; the link leads to `outside`, which is root's.
fn make(home: &Path, outside: &Path) {
    for dir in [home, &home.join("swapped"), &home.join("swapped/inner")] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(UBUNTU), Some(UBUNTU)).unwrap();
    }
    fs::create_dir_all(outside.join("inner")).unwrap();
    fs::write(outside.join("canary"), "sings").unwrap();
    symlink(outside, home.join("other")).unwrap();
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
