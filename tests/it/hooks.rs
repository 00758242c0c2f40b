//! The charm's hooks in a Juju unit.
//!
//! Here etcd is described by a site file, and the charm neither installs nor configures it. The effects of
//! hooks on a machine are tested by `cargo xtask machines`.

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
        let run = unit.hook(hook);
        assert!(world.setup().version.bin_dir().to_string_lossy().contains(&run.version[..3]));
        run.assert_status("active", &["1 member, healthy"]);
    }
    assert_eq!(world.pid(), pid, "etcd was restarted");
    world.stop();
    unit.hook("update-status").assert_status("blocked", &["etcd is not serving", "nothing listens"]);
    assert!(!world.healthy(), "etcd was started although an operator had stopped it");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hooks_recover_an_interrupted_restore(version: Version) {
    for (at, outcome) in [(1, "rolled back"), (2, "completed")] {
        let world = World::plain(version);
        world.fill();
        let (saved, archive) = (world.dump(), world.saved());
        world.damage();
        let damaged = world.dump();
        let unit = Unit::new(&world);
        unit.attach(&archive);
        cancel_during_exchange(&world, &unit, at);
        // A failing log does not prevent the recovery.
        unit.break_tools(&["juju-log"]);
        let run = unit.hook("start");
        run.assert_status("active", &["1 member, healthy", "an interrupted restore was"]);
        let now = world.dump();
        match now == damaged {
            true => {}
            false => assert_same(&now, &saved, outcome),
        }
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
    }
}

/// etcd 3.4 and 3.5 show their members to everyone. Later versions refuse clients without login, and clients
/// that are known only by the name in their certificate.
#[test]
fn hooks_accept_an_etcd_that_requires_a_login() {
    let world = World::new(Setup { tls: true, auth: true, ..Setup::plain(Version::V35) });
    let tools = world.stand_in_tools();
    let without_login = |text: String| text.replace("username: root\n", "").replace("password-file:", "#");
    world.set_site(&without_login(world.site_text(&world.path("tools"))));
    let unit = Unit::new(&world);
    unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
    for error in ["etcdserver: permission denied", "etcdserver: user name is empty"] {
        tools.answer("etcdctl *member*list*", "", &format!("Error: {error}\n"), 1);
        unit.hook("update-status")
            .assert_status("active", &["etcd is serving; more is unknown without its password"]);
    }
    tools.answer("etcdctl *member*list*", "", "Error: etcdserver: no leader\n", 1);
    unit.hook("update-status").assert_status("blocked", &["etcd is not serving", "no leader"]);
}

/// Cancels a restore while the supervisor stops (1) or starts (2) etcd for it.
fn cancel_during_exchange(world: &World, unit: &Unit<'_>, at: usize) {
    let verb = if at == 1 { "stop" } else { "start" };
    let before = world.request_count(verb);
    let task = unit.start("restore", &[&world.to_target(), "skip-backup=true"]);
    while world.request_count(verb) == before {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(task.cancel().status, Status::Aborted);
}

#[test]
fn hooks_that_the_charm_ignores_succeed_quietly() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    for hook in
        ["collect-metrics", "website-relation-joined", "secret-rotate", "pre-series-upgrade", "nonsense"]
    {
        let run = unit.hook(hook);
        assert_eq!(run.out.status.code(), Some(0), "{}", run.out.describe());
        assert!(run.out.stdout.is_empty() && run.out.stderr.is_empty(), "{}", run.out.describe());
        assert_eq!(unit.calls(), [] as [String; 0], "{hook}");
    }
}

#[test]
fn hooks_of_a_second_unit_change_nothing() {
    let world = World::plain(Version::V35);
    world.fill();
    let state = crate::refusals::WorldState::record(&world);
    let unit = Unit::new(&world);
    unit.set_units(&["etcd/0", "etcd/1", "etcd/10", "etcd/2"]);
    for hook in ["install", "config-changed", "start", "cluster-relation-joined", "update-status", "stop"] {
        unit.hook_as("etcd/1", hook).assert_status(
            "blocked",
            &["only one unit is supported", "etcd/0 runs etcd", "juju remove-unit etcd/1"],
        );
        let allowed = ["goal-state", "relation-ids", "status-set"];
        let other = |call: &&String| !allowed.contains(&call.split(' ').next().unwrap());
        assert_eq!(unit.calls().iter().find(other), None, "{hook}");
    }
    unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
    state.assert_unchanged("a second unit");
}

#[test]
fn hooks_of_a_unit_that_became_first_report_an_empty_etcd() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
    unit.set_units(&["etcd/1", "etcd/2"]);
    unit.hook_as("etcd/1", "update-status")
        .assert_status("active", &["1 member, healthy, but empty", "restore"]);
    unit.hook_as("etcd/2", "update-status").assert_status("blocked", &["etcd/1 runs etcd"]);
    world.fill();
    let run = unit.hook_as("etcd/1", "update-status");
    assert_eq!(run.status.as_deref(), Some("active 1 member, healthy"));
    // If goal-state does not list the unit itself, its answer is not trusted.
    unit.set_units(&[]);
    unit.hook_as("etcd/1", "update-status").assert_status("blocked", &["goal-state does not list etcd/1"]);
}

#[test]
fn hooks_do_not_touch_locked_data() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    let held = std::fs::File::open(world.data_dir()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for hook in ["start", "config-changed", "update-status"] {
        unit.hook(hook).assert_status("maintenance", &["is working on", "default.etcd"]);
    }
    drop(held);
    unit.hook("update-status").assert_status("active", &["1 member, healthy"]);
}

