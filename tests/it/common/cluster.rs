//! Clusters that the actions must refuse.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::world::{Setup, Version, World};

/// Starts a cluster of three members, `m1`, `m2` and `m3`.
pub fn of_three(version: Version) -> Vec<World> {
    let members = ["m1", "m2", "m3"].map(|name| World::prepare(Setup { name, ..Setup::plain(version) }));
    let initial = members.each_ref().map(World::as_initial_member).join(",");
    for member in &members {
        member.write_command_line(&initial, "new");
        member.launch();
    }
    for member in &members {
        member.start();
    }
    members.into()
}

/// Starts a voter and a learner `m2`. The learner does not answer clients.
pub fn with_learner(version: Version) -> (World, World) {
    let voter = World::plain(version);
    let learner = World::prepare(Setup { name: "m2", ..Setup::plain(version) });
    add_member(&voter, &learner, &["--learner"]);
    learner.write_command_line(
        &format!("{},{}", voter.as_initial_member(), learner.as_initial_member()),
        "existing",
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while !learner.listening() {
        assert!(Instant::now() < deadline, "the learner does not start: {}", learner.log());
        // The learner exits if the voter has not yet decided the version of the cluster.
        if !learner.running() {
            learner.launch();
        }
        sleep(Duration::from_millis(20));
    }
    (voter, learner)
}

/// Starts a voter, and adds a learner that never starts.
pub fn with_unstarted_learner(version: Version) -> World {
    let voter = World::plain(version);
    add_member(&voter, &World::prepare(Setup::plain(version)), &["--learner"]);
    voter
}

/// Adds a second voter that never starts. Without a quorum, the cluster loses its leader and answers only
/// serializable requests.
pub fn lose_quorum(world: &World) {
    let ghost = World::prepare(Setup::plain(Version::V34));
    add_member(world, &ghost, &[]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.healthy() {
        assert!(Instant::now() < deadline, "the cluster still has a quorum");
        sleep(Duration::from_millis(50));
    }
}

fn add_member(world: &World, member: &World, flags: &[&str]) {
    let peer = format!("--peer-urls={}", member.peer_url());
    world.etcdctl(&[&["member", "add", "m2", &peer], flags].concat());
}
