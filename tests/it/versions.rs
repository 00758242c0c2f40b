//! A server, tools and archives of different versions: restore refuses combinations that fail before it stops
//! etcd, and accepts the others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use etcd_backup::etcd::backend::{Backend, find_fault};
use test_case::test_case;

use crate::archive::unpack;
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
    for (server, other) in [(Version::V34, Version::V35), (Version::V35, Version::V34)] {
        let numbers = [server, other].map(Version::number);
        let world = World::plain(server);
        world.put(0..3, "1");
        let archive = world.saved();
        world.put(0..3, "2");
        let state = WorldState::record(&world);
        world.set_site(&world.site_text(&other.bin_dir()));
        let running = format!("the running etcd is {}", numbers[0]);
        let program = format!("{}/etcd is {}", other.bin_dir().display(), numbers[1]);
        let next = format!("of etcd {}; or, if etcd was just upgraded", server.minor());
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
    let new = Version::V35.minor();
    for (name, old, reasons) in [
        ("old-server", "etcd", ["old-server/etcd is 3.4.", &format!("old-server/etcdctl is {new}.")]),
        ("old-client", "etcdctl", [&*format!("old-client/etcd is {new}."), "old-client/etcdctl is 3.4."]),
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
    let new = Version::V35.minor();
    let world = World::plain(Version::V35);
    world.await_storage_version();
    let archive = world.saved();
    world.stop();
    world.set_site(&world.site_text(&Version::V34.bin_dir()));
    let out = world.restore(&[&from(&archive), "skip-backup=true"]);
    assert!(!out.describe().contains("member.broken"), "{}", out.describe());
    // etcd 3.4 starts on data of 3.6 and later, but the archive of that is refused.
    let reason = match Version::V35.needs_etcdutl() {
        true => format!("holds data of etcd {new}"),
        false => format!("the existing data was last served by etcd {new}, but "),
    };
    assert_refused(out, &[&reason, "/etcd is 3.4.", &format!("etcd {new}")]);
    assert_eq!(names(&world.data_dir()), ["member"]);
}

#[test]
fn a_plan_warns_if_the_older_etcd_cannot_serve_the_data() {
    let world = World::plain(Version::V34);
    // etcd 3.4 stores how far it has applied its log only with a write. Without that, etcd 3.6 panics on the data.
    world.put(0..1, "1");
    let archive = world.saved();
    world.stop();
    let plan = |world: &World| {
        world.restore(&[&from(&archive), "skip-backup=true", "plan=true"]).completed().find("restore.warning")
    };
    assert!(!plan(&world).unwrap_or_default().contains("last served by"));
    world.set_site(&world.site_text(&Version::V35.bin_dir()));
    if Version::V35.cannot_start_on_old_data() {
        let out = world.restore(&[&from(&archive), "skip-backup=true"]);
        assert_refused(
            out,
            &["the existing data was last served by etcd 3.4, but ", "the programs of etcd 3.4"],
        );
        return;
    }
    let warning = plan(&world).unwrap();
    let needs = format!("last served by etcd 3.4, and the restored data needs etcd {}", Version::V35.minor());
    assert!(warning.contains(&needs), "{warning}");
}

/// etcd 3.6 reads its members from the database, where the restore of etcdctl 3.4 leaves those of the old cluster.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restored_data_holds_only_the_new_member(version: Version) {
    let world = World::plain(version);
    world.put(0..3, "1");
    let archive = world.saved();
    let old = world.members()[0].id;
    let _ = world.restore(&[&from(&archive), "skip-backup=true"]).completed();
    let db = unpack(&world, &world.saved()).join("db");
    let members = Backend::open(&db).unwrap().members().unwrap();
    let ids: Vec<u64> = members.into_iter().map(|member| member.id).collect();
    assert_eq!(ids, [world.members()[0].id]);
    assert_ne!(ids, [old]);
    assert_eq!(find_fault(&db, &|| Ok(())).unwrap(), None);
}

/// etcdctl 3.6 and later warn about a variable that only 3.3 needs.
#[test]
fn messages_are_free_of_warnings_about_variables_on_the_newest_etcd() {
    let world = World::plain(Version::Newest);
    world.stop();
    for action in [program!("health"), program!("snapshot"), program!("alarm-list")] {
        let out = run(&world, action, &[]);
        assert!(!out.status.success());
        assert!(!out.describe().contains("ETCDCTL_API"), "{}", out.describe());
    }
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
    if Version::V35.needs_etcdutl() {
        eprintln!("skipped: etcd {} needs etcdutl", Version::V35.number());
        return;
    }
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
    for server in [Version::V34, Version::V35] {
        let world = World::plain(server);
        let state = WorldState::record(&world);
        for (taken_from, minor) in [("3.6.16", "3.6"), ("3.7.3", "3.7")] {
            if *minor <= *server.minor() {
                continue;
            }
            let archive = archive_of(taken_from);
            let holds = format!("holds data of etcd {minor} (taken from {taken_from}), and ");
            let etcd = format!("/etcd is {}", server.number());
            let install = format!("Next: install etcd {minor}");
            // etcdutl converts to 3.5. etcd 3.6 and later refuse converted data, and can be downgraded to.
            let steps = match server.needs_etcdutl() {
                true => [format!("etcdctl downgrade enable {}", server.minor()), String::new()],
                false => [format!("etcdutl {minor}: etcdutl "), "--target-version=3.5".to_owned()],
            };
            let reasons = [&*holds, &etcd, &install, &steps[0], &steps[1]];
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
    // 3.7.3 itself may be in the place of the newer etcd.
    let world = World::plain(Version::V34);
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
