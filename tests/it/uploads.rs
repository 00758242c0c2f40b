//! Slow uploads: other actions run at the same time, and the upload queue stays consistent.

use std::fs;
use std::path::PathBuf;

use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::s3::{Fault, Faults, Server};
use crate::common::world::{Version, World};
use crate::destinations::{archives, command, snapshot, waiting, write_destinations};
use crate::runs::wait_until;

/// Starts a snapshot whose upload hangs for `millis`.
fn start_hanging_upload(version: Version, millis: u64) -> (World, Server, Faults, Run) {
    let world = World::plain(version);
    world.fill();
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    faults.inject("PUT", "", Fault::Late(millis), 1);
    let run = Run::start(command(&world), &world.path("runs"));
    while faults.seen("PUT", "").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (world, server, faults, run)
}

#[test]
fn a_hanging_upload_does_not_block_other_actions() {
    let (world, _server, faults, mut first) = start_hanging_upload(Version::V35, 120_000);
    let archive = format!("snapshot={}", world.target().join(&archives(&world)[0]).display());
    let planned = world.restore(&[&world.to_target(), &archive, "plan=true"]).completed();
    assert_eq!(planned.get("plan.revision"), world.revision().to_string());
    let out = snapshot(&world);
    assert!(out.stdout.contains("verified: 'true'"), "{}", out.describe());
    let pid = format!("(pid {})", first.pid());
    out.failed(&["uploading to offsite: ", &pid, "complete and verified", "wait for it to end"]);
    assert_eq!((archives(&world).len(), waiting(&world).len()), (2, 2));
    assert!(!first.ended(), "the first upload ended early");
    // A kill releases the upload lock, and the next run uploads all pending archives.
    let _ = first.kill();
    faults.clear();
    let results = snapshot(&world).completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (3 archives)");
    assert!(waiting(&world).is_empty());
}

#[test]
fn an_upload_includes_archives_queued_by_other_runs() {
    let (world, _server, faults, first) = start_hanging_upload(Version::V35, 4000);
    snapshot(&world).failed(&["uploading to offsite: "]);
    let results = first.finish().completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (2 archives)");
    assert!(waiting(&world).is_empty());
    let put = archives(&world).iter().filter(|name| faults.seen("PUT", name.as_str()).len() == 1).count();
    assert_eq!(put, 2, "each archive must be uploaded once");
}

/// Writes settings with directories of these names as destinations.
fn write_directories(world: &World, all: &[&str], more: &str) {
    let mut text = format!("{more}destinations:\n");
    for name in all {
        let directory = destination_dir(world, name).display().to_string();
        text += &format!("  {name}:\n    directory: {directory}\n    mount: none\n");
    }
    fs::write(world.path("backup.yaml"), text).unwrap();
}

fn destination_dir(world: &World, name: &str) -> PathBuf {
    world.path(&format!("shelf-{}", &name[..1]))
}

/// Returns the names of the archives in a destination. They are in a folder per cluster and per member.
fn uploaded_archives(world: &World, name: &str) -> Vec<String> {
    let below = |dir: &PathBuf| names(dir).into_iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    let members = below(&destination_dir(world, name)).iter().flat_map(below).collect::<Vec<_>>();
    members.iter().flat_map(|dir| names(dir)).filter(|name| name.ends_with(".tar.gz")).collect()
}

/// Starts a scheduled backup and returns it between its first and its second try.
fn between_two_tries(world: &World) -> Run {
    let mut command = world.action(program!("backup"), &[&world.to_target(), "scheduled=true"]);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    let run = Run::start(command, &world.path("runs"));
    wait_until("a failed try", || run.stderr_so_far().contains("trying again in "));
    run
}

const WITH_ONE_RETRY: &str = "keep: {last: 1}\nschedule: {when: every 12h, retries: 1, retry-after: 3s}\n";

/// Creates a file at the path of the queue directory. As on a full disk, no upload can be queued.
fn without_a_queue(world: &World) -> PathBuf {
    let queue = world.target().join(".uploads");
    fs::create_dir_all(world.target()).unwrap();
    fs::write(&queue, "").unwrap();
    queue
}

#[test]
fn the_next_try_queues_an_archive_that_could_not_be_queued() {
    let world = World::plain(Version::V35);
    write_directories(&world, &["shelf"], WITH_ONE_RETRY);
    fs::create_dir(destination_dir(&world, "shelf")).unwrap();
    let queue = without_a_queue(&world);
    let run = between_two_tries(&world);
    assert!(run.stderr_so_far().contains("could not be queued"), "{}", run.stderr_so_far());
    fs::remove_file(queue).unwrap();
    let results = run.finish().completed();
    assert_eq!(results.get("destinations.shelf"), "uploaded");
    assert_eq!(uploaded_archives(&world, "shelf"), archives(&world));
}

#[test]
fn an_archive_deleted_before_its_upload_is_not_uploaded() {
    let world = World::plain(Version::V35);
    let old = world.saved();
    write_directories(&world, &["shelf"], WITH_ONE_RETRY);
    let run = between_two_tries(&world);
    let new = archives(&world).into_iter().map(|name| world.target().join(name)).find(|path| *path != old);
    fs::remove_file(new.unwrap()).unwrap();
    fs::create_dir(destination_dir(&world, "shelf")).unwrap();
    let out = run.finish();
    assert!(!out.stdout.contains("shelf: uploaded"), "{}", out.describe());
    out.failed(&["uploading to shelf: ", "was deleted before it was uploaded", "takes a new one"]);
    assert!(old.exists(), "retention ran after a failed backup");
    assert!(waiting(&world).is_empty() && uploaded_archives(&world, "shelf").is_empty());
}

fn assert_must_be_copied(out: Out, world: &World, destination: &str) {
    let path = world.target().join(&archives(world)[0]).display().to_string();
    assert!(out.stdout.contains("not queued: "), "{}", out.describe());
    out.failed(&[
        &format!("uploading to {destination}: it could not be queued: "),
        "complete and verified",
        "it is NOT queued",
        "copy it by hand: `scp ",
        &path,
    ]);
}

#[test]
fn an_upload_that_cannot_be_queued_must_be_copied_manually() {
    let world = World::plain(Version::V35);
    write_directories(&world, &["shelf"], "");
    fs::create_dir(destination_dir(&world, "shelf")).unwrap();
    let _ = without_a_queue(&world);
    assert_must_be_copied(snapshot(&world), &world, "shelf");
}

/// The destination's name is so long that the name of the queue entry exceeds the limit.
#[test]
fn a_queue_failure_of_one_destination_affects_no_other() {
    let world = World::plain(Version::V35);
    let long = "l".repeat(230);
    write_directories(&world, &[&long, "shelf"], "");
    for name in [&long, "shelf"] {
        fs::create_dir(destination_dir(&world, name)).unwrap();
    }
    let out = snapshot(&world);
    assert!(out.stdout.contains("shelf: uploaded"), "{}", out.describe());
    assert_eq!(
        (uploaded_archives(&world, "shelf"), uploaded_archives(&world, &long).len()),
        (archives(&world), 0)
    );
    assert_must_be_copied(out, &world, &long);
}
