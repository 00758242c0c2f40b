//! The actions in a Juju unit.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use test_case::test_case;

use crate::archive::manifest;
use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::client::assert_same;
use crate::common::fs_util::sha256sum;
use crate::common::unit::{Status, Unit};
use crate::common::world::{Setup, Version, World};
use crate::encryption;

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn in_juju_snapshot_completes_with_its_results(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    world.fill();
    let unit = Unit::new(&world);
    let ended = unit.run("snapshot", &[&world.to_target()]).completed();
    let path = ended.get("snapshot.path");
    // The newline keeps `juju run` from folding the line, which could then not be pasted.
    let copy = format!("juju scp etcd/0:{path} .");
    assert_eq!(ended.get("copy.cmd"), copy.clone() + "\n");
    assert!(ended.printed.lines().any(|line| line.trim() == copy), "folded: {}", ended.printed);
    assert_eq!(ended.get("snapshot.sha256"), sha256sum(path.as_ref()));
    assert_eq!(ended.get("snapshot.revision"), world.revision().to_string());
    for key in ["snapshot.size", "snapshot.keys", "snapshot.version", "snapshot.verified"] {
        assert!(!ended.get(key).is_empty(), "{key}");
    }
    assert!(!ended.progress.is_empty());
    assert_eq!(ended.results["return-code"], 0);
    let manifest = manifest(&world, path.as_ref());
    assert!(manifest.contains("\"etcd/0\""), "{manifest}");
    assert!(world.leftovers().is_empty());
}

#[test]
fn in_juju_restore_uses_the_attached_resource() {
    let world = World::new(Setup { auth: true, ..Setup::plain(Version::V35) });
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let damaged = world.dump();
    let unit = Unit::new(&world);
    unit.attach(&archive);
    let before = sha256sum(&archive);

    let pid = world.pid();
    let _ = unit.run("restore", &[&world.to_target(), "plan=true"]).completed();
    assert_eq!(world.pid(), pid);
    assert_same(&world.dump(), &damaged, "after a plan");

    let ended = unit.run("restore", &[&world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "from the resource");
    for key in ["restore.revision", "restore.keys", "restore.cluster-id", "restore.downtime", "backup.size"] {
        assert!(!ended.get(key).is_empty(), "{key}");
    }
    let backup = PathBuf::from(ended.get("backup.path"));
    assert_eq!(ended.get("backup.sha256"), sha256sum(&backup));
    assert!(!ended.progress.is_empty());
    assert_eq!(unit.calls().iter().filter(|call| call.starts_with("resource-get")).count(), 1);
    assert_eq!(sha256sum(&unit.resource()), before);

    // A path takes precedence over the resource.
    let path = format!("snapshot={}", backup.display());
    let _ = unit.run("restore", &[&world.to_target(), &path, "skip-backup=true"]).completed();
    assert_same(&world.dump(), &damaged, "from the path");
    assert_eq!(world.in_target().len(), 2);
}

#[test]
fn in_juju_site_reports_which_etcd_is_used() {
    let world = World::new(Setup { tls: true, ..Setup::plain(Version::V35) });
    world.fill();
    let unit = Unit::new(&world);
    let ended = unit.run("site", &[]).completed();
    assert_eq!(ended.get("site.endpoint"), world.endpoint());
    assert_eq!(ended.get("site.data-dir"), world.data_dir().display().to_string());
    assert_eq!(
        (ended.get("site.answers"), ended.get("site.revision")),
        ("true".into(), world.revision().to_string())
    );
    world.stop();
    let stopped = unit.run("site", &[]).completed();
    assert_eq!(stopped.get("site.answers"), "false");
    unit.run("site", &["site=nonsense"]).failed(&["no etcd is called nonsense"]);
}

#[test]
fn in_juju_the_status_shows_a_running_restore() {
    let world = World::plain(Version::V35);
    world.fill();
    let unit = Unit::new(&world);
    let restore = |arguments: &[&str]| {
        unit.set_status("active 1 member, healthy");
        let ended = unit.run("restore", &[&[&*world.to_target(), "skip-backup=true"], arguments].concat());
        (ended, unit.statuses())
    };
    let archive = format!("snapshot={}", world.saved().display());
    let (running, before) = ("maintenance restoring a snapshot", "active 1 member, healthy");
    let (ended, statuses) = restore(&[&archive]);
    let _ = ended.completed();
    assert_eq!(statuses, [before, running, before]);
    let (ended, statuses) = restore(&["snapshot=/no/such.tar.gz"]);
    ended.failed(&["/no/such.tar.gz"]);
    assert_eq!(statuses, [before, running, before]);
    let (ended, statuses) = restore(&[&archive, "plan=true"]);
    let _ = ended.completed();
    assert_eq!(statuses, [before], "a plan changes nothing");

    let blocked = "blocked the data in /var/lib/etcd/default is gone; next: restore a snapshot";
    for (snapshot, succeeds) in [("snapshot=/no/such.tar.gz", false), (&*archive, true)] {
        unit.set_status(blocked);
        let ended = unit.run("restore", &[&world.to_target(), "skip-backup=true", snapshot]);
        assert_eq!(ended.status == Status::Completed, succeeds);
        let last = unit.statuses().pop().unwrap();
        assert_eq!(last == blocked, !succeeds, "{last}");
        assert!(!succeeds || last.starts_with("active etcd serves the restored snapshot"), "{last}");
    }
}

#[test]
fn in_juju_refusals_and_failures_keep_their_message() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    unit.run("snapshot", &["target=relative"]).failed(&["relative"]);
    unit.run("snapshot", &[&world.to_target(), "keys-version=v2"]).failed(&["v2"]);
    unit.run("restore", &[&world.to_target(), "snapshot=/no/such.tar.gz"]).failed(&["/no/such.tar.gz"]);
    unit.run("restore", &[&world.to_target(), "bump-revision=junk"]).failed(&["bump-revision", "junk"]);
    world.stop();
    let ended = unit.run("snapshot", &[&world.to_target()]);
    assert!(ended.message.contains("State:"), "{}", ended.message);
    ended.failed(&["connection refused"]);
    assert!(world.in_target().is_empty());
}

