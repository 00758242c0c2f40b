//! Actions on existing snapshots: verify, drill, pin, delete, prune, and restore by name.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use test_case::test_case;

use crate::archive::unpack;
use crate::common::client::assert_same;
use crate::common::fs_util::sha256sum;
use crate::common::unit::Unit;
use crate::common::world::{Setup, Version, World};
use crate::hostile::{file, tar_of};
use crate::list_snapshots::{listed, name, run_action};

fn named(path: &Path) -> String {
    format!("snapshot={}", path.display())
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn verifies_every_byte_and_records_the_result(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (first, second) = (world.saved(), world.saved());
    let unit = Unit::new(&world);
    let done = unit.run("verify-snapshot", &[&world.to_target()]).completed();
    assert_eq!(done.get("verify.sha256"), sha256sum(&second), "verifies the latest by default");
    assert_eq!(done.get("verify.revision"), world.revision().to_string());
    let done = run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=all"]).completed();
    assert_eq!((done.get("verify.good"), done.get("verify.failed")), ("2".to_owned(), "0".to_owned()));
    for (one, path) in listed(&world).iter().zip([&second, &first]) {
        assert_eq!(one["sha256"], sha256sum(path));
        assert!(one["verified"].as_str() >= one["created"].as_str(), "{one}");
        assert_eq!(one["drilled"], Value::Null);
    }
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn drills_on_a_private_etcd(version: Version) {
    for setup in [Setup::plain(version), Setup { auth: true, tls: true, ..Setup::plain(version) }] {
        let world = World::new(setup);
        world.fill();
        let (archive, pid, data) = (world.saved(), world.pid(), world.dump());
        world.damage();
        let words = [&*world.to_target(), &named(&archive), "drill=true"];
        let done = run_action(&world, "verify-snapshot", &words).completed();
        assert_eq!(done.get("verify.drill-keys"), data.len().to_string());
        assert_eq!(done.get("verify.drill-revision"), done.get("verify.revision"));
        assert!(listed(&world)[0]["drilled"].is_string());
        assert_eq!(world.pid(), pid);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    }
}

#[test]
fn verify_reports_only_the_damaged_archive() {
    let world = World::plain(Version::V35);
    world.fill();
    let (good, broken) = (world.saved(), world.saved());
    let mut bytes = fs::read(&broken).unwrap();
    bytes[2000] ^= 1;
    fs::write(&broken, &bytes).unwrap();
    fs::write(world.target().join("cut.tar.gz"), &bytes[..3000]).unwrap();
    assert!(
        listed(&world).iter().all(|one| one["broken"].is_null()),
        "listing reads only the end of an archive"
    );
    let out = run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=all"]);
    assert!(out.stdout.contains(&name(&good)), "{}", out.describe());
    out.failed(&[&format!("{} is damaged: ", name(&broken))]);
    let all = listed(&world);
    let one = |path: &Path| all.iter().find(|one| one["name"] == name(path)).unwrap();
    assert!(one(&broken)["broken"].as_str().unwrap().contains("altered"), "{}", one(&broken));
    assert!(one(&broken)["verified"].is_null() && one(&good)["verified"].is_string());
    assert!(one(Path::new("cut.tar.gz"))["broken"].is_null());
    assert_eq!(one(&good)["kept_because"][0], "the newest verified");
    // `latest` selects only good archives.
    let latest = run_action(&world, "verify-snapshot", &[&world.to_target()]).completed();
    assert_eq!(latest.get("verify.snapshots"), name(&good));
    // A repaired file is good again.
    bytes[2000] ^= 1;
    fs::write(&broken, &bytes).unwrap();
    let _ = run_action(&world, "verify-snapshot", &[&world.to_target(), &named(&broken)]).completed();
    assert!(listed(&world)[0]["broken"].is_null());
}

#[test]
fn a_drill_detects_a_wrong_manifest() {
    let world = World::plain(Version::V35);
    world.fill();
    let dir = unpack(&world, &world.saved());
    let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let keys = format!("\"keys\": {}", manifest["keys"]);
    let db = fs::read(dir.join("db")).unwrap();
    let text = text.replace(&keys, "\"keys\": 7");
    let tar = tar_of(&[file("db", &db), file("manifest.json", text.as_bytes())]);
    // As in the archives of `snapshot`, the manifest starts its own uncompressed block.
    let (db, rest) = tar.split_at(512 + db.len().next_multiple_of(512));
    let lying = world.target().join("etcd-snapshot-lying.tar.gz");
    let mut gzip = GzEncoder::new(fs::File::create(&lying).unwrap(), Compression::none());
    gzip.write_all(db).and_then(|()| gzip.flush()).and_then(|()| gzip.write_all(rest)).unwrap();
    gzip.finish().unwrap();
    let verify = |words: &[&str]| {
        run_action(&world, "verify-snapshot", &[&[&*world.to_target(), &named(&lying)], words].concat())
    };
    let _ = verify(&[]).completed();
    verify(&["drill=true"]).failed(&["keys instead of the 7 of its manifest"]);
    // Verifying again without a drill does not revoke the result of the drill.
    verify(&[]).failed(&["failed its last drill", "the 7 of its manifest"]);
    let listed = run_action(&world, "list-snapshots", &[&world.to_target()]).completed();
    let row = listed.get("snapshots").lines().find(|line| line.contains("lying")).unwrap().to_owned();
    assert!(row.contains("DAMAGED"), "{row}");
    run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=latest"]).completed();
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn deletes_the_last_good_snapshot_only_with_force() {
    let world = World::plain(Version::V35);
    let (first, second) = (world.saved(), world.saved());
    let delete =
        |words: &[&str]| run_action(&world, "delete-snapshot", &[&[&*world.to_target()], words].concat());
    delete(&[]).refused(&["no snapshot is named"]);
    delete(&["snapshot=nonsense"]).refused(&["there is no snapshot nonsense"]);
    let both = format!("snapshot={},{}", name(&first), name(&second));
    delete(&[&both]).refused(&["no good snapshot of its cluster would be left"]);
    assert_eq!(world.in_target().len(), 2, "a refused deletion deleted a snapshot");
    let _ = run_action(&world, "verify-snapshot", &[&world.to_target(), &named(&second)]).completed();
    let done = delete(&[&named(&second)]).completed();
    assert_eq!(done.get("deleted"), name(&second));
    assert_eq!(world.in_target(), [name(&first)], "its record was not deleted");
    let last = format!("snapshot={}", name(&first));
    delete(&[&last]).refused(&["--force"]);
    let _ = delete(&[&last, "force=true"]).completed();
    assert!(world.in_target().is_empty());
}

#[test]
fn keeps_pinned_snapshots() {
    let world = World::plain(Version::V35);
    let (pinned, other) = (world.saved(), world.saved());
    let unit = Unit::new(&world);
    let which = named(&pinned);
    let done = unit.run("pin-snapshot", &[&world.to_target(), &which]).completed();
    assert_eq!(done.get("pinned"), name(&pinned));
    let _ = run_action(&world, "verify-snapshot", &[&world.to_target(), "snapshot=all"]).completed();
    let all = listed(&world);
    assert_eq!((&all[0]["pinned"], &all[1]["pinned"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(all[1]["kept_because"][0], "pinned");
    run_action(&world, "delete-snapshot", &[&world.to_target(), &which, "force=true"])
        .refused(&["is pinned"]);
    let _ = run_action(&world, "unpin-snapshot", &[&world.to_target(), &which]).completed();
    let _ = run_action(&world, "delete-snapshot", &[&world.to_target(), &which]).completed();
    assert_eq!(listed(&world)[0]["name"], name(&other));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn prunes_by_the_rules_and_reports_the_reasons(version: Version) {
    let world = World::plain(version);
    let other = World::plain(version);
    let foreign = world.target().join("etcd-snapshot-foreign.tar.gz");
    fs::copy(other.saved(), &foreign).unwrap();
    // Archives of the same second have names that differ by revision.
    let saved = |number| {
        world.put(number..number + 1, "more");
        world.saved()
    };
    let all: Vec<_> = (0..4).map(saved).collect();
    let prune =
        |words: &[&str]| run_action(&world, "prune-snapshots", &[&[&*world.to_target()], words].concat());
    prune(&[]).refused(&["no rule is given"]);
    prune(&["keep-within=soon"]).refused(&["soon"]);
    let _ = run_action(&world, "pin-snapshot", &[&world.to_target(), &named(&all[0])]).completed();

    let before = world.in_target();
    let planned = prune(&["keep=1", "plan=true"]).completed();
    assert_eq!((planned.get("would-delete").as_str(), world.in_target()), ("2", before));
    let unit = Unit::new(&world);
    let done = unit.run("prune-snapshots", &[&world.to_target(), "keep=1"]).completed();
    assert_eq!(done.get("deleted"), "2");
    let table = done.get("snapshots");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let verdict = |path: &Path| {
        words(table.lines().find(|line| line.starts_with(&format!("{} ", name(path)))).unwrap())
    };
    assert!(verdict(&all[3]).ends_with("kept the newest verified; among the newest 1"), "{table}");
    assert!(verdict(&all[2]).ends_with("deleted no rule keeps it"), "{table}");
    assert!(verdict(&all[0]).contains("pinned") && verdict(&foreign).contains("another cluster"), "{table}");
    let left = listed(&world).into_iter().map(|one| one["name"].as_str().unwrap().to_owned());
    let mut left: Vec<String> = left.collect();
    left.sort();
    let mut expected = [&all[0], &all[3], &foreign].map(|path| name(path));
    expected.sort();
    assert_eq!(left, expected);

    // A restore changes the cluster id. Snapshots of the earlier id still belong to this cluster.
    world.fill();
    let _ = world.restore(&[&named(&all[0]), &world.to_target()]).completed();
    let _ = (
        world.saved(),
        run_action(&world, "unpin-snapshot", &[&world.to_target(), &named(&all[0])]).completed(),
    );
    let planned = prune(&["keep=1", "plan=true"]).completed();
    assert_eq!(planned.get("would-delete"), "2", "{}", planned.get("snapshots"));
    let latest = run_action(&world, "verify-snapshot", &[&world.to_target()]).completed();
    assert_eq!(latest.get("verify.revision"), world.revision().to_string());

    world.stop();
    prune(&["keep=1"]).failed(&["finding out the cluster id"]);
    // Each cluster keeps its own newest snapshot. All ids of this cluster count as one cluster.
    let planned = prune(&["keep=1", "cluster=any", "plan=true"]).completed();
    assert_eq!(planned.get("would-delete"), "2", "{}", planned.get("snapshots"));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_by_name_and_refuses_a_foreign_snapshot(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let restore = |words: &[&str]| world.restore(&[&[&*world.to_target()], words].concat());
    let _ = restore(&["from=latest"]).completed();
    assert_same(&world.dump(), &saved, "the latest");
    // The newest archive is the backup of the previous restore, which is never `latest`. The cluster has a
    // new id now.
    world.damage();
    let _ = restore(&["from=latest", "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "the latest again");
    let by_name = format!("from={}", name(&archive));
    let by_path = format!("from={}", archive.display());
    for from in [&by_name, &by_path] {
        world.damage();
        let _ = restore(&[from, "skip-backup=true"]).completed();
        assert_same(&world.dump(), &saved, from);
    }
    let _ = (world.damage(), world.saved());
    let latest = restore(&["from=latest", "plan=true"]).completed();
    assert_eq!(
        latest.get("plan.revision"),
        world.revision().to_string(),
        "latest ignores the new id of the cluster"
    );
    restore(&["from=nonsense"]).refused(&["there is no snapshot nonsense"]);
    restore(&[&by_name, &named(&archive)]).refused(&["both from and snapshot"]);

    let stranger = World::plain(version);
    stranger.put(0..10, "stranger");
    let still = world.dump();
    let foreign = named(&stranger.saved());
    restore(&[&foreign]).refused(&["is of another cluster"]);
    assert_same(&world.dump(), &still, "after the refusal");
    world.stop();
    restore(&[&foreign]).refused(&["is of another cluster"]);
    world.start();
    let _ = restore(&[&foreign, "allow-foreign=true"]).completed();
    assert_same(&world.dump(), &stranger.dump(), "after the restore of a foreign snapshot");
    let _ = restore(&[&by_name]).completed();
    assert_same(&world.dump(), &saved, "a snapshot of its own cluster was refused");
}
