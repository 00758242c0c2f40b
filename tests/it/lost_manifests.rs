//! Archives that were made with a manifest and have lost it on the disk. No verification has read them since.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use test_case::test_case;

use crate::common::command::{Out, Run};
use crate::common::s3::Server;
use crate::common::world::{Version, World, root_only_dir};
use crate::encryption::{self, IDENTITY, encrypt, identity, manifest_next_to};
use crate::hostile::{file, gzip, tar_of};
use crate::list_snapshots::{name, program};

fn run(world: &World, action: &str, words: &[&str]) -> Out {
    let target = world.to_target();
    let command = encryption::command(world, program(action), &[&[&*target], words].concat());
    Run::start(command, &world.path("runs")).finish()
}

/// Returns the status and the line of `check`.
fn check(world: &World) -> (i32, String) {
    let out = run(world, "check", &[]);
    (out.status.code().unwrap(), out.stdout)
}

/// Returns the archive in the list.
fn row(world: &World, name: &str, destination: Option<&str>) -> Value {
    let all = run(world, "list-snapshots", &["format=json"]).completed().get("snapshots");
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    let is_it = |one: &&Value| one["name"] == name && one["destination"].as_str() == destination;
    all.iter().find(is_it).unwrap_or_else(|| panic!("{name} is not in {all:?}")).clone()
}

fn backup(world: &World) -> PathBuf {
    PathBuf::from(run(world, "backup", &[]).completed().get("snapshot.path"))
}

/// Returns the archive with a manifest that is not JSON any more.
fn without_manifest(archive: &[u8]) -> Vec<u8> {
    let mut damaged = archive.to_vec();
    let at = damaged.windows(8).rposition(|window| window == b"\"format\"").unwrap();
    damaged[at] = b'#';
    damaged
}

fn without_end(archive: &[u8]) -> Vec<u8> {
    archive[..archive.len() - 700].to_vec()
}

fn empty(_: &[u8]) -> Vec<u8> {
    Vec::new()
}

#[test_case(without_manifest, "manifest"; "damaged_manifest")]
#[test_case(without_end, "size"; "end_is_missing")]
#[test_case(empty, "size"; "empty_file")]
fn a_lost_manifest_is_damage_before_any_verification(damage: fn(&[u8]) -> Vec<u8>, check_name: &str) {
    let Some(metrics) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("backup.yaml"), format!("metrics: {}\n", metrics.path().display())).unwrap();
    let archive = backup(&world);
    let good = fs::read(&archive).unwrap();
    assert_eq!(check(&world).0, 0);
    fs::write(&archive, damage(&good)).unwrap();

    let (status, line) = check(&world);
    let is_reported = line.contains(&format!("{} is damaged", name(&archive)));
    assert!(status == 2 && is_reported && line.contains(" damaged=1;0;;0 archives=0;"), "{line}");
    let listed = row(&world, &name(&archive), None);
    assert_eq!(listed["damage"]["check"], check_name, "{listed}");
    assert!(listed["broken"].is_string() && listed["verified"].is_null(), "{listed}");
    run(&world, "verify-snapshot", &["snapshot=latest"]).refused(&["no snapshot that is known to be good"]);
    let planned = run(&world, "prune-snapshots", &["keep=1", "cluster=any", "plan=true"]).completed();
    assert_eq!(planned.get("would-delete"), "0", "{}", planned.out.describe());

    // A verification by name records the damage that it finds.
    run(&world, "verify-snapshot", &[&format!("snapshot={}", name(&archive))]).failed(&["is damaged: "]);
    let record = fs::read_to_string(format!("{}.json", archive.display())).unwrap();
    assert!(record.contains("\"damage\""), "{record}");
    let text = fs::read_to_string(metrics.path().join("etcd_backup.prom")).unwrap();
    let series = text.lines().find(|line| line.starts_with("etcd_backup_damaged_archives{")).unwrap();
    assert!(series.ends_with(" 1"), "{series}");
    // The records of runs may be lost, too.
    fs::remove_dir_all(world.target().join(".runs")).unwrap();
    assert!(row(&world, &name(&archive), None)["broken"].is_string());

    fs::write(&archive, &good).unwrap();
    run(&world, "verify-snapshot", &[&format!("snapshot={}", name(&archive))]).completed();
    let listed = row(&world, &name(&archive), None);
    assert!(listed["broken"].is_null() && listed["verified"].is_string(), "{listed}");
}

#[test]
fn latest_reports_that_a_newer_archive_is_damaged() {
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("backup.yaml"), "").unwrap();
    let first = backup(&world);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let second = backup(&world);
    fs::write(&second, without_manifest(&fs::read(&second).unwrap())).unwrap();
    let (status, line) = check(&world);
    assert!(status == 1 && line.contains(" is damaged") && line.contains(" archives=1;"), "{line}");
    let out = run(&world, "verify-snapshot", &["snapshot=latest"]);
    let note = format!("latest is {}, revision ", name(&first));
    assert!(out.stderr.contains(&note), "{}", out.describe());
    assert!(out.stderr.contains(&format!("{} is newer, but damaged", name(&second))), "{}", out.describe());
    assert_eq!(out.completed().get("verify.good"), "1");
}

