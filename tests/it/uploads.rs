//! Uploads that take their time, and what others may do meanwhile.

use std::fs;
use std::path::PathBuf;

use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::s3::{Fault, Faults, Server};
use crate::common::world::{Version, World};
use crate::destinations::{archives, command, snapshot, waiting, write_destinations};
use crate::runs::until;

/// A destination that stands still, with an upload on its way to it.
fn hung(version: Version, millis: u64) -> (World, Server, Faults, Run) {
    let world = World::plain(version);
    world.fill();
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    faults.make("PUT", "", Fault::Late(millis), 1);
    let run = Run::start(command(&world), &world.path("runs"));
    while faults.seen("PUT", "").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (world, server, faults, run)
}

#[test]
fn a_destination_that_hangs_keeps_nobody_from_the_data() {
    let (world, _server, faults, mut first) = hung(Version::V35, 120_000);
    let archive = format!("snapshot={}", world.target().join(&archives(&world)[0]).display());
    let planned = world.restore(&[&world.to_target(), &archive, "plan=true"]).completed();
    assert_eq!(planned.get("plan.revision"), world.revision().to_string());
    let out = snapshot(&world);
    assert!(out.stdout.contains("verified: 'true'"), "{}", out.told());
    let pid = format!("(pid {})", first.pid());
    out.failed(&["uploading to offsite: ", &pid, "complete and verified", "wait for it to end"]);
    assert_eq!((archives(&world).len(), waiting(&world).len()), (2, 2));
    assert!(!first.ended(), "it is still at it");
    // The lock goes with its holder, and then the next run sends all.
    let _ = first.kill();
    faults.none();
    let results = snapshot(&world).completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (3 archives)");
    assert!(waiting(&world).is_empty());
}

#[test]
fn who_uploads_sends_what_others_put_in_meanwhile() {
    let (world, _server, faults, first) = hung(Version::V35, 4000);
    snapshot(&world).failed(&["uploading to offsite: "]);
    let results = first.finish().completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (2 archives)");
    assert!(waiting(&world).is_empty());
    let put = archives(&world).iter().filter(|name| faults.seen("PUT", name.as_str()).len() == 1).count();
    assert_eq!(put, 2, "each of them once");
}

/// Directories as destinations, of these names.
fn write_directories(world: &World, all: &[&str], more: &str) {
    let mut text = format!("{more}destinations:\n");
    for name in all {
        let directory = shelf(world, name).display().to_string();
        text += &format!("  {name}:\n    directory: {directory}\n    mount: none\n");
    }
    fs::write(world.path("backup.yaml"), text).unwrap();
}

fn shelf(world: &World, name: &str) -> PathBuf {
    world.path(&format!("shelf-{}", &name[..1]))
}

/// The archives that a destination has: in it is a folder of the cluster, and in that one of the member.
fn arrived(world: &World, name: &str) -> Vec<String> {
    let below = |dir: &PathBuf| names(dir).into_iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    let members = below(&shelf(world, name)).iter().flat_map(below).collect::<Vec<_>>();
    members.iter().flat_map(|dir| names(dir)).filter(|name| name.ends_with(".tar.gz")).collect()
}

/// A backup by the clock, at rest between its first try and its second.
fn between_two_tries(world: &World) -> Run {
    let mut command = world.action(program!("backup"), &[&world.to_target(), "scheduled=true"]);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    let run = Run::start(command, &world.path("runs"));
    until("a try that failed", || run.stderr_so_far().contains("trying again in "));
    run
}

const TWICE: &str = "keep: {last: 1}\nschedule: {when: every 12h, retries: 1, retry-after: 3s}\n";

/// A file where the queue is to be: nothing can be put in, as on a full disk.
fn without_a_queue(world: &World) -> PathBuf {
    let queue = world.target().join(".uploads");
    fs::create_dir_all(world.target()).unwrap();
    fs::write(&queue, "").unwrap();
    queue
}

#[test]
fn an_archive_that_could_not_be_queued_is_queued_by_the_next_try() {
    let world = World::plain(Version::V35);
    write_directories(&world, &["shelf"], TWICE);
    fs::create_dir(shelf(&world, "shelf")).unwrap();
    let queue = without_a_queue(&world);
    let run = between_two_tries(&world);
    assert!(run.stderr_so_far().contains("could not be queued"), "{}", run.stderr_so_far());
    fs::remove_file(queue).unwrap();
    let results = run.finish().completed();
    assert_eq!(results.get("destinations.shelf"), "uploaded");
    assert_eq!(arrived(&world, "shelf"), archives(&world));
}

#[test]
fn one_that_was_deleted_before_it_got_there_is_not_called_uploaded() {
    let world = World::plain(Version::V35);
    let old = world.saved();
    write_directories(&world, &["shelf"], TWICE);
    let run = between_two_tries(&world);
    let new = archives(&world).into_iter().map(|name| world.target().join(name)).find(|path| *path != old);
    fs::remove_file(new.unwrap()).unwrap();
    fs::create_dir(shelf(&world, "shelf")).unwrap();
    let out = run.finish();
    assert!(!out.stdout.contains("uploaded"), "{}", out.told());
    out.failed(&["uploading to shelf: ", "was deleted before it got there", "run it again"]);
    assert!(old.exists(), "retention comes after a good backup alone");
    assert!(waiting(&world).is_empty() && arrived(&world, "shelf").is_empty());
}

fn is_to_be_copied(out: Out, world: &World, destination: &str) {
    let path = world.target().join(&archives(world)[0]).display().to_string();
    assert!(out.stdout.contains("not queued: "), "{}", out.told());
    out.failed(&[
        &format!("uploading to {destination}: it could not be queued: "),
        "complete and verified",
        "it is NOT queued",
        "copy it by hand: `scp ",
        &path,
    ]);
}

#[test]
fn one_that_is_not_queued_is_to_be_copied_by_hand() {
    let world = World::plain(Version::V35);
    write_directories(&world, &["shelf"], "");
    fs::create_dir(shelf(&world, "shelf")).unwrap();
    let _ = without_a_queue(&world);
    is_to_be_copied(snapshot(&world), &world, "shelf");
}

/// One whose name makes that of the file in the queue too long.
#[test]
fn a_queue_that_cannot_be_kept_for_one_destination_hides_nothing_of_the_others() {
    let world = World::plain(Version::V35);
    let long = "l".repeat(230);
    write_directories(&world, &[&long, "shelf"], "");
    for name in [&long, "shelf"] {
        fs::create_dir(shelf(&world, name)).unwrap();
    }
    let out = snapshot(&world);
    assert!(out.stdout.contains("shelf: uploaded"), "{}", out.told());
    assert_eq!((arrived(&world, "shelf"), arrived(&world, &long).len()), (archives(&world), 0));
    is_to_be_copied(out, &world, &long);
}
