//! `check-config`, and the checks of a plan: what would make a backup or a restore fail is found before.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::common::command::{Out, Run};
use crate::common::fs_util::{Detail, names, shape};
use crate::common::world::{Version, World, is_root, root_only_dir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");

fn run(world: &World, words: &[&str]) -> Out {
    let mut command = world.action(PROGRAM, words);
    command.env("ETCD_BACKUP", world.path("config.yaml"));
    Run::start(command, &world.path("runs")).finish()
}

/// Runs `check-config` and returns its exit status and the level and the message of each check.
fn check(world: &World) -> (Option<i32>, Vec<(String, String, String)>) {
    let out = run(world, &["check-config", "--json", &world.to_target()]);
    out.assert_no_panic();
    let document: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|_| panic!("{}", out.describe()));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks = document["checks"].as_array().unwrap().iter();
    let all =
        checks.map(|one| (text(one, "name"), text(one, "level"), text(one, "message") + &text(one, "next")));
    (out.status.code(), all.collect())
}

#[track_caller]
fn assert_check(checks: &[(String, String, String)], name: &str, level: &str, fragments: &[&str]) {
    let found =
        checks.iter().find(|(found, ..)| found == name).unwrap_or_else(|| panic!("{name}: {checks:?}"));
    assert_eq!(found.1, level, "{found:?}");
    assert!(fragments.iter().all(|fragment| found.2.contains(fragment)), "{found:?}");
}

/// Writes a site file with another service.
fn set_service(world: &World, service: &str) {
    let text = world.site_text(&Version::V35.bin_dir());
    let (rest, _) = text.split_once("service:").unwrap();
    world.set_site(&format!("{rest}service: {service}\n"));
}

#[test]
fn a_good_configuration_has_no_errors_and_nothing_is_changed() {
    let world = World::plain(Version::V35);
    world.fill();
    let destination = world.path("destination");
    fs::create_dir(&destination).unwrap();
    let text = format!("destinations:\n  near: {{directory: {}, mount: none}}\n", destination.display());
    fs::write(world.path("config.yaml"), text).unwrap();
    let before = shape(&world.data_dir(), Detail::Shape);
    let (status, checks) = check(&world);
    // No schedule is a warning.
    assert_eq!(status, Some(1), "{checks:?}");
    for name in ["configuration file", "site file", "etcd", "answer", "programs", "stop and start", "target"]
    {
        assert_check(&checks, name, "ok", &[]);
    }
    assert_check(&checks, "destination near", "ok", &["written", "read back and deleted"]);
    assert_check(&checks, "schedule", "warning", &["no backup is scheduled", "when: every 12h"]);
    assert_eq!(names(&destination), [""; 0]);
    assert!(!world.target().exists() || names(&world.target()).is_empty(), "{:?}", names(&world.target()));
    let after = shape(&world.data_dir(), Detail::Shape);
    assert!(before.iter().all(|line| after.contains(line)), "{before:?} {after:?}");
}

#[test]
fn every_check_runs_although_others_fail() {
    let world = World::plain(Version::V35);
    let text = "destinations:\n  far: {directory: /nowhere/far, mount: none}\n  near: {directory: /proc, mount: none}\n\
                hooks: {before: /nowhere/hook}\nschedule: {when: 12h}\n";
    fs::write(world.path("config.yaml"), text).unwrap();
    set_service(&world, "{start: [/bin/true], stop: [/nowhere/stop-etcd]}");
    let (status, checks) = check(&world);
    assert_eq!(status, Some(2), "{checks:?}");
    assert_check(
        &checks,
        "stop and start",
        "error",
        &["/nowhere/stop-etcd does not exist", "correct service in"],
    );
    assert_check(&checks, "destination far", "error", &["/nowhere/far does not exist"]);
    assert_check(&checks, "destination near", "error", &[]);
    assert_check(&checks, "hooks", "error", &["/nowhere"]);
    assert_check(&checks, "answer", "ok", &["revision"]);
    let schedule = checks.iter().find(|(name, ..)| name == "schedule").unwrap();
    assert!(schedule.2.contains("did you mean when: every 12h?"), "{schedule:?}");
}

#[test]
fn a_mistake_in_the_file_is_one_line_and_the_rest_is_still_checked() {
    let world = World::plain(Version::V35);
    fs::write(world.path("config.yaml"), "keep: 7\n").unwrap();
    let (status, checks) = check(&world);
    assert_eq!(status, Some(2), "{checks:?}");
    assert_check(&checks, "configuration file", "error", &["line 1", "did you mean keep: {last: 7}?"]);
    assert_check(&checks, "answer", "ok", &[]);
    let out = run(&world, &["check-config", &world.to_target()]);
    let line = out.stdout.lines().next().unwrap();
    assert!(line.starts_with("error    configuration file: ") && line.contains(". Next: correct "), "{line}");
}