#[test]
fn in_juju_restore_needs_a_resource_that_is_not_empty() {
    let world = World::plain(Version::V35);
    world.fill();
    let state = crate::refusals::WorldState::record(&world);
    let unit = Unit::new(&world);
    let ended = unit.run("restore", &[&world.to_target()]);
    assert!(ended.message.contains("attach-resource"), "{}", ended.message);
    ended.failed(&["snapshot"]);
    unit.attach_empty();
    let ended = unit.run("restore", &[&world.to_target()]);
    assert!(ended.message.contains("attach-resource"), "{}", ended.message);
    ended.failed(&["snapshot"]);
    state.assert_unchanged("without a resource");
}

#[test]
fn in_juju_a_wrong_attached_file_changes_nothing() {
    let world = World::plain(Version::V35);
    world.fill();
    let state = crate::refusals::WorldState::record(&world);
    let unit = Unit::new(&world);
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let license = world.path("license.tar.gz");
    fs::copy(project.join("LICENSE"), &license).unwrap();
    unit.attach(&license);
    unit.run("restore", &[&world.to_target()]).failed(&["not in gzip or zip format"]);
    let other = world.path("another.tar.gz");
    let mut tar = std::process::Command::new("tar");
    tar.arg("czf").arg(&other).arg("-C").arg(project).args(["LICENSE", "README.md"]);
    assert!(tar.status().unwrap().success());
    unit.attach(&other);
    unit.run("restore", &[&world.to_target()]).failed(&["LICENSE"]);
    state.assert_unchanged("with another file attached");
}

