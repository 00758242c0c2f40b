//! Discovery of the running etcd without a site file. The test machine runs many etcds, so each test runs in
//! a PID namespace with one etcd. Only root can create a PID namespace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::command::{Out, Run};
use crate::common::fs_util::copy_program;
use crate::common::ports::free_port;
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Returns whether this machine can run the tests. Only root can create a PID namespace, and etcd is
/// discovered only if no other user can change its programs.
fn is_able(version: Version) -> bool {
    if !is_root() {
        eprintln!("skipped: only root can create a PID namespace");
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

/// Starts the world's etcd in a new PID namespace, and runs `action` there without a site file.
fn run_in_namespace(world: &World, action: &str, args: &[&str]) -> Out {
    run_after_script(world, "", action, args)
}

/// Like [`run_in_namespace`], but a shell first runs `script` in the namespace.
fn run_after_script(world: &World, script: &str, action: &str, args: &[&str]) -> Out {
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
    // Outside the namespace, this number is the PID of another process.
    fs::remove_file(world.path("supervisor/pid")).unwrap();
    out
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_finds_the_running_etcd(version: Version) {
    if !is_able(version) {
        return;
    }
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.stop();
        let out = run_in_namespace(&world, program!("snapshot"), &[&world.to_target()]);
        let results = out.completed();
        assert!(fs::exists(results.get("snapshot.path")).unwrap());
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

/// A user gives another program the name etcd, by a copy and by a symlink. Next to it is a script that root
/// must not run.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_ignores_a_program_of_a_user_named_etcd(version: Version) {
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
            copy_program("/bin/sleep", &etcd);
        } else {
            symlink("/bin/sleep", &etcd).unwrap();
        }
        for path in [&home, &etcd, &etcdctl] {
            lchown(path, Some(12345), None).unwrap();
        }
        let out = run_after_script(
            &world,
            &format!("{} 600 &", etcd.display()),
            program!("snapshot"),
            &[&world.to_target()],
        );
        assert!(fs::exists(out.completed().get("snapshot.path")).unwrap());
        assert!(!fs::exists(ran).unwrap());
    }
}

/// The user id of the impostors, which no machine uses.
const USER: u32 = 12345;

/// Returns shell code that starts root's etcd as another user, on a directory and ports of that user.
fn start_as_user(world: &World, home: &Path, more: &str) -> String {
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

/// With a login: the password would be sent to the etcd that the program selects.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn snapshot_uses_the_etcd_of_root_and_not_that_of_a_user(version: Version) {
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
        let script = format!("{}\n{}", start_as_user(&world, home.path(), ""), serves(home.path()));
        let out = run_after_script(&world, &script, program!("snapshot"), &[&world.to_target()]);
        let results = out.completed();
        assert!(fs::exists(home.path().join("data/member/snap/db")).unwrap(), "the user's etcd never ran");
        assert!(fs::exists(results.get("snapshot.path")).unwrap());
    }
}

/// Here, the configuration file is a pipe without a writer: reading it would block.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn does_not_read_the_configuration_of_another_users_etcd(version: Version) {
    if !is_able(version) {
        return;
    }
    let world = World::new(Setup::plain(version));
    let home = tempfile::tempdir().unwrap();
    world.stop();
    let waits = start_as_user(&world, home.path(), &format!("--config-file={}/pipe", home.path().display()));
    let script = format!("mkfifo -m 644 {}/pipe\n{waits}\nsleep 0.5", home.path().display());
    let out = run_after_script(&world, &script, program!("snapshot"), &[&world.to_target()]);
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
    let out = run_in_namespace(&world, program!("restore"), &[&archive, &world.to_target()]);
    out.refused(&["no supervisor", "pid", "etcd-backup site --write"]);
    assert_eq!(world.tree(), tree);
    assert_eq!(world.leftovers(), [""; 0]);
}
