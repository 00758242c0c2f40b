//! A server, tools and archives of different versions: restore refuses combinations that fail before it stops
//! etcd, and accepts the others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::world::{Version, World};
use crate::refusals::WorldState;
use crate::restore::from;

/// The output of `etcdctl version` in etcd 3.6.
const ETCDCTL_3_6: &str = "etcdctl version: 3.6.16\nAPI version: 3.6\n";

/// Returns an archive taken by an etcd version that Debian does not package. See `tests/data/README.md`.
fn archive_of(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/etcd-{version}.tar.gz"))
}

fn run(world: &World, binary: &str, args: &[&str]) -> Out {
    Run::start(world.action(binary, args), &world.path("runs")).finish()
}

fn site(world: &World) -> crate::common::command::Results {
    run(world, program!("site"), &[]).completed()
}

fn verify(world: &World, args: &[&str]) -> Out {
    let target = world.to_target();
    run(world, program!("verify-snapshot"), &[&[&*target], args].concat())
}

fn list(world: &World) -> String {
    run(world, program!("list-snapshots"), &[&world.to_target()]).completed().get("snapshots")
}

/// Asserts that the action refused for all of these reasons.
#[track_caller]
fn assert_refused(out: Out, reasons: &[&str]) {
    for reason in reasons {
        out.assert_stderr_contains(&[reason]);
    }
    out.refused(reasons);
}

/// Creates a directory with some of the programs of these versions.
fn programs(world: &World, name: &str, which: &[(&str, Version)]) -> PathBuf {
    let dir = world.path(name);
    fs::create_dir(&dir).unwrap();
    for (program, version) in which {
        symlink(version.bin_dir().join(program), dir.join(program)).unwrap();
    }
    dir
}

#[test]
fn refuses_to_restore_with_programs_of_another_minor_version() {
    for (server, other, numbers) in
        [(Version::V34, Version::V35, ["3.4.", "3.5."]), (Version::V35, Version::V34, ["3.5.", "3.4."])]
    {
        let world = World::plain(server);
        world.put(0..3, "1");
        let archive = world.saved();
        world.put(0..3, "2");
        let state = WorldState::record(&world);
        world.set_site(&world.site_text(&other.bin_dir()));
        let running = format!("the running etcd is {}", numbers[0]);
        let program = format!("{}/etcd is {}", other.bin_dir().display(), numbers[1]);
        let next = format!("of etcd {}; or, if etcd was just upgraded", numbers[0].trim_end_matches('.'));
        for words in [["skip-backup=true", "plan=true"], ["skip-backup=true", "plan=false"]] {
            let [skip, plan] = words;
            let out = world.restore(&[&from(&archive), &world.to_target(), skip, plan]);
            assert_refused(out, &[&running, &program, &next, "bin-dir"]);
            state.assert_unchanged(plan);
        }
        let warning = site(&world).get("site.warning");
        assert!(warning.contains(&running) && warning.contains(&program), "{warning}");
        // The client only copies a snapshot, and etcd's tools only read it, so their version does not matter.
        let taken = world.snapshot(&[&world.to_target()]).completed().get("snapshot.path");
        let now = world.dump();
        world.put(0..3, "3");
        world.set_site(&world.site_text(&server.bin_dir()));
        assert_eq!(site(&world).find("site.warning"), None);
        world.restore(&[&from(Path::new(&taken)), "skip-backup=true"]).completed();
        assert_same(&world.dump(), &now, "a snapshot by tools of another version");
    }
}

#[test]
fn refuses_to_restore_with_etcd_programs_of_mixed_versions() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    let state = WorldState::record(&world);
    for (name, old, reasons) in [
        ("old-server", "etcd", ["old-server/etcd is 3.4.", "old-server/etcdctl is 3.5."]),
        ("old-client", "etcdctl", ["old-client/etcd is 3.5.", "old-client/etcdctl is 3.4."]),
    ] {
        let version = |program: &str| if program == old { Version::V34 } else { Version::V35 };
        let all = ["etcd", "etcdctl", "etcdutl"].map(|program| (program, version(program)));
        world.set_site(&world.site_text(&programs(&world, name, &all)));
        assert_refused(world.restore(&[&from(&archive), "skip-backup=true"]), &reasons);
        assert_refused(verify(&world, &["drill=true"]), &reasons);
        state.assert_unchanged(name);
        assert!(site(&world).get("site.warning").contains(reasons[1]));
    }
    assert!(!list(&world).contains("BROKEN"));
    // Verification without a drill only reads the archive.
    verify(&world, &[]).completed();
}

#[test]
fn data_of_a_newer_etcd_is_not_reported_as_lost() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    world.stop();
    world.set_site(&world.site_text(&Version::V34.bin_dir()));
    let out = world.restore(&[&from(&archive), "skip-backup=true"]);
    assert!(!out.describe().contains("member.broken"), "{}", out.describe());
    assert_refused(
        out,
        &["the existing data was last served by etcd 3.5, but ", "/etcd is 3.4.", "etcd 3.5"],
    );
    assert_eq!(names(&world.data_dir()), ["member"]);
}