/// `resource-get` creates files that every user can read, in directories that every user can enter.
#[test]
fn in_juju_other_users_cannot_read_the_attached_archive() {
    let world = World::plain(Version::V35);
    let (first, second) = (world.saved(), world.saved());
    let unit = Unit::new(&world);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let is_private = || {
        assert_eq!(mode(&unit.resource()), 0o600);
        assert_eq!(mode(unit.resource().parent().unwrap()), 0o700);
        // The agent's other directories keep their mode.
        assert_eq!(mode(&world.path("juju/agents/unit-etcd-0/resources")), 0o755);
    };
    for archive in [&first, &second] {
        unit.attach(archive);
        for _ in 0..2 {
            let _ = unit.run("restore", &[&world.to_target(), "plan=true"]).completed();
            is_private();
        }
    }
    // A refused archive may contain Secrets too.
    let cut = world.path("cut.tar.gz");
    fs::write(&cut, &fs::read(&first).unwrap()[..1000]).unwrap();
    unit.attach(&cut);
    unit.run("restore", &[&world.to_target()]).failed(&["cut short"]);
    is_private();
}

#[test]
fn in_juju_a_cancelled_snapshot_leaves_no_child() {
    let world = World::plain(Version::V35);
    let tools = world.stand_in_tools();
    tools.hang("etcdctl *snapshot*save*");
    let unit = Unit::new(&world);
    let task = unit.start("snapshot", &[&world.to_target()]);
    await_call(&tools, "save", task.run());
    assert_eq!(task.cancel().status, Status::Aborted);
    assert_all_gone(&tools);
    std::fs::remove_file(world.path("tools/fault")).unwrap();
    let _ = unit.run("snapshot", &[&world.to_target()]).completed();
    assert_eq!(world.in_target().len(), 1);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn in_juju_a_cancelled_restore_leaves_no_child_and_intact_data() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.damage();
    let (damaged, pid) = (world.dump(), world.pid());
    let tools = world.stand_in_tools();
    let unit = Unit::new(&world);
    unit.attach(&archive);
    // The test start of the staged data is the longest-running child.
    for word in ["etcd --data-dir", "restore"] {
        tools.forget_calls();
        let task = unit.start("restore", &[&world.to_target()]);
        await_call(&tools, word, task.run());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(task.cancel().status, Status::Aborted);
        assert_all_gone(&tools);
        assert_eq!(world.pid(), pid, "etcd was stopped before the verification");
        assert_same(&world.dump(), &damaged, "after the cancel");
        let _ = unit.run("snapshot", &[&world.to_target()]).completed();
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    }
}

/// If the hook tools are removed after any number of calls, etcd is serving either the old or the new data.
#[test]
fn in_juju_tools_can_disappear_at_any_time() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    for calls in 1.. {
        assert!(calls < 60, "too many calls");
        world.damage();
        let damaged = world.dump();
        std::fs::remove_dir_all(world.path("juju")).ok();
        let unit = Unit::new(&world);
        unit.attach(&archive);
        unit.remove_tools_after(calls);
        let ended = unit.run("restore", &[&world.to_target(), "skip-backup=true"]);
        ended.out.assert_no_panic();
        assert!(ended.out.status.code().is_some(), "{}", ended.out.describe());
        assert!(world.healthy());
        let now = world.dump();
        if now != damaged {
            assert_same(
                &now,
                &saved,
                &format!("tools removed after {calls} calls: the data is not the old and not the new one"),
            );
        }
        assert!(world.leftovers().is_empty(), "{calls} calls: {:?}", world.leftovers());
        if unit.calls().len() < calls {
            assert_eq!(ended.completed().status, Status::Completed);
            return;
        }
    }
}

