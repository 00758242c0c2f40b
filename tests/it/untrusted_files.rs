//! Root must not run or read a file that another user of the machine could have changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::world::{Setup, Version, World, is_root};

/// A user that owns nothing.
const NOBODY: u32 = 65534;

/// The file that a stand-in creates if it is run.
const MARK: &str = "was-run";

/// A file with wrong permissions, the fault, and the name in the refusal.
type Fault<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn never_runs_or_reads_files_that_other_users_can_change() {
    if !is_root() {
        return eprintln!("skipped: only root can change the owner of files");
    }
    let own = |path: &Path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    let open = |path: &Path| set_mode(path, 0o777);
    let faults: &[Fault<'_>] = &[
        ("etc/site.yaml", &own, "the site file"),
        ("etc/site.yaml", &|path| set_mode(path, 0o666), "the site file"),
        ("etc", &own, "the site file"),
        ("etc", &open, "the site file"),
        ("bin", &own, "the program"),
        ("bin", &|path| set_mode(path, 0o1777), "the program"),
        ("bin/etcdctl", &own, "the program"),
        ("bin/etcdctl", &open, "the program"),
        ("bin/etcdutl", &own, "the program"),
        ("bin/etcd", &open, "the program"),
        ("service/start", &own, "the start command"),
        ("service/stop", &open, "the stop command"),
        ("service", &open, "the start command"),
        ("secret/password", &|path| set_mode(path, 0o602), "the password file"),
        ("secret", &own, "the password file"),
        ("tls/ca.crt", &own, "the certificate"),
        ("tls/client.key", &own, "the certificate"),
        ("etcd.conf.yml", &own, "etcd's configuration file"),
    ];
    let world = guarded(Version::V35);
    for (name, fault, expected) in faults {
        separate_files(&world);
        fault(&world.path(name));
        for out in [
            world.snapshot(&[&world.to_target()]),
            world.restore(&["snapshot=/none.tar.gz", &world.to_target()]),
        ] {
            let words = out.describe();
            out.refused(&["cannot be used: users other than root can change it: "]);
            let culprit = world.path(name).display().to_string();
            assert!(words.contains(expected) && words.contains(&culprit), "{name}: {words}");
            assert!(!world.path(MARK).exists(), "{name}: a program of another user was run");
        }
        assert!(world.in_target().is_empty(), "{name}: {:?}", world.in_target());
        repair_as_printed(&world, name);
    }
}

/// Runs the next step of the refusal as printed, after which a snapshot succeeds. For a sticky directory the
/// operator must also move the file.
fn repair_as_printed(world: &World, name: &str) {
    for _ in 0..3 {
        let out = world.snapshot(&[&world.to_target()]);
        let words = out.describe();
        let Some((_, next)) = words.split_once(" Next: sudo ") else {
            let _ = out.completed();
            for archive in world.in_target() {
                fs::remove_file(world.target().join(archive)).unwrap();
            }
            return;
        };
        let line = next.lines().next().unwrap().trim_end_matches('.');
        let typed = line.split("; or ").next().unwrap().replace("sudo ", "");
        if typed.starts_with("install ") {
            return;
        }
        // An operator would also replace the program of the other user.
        replace_stand_in(world);
        let typed = Command::new("/bin/sh").args(["-c", &typed]).status().unwrap();
        assert!(typed.success(), "{name}: {words}");
    }
    panic!("{name}: still refused after three repairs");
}

/// Files that only etcd reads may belong to etcd's user, because that user can read and change everything in
/// etcd anyway.
#[test]
fn accepts_a_password_and_certificates_of_etcds_own_user() {
    if !is_root() {
        return eprintln!("skipped: only root can change the owner of files");
    }
    let world = guarded(Version::V35);
    separate_files(&world);
    for name in ["tls", "tls/ca.crt", "tls/client.crt", "tls/client.key", "secret/password", "etcd.conf.yml"]
    {
        chown(world.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    replace_stand_in(&world);
    let out = world.snapshot(&[&world.to_target()]);
    // If they belonged to root, etcd could no longer read its key.
    assert!(
        out.describe().contains("sudo chown --reference=") && !out.describe().contains("root:root"),
        "{}",
        out.describe()
    );
    out.refused(&["belongs to user nobody"]);
    chown(world.data_dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let _ = world.snapshot(&[&world.to_target()]).completed();
    let elsewhere = world.path("elsewhere");
    fs::rename(world.data_dir(), &elsewhere).unwrap();
    symlink(&elsewhere, world.data_dir()).unwrap();
    let _ = world.snapshot(&[&world.to_target()]).completed();
}

fn guarded(version: Version) -> World {
    World::new(Setup { tls: true, auth: true, ..Setup::plain(version) })
}

/// Puts all files of a site into separate directories. `etcdctl` and the service's commands only create the
/// mark.
fn separate_files(world: &World) {
    for dir in ["etc", "bin", "service", "secret"] {
        let _ = fs::remove_dir_all(world.path(dir));
        fs::create_dir(world.path(dir)).unwrap();
        set_mode(&world.path(dir), 0o755);
    }
    for name in ["etcd", "etcdutl"] {
        write(&world.path("bin").join(name), &forwarding_script(world, name), 0o755);
    }
    let script = format!("#!/bin/sh\n: >{}\nexit 1\n", world.path(MARK).display());
    for name in ["bin/etcdctl", "service/start", "service/stop"] {
        write(&world.path(name), &script, 0o755);
    }
    write(&world.path("secret/password"), &fs::read_to_string(world.path("password")).unwrap(), 0o600);
    write(&world.path("etcd.conf.yml"), "name: m1\n", 0o644);
    let text = world.site_text(&world.path("bin"));
    let lines = text.lines().filter(|line| !line.starts_with("password-file") && !line.starts_with("  "));
    let text = lines.map(|line| format!("{line}\n")).collect::<String>();
    let at = |name: &str| world.path(name).display().to_string();
    let site = format!(
        "password-file: {}\nconfig-file: {}\n{text}  start: [{}]\n  stop: [{}]\n",
        at("secret/password"),
        at("etcd.conf.yml"),
        at("service/start"),
        at("service/stop"),
    );
    write(&world.path("etc/site.yaml"), &site, 0o644);
    let _ = fs::remove_file(world.site());
    symlink(world.path("etc/site.yaml"), world.site()).unwrap();
}

/// Replaces the stand-in by the real client.
fn replace_stand_in(world: &World) {
    let client = world.path("bin/etcdctl");
    // The mode and the owner stay as they are.
    fs::write(&client, forwarding_script(world, "etcdctl")).unwrap();
}

/// Returns a script that executes the real tool.
fn forwarding_script(world: &World, name: &str) -> String {
    format!("#!/bin/sh\nexec {} \"$@\"\n", world.setup().version.bin_dir().join(name).display())
}

fn write(path: &Path, text: &str, mode: u32) {
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    set_mode(path, mode);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
