//! Discovery of the running etcd without a site file. Each test runs in a PID namespace with one etcd, which only root
//! can make: the test machine runs many.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::command::{Out, Run};
use crate::common::ports::free_port;
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Returns whether this machine can run the tests: only root makes a PID namespace, and an etcd is discovered only if
/// root alone can change its programs.
fn is_able(version: Version) -> bool {
    if !is_root() {
        eprintln!("skipped: only root makes a PID namespace");
        return false;
    }
    let etcd = fs::canonicalize(version.bin_dir().join("etcd")).unwrap();
    let others = etcd.ancestors().find(|path| {
        let found = fs::metadata(path).unwrap();
        found.uid() != 0 || found.mode() & 0o022 != 0
    });
    if let Some(path) = others {
        eprintln!(
            "skipped: users other than root can change {}, which contains etcd's programs",
            path.display()
        );
    }
    others.is_none()
}

/// Starts the world's etcd in a PID namespace of its own, and runs `action` there without a site file.
fn alone(world: &World, action: &str, args: &[&str]) -> Out {
    beside(world, "", action, args)
}

/// As [`alone`], after a shell has run `script`.
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
    // Out here, that number is another process.
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

/// A user gives another program the name etcd, by a copy and by a symlink, next to a script that root must not run.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_ignores_a_program_of_a_user_that_is_called_etcd(version: Version) {
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

/// The user of the impostors, which no machine has.
const USER: u32 = 12345;

/// Returns shell code that starts root's etcd as another user, on a directory and ports of that user.
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

/// With a login too: the password would be sent to the etcd that is chosen.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_is_of_the_machines_etcd_and_not_of_a_users(version: Version) {
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

/// Here, the configuration file is a pipe without a writer: reading it would block.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_configuration_of_a_users_etcd_is_not_read(version: Version) {
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
fn restore_refuses_an_etcd_without_a_known_supervisor(version: Version) {
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
