//! The charm's hooks as a Juju unit runs them.
//!
//! Here etcd is the one of a site file, which the charm neither installs nor configures: what a hook does to a machine is
//! seen on machines of its own (`cargo xtask machines`).

use serde_json::json;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::unit::{Status, Unit};
use crate::common::world::{Setup, Version, World};

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hooks_report_the_health_of_the_member_and_its_version(version: Version) {
    let world = World::plain(version);
    world.fill();
    let unit = Unit::new(&world);
    let pid = world.pid();
    for hook in
        ["install", "config-changed", "start", "update-status", "upgrade-charm", "data-storage-attached"]
    {
        let hooked = unit.hook(hook);
        assert!(world.setup().version.bin_dir().to_string_lossy().contains(&hooked.version[..3]));
        hooked.says("active", &["1 member, healthy"]);
    }
    assert_eq!(world.pid(), pid, "etcd was restarted");
    world.stop();
    unit.hook("update-status").says("blocked", &["etcd is not serving", "nothing listens"]);
    assert!(!world.healthy(), "etcd was started behind somebody's back");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hooks_bring_an_unfinished_restore_to_its_end(version: Version) {
    for (at, word) in [(1, "undone"), (2, "restored")] {
        let world = World::plain(version);
        world.fill();
        let (saved, archive) = (world.dump(), world.saved());
        world.damage();
        let damaged = world.dump();
        let unit = Unit::new(&world);
        unit.attach(&archive);
        die_in_the_exchange(&world, &unit, at);
        // A line that Juju's log does not take keeps nothing from its end.
        unit.break_tools(&["juju-log"]);
        let hooked = unit.hook("start");
        hooked.says("active", &["1 member, healthy", "an interrupted restore was"]);
        let now = world.dump();
        match now == damaged {
            true => {}
            false => assert_same(&now, &saved, word),
        }
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        unit.hook("update-status").says("active", &["1 member, healthy"]);
    }
}

/// These lines of etcd tell their members to anybody; later ones say no, to who has not logged in and to who is known by
/// a certificate's name alone.
#[test]
fn hooks_see_that_an_etcd_serves_which_tells_them_nothing() {
    let world = World::new(Setup { tls: true, auth: true, ..Setup::plain(Version::V35) });
    let tools = world.stand_in_tools();
    let nobody = |text: String| text.replace("username: root\n", "").replace("password-file:", "#");
    world.set_site(&nobody(world.site_text(&world.path("tools"))));
    let unit = Unit::new(&world);
    unit.hook("update-status").says("active", &["1 member, healthy"]);
    for words in ["etcdserver: permission denied", "etcdserver: user name is empty"] {
        tools.answer("etcdctl *member*list*", "", &format!("Error: {words}\n"), 1);
        unit.hook("update-status").says("active", &["etcd is serving; more is unknown without its password"]);
    }
    tools.answer("etcdctl *member*list*", "", "Error: etcdserver: no leader\n", 1);
    unit.hook("update-status").says("blocked", &["etcd is not serving", "no leader"]);
}

/// Cancels a restore while the supervisor stops (1) or starts (2) etcd for it.
fn die_in_the_exchange(world: &World, unit: &Unit<'_>, at: usize) {
    let verb = if at == 1 { "stop" } else { "start" };
    let before = world.asked(verb);
    let task = unit.start("restore", &[&world.to_target(), "skip-backup=true"]);
    while world.asked(verb) == before {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(task.cancel().status, Status::Aborted);
}

#[test]
fn hooks_that_are_nothing_to_us_succeed_quietly() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    for hook in ["collect-metrics", "db-relation-joined", "secret-rotate", "pre-series-upgrade", "nonsense"] {
        let hooked = unit.hook(hook);
        assert_eq!(hooked.out.status.code(), Some(0), "{}", hooked.out.told());
        assert!(hooked.out.stdout.is_empty() && hooked.out.stderr.is_empty(), "{}", hooked.out.told());
        assert_eq!(unit.calls(), [] as [String; 0], "{hook}");
    }
}

#[test]
fn hooks_of_a_second_unit_touch_nothing() {
    let world = World::plain(Version::V35);
    world.fill();
    let still = crate::refusals::Still::of(&world);
    let unit = Unit::new(&world);
    unit.has_neighbours(&["etcd/0", "etcd/1", "etcd/10", "etcd/2"]);
    for hook in ["install", "config-changed", "start", "cluster-relation-joined", "update-status", "stop"] {
        unit.hook_as("etcd/1", hook)
            .says("blocked", &["only one unit is supported", "etcd/0 runs etcd", "juju remove-unit etcd/1"]);
        let touching =
            |call: &&String| !["goal-state", "status-set"].contains(&call.split(' ').next().unwrap());
        assert_eq!(unit.calls().iter().find(touching), None, "{hook}");
    }
    unit.hook("update-status").says("active", &["1 member, healthy"]);
    still.check("a second unit");
}

#[test]
fn hooks_of_a_unit_that_became_the_first_say_that_it_is_empty() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.hook("update-status").says("active", &["1 member, healthy"]);
    unit.has_neighbours(&["etcd/1", "etcd/2"]);
    unit.hook_as("etcd/1", "update-status").says("active", &["1 member, healthy, but empty", "restore"]);
    unit.hook_as("etcd/2", "update-status").says("blocked", &["etcd/1 runs etcd"]);
    world.fill();
    let hooked = unit.hook_as("etcd/1", "update-status");
    assert_eq!(hooked.status.as_deref(), Some("active 1 member, healthy"));
    // An answer that does not know who asks is no ground to begin anew.
    unit.has_neighbours(&[]);
    unit.hook_as("etcd/1", "update-status").says("blocked", &["goal-state does not list etcd/1"]);
}

