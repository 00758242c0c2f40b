//! Uploads that take their time, and what others may do meanwhile.

use crate::destinations::{archives, command, snapshot, waiting, write_destinations};
use crate::run::Run;
use crate::s3::{Fault, Faults, Server};
use crate::world::{Version, World};

on_one_version! {
    a_destination_that_hangs_keeps_nobody_from_the_data,
    who_uploads_sends_what_others_put_in_meanwhile,
}

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

fn a_destination_that_hangs_keeps_nobody_from_the_data(version: Version) {
    let (world, _server, faults, mut first) = hung(version, 120_000);
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

fn who_uploads_sends_what_others_put_in_meanwhile(version: Version) {
    let (world, _server, faults, first) = hung(version, 4000);
    snapshot(&world).failed(&["uploading to offsite: "]);
    let results = first.finish().completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (2 archives)");
    assert!(waiting(&world).is_empty());
    let put = archives(&world).iter().filter(|name| faults.seen("PUT", name.as_str()).len() == 1).count();
    assert_eq!(put, 2, "each of them once");
}
