//! Revisions never decrease unnoticed: a restore exceeds the highest revision that was ever served, not only
//! the current one.

use std::fs;
use std::path::PathBuf;

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::world::{Version, World};
use crate::restore::from;
use crate::rollback::Fixture;

/// Returns an etcd that a restore moved back to the archive's revision, with the archive and the highest
/// served revision.
fn moved_back(version: Version) -> (World, PathBuf, i64) {
    let world = World::plain(version);
    world.etcdctl(&["put", "first", "1"]);
    let archive = world.saved();
    world.add_revisions(5, "seen by clients");
    let seen = world.revision();
    restore_lower_revision(&world, &archive);
    (world, archive, seen)
}

fn restore_lower_revision(world: &World, archive: &std::path::Path) {
    let results = world.restore(&[&from(archive), "skip-backup=true", "bump-revision=off"]).completed();
    assert!(results.get("restore.warning").contains("goes back by"), "{}", results.out.describe());
}

/// Restores and returns the new revision. If etcd cannot raise it, asserts that the warning states the
/// difference.
fn restore_and_check(world: &World, archive: &std::path::Path, seen: i64) -> i64 {
    let results = world.restore(&[&from(archive), "skip-backup=true"]).completed();
    let revision = results.number("restore.revision");
    if world.setup().version.can_bump() {
        assert!(revision > seen, "{revision}: {}", results.out.describe());
    } else {
        let warning = results.get("restore.warning");
        assert!(warning.contains(&format!("goes back by {} (", seen - revision)), "{warning}");
    }
    revision
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn exceeds_revisions_served_before_the_previous_restore(version: Version) {
    let (world, archive, seen) = moved_back(version);
    // A second restore to the lower revision makes no difference.
    if version.can_bump() {
        restore_lower_revision(&world, &archive);
    }
    assert!(world.revision() < seen);
    restore_and_check(&world, &archive, seen);
    assert_eq!(world.etcdctl(&["get", "first", "--print-value-only"]).trim(), "1");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn exceeds_revisions_served_earlier_by_a_stopped_etcd(version: Version) {
    let (world, archive, seen) = moved_back(version);
    world.stop();
    restore_and_check(&world, &archive, seen);
}

#[test]
fn counts_writes_until_etcd_stops() {
    let world = World::plain(Version::V35);
    world.etcdctl(&["put", "first", "1"]);
    let archive = world.saved();
    world.add_revisions(5, "seen by clients");
    let seen = world.revision();
    let puts =
        [world.put_command("a", "1"), world.put_command("b", "2"), world.put_command("c", "3")].join("; ");
    world.arm("before-stop", puts);
    restore_lower_revision(&world, &archive);
    world.disarm("before-stop");
    let plan =
        world.restore(&[&from(&archive), "skip-backup=true", "bump-revision=off", "plan=true"]).completed();
    let warning = plan.get("restore.warning");
    assert!(warning.contains(&format!("goes back by {} (", seen + 3 - world.revision())), "{warning}");
}

/// A restore raised the revision, etcd served it, and the restore was rolled back. etcd now serves a much
/// lower revision than clients saw.
#[test]
fn counts_revisions_of_a_restore_that_was_rolled_back() {
    let Fixture { world, archive, old, .. } = Fixture::new(Version::V35);
    let words = [from(&archive), world.to_target()];
    let planned = world.restore(&[&words[0], &words[1], "plan=true"]).completed().number("plan.revision");
    let tools = world.stand_in_tools();
    // The first stop makes the verification of the restored data fail. At the second stop etcd has served
    // that data.
    world.arm(
        "before-stop",
        format!(
            "if [ \"$(stat -c %i {live})\" = {tree} ]; then printf '*hashkv*\\nanswer\\n1\\n' >{fault}; else {put}; fi",
            live = world.data_dir().join("member").display(),
            tree = world.tree(),
            fault = world.path("tools/fault").display(),
            put = world.put_command("written", "since"),
        ),
    );
    tools.answer("nothing", "", "Error: the hand of chance\n", 1);
    world.restore(&[&words[0], "skip-backup=true"]).failed(&["the hand of chance"]);
    world.disarm("before-stop");
    tools.answer("nothing", "", "", 0);
    assert_same(&world.dump(), &old, "after the failed restore");
    assert!(world.revision() < planned);
    let revision = world.restore(&[&words[0], &words[1]]).completed().number("restore.revision");
    assert!(revision > planned, "{revision} after {planned}");
}

#[test]
fn a_record_without_revisions_counts_as_unknown() {
    let (world, archive, _) = moved_back(Version::V35);
    // As an earlier version of the program wrote it.
    let record = world.data_dir().join("member/lineage.json");
    let mut written: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    for name in ["highest_revision", "highest_is_known"] {
        written.as_object_mut().unwrap().remove(name);
    }
    fs::write(&record, written.to_string()).unwrap();
    let plan = |more: &[&str]| {
        let from = from(&archive);
        let words: Vec<&str> =
            [&*from, "skip-backup=true", "plan=true"].iter().chain(more).copied().collect();
        world.restore(&words).completed()
    };
    let warning = plan(&[]).get("restore.warning");
    assert!(warning.contains("unknown") && warning.contains("bump-revision=1000000000"), "{warning}");
    assert_eq!(plan(&["bump-revision=1000000000"]).find("restore.warning"), None);
    // If a bump is necessary anyway, it also covers the unknown revisions.
    world.add_revisions(2, "more");
    assert!(plan(&[]).number("plan.bump") >= 1_000_000_000);
}
