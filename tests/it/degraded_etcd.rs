//! etcds in a bad state when a restore is needed: busy, full, damaged, or unusually configured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use test_case::test_case;

use crate::archive::manifest;
use crate::common::client::{Data, assert_same};
use crate::common::command::Run;
use crate::common::fs_util::names;
use crate::common::world::{RUNS, Setup, Version, World, is_root};
use crate::restore::from;

/// Calls `work` while a client continuously writes keys under `/busy/` and ignores the answers.
fn while_busy<T>(world: &World, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("/busy/{}", n % 20);
                let put =
                    world.etcdctl_command(&["--command-timeout=1s", "put", &key, &n.to_string()]).output();
                drop(put.unwrap());
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn without_busy(mut data: Data) -> Data {
    data.retain(|key, _| !key.starts_with(b"/busy/"));
    data
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn saves_a_complete_snapshot_during_writes(version: Version) {
    let world = World::plain(version);
    world.fill();
    let saved = world.dump();
    let results = while_busy(&world, || world.snapshot(&[&world.to_target()]).completed());
    let archive = PathBuf::from(results.get("snapshot.path"));
    let manifest = manifest(&world, &archive);
    assert!(manifest.contains(&results.get("snapshot.revision")), "{manifest}");
    let other = World::plain(version);
    let restored = other.restore(&[&from(&archive), &other.to_target()]).completed();
    assert_eq!(restored.number("restore.revision"), results.number("snapshot.revision"));
    assert_eq!(other.revision(), results.number("snapshot.revision"));
    assert_same(&without_busy(other.dump()), &saved, "saved under writes");
}

/// Kubernetes reconnects and writes as soon as the port is open. That must not fail the verification.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_while_clients_keep_writing(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let args = [from(&archive), world.to_target()];
    let results = while_busy(&world, || world.restore(&args.each_ref().map(String::as_str)).completed());
    assert_same(&without_busy(world.dump()), &saved, "restored under writes");
    assert!(results.number("restore.lost-revisions") > 0);
    assert!(world.healthy());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_data_with_an_expiring_lease(version: Version) {
    let world = World::plain(version);
    world.fill();
    let saved = world.dump();
    for seconds in ["1", "2", "5"] {
        let granted = world.etcdctl(&["lease", "grant", seconds]);
        let lease = granted.split_whitespace().nth(1).unwrap();
        world.etcdctl(&["put", "--lease", lease, &format!("/busy/leased-{seconds}"), "for now"]);
    }
    let archive = world.saved();
    world.damage();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&without_busy(world.dump()), &saved, "with expiring leases");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn saves_and_restores_an_etcd_at_its_quota(version: Version) {
    let world = World::plain(version);
    world.fill();
    let saved = world.dump();
    world.stop();
    let argv = world.path("supervisor/argv");
    let words = fs::read_to_string(&argv).unwrap();
    fs::write(&argv, words.clone() + "--quota-backend-bytes=200000\n").unwrap();
    world.start_listening();
    // The first write over the quota raises the alarm.
    for n in 0..40 {
        let put = world.etcdctl_command(&["put", &format!("/busy/{n}"), &"y".repeat(20_000)]).output();
        if !put.unwrap().status.success() {
            break;
        }
    }
    assert!(world.etcdctl(&["alarm", "list"]).contains("NOSPACE"));
    let archive = world.saved();
    let other = World::plain(version);
    let results = other.restore(&[&from(&archive), &other.to_target()]).completed();
    assert_same(&without_busy(other.dump()), &saved, "from a full etcd");
    // The snapshot contains the alarm. The restore disarms it, because etcd would otherwise refuse writes.
    assert_eq!(results.get("restore.disarmed"), "NOSPACE");
    assert!(results.get("restore.warning").contains("quota"));
    other.etcdctl(&["put", "/busy/after", "1"]);
    assert_eq!(other.etcdctl(&["alarm", "list"]), "");
}

/// etcd can keep its log outside the data directory. New data and an old log do not fit together.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn never_combines_new_data_with_a_log_kept_elsewhere(version: Version) {
    let source = World::plain(version);
    source.fill();
    let archive = source.saved();
    let world = World::prepare(Setup::plain(version));
    world.write_command_line(&world.as_initial_member(), "new");
    world.add_option(&format!("--wal-dir={}", world.path("log").display()));
    world.start();
    world.put(0..10, "with its log elsewhere");
    let old = world.dump();
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
    assert!(world.running(), "{}", out.describe());
    assert_same(&world.dump(), &old, "with its log elsewhere");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    out.assert_stderr_contains(&["wal"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_damaged_database_is_refused_with_the_command_that_sets_it_aside(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.stop();
    let db = world.data_dir().join("member/snap/db");
    let length = fs::metadata(&db).unwrap().len();
    fs::write(&db, vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
    assert!(world.try_start().is_err(), "etcd starts on a damaged database");
    let broken = fs::read(&db).unwrap();

    // The members of its cluster are in the database, so a second cluster cannot be ruled out.
    for more in ["skip-backup=false", "skip-backup=true"] {
        let out = world.restore(&[&from(&archive), &world.to_target(), more]);
        out.refused(&["the members of its cluster cannot be read", "mv -T ", "member.broken"]);
        assert_eq!(fs::read(&db).unwrap(), broken);
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    }
    // The remedy that the message names works.
    fs::rename(world.data_dir().join("member"), world.path("member.broken")).unwrap();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "in place of a broken database");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_secrets_under_any_umask(version: Version) {
    let world = World::plain(version);
    world.fill();
    let target = world.path("target/made");
    let made = || names(&target).into_iter().filter(|name| name != RUNS).collect::<Vec<_>>();
    for (mask, action, binary) in
        [("000", "snapshot", program!("snapshot")), ("000", "restore", program!("restore"))]
    {
        let mut command =
            world.action("/bin/sh", &["-c", &format!("umask {mask}; exec \"$@\""), "sh", binary]);
        command.arg(format!("target={}", target.display()));
        if action == "restore" {
            command.arg(from(&target.join(&made()[0])));
        }
        let _ = Run::start(command, &world.path("runs")).finish().completed();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o700);
        for name in made() {
            let mode = fs::metadata(target.join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
    }
    let mut find = Command::new("find");
    find.arg(world.data_dir()).args(["-type", "d", "-perm", "/077"]);
    assert_eq!(crate::common::fs_util::succeed(find.output().unwrap(), "find"), "");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_to_run_without_root(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root can run as another user");
    }
    let nobody = 65534;
    let world = World::new(Setup { user: Some(nobody), ..Setup::plain(version) });
    world.fill();
    let archive = world.saved();
    let args = ["--clear-groups", "--reuid", "65534", "--regid", "65534"];
    let as_nobody = |binary: &str, more: &[&str]| {
        let command = world.action("setpriv", &[&args, [binary].as_slice(), more].concat());
        Run::start(command, &world.path("runs")).finish()
    };
    let state = crate::refusals::WorldState::record(&world);
    for out in [
        as_nobody(program!("snapshot"), &[&world.to_target()]),
        as_nobody(program!("restore"), &[&from(&archive), &world.to_target()]),
    ] {
        assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
        out.assert_stderr_contains(&["needs root"]);
        state.assert_unchanged("as nobody");
    }
}
