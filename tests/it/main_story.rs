//! The main story on the oldest and the newest supported etcd: snapshot, verification with a drill, restore in place,
//! and restore of data of the oldest etcd.

use std::fs;

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::world::{Version, World};
use crate::list_snapshots::run_action;
use crate::restore::from;

#[test_case(Version::V34; "on_the_oldest_etcd")]
#[test_case(Version::Newest; "on_the_newest_etcd")]
fn the_main_story(version: Version) {
    eprintln!("etcd {}", version.number());
    let world = World::plain(version);
    world.fill();
    let (saved, revision) = (world.dump(), world.revision());
    let archive = world.saved();
    let verified = run_action(&world, "verify-snapshot", &[&world.to_target(), "drill=true"]).completed();
    assert_eq!(verified.get("verify.failed"), "0", "{}", verified.out.describe());

    world.damage();
    let served = world.revision();
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "restored in place");
    let expected = if version.can_bump() { served } else { revision };
    assert!(world.revision() >= expected, "{} {}", world.revision(), results.out.describe());
    assert_eq!(world.members().len(), 1);

    // The older data comes from another cluster.
    let old = World::plain(Version::V34);
    old.fill();
    old.put(0..3, "of the oldest etcd");
    let (saved, archive) = (old.dump(), world.path("target-of-old.tar.gz"));
    fs::copy(old.saved(), &archive).unwrap();
    let _ = world.restore(&[&from(&archive), &world.to_target(), "allow-foreign=true"]).completed();
    assert_same(&world.dump(), &saved, "data of the oldest etcd");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    // etcd starts again on it, as after a reboot.
    world.stop();
    world.start();
    assert_same(&world.dump(), &saved, "after a restart");
    assert_eq!(world.members().len(), 1);
}
