//! Where etcd is, without a site file: the etcd that runs is found. Only root may, in a world of processes where one etcd
//! is alone; the machine of a test has many.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::run::{Out, Run};
use crate::world::{PASSWORD, Setup, Version, World, is_root};

on_both_versions!(
    snapshot_finds_the_etcd_that_runs,
    snapshot_runs_nothing_of_a_user_who_calls_it_etcd,
    restore_stops_no_etcd_whose_supervisor_it_does_not_know,
);

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

/// Starts the world's etcd, and the `impostor` if there is one, where no other process is seen, and runs `action` there without a site file.
fn alone(world: &World, impostor: Option<&Path>, action: &str, args: &[&str]) -> Out {
    const SCRIPT: &str = r#"
        supervisor=$1 dir=$2 impostor=$3; shift 3
        [ -z "$impostor" ] || "$impostor" 600 &
        : >"$dir/log"; rm -f "$dir/pid"
        "$supervisor" start "$dir" || exit 99
        until grep -q 'serving client traffic' "$dir/log"; do sleep 0.05; done
        "$@""#;
    let supervisor = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/supervisor");
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"])
        .args([supervisor, world.path("supervisor")])
        .arg(impostor.unwrap_or(Path::new("")))
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

fn snapshot_finds_the_etcd_that_runs(version: Version) {
    if !is_able(version) {
        return;
    }
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.stop();
        let out = alone(&world, None, env!("CARGO_BIN_EXE_snapshot"), &[&world.to_target()]);
        let results = out.completed();
        assert!(fs::exists(results.get("snapshot.path")).unwrap());
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

/// Another program that a user calls etcd, by a copy and by a symlink, and a script beside it that root must not run.
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
        let out = alone(&world, Some(&etcd), env!("CARGO_BIN_EXE_snapshot"), &[&world.to_target()]);
        assert!(fs::exists(out.completed().get("snapshot.path")).unwrap());
        assert!(!fs::exists(ran).unwrap());
    }
}

fn restore_stops_no_etcd_whose_supervisor_it_does_not_know(version: Version) {
    if !is_able(version) {
        return;
    }
    let world = World::new(Setup::plain(version));
    let (archive, tree) = (world.saved(), world.tree());
    world.stop();
    let archive = format!("snapshot={}", archive.display());
    let out = alone(&world, None, env!("CARGO_BIN_EXE_restore"), &[&archive, &world.to_target()]);
    out.refused(&["no supervisor", "pid", "site file"]);
    assert_eq!(world.tree(), tree);
    assert_eq!(world.leftovers(), [""; 0]);
}
