//! A failing disk: the program reports unreadable files. It does not treat them as missing or as different.

use std::fs;
use std::path::PathBuf;

use crate::common::command::{Out, Run};
use crate::common::mount;
use crate::common::world::{Version, World, is_root};
use crate::encryption::{self, command, encrypt, manifest_next_to};
use crate::list_snapshots::{listed, name, program};

/// Returns whether this machine can make a file unreadable.
fn is_able() -> bool {
    if !is_root() {
        eprintln!("skipped: only root can mount a file system");
    }
    is_root()
}

fn run(world: &World, action: &str, words: &[&str]) -> Out {
    let target = world.to_target();
    let words = [&[&*target], words].concat();
    Run::start(command(world, program(action), &words), &world.path("runs")).finish()
}

fn settings(world: &World, text: &str) {
    fs::write(world.path("backup.yaml"), text).unwrap();
}

#[test]
fn unreadable_run_record_is_reported_and_fails_no_backup() {
    if !is_able() {
        return;
    }
    let world = World::plain(Version::V35);
    settings(&world, "schedule: {when: every 12h}\n");
    let _ = run(&world, "backup", &["scheduled=true"]).completed();
    let records = fs::read_dir(world.target().join(".runs")).unwrap();
    let record: Vec<PathBuf> = records.map(|record| record.unwrap().path().join("run.json")).collect();
    let broken = mount::broken(&record[0]);
    // The status "unknown" of a monitoring plugin, because the unreadable run may have succeeded or failed.
    for _ in 0..2 {
        let out = Run::start(command(&world, program!("check"), &[&world.to_target()]), &world.path("runs"));
        let out = out.finish();
        assert_eq!(out.status.code(), Some(3), "{}", out.describe());
        assert!(out.stdout.contains("run.json: Input/output error"), "{}", out.describe());
        let words = [&*world.to_target(), "--json"];
        let document = Run::start(command(&world, program!("check"), &words), &world.path("runs")).finish();
        assert_eq!(document.status.code(), Some(3), "{}", document.describe());
        let ended = run(&world, "backup", &["scheduled=true"]).completed();
        let warning = ended.get("run.warning");
        assert!(warning.contains("the earlier runs are unknown: "), "{warning}");
    }
    drop(broken);
    let out = Run::start(command(&world, program!("check"), &[&world.to_target()]), &world.path("runs"));
    assert!(out.finish().stdout.contains("the last good backup is "));
}

#[test]
fn unreadable_copy_is_not_reported_as_different() {
    if !is_able() {
        return;
    }
    let world = World::plain(Version::V35);
    let nfs = world.path("nfs");
    settings(&world, &format!("destinations: {{nfs: {{directory: {}, mount: none}}}}\n", nfs.display()));
    run(&world, "snapshot", &[]).failed(&[&format!("directory {} does not exist", nfs.display())]);
    let archive = world.in_target().into_iter().find(|name| name.ends_with(".tar.gz")).unwrap();
    let folder = nfs.join(format!("{:x}/m1", world.cluster_id()));
    fs::create_dir_all(&folder).unwrap();
    // An earlier run copied the archive and was killed before it recorded the upload.
    fs::copy(world.target().join(&archive), folder.join(&archive)).unwrap();
    for dir in [nfs.clone(), folder.parent().unwrap().to_owned(), folder.clone()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir, mode).unwrap();
    }
    let broken = mount::broken(&folder.join(&archive));
    let out = run(&world, "snapshot", &[]);
    assert!(!out.stderr.contains("holds a different"), "{}", out.describe());
    // The new archive is uploaded. The older one stays in the queue with the reason.
    let warning = out.completed().get("upload.warning");
    let reason = format!("reading back {archive}: reading back in {}: Input/output error", folder.display());
    assert!(warning.contains(&reason), "{warning}");
    drop(broken);
    assert!(run(&world, "snapshot", &[]).completed().get("destinations.nfs").starts_with("uploaded"));
}

#[test]
fn unreadable_manifest_next_to_an_archive_is_reported() {
    if !is_able() {
        return;
    }
    let world = World::plain(Version::V35);
    encrypt(&world, "");
    let archive = encryption::saved(&world);
    let broken = mount::broken(&manifest_next_to(&archive));
    let all = listed(&world);
    let reason = all[0]["unread"].as_str().unwrap_or_default();
    assert!(
        reason.contains("the manifest file next to it cannot be read: ")
            && reason.contains("Input/output error"),
        "{all:?}"
    );
    run(&world, "delete-snapshot", &[&format!("snapshot={}", name(&archive))]).refused(&["cannot be read"]);
    drop(broken);
    assert!(listed(&world)[0]["revision"].is_i64());
}