#[test]
fn a_plan_fails_for_everything_that_would_make_the_restore_fail() {
    let world = World::plain(Version::V35);
    world.fill();
    fs::write(world.path("config.yaml"), "").unwrap();
    let archive = world.saved();
    let archive = archive.display().to_string();
    let plan = |more: &[&str]| run(&world, &[&["restore", &archive, "--plan"], more].concat());
    let planned = plan(&[&world.to_target()]);
    assert!(
        planned.stdout.contains(&format!("backup in       {}", world.target().display())),
        "{}",
        planned.describe()
    );
    for (target, reason) in [
        ("/proc/x", "/proc is the proc file system"),
        ("/etc/hostname", "/etc/hostname is a file, not a directory"),
        ("/home/nobody-here/x", "/home/nobody-here does not exist"),
    ] {
        plan(&["--target", target]).refused(&[reason]);
        run(&world, &["snapshot", "--target", target]).refused(&[reason]);
    }
    for (verb, service) in [
        ("stop", "{start: [/bin/true], stop: [/nowhere/etcd]}"),
        ("start", "{start: [/nowhere/etcd], stop: [/bin/true]}"),
    ] {
        set_service(&world, service);
        plan(&[&world.to_target()]).refused(&[&format!("the {verb} command of etcd cannot run")]);
    }
    set_service(&world, "{systemd: no-such-etcd.service}");
    plan(&[&world.to_target()]).refused(&["no-such-etcd.service, but systemd"]);
}

#[test]
fn an_endpoint_with_a_slash_can_be_restored_and_one_with_a_path_is_refused() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = format!("snapshot={}", world.saved().display());
    let good = world.site_text(&Version::V35.bin_dir());
    let endpoint = world.endpoint();
    world.set_site(&good.replace(&endpoint, &format!("{endpoint}/")));
    world.put(0..5, "later");
    let _ = world.restore(&[&archive, &world.to_target()]).completed();
    world.set_site(&good.replace(&endpoint, &format!("{endpoint}/v3")));
    world.restore(&[&archive, &world.to_target()]).refused(&[&format!("did you mean {endpoint}?")]);
}

#[test]
fn uploads_of_a_renamed_destination_are_reported_and_moved() {
    let world = World::plain(Version::V35);
    world.fill();
    let destination = world.path("destination");
    let config = |text: String| fs::write(world.path("config.yaml"), text).unwrap();
    config(format!("destinations: {{old: {{directory: {}, mount: none}}}}\n", destination.display()));
    let out = run(&world, &["snapshot", &world.to_target()]);
    assert_eq!(out.status.code(), Some(1), "{}", out.describe());
    fs::create_dir(&destination).unwrap();
    config(format!("destinations: {{new: {{directory: {}, mount: none}}}}\n", destination.display()));
    let (_, checks) = check(&world);
    assert_check(
        &checks,
        "upload queue",
        "warning",
        &["uploads are waiting for old, which is not in the settings: 1", " --move=old/new"],
    );
    let out = run(&world, &["check", &world.to_target()]);
    for words in ["; uploads are waiting for old, which is not in the settings: 1 (", " pending=1;0;;0 "] {
        assert!(out.stdout.contains(words), "{}", out.describe());
    }
    let out = run(&world, &["snapshot", &world.to_target()]);
    assert!(out.describe().contains("waiting for old, which is not in the settings"), "{}", out.describe());
    run(&world, &["upload", &world.to_target(), "--move", "old/nwe"])
        .refused(&["did you mean move=old/new?"]);
    let out = run(&world, &["upload", &world.to_target(), "--move", "old/new"]);
    assert!(out.status.success() && out.stdout.contains("moved: old/etcd-snapshot-"), "{}", out.describe());
    let out = run(&world, &["upload", &world.to_target()]);
    assert!(out.status.success() && out.stdout.contains("No upload is waiting."), "{}", out.describe());
    run(&world, &["upload", &world.to_target(), "--move", "old/new"])
        .refused(&["no upload is waiting for old"]);
}

#[test]
fn a_member_name_that_no_flag_can_hold_is_restored() {
    for name in ["a=b,c", ""] {
        let world = World::plain(Version::V35);
        world.fill();
        let archive = format!("snapshot={}", world.saved().display());
        world.add_option(&format!("--name={name}"));
        world.stop();
        world.start();
        world.put(0..5, "later");
        let _ = world.restore(&[&archive, &world.to_target()]).completed();
        let _ = world.snapshot(&[&world.to_target()]).completed();
    }
}

#[test]
fn a_hook_in_a_directory_that_others_can_write_to_gets_a_better_place() {
    let Some(home) = root_only_dir().filter(|_| is_root()) else { return };
    let world = World::plain(Version::V35);
    let hook = home.path().join("hook");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(world.path("config.yaml"), format!("hooks: {{before: {}}}\n", hook.display())).unwrap();
    let out = run(&world, &["snapshot", &world.to_target()]);
    let place = home.path().display();
    out.assert_stderr_contains(&[
        &format!("every user can write to {place}"),
        &format!("Next: sudo chmod go-w {place}; or sudo install -t /usr/local/bin"),
    ]);
    assert!(out.stderr.starts_with("refused: the hook "), "{}", out.describe());
}