/// A restarted agent reports an action that it had started as failed. The restore finishes all the same.
#[test]
fn in_juju_the_next_hook_reports_a_restore_that_juju_missed() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let unit = Unit::new(&world);
    unit.attach(&archive);
    unit.remove_tools_after(6);
    let ended = unit.run("restore", &[&world.to_target(), "skip-backup=true"]);
    assert_eq!(ended.status, Status::Failed);
    assert_same(&world.dump(), &saved, "without an agent");
    unit.restart_agent();
    let part = format!("1 member, healthy; restore finished with revision {} at ", world.revision());
    for _ in 0..2 {
        unit.hook("update-status").assert_status("active", &[&part, " UTC"]);
    }
    assert!(unit.calls().iter().all(|call| !call.contains("does not know")), "it was logged twice");
    // A later restore makes the record obsolete.
    let _ = unit.run("restore", &[&world.to_target(), "skip-backup=true"]).completed();
    let hook = unit.hook("update-status");
    assert!(!hook.status.unwrap().contains("restore finished"));
}

#[test]
fn in_juju_the_advice_after_an_interrupted_restore_can_be_typed() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = format!("snapshot={}", world.saved().display());
    let unit = Unit::new(&world);
    let staging = world.data_dir().join(".etcd-restore");
    fs::create_dir(&staging).unwrap();
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(staging.join("journal.json"), "{}").unwrap();
    let ended = unit.run("restore", &[&world.to_target(), &archive, "plan=true"]);
    let recover = format!("Next: `juju run etcd/0 restore recover=true site={}`.", world.site().display());
    assert!(ended.message.contains(&recover), "{}", ended.message);
    ended.failed(&["interrupted"]);
    fs::remove_file(staging.join("journal.json")).unwrap();
    unit.run("restore", &["recover=true", "plan=true"]).failed(&["recover takes no other parameter"]);
    let ended = unit.run("restore", &["recover=true"]).completed();
    assert!(ended.get("restore.recovered").contains("had changed nothing"));
    assert!(!staging.exists());
}

/// Juju refuses the extension `.age`, so the documentation advises to rename the file.
#[test]
fn in_juju_a_renamed_encrypted_archive_can_be_attached() {
    let world = World::plain(Version::V35);
    world.fill();
    encryption::encrypt(&world, "");
    let (saved, archive) = (world.dump(), encryption::saved(&world));
    let renamed = world.path("etcd-snapshot.age.gz");
    fs::copy(archive, &renamed).unwrap();
    world.damage();
    let unit = Unit::new(&world);
    unit.attach(&renamed);
    let identity = encryption::identity(&world, encryption::IDENTITY);
    let _ = unit.run("restore", &[&world.to_target(), &identity]).completed();
    assert_same(&world.dump(), &saved, "from the renamed archive");
}

#[test]
fn in_juju_a_number_is_a_word() {
    let world = World::plain(Version::V35);
    let unit = Unit::new(&world);
    let site = format!("site={}", world.pid().unwrap());
    let ended = unit.run("site", &[&site]).completed();
    assert_eq!(ended.get("site.endpoint"), world.endpoint());
    unit.run("check", &["warn=26"]).failed(&["give a time such as 90m, 26h or 3d"]);
    unit.run("snapshot", &["target=1"]).failed(&["absolute"]);
}

#[test]
fn in_juju_a_broken_tool_is_named() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let state = crate::refusals::WorldState::record(&world);
    let unit = Unit::new(&world);
    unit.attach(&archive);
    for tool in ["action-get", "resource-get"] {
        unit.break_tools(&[tool]);
        let ended = unit.run("restore", &[&world.to_target()]);
        assert!(ended.message.contains("connection refused"), "{}", ended.message);
        ended.failed(&[tool]);
        state.assert_unchanged(tool);
    }
    // The archive exists, but its path could not be set as a result: the message or the log reports that.
    unit.break_tools(&["action-set"]);
    let ended = unit.run("snapshot", &[&world.to_target()]);
    let output = format!("{}{}", ended.message, ended.out.stderr);
    assert!(output.contains("action-set"), "{output}");
    // Progress messages are optional.
    unit.break_tools(&["action-log", "juju-log"]);
    let _ = unit.run("snapshot", &[&world.to_target()]).completed();
    assert!(world.leftovers().is_empty());
}
