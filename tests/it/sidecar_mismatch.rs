//! Two archives whose sidecar files (record or manifest) are exchanged: no action confuses the archives.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::common::client::{Data, assert_same};
use crate::common::world::{Version, World};
use crate::encryption::{self, IDENTITY, encrypt, identity, manifest_next_to};
use crate::list_snapshots::{listed, name, run_action};

/// Takes two archives, and returns each with its data.
fn two_archives(world: &World, saved: impl Fn(&World) -> PathBuf) -> [(PathBuf, Data); 2] {
    world.fill();
    let first = (saved(world), world.dump());
    world.damage();
    world.put(2000..2300, "more");
    // Their names must differ by more than a suffix, so they need different seconds.
    sleep(Duration::from_secs(1));
    [first, (saved(world), world.dump())]
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn ignores_the_record_of_another_archive() {
    let world = World::plain(Version::V35);
    let archives = two_archives(&world, World::saved);
    let before = listed(&world);
    let record = |archive: &Path| PathBuf::from(format!("{}.json", archive.display()));
    for (archive, _) in &archives {
        let _ =
            run_action(&world, "pin-snapshot", &[&world.to_target(), &format!("snapshot={}", name(archive))])
                .completed();
        assert!(record(archive).exists());
    }
    assert_ne!(listed(&world), before, "pinned");
    exchange(&record(&archives[0].0), &record(&archives[1].0));
    assert_eq!(listed(&world), before, "a record applied to another archive");
    for (archive, data) in &archives {
        let from = format!("from={}", name(archive));
        let words = [&from, &world.to_target(), "skip-backup=true", "allow-foreign=true"];
        let _ = world.restore(&words).completed();
        assert_same(&world.dump(), data, &from);
    }
}

#[test]
fn ignores_the_manifest_of_another_archive() {
    let world = World::plain(Version::V35);
    encrypt(&world, "");
    let archives = two_archives(&world, encryption::saved);
    let [one, other] = archives.each_ref().map(|(archive, _)| manifest_next_to(archive));
    assert!(listed(&world).iter().all(|one| one["revision"].is_i64()));
    exchange(&one, &other);
    // Encrypted archives of such small databases usually have the same size. This makes the sizes equal in
    // any case.
    for (archive, _) in &archives {
        let mut manifest: Value =
            serde_json::from_slice(&fs::read(manifest_next_to(archive)).unwrap()).unwrap();
        manifest["size"] = fs::metadata(archive).unwrap().len().into();
        fs::write(manifest_next_to(archive), manifest.to_string()).unwrap();
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