#[test]
fn hooks_that_remove_the_unit_or_its_storage_wait_for_locked_data() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    for hook in ["stop", "remove", "data-storage-detaching"] {
        let held = std::fs::File::open(world.data_dir()).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| unit.hook(hook));
            std::thread::sleep(std::time::Duration::from_secs(2));
            assert!(!run.is_finished(), "{hook} did not wait");
            drop(held);
            // Only the charm's own etcd is stopped, not that of a site file.
            run.join().unwrap().assert_status("active", &["1 member, healthy"]);
        });
    }
}

#[test]
fn hooks_hold_the_lock_to_their_end() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    world.stop();
    let data = std::fs::File::open(world.data_dir()).unwrap();
    let lock = || rustix::fs::flock(&data, rustix::fs::FlockOperation::NonBlockingLockShared);
    std::thread::scope(|scope| {
        // The hook waits for an etcd that does not respond, long after it has looked for an interrupted
        // restore.
        let hook = scope.spawn(|| unit.hook("update-status"));
        let mut held = std::time::Duration::ZERO;
        while !hook.is_finished() {
            match lock() {
                Ok(()) => rustix::fs::flock(&data, rustix::fs::FlockOperation::Unlock).unwrap(),
                Err(_) => held += std::time::Duration::from_millis(20),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        hook.join().unwrap().assert_status("blocked", &["etcd is not serving"]);
        assert!(held > std::time::Duration::from_secs(2), "the data was free after {held:?}");
    });
}

#[test]
fn hooks_never_fail_if_a_tool_is_broken() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.configure(&[("port", json!(0))]);
    for tool in ["goal-state", "config-get", "juju-log", "storage-list", "status-set"] {
        unit.break_tools(&[tool]);
        let run = unit.hook("install");
        assert_eq!(run.out.status.code(), Some(0), "{tool}: {}", run.out.describe());
        run.out.assert_no_panic();
        match tool {
            "goal-state" => run.assert_status("blocked", &["goal-state", "connection refused"]),
            "status-set" => {
                assert!(run.out.stderr.contains("could not set the status"), "{}", run.out.describe())
            }
            _ => {}
        }
    }
}

/// Without a site file, the charm inspects this computer. An invalid option prevents any change. `cargo xtask
/// machines` tests the tools that are used only for the charm's own etcd, with each hook tool broken in turn.
#[test]
fn hooks_without_a_site_never_fail_if_a_tool_is_broken() {
    // With a running etcd, the charm does not search every systemd unit of this computer.
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.configure(&[("port", json!(0))]);
    unit.attach_storage(&world.path("storage"));
    let called = |tool: &str| unit.calls().iter().any(|call| call.split(' ').next() == Some(tool));
    for hook in ["install", "update-status"] {
        for tool in ["goal-state", "config-get", "storage-list", "storage-get"] {
            unit.break_tools(&[tool]);
            unit.hook_without_site(hook).assert_status("blocked", &[tool, "connection refused"]);
            assert!(called(tool), "{hook} {tool}");
        }
        for tool in ["resource-get", "relation-ids", "status-set"] {
            unit.break_tools(&[tool]);
            let run = unit.hook_without_site(hook);
            match tool {
                "status-set" => {
                    assert!(run.out.stderr.contains("option port is 0"), "{}", run.out.describe())
                }
                _ => run.assert_status("blocked", &["option port is 0"]),
            }
            assert_eq!(run.out.status.code(), Some(0), "{hook} {tool}");
            assert!(!run.out.stderr.contains("panicked"), "{}", run.out.describe());
        }
    }
    unit.break_tools(&[]);
    unit.hook_without_site("install").assert_status("blocked", &["option port is 0", "juju config"]);
    assert!(!world.path("storage").exists(), "a directory was created in spite of an invalid option");
}

#[test]
fn dispatch_executes_the_action() {
    let world = World::plain(Version::V35);
    let tools = world.stand_in_tools();
    tools.hang("etcdctl *snapshot*save*");
    let unit = Unit::new(&world);
    let task = unit.start("snapshot", &[&world.to_target()]);
    crate::broken_tools::await_call(&tools, "save", task.run());
    // `juju cancel-task` kills only the process that Juju started: that must be the action.
    let exe = std::fs::read_link(format!("/proc/{}/exe", task.run().pid())).unwrap();
    assert_eq!(exe.file_name().unwrap(), "etcd-backup");
    assert_eq!(task.cancel().status, Status::Aborted);
    crate::broken_tools::assert_all_gone(&tools);
}

#[test]
fn dispatch_refuses_unknown_paths() {
    let world = World::prepare(crate::common::world::Setup::plain(Version::V35));
    let unit = Unit::new(&world);
    for (path, reason) in [
        ("actions/none", "No such file"),
        ("actions/../bin/reconcile", "does not name a hook or an action"),
        ("actions/", "does not name a hook or an action"),
        ("", "does not name a hook or an action"),
    ] {
        let mut command = unit.command("snapshot");
        command.env("JUJU_DISPATCH_PATH", path);
        let out = crate::common::command::Run::start(command, &world.path("runs")).finish();
        assert_eq!(out.status.code(), Some(1), "{path}: {}", out.describe());
        out.assert_stderr_contains(&[reason]);
    }
}