#[test]
fn a_pinned_archive_stays_pinned_without_its_manifest() {
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("backup.yaml"), "").unwrap();
    let (archive, _other) = (backup(&world), backup(&world));
    let selected = format!("snapshot={}", name(&archive));
    run(&world, "pin-snapshot", &[&selected]).completed();
    // Only the record next to the archive is left.
    fs::remove_dir_all(world.target().join(".runs")).unwrap();
    fs::write(&archive, without_manifest(&fs::read(&archive).unwrap())).unwrap();
    let listed = row(&world, &name(&archive), None);
    assert!(listed["pinned"] == true && listed["broken"].is_string(), "{listed}");
    run(&world, "delete-snapshot", &[&selected]).refused(&["is pinned"]);
    run(&world, "verify-snapshot", &[&selected]).failed(&["is damaged: "]);
    assert_eq!(row(&world, &name(&archive), None)["pinned"], true);
}

#[test]
fn a_truncated_encrypted_archive_is_damaged() {
    let world = World::plain(Version::V35);
    world.fill();
    encrypt(&world, "");
    let archive = backup(&world);
    let good = fs::read(&archive).unwrap();
    for removed in [None, Some(world.target().join(".runs")), Some(manifest_next_to(&archive))] {
        let runs = world.path("kept");
        if let Some(path) = &removed {
            fs::rename(path, &runs).unwrap();
        }
        fs::write(&archive, &good[..good.len() - 100]).unwrap();
        let listed = row(&world, &name(&archive), None);
        assert_eq!(listed["damage"]["check"], "size", "without {removed:?}: {listed}");
        assert!(check(&world).1.contains(" damaged=1;"), "without {removed:?}");
        fs::write(&archive, &good).unwrap();
        let listed = row(&world, &name(&archive), None);
        assert!(listed["broken"].is_null(), "without {removed:?}: {listed}");
        if let Some(path) = &removed {
            fs::rename(&runs, path).unwrap();
        }
    }
    // Without its manifest file, damage inside it is found by a verification by name.
    fs::remove_file(manifest_next_to(&archive)).unwrap();
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    fs::write(&archive, altered).unwrap();
    let selected = format!("snapshot={}", name(&archive));
    for words in [vec![&*selected], vec![&*selected, &*identity(&world, IDENTITY)]] {
        run(&world, "verify-snapshot", &words).failed(&["is damaged: "]);
        assert!(row(&world, &name(&archive), None)["broken"].is_string());
    }
    assert_eq!(check(&world).0, 2);
}

#[test]
fn a_copy_in_a_destination_is_damaged_without_its_manifest() {
    let world = World::plain(Version::V35);
    world.fill();
    let nfs = world.path("nfs");
    fs::create_dir(&nfs).unwrap();
    let settings = format!("destinations: {{nfs: {{directory: {}, mount: none}}}}\n", nfs.display());
    fs::write(world.path("backup.yaml"), settings).unwrap();
    let archive = name(&backup(&world));
    let folder = nfs.join(format!("{:x}/m1", world.cluster_id()));
    let copy = folder.join(&archive);
    fs::write(&copy, without_manifest(&fs::read(&copy).unwrap())).unwrap();
    // A file of another tool in the same folder.
    fs::write(folder.join("other.tar.gz"), gzip(&tar_of(&[file("home/me/.profile", b"umask 077")]))).unwrap();
    assert_eq!(row(&world, &archive, Some("nfs"))["damage"]["check"], "manifest");
    assert!(row(&world, &archive, None)["broken"].is_null());
    assert!(row(&world, "other.tar.gz", Some("nfs"))["broken"].is_null());
    run(&world, "verify-snapshot", &[&format!("snapshot=nfs/{archive}")]).failed(&["is damaged: "]);
    assert!(Path::new(&format!("{}.json", copy.display())).exists());
    let (status, line) = check(&world);
    assert!(status == 1 && line.contains("the last verification failed"), "{line}");
}

#[test]
fn an_object_in_a_bucket_is_damaged_without_its_manifest() {
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("backup.yaml"), "").unwrap();
    let path = backup(&world);
    let (archive, folder) = (name(&path), format!("{:x}/m1", world.cluster_id()));
    let damaged = without_manifest(&fs::read(&path).unwrap());
    let server = Server::filled(&["backups"], &|root| {
        let folder = root.join("backups").join(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(&archive), &damaged).unwrap();
        fs::write(folder.join("other.tar.gz"), gzip(b"a file of another tool")).unwrap();
    });
    server.write_credentials(&world.path("credentials"));
    let settings = format!(
        "destinations: {{offsite: {{s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{}', bucket: backups}}}}}}\n",
        world.path("credentials").display(),
        server.port
    );
    fs::write(world.path("backup.yaml"), settings).unwrap();
    let listed = row(&world, &archive, Some("offsite"));
    assert_eq!(listed["damage"]["check"], "manifest", "{listed}");
    assert!(row(&world, "other.tar.gz", Some("offsite"))["broken"].is_null());
    assert!(row(&world, &archive, None)["broken"].is_null());
    run(&world, "verify-snapshot", &[&format!("snapshot=offsite/{archive}")]).failed(&["is damaged: "]);
    // The verdict is in the bucket.
    fs::remove_dir_all(world.target().join(".runs")).unwrap();
    assert!(row(&world, &archive, Some("offsite"))["broken"].is_string());
}