#[test]
fn a_plan_warns_if_the_older_etcd_cannot_serve_the_data() {
    let world = World::plain(Version::V34);
    let archive = world.saved();
    world.stop();
    let plan = |world: &World| {
        world.restore(&[&from(&archive), "skip-backup=true", "plan=true"]).completed().find("restore.warning")
    };
    assert!(!plan(&world).unwrap_or_default().contains("last served by"));
    world.set_site(&world.site_text(&Version::V35.bin_dir()));
    let warning = plan(&world).unwrap();
    assert!(warning.contains("last served by etcd 3.4, and the restored data needs etcd 3.5"), "{warning}");
}

#[test]
fn refuses_etcdctl_3_6_without_etcdutl() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    let before = list(&world);
    let state = WorldState::record(&world);
    let tools = world.stand_in_tools();
    tools.remove("etcdutl");
    tools.answer("etcdctl version", ETCDCTL_3_6, "", 0);
    tools.forget_calls();
    let dir = world.path("tools");
    let reasons = [
        "etcdctl 3.6.16 needs etcdutl next to it: ",
        &format!("{} does not exist", dir.join("etcdutl").display()),
        &format!("-C {} --no-same-owner --strip-components=1 etcd-v3.6.16-linux-", dir.display()),
    ];
    assert_refused(world.snapshot(&[&world.to_target()]), &reasons);
    assert_refused(world.restore(&[&from(&archive), &world.to_target(), "plan=true"]), &reasons);
    assert_refused(world.restore(&[&from(&archive), &world.to_target()]), &reasons);
    assert_refused(verify(&world, &[]), &reasons);
    assert_refused(verify(&world, &["drill=true"]), &reasons);
    let calls: Vec<String> = tools.calls().into_iter().map(|(_, call)| call).collect();
    assert!(calls.iter().all(|call| call == "etcdctl version"), "{calls:?}");
    let warning = site(&world).get("site.warning");
    assert!(warning.contains(reasons[0]), "{warning}");
    state.assert_unchanged("an etcdctl without etcdutl");
    // An existing etcdutl that cannot be used has its own message.
    fs::write(dir.join("etcdutl"), "").unwrap();
    let out = world.snapshot(&[&world.to_target()]);
    assert_refused(out, &[reasons[0], "/etcdutl cannot be used", "chmod 755"]);
    fs::remove_file(dir.join("etcdutl")).unwrap();
    world.set_site(&world.site_text(&Version::V35.bin_dir()));
    assert_eq!(list(&world), before);
}

#[test]
fn etcd_3_5_works_without_etcdutl() {
    let world = World::plain(Version::V35);
    let all = [("etcd", Version::V35), ("etcdctl", Version::V35)];
    world.set_site(&world.site_text(&programs(&world, "programs", &all)));
    world.put(0..3, "1");
    let (archive, saved) = (world.saved(), world.dump());
    world.put(0..3, "2");
    verify(&world, &["drill=true"]).completed();
    world.restore(&[&from(&archive), "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "without etcdutl");
    assert_eq!(site(&world).find("site.warning"), None);
}

#[test]
fn refuses_an_archive_with_data_of_a_newer_etcd() {
    for (server, number) in [(Version::V34, "3.4."), (Version::V35, "3.5.")] {
        let world = World::plain(server);
        let state = WorldState::record(&world);
        for (taken_from, minor) in [("3.6.16", "3.6"), ("3.7.3", "3.7")] {
            let archive = archive_of(taken_from);
            let holds = format!("holds data of etcd {minor} (taken from {taken_from}), and ");
            let etcd = format!("/etcd is {number}");
            let (install, migrate) =
                (format!("Next: install etcd {minor}"), format!("etcdutl {minor}: etcdutl "));
            let reasons = [&*holds, &etcd, &install, &migrate, "etcdutl migrate", "--target-version=3.5"];
            for plan in ["plan=true", "plan=false"] {
                let words = [&*from(&archive), "skip-backup=true", "allow-foreign=true", plan];
                assert_refused(world.restore(&words), &reasons);
            }
            state.assert_unchanged(taken_from);
        }
    }
}

#[test]
fn an_archive_of_a_newer_etcd_is_good_without_a_drill() {
    let world = World::plain(Version::V35);
    fs::set_permissions(world.target(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let name = "etcd-snapshot-2026-11-28-20.02.57.tar.gz";
    fs::copy(archive_of("3.7.3"), world.target().join(name)).unwrap();
    verify(&world, &[&format!("snapshot={name}")]).completed();
    let out = verify(&world, &[&format!("snapshot={name}"), "drill=true"]);
    out.assert_stderr_contains(&["it comes from etcd 3.7, and "]);
    out.assert_stderr_contains(&["only etcd 3.7 or later can be booted on it"]);
    assert!(!list(&world).contains("BROKEN"), "{}", list(&world));
    verify(&world, &[&format!("snapshot={name}")]).completed();
}
