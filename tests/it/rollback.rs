//! When the service or etcd's tools fail under `restore`, the old data serves again, and the words say so.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::broken_tools::assert_all_gone;
use crate::client::{Data, assert_same};
use crate::refusals::Still;
use crate::restore::from;
use crate::run::Out;
use crate::world::{Version, World};

on_both_versions! {
    goes_back_or_on_when_one_start_fails,
    keeps_the_old_data_when_nothing_starts_any_more,
    touches_nothing_when_the_stop_fails,
    touches_nothing_when_the_stop_is_a_lie,
    touches_nothing_when_a_tool_fails,
    touches_nothing_when_a_tool_is_missing,
}

on_one_version! {
    goes_back_when_the_new_data_does_not_start,
    goes_back_when_the_start_is_a_lie,
    ends_although_the_stop_hangs,
    touches_nothing_when_a_tool_hangs,
}

/// An etcd whose data was damaged after an archive of it was taken.
pub struct Ground {
    pub world: World,
    pub archive: PathBuf,
    pub old: Data,
    new: Data,
}

impl Ground {
    pub fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.saved());
        world.damage();
        let old = world.dump();
        Self { world, archive, old, new }
    }

    pub fn restore(&self) -> Out {
        self.world.restore(&[&from(&self.archive), &self.world.to_target()])
    }

    /// The old data serves, and nothing but archives is left over.
    fn serves_old(&self) {
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        assert!(self.world.healthy());
        assert_same(&self.world.dump(), &self.old, "after the failure");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
        assert_eq!(self.world.processes().len(), 1);
    }

    /// And once the cause is gone, the same command does it.
    fn restores_now(&self) {
        let _ = self.restore().completed();
        assert_same(&self.world.dump(), &self.new, "once the cause was gone");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
    }
}

fn goes_back_when_the_new_data_does_not_start(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("only-tree", ground.world.tree());
    let out = ground.restore();
    out.says_one_of(&["old data", "rolled back", "as before", "existing data"]);
    out.failed(&["start"]);
    ground.serves_old();
    ground.world.disarm("only-tree");
    ground.restores_now();
}

fn goes_back_or_on_when_one_start_fails(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("start-fails", 1);
    let out = ground.restore();
    if out.status.success() {
        let _ = out.completed();
        assert_same(&ground.world.dump(), &ground.new, "after a second start");
        return;
    }
    out.failed(&["told to fail this start"]);
    ground.serves_old();
    ground.restores_now();
}

fn goes_back_when_the_start_is_a_lie(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("start-lies", 1);
    let out = ground.restore();
    if out.status.success() {
        let _ = out.completed();
        assert_same(&ground.world.dump(), &ground.new, "after a second start");
        return;
    }
    out.failed(&["start", "answer", "connection refused"]);
    ground.serves_old();
    ground.restores_now();
}

/// Neither tree starts. The old one lies at its place, whole, and the words say what to do.
fn keeps_the_old_data_when_nothing_starts_any_more(version: Version) {
    let ground = Ground::new(version);
    let tree = ground.world.tree();
    ground.world.arm("start-fails", 999);
    ground.restore().failed(&["told to fail this start"]);
    assert!(!ground.world.running());
    ground.world.disarm("start-fails");
    ground.world.start();
    assert_eq!(ground.world.tree(), tree);
    assert_same(&ground.world.dump(), &ground.old, "started by hand");
    ground.restores_now();
}

fn touches_nothing_when_the_stop_fails(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("stop-fails", "");
    ground.restore().failed(&["told to fail this stop"]);
    ground.serves_old();
    ground.world.disarm("stop-fails");
    ground.restores_now();
}

fn touches_nothing_when_the_stop_is_a_lie(version: Version) {
    let ground = Ground::new(version);
    let (tree, pid) = (ground.world.tree(), ground.world.pid());
    ground.world.arm("stop-lies", "");
    ground.restore().failed(&["still", "not stop", "lock", "running"]);
    assert_eq!((ground.world.tree(), ground.world.pid()), (tree, pid));
    ground.serves_old();
    ground.world.disarm("stop-lies");
    ground.restores_now();
}

fn ends_although_the_stop_hangs(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("stop-hangs", "");
    let args = [from(&ground.archive), ground.world.to_target()];
    let run = ground.world.start_restore(&args.each_ref().map(String::as_str));
    run.finish_within(Duration::from_secs(330)).failed(&["stop"]);
    ground.serves_old();
    ground.world.disarm("stop-hangs");
    ground.restores_now();
}

fn touches_nothing_when_a_tool_fails(version: Version) {
    let ground = Ground::new(version);
    let tools = ground.world.stand_in_tools();
    let still = Still::of(&ground.world);
    for (pattern, reason) in [
        ("*snapshot*restore*", "the disk ate it"),
        ("etcd --*", "the disk ate it"),
        ("*hashkv*", "the disk ate it"),
        ("*member*list*", "the disk ate it"),
    ] {
        tools.answer(pattern, "", "Error: the disk ate it\n", 4);
        let out = ground.restore();
        assert!(matches!(out.status.code(), Some(1 | 2)), "{pattern}: {}", out.told());
        out.says_one_of(&[reason]);
        // A backup that was finished before the failure may stay: it is whole.
        for name in ground.world.in_target() {
            assert!(crate::snapshot::is_archive_name(&name), "{pattern}: {name}");
        }
        assert!(ground.world.running());
        assert_same(&ground.world.dump(), &ground.old, pattern);
        assert!(ground.world.leftovers().is_empty(), "{pattern}: {:?}", ground.world.leftovers());
    }
    // One that spoils what it makes.
    tools.answer("*snapshot*restore*", "", "", 0);
    let out = ground.restore();
    assert_eq!(out.status.code(), Some(1), "{}", out.told());
    still.check("a restore tool that makes nothing");
    for pattern in ["*snapshot*restore*", "etcd --*"] {
        tools.die(pattern);
        ground.restore().failed(&["signal", "killed"]);
        still.check(pattern);
    }
    let _ = fs::remove_file(ground.world.path("tools/fault"));
    ground.restores_now();
}

fn touches_nothing_when_a_tool_hangs(version: Version) {
    let ground = Ground::new(version);
    let tools = ground.world.stand_in_tools();
    let still = Still::of(&ground.world);
    let args = [from(&ground.archive), ground.world.to_target()];
    tools.hang("etcd --*");
    let run = ground.world.start_restore(&args.each_ref().map(String::as_str));
    let out = run.finish_within(Duration::from_secs(330));
    assert_eq!(out.status.code(), Some(1), "{}", out.told());
    still.check("a proof that hangs");
    assert_all_gone(&tools);
}

fn touches_nothing_when_a_tool_is_missing(version: Version) {
    let ground = Ground::new(version);
    let still = Still::of(&ground.world);
    let tools = ground.world.stand_in_tools();
    tools.remove("etcd");
    let out = ground.restore();
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.told());
    out.says_one_of(&["etcd is", "no etcd", "/etcd"]);
    still.check("no etcd to prove with");
    tools.remove("etcdctl");
    let out = ground.restore();
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.told());
    out.says_one_of(&["etcdctl"]);
    still.check("no etcdctl");
}
