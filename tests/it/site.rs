//! Where etcd is, without a site file: the etcd that runs is found. Only root may, in a world of processes where one etcd
//! is alone; the machine of a test has many.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::command::{Out, Run};
use crate::common::ports::free_port;
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Whether this machine can play the part: only root makes a world of processes, and finds an etcd only where root alone
/// can change its programs.
fn is_able(version: Version) -> bool {
    if !is_root() {
        eprintln!("skipped: only root makes a world of processes");
        return false;
    }
    let etcd = fs::canonicalize(version.bin_dir().join("etcd")).unwrap();
    let others = etcd.ancestors().find(|path| {
        let found = fs::metadata(path).unwrap();
        found.uid() != 0 || found.mode() & 0o022 != 0
    });
    if let Some(path) = others {
        eprintln!("skipped: others than root can change {}, where etcd's programs are", path.display());
    }
    others.is_none()
}

/// Starts the world's etcd where no other process is seen, and runs `action` there without a site file.
fn alone(world: &World, action: &str, args: &[&str]) -> Out {
    beside(world, "", action, args)
}

/// The same where a shell has run `script` before.
fn beside(world: &World, script: &str, action: &str, args: &[&str]) -> Out {
    const SCRIPT: &str = r#"
        supervisor=$1 dir=$2 script=$3; shift 3
        eval "$script"
        : >"$dir/log"; rm -f "$dir/pid"
        "$supervisor" start "$dir" || exit 99
        until grep -q 'serving client traffic' "$dir/log"; do sleep 0.05; done
        "$@""#;
    let supervisor = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/supervisor");
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"])
        .args([supervisor, world.path("supervisor")])
        .arg(script)
        .arg(action)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/");
    if world.setup().auth {
        command.env("ETCDCTL_PASSWORD", PASSWORD);
    }
    let out = Run::start(command, &world.path("runs")).finish();
    // Its number means another process here.
    fs::remove_file(world.path("supervisor/pid")).unwrap();
    out
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_finds_the_etcd_that_runs(version: Version) {
    if !is_able(version) {
        return;
    }
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.stop();
        let out = alone(&world, program!("snapshot"), &[&world.to_target()]);
        let results = out.completed();
        assert!(fs::exists(results.get("snapshot.path")).unwrap());
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

/// Another program that a user calls etcd, by a copy and by a symlink, and a script beside it that root must not run.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_runs_nothing_of_a_user_who_calls_it_etcd(version: Version) {
    if !is_able(version) {
        return;
    }
    for is_copy in [true, false] {
        let world = World::new(Setup::plain(version));
        world.stop();
        let (home, ran) = (world.path("impostor"), world.path("ran"));
        let (etcd, etcdctl) = (home.join("etcd"), home.join("etcdctl"));
        fs::create_dir(&home).unwrap();
        fs::write(&etcdctl, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
        fs::set_permissions(&etcdctl, fs::Permissions::from_mode(0o755)).unwrap();
        if is_copy {
            fs::copy("/bin/sleep", &etcd).unwrap();
        } else {
            symlink("/bin/sleep", &etcd).unwrap();
        }
        for path in [&home, &etcd, &etcdctl] {
            lchown(path, Some(12345), None).unwrap();
        }
        let out =
            beside(&world, &format!("{} 600 &", etcd.display()), program!("snapshot"), &[&world.to_target()]);
        assert!(fs::exists(out.completed().get("snapshot.path")).unwrap());
        assert!(!fs::exists(ran).unwrap());
    }
}

/// The user of the impostors: nobody else's on any machine.
const USER: u32 = 12345;

/// A shell's words to start root's own etcd as a user, on a directory and ports of theirs, and to wait until it serves.
fn of_a_user(world: &World, home: &Path, more: &str) -> String {
    lchown(home, Some(USER), Some(USER)).unwrap();
    format!(
        "setpriv --reuid={USER} --regid={USER} --clear-groups {etcd} --data-dir={home}/data {more} \
         --listen-client-urls=http://127.0.0.1:{client} --advertise-client-urls=http://127.0.0.1:{client} \
         --listen-peer-urls=http://127.0.0.1:0 >{home}/log 2>&1 &",
        etcd = world.setup().version.bin_dir().join("etcd").display(),
        home = home.display(),
        client = free_port(),
    )
}

/// A password would go to whoever is taken for etcd: so of the world with a login, too, the snapshot must be the world's.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_knows_an_etcd_that_a_user_runs_from_the_machines_own(version: Version) {
    if !is_able(version) {
        return;
    }
    let serves = |home: &Path| {
        format!(
            "until grep -q 'serving client traffic\\|serving insecure' {}/log; do sleep 0.05; done",
            home.display()
        )
    };
    for auth in [false, true] {
        let world = World::new(Setup { auth, ..Setup::plain(version) });
        let home = tempfile::tempdir().unwrap();
        world.stop();
        let script = format!("{}\n{}", of_a_user(&world, home.path(), ""), serves(home.path()));
        let out = beside(&world, &script, program!("snapshot"), &[&world.to_target()]);
        let results = out.completed();
        assert!(fs::exists(home.path().join("data/member/snap/db")).unwrap(), "the user's etcd never ran");
        assert!(fs::exists(results.get("snapshot.path")).unwrap());
    }
}

/// Not even its configuration is read: here that is a pipe to which nobody ever writes.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn an_etcd_that_a_user_runs_is_none_of_this_machine(version: Version) {
    if !is_able(version) {
        return;
    }
    let world = World::new(Setup::plain(version));
    let home = tempfile::tempdir().unwrap();
    world.stop();
    let waits = of_a_user(&world, home.path(), &format!("--config-file={}/pipe", home.path().display()));
    let script = format!("mkfifo -m 644 {}/pipe\n{waits}\nsleep 0.5", home.path().display());
    let out = beside(&world, &script, program!("snapshot"), &[&world.to_target()]);
    assert!(fs::exists(out.completed().get("snapshot.path")).unwrap());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restore_stops_no_etcd_whose_supervisor_it_does_not_know(version: Version) {
    if !is_able(version) {
        return;
    }
    let world = World::new(Setup::plain(version));
    let (archive, tree) = (world.saved(), world.tree());
    world.stop();
    let archive = format!("snapshot={}", archive.display());
    let out = alone(&world, program!("restore"), &[&archive, &world.to_target()]);
    out.refused(&["no supervisor", "pid", "site file"]);
    assert_eq!(world.tree(), tree);
    assert_eq!(world.leftovers(), [""; 0]);
}