#[test]
fn hooks_leave_data_alone_while_somebody_works_on_it() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    let held = std::fs::File::open(world.data_dir()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for hook in ["start", "config-changed", "update-status"] {
        unit.hook(hook).says("maintenance", &["is working on", "default.etcd"]);
    }
    drop(held);
    unit.hook("update-status").says("active", &["1 member, healthy"]);
}

#[test]
fn hooks_of_a_unit_that_goes_wait_for_whoever_works_on_the_data() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    for hook in ["stop", "remove"] {
        let held = std::fs::File::open(world.data_dir()).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            let going = scope.spawn(|| unit.hook(hook));
            std::thread::sleep(std::time::Duration::from_secs(2));
            assert!(!going.is_finished(), "{hook} did not wait");
            drop(held);
            // Of an etcd of ours it would now be said that it is stopped.
            going.join().unwrap().says("active", &["1 member, healthy"]);
        });
    }
}

#[test]
fn hooks_keep_others_from_the_data_to_their_end() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    world.stop();
    let data = std::fs::File::open(world.data_dir()).unwrap();
    let lock = || rustix::fs::flock(&data, rustix::fs::FlockOperation::NonBlockingLockShared);
    std::thread::scope(|scope| {
        // It waits for an etcd that does not serve, long after it has looked for an unfinished restore.
        let hook = scope.spawn(|| unit.hook("update-status"));
        let mut held = std::time::Duration::ZERO;
        while !hook.is_finished() {
            match lock() {
                Ok(()) => rustix::fs::flock(&data, rustix::fs::FlockOperation::Unlock).unwrap(),
                Err(_) => held += std::time::Duration::from_millis(20),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        hook.join().unwrap().says("blocked", &["etcd is not serving"]);
        assert!(held > std::time::Duration::from_secs(2), "the data was free after {held:?}");
    });
}

#[test]
fn hooks_never_fail_whatever_tool_is_broken() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.configure(&[("port", json!(0))]);
    for tool in ["goal-state", "config-get", "juju-log", "storage-list", "status-set"] {
        unit.break_tools(&[tool]);
        let hooked = unit.hook("install");
        assert_eq!(hooked.out.status.code(), Some(0), "{tool}: {}", hooked.out.told());
        hooked.out.is_in_good_order();
        match tool {
            "goal-state" => hooked.says("blocked", &["goal-state", "connection refused"]),
            "status-set" => {
                assert!(hooked.out.stderr.contains("could not set the status"), "{}", hooked.out.told())
            }
            _ => {}
        }
    }
}

/// The charm's own way, which looks at this machine. An option is wrong throughout: nothing is ever done to it. The tools that
/// are asked once etcd is the charm's own break on a machine of their own (`charm: one hook tool after the other broken`).
#[test]
fn hooks_without_a_site_never_fail_whatever_tool_is_broken() {
    // One that runs and is nobody's: else every unit of this machine is asked for one, each time.
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.configure(&[("port", json!(0))]);
    unit.has_storage(&world.path("storage"));
    let called = |tool: &str| unit.calls().iter().any(|call| call.split(' ').next() == Some(tool));
    for hook in ["install", "update-status"] {
        for tool in ["goal-state", "config-get", "storage-list", "storage-get"] {
            unit.break_tools(&[tool]);
            unit.hook_without_site(hook).says("blocked", &[tool, "connection refused"]);
            assert!(called(tool), "{hook} {tool}");
        }
        for tool in ["resource-get", "relation-ids", "status-set"] {
            unit.break_tools(&[tool]);
            let hooked = unit.hook_without_site(hook);
            match tool {
                "status-set" => {
                    assert!(hooked.out.stderr.contains("option port is 0"), "{}", hooked.out.told())
                }
                _ => hooked.says("blocked", &["option port is 0"]),
            }
            assert_eq!(hooked.out.status.code(), Some(0), "{hook} {tool}");
            assert!(!hooked.out.stderr.contains("panicked"), "{}", hooked.out.told());
        }
    }
    unit.break_tools(&[]);
    unit.hook_without_site("install").says("blocked", &["option port is 0", "juju config"]);
    assert!(!world.path("storage").exists(), "a directory was made for a wrong option");
}

#[test]
fn dispatch_is_the_action_itself() {
    let world = World::plain(Version::V35);
    let tools = world.stand_in_tools();
    tools.hang("etcdctl *snapshot*save*");
    let unit = Unit::new(&world);
    let task = unit.start("snapshot", &[&world.to_target()]);
    crate::broken_tools::await_call(&tools, "save", task.run());
    // `juju cancel-task` kills the process that Juju started, and no other: that must be the action.
    let exe = std::fs::read_link(format!("/proc/{}/exe", task.run().pid())).unwrap();
    assert_eq!(exe.file_name().unwrap(), "snapshot");
    assert_eq!(task.cancel().status, Status::Aborted);
    crate::broken_tools::assert_all_gone(&tools);
}

#[test]
fn dispatch_says_what_it_does_not_know() {
    let world = World::prepare(crate::common::world::Setup::plain(Version::V35));
    let unit = Unit::new(&world);
    for (path, reason) in [
        ("actions/none", "No such file"),
        ("actions/../bin/reconcile", "names neither a hook nor an action"),
        ("actions/", "names neither a hook nor an action"),
        ("", "names neither a hook nor an action"),
    ] {
        let mut command = unit.command("snapshot");
        command.env("JUJU_DISPATCH_PATH", path);
        let out = crate::common::command::Run::start(command, &world.path("runs")).finish();
        assert_eq!(out.status.code(), Some(1), "{path}: {}", out.told());
        out.says_one_of(&[reason]);
    }
}
