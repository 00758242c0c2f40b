//! What lies beside an archive, exchanged with its neighbour's: nobody takes one archive for the other by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::catalog::{keep, listed, name};
use crate::common::client::{Data, assert_same};
use crate::common::world::{Version, World};
use crate::encryption::{self, IDENTITY, beside, encrypt, identity};

/// Two archives, with the data that each holds.
fn two(world: &World, saved: impl Fn(&World) -> PathBuf) -> [(PathBuf, Data); 2] {
    world.fill();
    let first = (saved(world), world.dump());
    world.damage();
    world.put(2000..2300, "more");
    // Their names are to tell of another second each.
    sleep(Duration::from_secs(1));
    [first, (saved(world), world.dump())]
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_neighbours_record_says_nothing() {
    let world = World::plain(Version::V35);
    let archives = two(&world, World::saved);
    let before = listed(&world);
    let record = |archive: &Path| PathBuf::from(format!("{}.json", archive.display()));
    for (archive, _) in &archives {
        let _ = keep(&world, "pin-snapshot", &[&world.to_target(), &format!("snapshot={}", name(archive))])
            .completed();
        assert!(record(archive).exists());
    }
    assert_ne!(listed(&world), before, "pinned");
    exchange(&record(&archives[0].0), &record(&archives[1].0));
    assert_eq!(listed(&world), before, "neither is pinned by the other's record");
    for (archive, data) in &archives {
        let from = format!("from={}", name(archive));
        let words = [&from, &world.to_target(), "skip-backup=true", "allow-foreign=true"];
        let _ = world.restore(&words).completed();
        assert_same(&world.dump(), data, &from);
    }
}

#[test]
fn a_neighbours_manifest_says_nothing() {
    let world = World::plain(Version::V35);
    encrypt(&world, "");
    let archives = two(&world, encryption::saved);
    let [one, other] = archives.each_ref().map(|(archive, _)| beside(archive));
    assert!(listed(&world).iter().all(|one| one["revision"].is_i64()));
    exchange(&one, &other);
    // Of databases so small, encrypted archives are of one size more often than not: here always.
    for (archive, _) in &archives {
        let mut told: Value = serde_json::from_slice(&fs::read(beside(archive)).unwrap()).unwrap();
        told["size"] = fs::metadata(archive).unwrap().len().into();
        fs::write(beside(archive), told.to_string()).unwrap();
    }
    assert!(listed(&world).iter().all(|one| one["revision"].is_null()), "{:?}", listed(&world));
    let identity = identity(&world, IDENTITY);
    for (archive, data) in &archives {
        let from = format!("from={}", name(archive));
        let words = [&*from, &identity, "skip-backup=true", "allow-foreign=true"];
        let _ = encryption::restore(&world, &words).completed();
        assert_same(&world.dump(), data, &from);
    }
}
