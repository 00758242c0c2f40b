//! Tests of `list-snapshots`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::command::{Out, Run};
use crate::common::unit::Unit;
use crate::common::world::{Version, World};

/// Runs an action on archives.
pub fn run_action(world: &World, action: &str, words: &[&str]) -> Out {
    Run::start(world.action(program(action), words), &world.path("runs")).finish()
}

/// Returns the program of an action.
pub fn program(action: &str) -> &'static str {
    match action {
        "snapshot" => program!("snapshot"),
        "restore" => program!("restore"),
        "fetch-snapshot" => program!("fetch-snapshot"),
        "list-snapshots" => program!("list-snapshots"),
        "verify-snapshot" => program!("verify-snapshot"),
        "delete-snapshot" => program!("delete-snapshot"),
        "prune-snapshots" => program!("prune-snapshots"),
        "pin-snapshot" => program!("pin-snapshot"),
        "unpin-snapshot" => program!("unpin-snapshot"),
        "check" => program!("check"),
        "upload" => program!("upload"),
        "backup" => program!("backup"),
        other => panic!("{other}"),
    }
}

/// Returns the list as JSON.
pub fn listed(world: &World) -> Vec<Value> {
    let out = run_action(world, "list-snapshots", &[&world.to_target(), "format=json"]).completed();
    serde_json::from_str(&out.get("snapshots")).unwrap()
}

/// Returns the file name of an archive.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn lists_snapshots_newest_first() {
    let world = World::plain(Version::V35);
    let none = run_action(&world, "list-snapshots", &[&world.to_target()]).completed();
    assert_eq!((none.get("snapshots").as_str(), none.get("count").as_str()), ("none", "0"));

    let first = world.saved();
    world.fill();
    let second = world.saved();
    let all = listed(&world);
    assert_eq!(all.iter().map(|one| &one["name"]).collect::<Vec<_>>(), [&name(&second), &name(&first)]);
    let newest = &all[0];
    assert_eq!(newest["revision"], world.revision());
    assert_eq!(newest["cluster_id"], format!("{:x}", world.cluster_id()));
    assert_eq!(newest["size"], fs::metadata(&second).unwrap().len());
    assert_eq!(newest["location"], second.to_str().unwrap());
    assert_eq!(newest["verified"], newest["created"]);
    assert_eq!(newest["kept_because"][0], "the newest verified");
    assert!(all[1]["kept_because"].as_array().unwrap().is_empty());

    let unit = Unit::new(&world);
    let table = unit.run("list-snapshots", &[&world.to_target()]).completed().get("snapshots");
    let cells = |line: &'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = table.lines().map(cells).collect();
    assert_eq!(lines[0], ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERIFIED", "KEPT", "BECAUSE"]);
    assert_eq!((lines.len(), &lines[1][0], &lines[2][0]), (3, &name(&second), &name(&first)));
    let limited = unit.run("list-snapshots", &[&world.to_target(), "limit=1", "format=yaml"]).completed();
    let rows: Vec<Value> = serde_yaml::from_str(&limited.get("snapshots")).unwrap();
    assert_eq!((rows.len(), limited.get("count").as_str()), (1, "2"));
    assert!(limited.get("not-shown").starts_with("1 older"), "{}", limited.get("not-shown"));
    assert!(world.leftovers().is_empty(), "listing left files");
}

#[test]
fn lists_without_etcd_and_without_a_directory() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    world.stop();
    fs::remove_file(world.site()).unwrap();
    assert_eq!(listed(&world)[0]["name"], name(&archive));
    let nowhere = format!("target={}", world.path("nowhere").display());
    run_action(&world, "list-snapshots", &[&nowhere]).refused(&["does not exist"]);
    assert!(!world.path("nowhere").exists());
    run_action(&world, "list-snapshots", &["format=xml"]).refused(&["xml"]);
}

#[test]
fn lists_a_thousand_within_two_seconds_and_64_mib() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    for copy in 0..999 {
        fs::copy(&archive, world.target().join(format!("copy-{copy}.tar.gz"))).unwrap();
    }
    let mut command = Command::new("prlimit");
    let listing = world.action(program("list-snapshots"), &[&world.to_target(), "limit=0"]);
    // Limits the CPU time and the allocated memory, without the program's code.
    command.args(["--data=67108864", "--cpu=2"]).arg(listing.get_program()).args(listing.get_args());
    let results = Run::start(command, &world.path("runs")).finish().completed();
    assert_eq!((results.get("count").as_str(), results.get("snapshots").lines().count()), ("1000", 1001));
}

#[test]
fn lists_other_files_without_a_revision() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    let bytes = fs::read(&archive).unwrap();
    let put = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = world.target().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    put("cut.tar.gz", &bytes[..bytes.len() - 1]);
    put("rke.zip", b"PK\x03\x04");
    put("notes.txt", b"not an archive");
    put(".hidden.tar.gz", &bytes);
    put("etcd-snapshot-2099-01-01-00.00.00.tar.gz.json", b"{}");
    let all = listed(&world);
    assert_eq!(all.len(), 3, "{all:?}");
    for one in &all {
        let ours = one["name"] == name(&archive);
        assert_eq!(one.get("revision").is_some(), ours, "{one}");
        assert_eq!(one["verified"].is_string(), ours, "{one}");
    }
}
