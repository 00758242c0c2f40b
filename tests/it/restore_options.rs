//! Options of `restore`: revision bumps, bare snapshot files, archives of the older charm, and expected
//! hashes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use test_case::test_case;

use crate::archive::unpack;
use crate::common::client::{Data, assert_same};
use crate::common::fs_util::{sha256sum, succeed};
use crate::common::world::{Version, World};
use crate::restore::from;

/// Returns a filled world, its archive, the saved data and its revision. The live data is then damaged.
fn damaged(version: Version) -> (World, PathBuf, Data, i64) {
    let world = World::plain(version);
    world.fill();
    let (saved, at, archive) = (world.dump(), world.revision(), world.saved());
    world.damage();
    (world, archive, saved, at)
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_the_revision_if_requested(version: Version) {
    let (world, archive, saved, at) = damaged(version);
    let hash = world.hashkv(at);
    let results = world.restore(&[&from(&archive), &world.to_target(), "bump-revision=off"]).completed();
    assert_same(&world.dump(), &saved, "with bump-revision=off");
    assert_eq!((world.revision(), world.hashkv(at)), (at, hash));
    assert!(results.find("restore.bumped-by").is_none_or(|by| by == "0"));
    assert!(results.number("restore.lost-revisions") > 0);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn raises_the_revision_by_a_number(version: Version) {
    let (world, archive, saved, at) = damaged(version);
    let out = world.restore(&[&from(&archive), &world.to_target(), "bump-revision=100000"]);
    if version.can_bump() {
        let results = out.completed();
        assert_same(&world.dump(), &saved, "with bump-revision=100000");
        assert_eq!(world.revision(), at + 100_000);
        assert_eq!(results.number("restore.bumped-by"), 100_000);
    } else {
        out.refused(&["bump"]);
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn does_not_raise_the_revision_if_the_snapshot_is_newest(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (archive, at) = (world.saved(), world.revision());
    let other = World::plain(version);
    let results = other.restore(&[&from(&archive), &other.to_target(), "bump-revision=auto"]).completed();
    assert_eq!(other.revision(), at);
    assert!(results.find("restore.bumped-by").is_none_or(|by| by == "0"));
    // This etcd may be an empty replacement whose clients have already seen revisions above the snapshot's.
    let warning = results.get("restore.warning");
    assert!(
        warning.contains("at revision 1,") && warning.contains("restart every kube-apiserver"),
        "{warning}"
    );
    assert!(warning.contains("bump-revision="), "{warning}");
    assert_eq!(warning.contains("install etcdctl"), !version.can_bump(), "{warning}");
}

#[test]
fn refuses_an_invalid_revision_bump() {
    let (world, archive, ..) = damaged(Version::V35);
    let pid = world.pid();
    for amount in ["junk", "-5", "1.5", "1e3", "99999999999999999999999", "on", "9223372036854775807"] {
        let amount = format!("bump-revision={amount}");
        let out = world.restore(&[&from(&archive), &world.to_target(), &amount]);
        out.refused(&["bump-revision", "revision"]);
    }
    assert_eq!(world.pid(), pid);
    assert_eq!(world.in_target().len(), 1);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_a_bare_snapshot_file(version: Version) {
    let (world, archive, saved, _) = damaged(version);
    let bare = unpack(&world, &archive).join("db");
    let named = world.path("bare-snapshot.db");
    fs::rename(bare, &named).unwrap();
    let before = sha256sum(&named);
    let _ = world.restore(&[&from(&named), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "from a bare file");
    assert_eq!(sha256sum(&named), before);
}

/// Creates an archive like the older charm: `./` and `./db`, where `db` is copied from the data directory.
pub fn old_charm_archive(world: &World) -> (PathBuf, Data) {
    let saved = world.dump();
    world.stop();
    let dir = world.path("old-charm");
    fs::create_dir(&dir).unwrap();
    fs::copy(world.data_dir().join("member/snap/db"), dir.join("db")).unwrap();
    let archive = world.path("etcd-snapshot-2016-11-09-02.41.47.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(&archive).arg("-C").arg(&dir).arg(".");
    let _ = succeed(tar.output().unwrap(), "tar czf");
    world.start();
    (archive, saved)
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_an_archive_of_the_older_charm_only_if_allowed(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (archive, saved) = old_charm_archive(&world);
    world.damage();
    let (damaged, pid) = (world.dump(), world.pid());
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.assert_stderr_contains(&["hash"]);
    out.refused(&["allow-unhashed"]);
    assert_eq!(world.pid(), pid);
    assert_same(&world.dump(), &damaged, "after the refusal");
    assert!(world.in_target().is_empty());
    let _ = world.restore(&[&from(&archive), &world.to_target(), "allow-unhashed=true"]).completed();
    assert_same(&world.dump(), &saved, "from an archive of the older charm");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_a_bare_file_without_a_hash_only_if_allowed(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (_, saved) = old_charm_archive(&world);
    world.damage();
    let bare = world.path("old-charm/db");
    world.restore(&[&from(&bare), &world.to_target()]).refused(&["allow-unhashed"]);
    let _ = world.restore(&[&from(&bare), &world.to_target(), "allow-unhashed=true"]).completed();
    assert_same(&world.dump(), &saved, "from a bare file without a hash");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_only_the_archive_with_the_expected_hash(version: Version) {
    let (world, archive, saved, _) = damaged(version);
    let (damaged, pid) = (world.dump(), world.pid());
    let right = sha256sum(&archive);
    let wrong = right.chars().rev().collect::<String>();
    for hash in [wrong.as_str(), &right[1..], "not-a-hash", &format!("{right}0")] {
        let hash = format!("expected-sha256={hash}");
        world.restore(&[&from(&archive), &world.to_target(), &hash]).refused(&["sha256"]);
    }
    assert_eq!(world.pid(), pid);
    assert_same(&world.dump(), &damaged, "after the refusals");
    assert_eq!(world.in_target().len(), 1);
    let hash = format!("expected-sha256={right}");
    let _ = world.restore(&[&from(&archive), &world.to_target(), &hash]).completed();
    assert_same(&world.dump(), &saved, "from the archive of the expected hash");
}

/// The manifest is optional: an archive that an operator made with `tar czf` from a snapshot file is valid.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn accepts_an_archive_made_by_tar(version: Version) {
    let (world, archive, saved, _) = damaged(version);
    let dir = unpack(&world, &archive);
    for (number, member) in ["db", "./db"].into_iter().enumerate() {
        let packed = world.path(&format!("by-hand-{number}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.arg("czf").arg(&packed).arg("-C").arg(&dir).arg(member);
        let _ = succeed(tar.output().unwrap(), "tar czf");
        let _ = world.restore(&[&from(&packed), &world.to_target()]).completed();
        assert_same(&world.dump(), &saved, member);
        world.damage();
    }
}
