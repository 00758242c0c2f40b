//! Compares the content hash and key count in the manifest with those of etcd. `snapshot` never asks etcd for
//! them, because that blocks writers.

use serde_json::Value;
use test_case::test_case;

use crate::archive::manifest;
use crate::common::world::{Version, World};

/// Takes a snapshot and compares its manifest with etcd.
fn assert_manifest_matches_etcd(world: &World, of: &str) {
    assert!(manifest_has_hash_of_etcd(world, of), "{of}");
}

/// Takes a snapshot, and compares the number of keys in its manifest and the hash, if it has one, with etcd. Returns
/// whether it has one.
fn manifest_has_hash_of_etcd(world: &World, of: &str) -> bool {
    let manifest: Value = serde_json::from_str(&manifest(world, &world.saved())).unwrap();
    assert_eq!(manifest["keys"].as_u64(), Some(world.dump().len() as u64), "{of}");
    let hash = &manifest["content_hash"];
    if hash.is_null() {
        return false;
    }
    let recorded = (hash["hash"].as_u64(), hash["compact_revision"].as_i64());
    let mut revision = manifest["revision"].as_i64().unwrap();
    if recorded.1 == Some(revision) {
        // After a compaction, etcd 3.5 returns an older hash (`mvcc/hash.go` `hashStorage`), and 3.4 returns
        // a hash only for revision 0.
        world.stop();
        world.start();
        revision = 0;
    }
    let (hash, compacted) = world.hashkv(revision);
    assert_eq!(recorded, (Some(hash), Some(compacted)), "{of}");
    true
}

fn compact(world: &World, revision: i64) {
    world.etcdctl(&["compact", "--physical", &revision.to_string()]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn content_hash_and_key_count_match_etcd(version: Version) {
    let world = World::plain(version);
    assert_manifest_matches_etcd(&world, "an empty etcd");
    world.fill();
    assert_manifest_matches_etcd(&world, "a history never compacted");
    compact(&world, world.revision());
    assert_manifest_matches_etcd(&world, "a compaction to the last revision");
    world.damage();
    assert_manifest_matches_etcd(&world, "changes since a compaction");
    compact(&world, world.revision() - 2);
    assert_manifest_matches_etcd(&world, "a compaction in the middle of changes");
    world.delete(200..210);
    compact(&world, world.revision());
    // No hash until the next compaction, if this etcd keeps the tombstone.
    let _ = manifest_has_hash_of_etcd(&world, "a compaction at a deletion");
    world.put(200..205, "back");
    let _ = manifest_has_hash_of_etcd(&world, "deleted keys that were put again");
    compact(&world, world.revision());
    world.etcdctl(&["del", "", "--prefix"]);
    let of = "no live key, with a history";
    assert!(!manifest_has_hash_of_etcd(&world, of), "{of}");
    compact(&world, world.revision());
    let of = "no live key, and only the last deletion as history";
    assert!(!manifest_has_hash_of_etcd(&world, of), "{of}");
    world.put(0..1, "anew");
    compact(&world, world.revision());
    assert_manifest_matches_etcd(&world, "one key");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn content_hash_matches_etcd_for_random_histories(version: Version) {
    let world = World::plain(version);
    let mut seed = 0x9e37_79b9_u32;
    let mut dice = |sides: u32| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed % sides
    };
    let (mut compacted, mut hashes) = (0, 0);
    for round in 0..12 {
        for change in 0..12 {
            let first = dice(120);
            match dice(4) {
                0 => world.delete(first..first + 1 + dice(30)),
                _ => world.put(first..first + 1 + dice(60), &format!("{round}.{change}")),
            }
        }
        let since = u32::try_from(world.revision() - compacted).unwrap();
        if dice(3) > 0 {
            compacted += i64::from(1 + dice(since));
            compact(&world, compacted);
        }
        let of = format!("round {round}, compacted at {compacted}");
        hashes += u32::from(manifest_has_hash_of_etcd(&world, &of));
    }
    assert!(hashes >= 6, "only {hashes} of 12 snapshots had a hash");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_asks_etcd_for_no_hash_and_no_key_count(version: Version) {
    let world = World::plain(version);
    world.fill();
    world.delete(200..210);
    // Newer versions keep the tombstone, so that the manifest has no hash.
    compact(&world, world.revision());
    let tools = world.stand_in_tools();
    let _ = world.snapshot(&[&world.to_target()]).completed();
    let asked = tools.calls();
    assert!(asked.iter().any(|(_, call)| call.contains("snapshot save")), "{asked:?}");
    let heavy = |call: &str| call.contains("hashkv") || call.contains("--from-key");
    assert!(!asked.iter().any(|(_, call)| heavy(call)), "{asked:?}");
}
