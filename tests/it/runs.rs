//! Tests the record, the metrics and the hooks of a run, and how `check` reports the run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::command::{Out, Run, wrap};
use crate::common::fs_util::copy_program;
use crate::common::s3::Server;
use crate::common::unit::Unit;
use crate::common::world::{Version, World, is_root, root_only_dir};

fn program(world: &World, program: &str, words: &[&str]) -> Command {
    let mut command = world.action(program, words);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    command
}

fn run(world: &World, name: &str, words: &[&str]) -> Out {
    Run::start(program(world, name, words), &world.path("runs")).finish()
}

fn settings(world: &World, text: &str) {
    fs::write(world.path("backup.yaml"), text).unwrap();
}

const BACKUP: &str = program!("backup");
const CHECK: &str = program!("check");
const LIST: &str = program!("list-snapshots");
const SNAPSHOT: &str = program!("snapshot");
const SCHEDULE: &str = program!("schedule");

/// Returns the runs that `list-snapshots` prints, newest first.
fn runs(world: &World) -> Vec<Value> {
    let listed = run(world, LIST, &[&world.to_target(), "format=json", "runs=true"]).completed();
    let runs: Value = serde_json::from_str(&listed.get("runs")).unwrap();
    runs.as_array().unwrap().clone()
}

fn check(world: &World, words: &[&str]) -> (i32, String) {
    let target = world.to_target();
    let words = [&[&*target], words].concat();
    let out = run(world, CHECK, &words);
    (out.status.code().unwrap(), out.stdout)
}

#[test]
fn records_every_run_and_check_reads_the_record() {
    let world = World::plain(Version::V35);
    world.fill();
    settings(&world, "");
    let (status, line) = check(&world, &[]);
    assert_eq!(status, 2);
    assert!(line.starts_with("BACKUP CRITICAL - there is no good backup | age=U;93600;180000;0 "), "{line}");
    let taken = run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    let all = runs(&world);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["backup_phase"], "Completed");
    assert_eq!(all[0]["sha256"], taken.get("snapshot.sha256").as_str());
    assert_eq!(all[0]["revision"].to_string(), taken.get("snapshot.revision"));
    assert!(taken.get("snapshot.path").ends_with(all[0]["backup_name"].as_str().unwrap()));
    assert!(all[0]["scheduled_time"].is_null() && all[0]["started_time"].is_string());
    let (status, line) = check(&world, &[]);
    assert_eq!(status, 0, "{line}");
    assert!(
        line.starts_with("BACKUP OK - the last good backup is ") && line.contains(" pending=0;0;;0 "),
        "{line}"
    );
    assert_eq!(check(&world, &["warn=0s"]).0, 1);
    // If etcd is down, the failed run is recorded with the error message of etcd.
    world.stop();
    run(&world, SNAPSHOT, &[&world.to_target()]).failed(&["failed: "]);
    let failed = runs(&world).remove(0);
    assert_eq!((&failed["backup_phase"], &failed["failures_total"]), (&"Failed".into(), &1.into()));
    let (status, line) = check(&world, &[]);
    assert_eq!(status, 1, "{line}");
    assert!(line.contains("; the last run failed "), "{line}");
    // Without its archive, a run does not count as a good backup.
    for name in world.in_target() {
        fs::remove_file(world.target().join(name)).unwrap();
    }
    assert_eq!(check(&world, &[]).0, 2);
}

#[test]
fn records_a_killed_run_as_failed() {
    let world = World::plain(Version::V35);
    settings(&world, "schedule: {when: '@daily', retry-after: 1h}\n");
    world.stop();
    // The run waits for its second try.
    let words = [&*world.to_target(), "scheduled=true"];
    let started = Run::start(program(&world, BACKUP, &words), &world.path("runs"));
    wait_until("a failed try", || {
        runs(&world).first().is_some_and(|run| {
            run["backup_message"].as_str().is_some_and(|message| message.starts_with("try 1: "))
        })
    });
    assert_eq!(runs(&world)[0]["backup_phase"], "Running");
    let _ = started.kill();
    let killed = runs(&world).remove(0);
    assert_eq!(killed["backup_phase"], "Failed");
    let message = killed["backup_message"].as_str().unwrap();
    assert!(message.starts_with("killed, or the machine lost its power (before that: try 1: "), "{message}");
    let (status, line) = check(&world, &[]);
    assert!(status == 2 && line.contains(" ago: killed"), "{line}");
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "timed out waiting for: {what}");
        sleep(Duration::from_millis(50));
    }
}

fn destination(world: &World, server: &Server, bucket: &str) -> String {
    let credentials = world.path("credentials");
    server.write_credentials(&credentials);
    format!(
        "destinations:\n  offsite: {{s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{}', bucket: {bucket}}}}}\n",
        credentials.display(),
        server.port
    )
}

#[test]
fn retries_a_failed_run_and_uploads_its_existing_archive() {
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    let good = destination(&world, &server, "backups");
    let schedule = "schedule: {when: every 12h, retries: 2, retry-after: 1s}\n";
    settings(&world, &(destination(&world, &server, "missing") + schedule));
    let out = run(&world, BACKUP, &[&world.to_target(), "scheduled=true"]);
    assert!(out.stderr.contains("trying again in 1s, because uploading to offsite: "), "{}", out.describe());
    assert!(out.stderr.contains("trying again in 2s, "), "{}", out.describe());
    out.failed(&["uploading to offsite: ", "NoSuchBucket"]);
    // Listing this destination would fail as well.
    settings(&world, &(good.clone() + schedule));
    let failed = runs(&world).remove(0);
    assert_eq!((&failed["tries"], &failed["pending_uploads"]), (&3.into(), &1.into()));
    // The retries upload the archive of the first try; they take no second snapshot.
    assert_eq!(world.in_target().iter().filter(|name| name.ends_with(".tar.gz")).count(), 1);
    let slot = failed["scheduled_time"].as_str().unwrap().to_owned();
    assert!(slot.ends_with("T00:00:00Z") || slot.ends_with("T12:00:00Z"), "{slot}");
    let (status, line) = check(&world, &[]);
    assert!(status == 2 && line.contains("; 1 upload is pending"), "{line}");

    settings(&world, &(good + schedule));
    let results = run(&world, BACKUP, &[&world.to_target()]).completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (2 archives)");
    let good = runs(&world).remove(0);
    assert_eq!(
        (&good["tries"], &good["destinations"]["offsite"]),
        (&1.into(), &"uploaded (2 archives)".into())
    );
    assert_eq!(check(&world, &[]).0, 0);
}

#[test]
fn deletes_no_snapshot_without_a_retention_rule() {
    let world = World::plain(Version::V35);
    settings(&world, "");
    let results = run(&world, BACKUP, &[&world.to_target()]).completed();
    assert_eq!(results.find("retention.deleted"), None, "no retention rule is set");
    assert!(runs(&world)[0]["delete_phase"].is_null());
}

#[test]
fn applies_retention_only_after_a_good_backup() {
    let world = World::plain(Version::V35);
    settings(&world, "keep: {last: 1}\n");
    let archives =
        || world.in_target().into_iter().filter(|name| name.ends_with(".tar.gz")).collect::<Vec<_>>();
    run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    assert_eq!(archives().len(), 2, "a manual snapshot does not apply retention");
    // Retention would delete archives, but the backup fails because its upload fails.
    let server = Server::new(&["backups"]);
    settings(&world, &(destination(&world, &server, "missing") + "keep: {last: 1}\n"));
    run(&world, BACKUP, &[&world.to_target()]).failed(&["uploading to offsite: "]);
    assert_eq!(archives().len(), 3);
    settings(&world, &(destination(&world, &server, "backups") + "keep: {last: 1}\n"));
    assert!(runs(&world)[0]["delete_phase"].is_null(), "{:?}", runs(&world)[0]);
    let results = run(&world, BACKUP, &[&world.to_target()]).completed();
    assert_eq!(results.get("retention.deleted"), "3");
    assert_eq!(archives().len(), 1);
    let last = runs(&world).remove(0);
    assert_eq!(last["delete_phase"], "Completed");
    assert!(last["delete_message"].as_str().unwrap().starts_with("3 deleted, "), "{last}");
    assert!(last["delete_finished_time"].as_str() >= last["backup_finished_time"].as_str(), "{last}");
}

fn hook(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn runs_hooks_and_writes_metrics_after_each_run() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let hook_input =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap() };
    let mut text = format!("metrics: {}\nhooks:\n", dir.path().display());
    for name in ["before", "after", "failure"] {
        let path = hook(dir.path(), name, &format!("cat > {}/{name}.json", dir.path().display()));
        text += &format!("  {name}: {}\n", path.display());
    }
    settings(&world, &text);
    let taken = run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    assert_eq!(hook_input("before.json")["backup_phase"], "Running");
    let after = hook_input("after.json");
    assert_eq!((&after["hook"], &after["backup_phase"]), (&"after".into(), &"Completed".into()));
    assert_eq!(after["sha256"], taken.get("snapshot.sha256").as_str());
    assert_eq!(after["target"], world.target().to_str().unwrap());
    let metrics = || fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap();
    let value = |name: &str| value_of(&metrics(), name, &world.target());
    assert_eq!(value("last_run_success").as_deref(), Some("1"), "{}", metrics());
    assert_eq!(value("revision"), Some(taken.get("snapshot.revision")), "{}", metrics());
    let cluster = format!("cluster_id=\"{:x}\",member=\"m1\"", world.cluster_id());
    assert!(metrics().contains(&cluster), "{}", metrics());

    world.stop();
    assert!(!dir.path().join("failure.json").exists());
    run(&world, SNAPSHOT, &[&world.to_target()]).failed(&["failed: "]);
    assert_eq!(hook_input("failure.json")["backup_phase"], "Failed");
    assert!(hook_input("failure.json")["backup_message"].as_str().unwrap().contains("etcd"));
    assert_eq!(value("failures_total").as_deref(), Some("1"), "{}", metrics());
    assert_eq!(value("last_run_success").as_deref(), Some("0"), "{}", metrics());
}

/// Returns the value of a target's metric in the metrics file.
fn value_of(metrics: &str, name: &str, target: &Path) -> Option<String> {
    let beginning = format!("etcd_backup_{name}{{target=\"{}\",", target.display());
    let line = metrics.lines().find(|line| line.starts_with(&beginning))?;
    line.rsplit(' ').next().map(str::to_owned)
}

#[test]
fn keeps_metrics_after_a_snapshot_to_another_target() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let text = format!("metrics: {}\n", dir.path().display());
    settings(&world, &format!("{text}schedule: {{when: every 12h, target: {}}}\n", world.target().display()));
    run(&world, BACKUP, &[]).completed();
    world.stop();
    run(&world, BACKUP, &[]).failed(&["failed: "]);
    world.start();
    let metrics = || fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap();
    let about = |target: &Path| -> Vec<String> {
        let label = format!("{{target=\"{}\",", target.display());
        metrics().lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
    };
    let before = about(&world.target());
    assert_eq!(value_of(&metrics(), "interval_seconds", &world.target()).as_deref(), Some("43200"));
    let other = world.path("other");
    run(&world, SNAPSHOT, &[&format!("target={}", other.display())]).completed();
    assert_eq!(about(&world.target()), before, "the metrics of the scheduled target changed");
    let value = |name: &str, target: &Path| value_of(&metrics(), name, target);
    assert_eq!(value("last_run_success", &world.target()).as_deref(), Some("0"));
    assert_eq!(value("failures_total", &world.target()).as_deref(), Some("1"));
    assert_eq!(value("last_run_success", &other).as_deref(), Some("1"));
    assert_eq!(value("interval_seconds", &other), None, "only the scheduled target has an interval");
}

#[test]
fn a_refused_snapshot_changes_no_record_and_no_metric() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    settings(&world, &format!("metrics: {}\n", dir.path().display()));
    run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    let before = (fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap(), runs(&world));
    // The target directory is a file system without enough free space.
    let full = r#"mount -t tmpfs -o size=64k,mode=700 tmpfs "$SMALL" && cp -a "$TARGET"/. "$SMALL"/ &&
        mount --bind "$SMALL" "$TARGET" && dd if=/dev/zero of="$TARGET"/filler bs=4k count=6 2>/dev/null; "$0" "$@"; status=$?
        cp -a "$TARGET"/.runs "$KEPT"; exit $status"#;
    fs::create_dir(world.path("small")).unwrap();
    for action in [SNAPSHOT, BACKUP] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", full]);
        let mut command = wrap(command, &program(&world, action, &[&world.to_target()]));
        let kept = world.path("kept");
        let _ = fs::remove_dir_all(&kept);
        command.env("SMALL", world.path("small")).env("TARGET", world.target()).env("KEPT", &kept);
        let out = Run::start(command, &world.path("runs")).finish();
        out.refused(&["Next: free up space there"]);
        assert_eq!(crate::common::fs_util::names(&kept).len(), before.1.len(), "no record: {action}");
    }
    let after = (fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap(), runs(&world));
    assert_eq!(after, before);
    assert_eq!(check(&world, &[]).0, 0);
}

#[test]
fn a_failing_before_hook_stops_the_run() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let before = hook(dir.path(), "before", "echo the tape is not in >&2; exit 1");
    let after = hook(dir.path(), "after", "exit 1");
    settings(&world, &format!("hooks: {{before: {}}}\n", before.display()));
    run(&world, SNAPSHOT, &[&world.to_target()]).failed(&[
        "running the hook before",
        "the tape is not in",
        "no snapshot was begun",
    ]);
    assert!(world.in_target().is_empty());
    assert_eq!(runs(&world)[0]["backup_phase"], "Failed");
    // If the hook `after` fails, the backup is still good, and `check` reports a warning.
    settings(&world, &format!("hooks: {{after: {}}}\n", after.display()));
    let results = run(&world, SNAPSHOT, &[&world.to_target()]).completed();
    assert!(results.get("run.warning").contains("running the hook after"), "{}", results.get("run.warning"));
    let (status, line) = check(&world, &[]);
    assert!(status == 1 && line.contains("running the hook after"), "{line}");
    // If other users can change a hook, the program does not execute the hook and the run does not start.
    fs::set_permissions(&before, fs::Permissions::from_mode(0o777)).unwrap();
    settings(&world, &format!("hooks: {{before: {}}}\n", before.display()));
    run(&world, SNAPSHOT, &[&world.to_target()]).refused(&["users other than root can change it"]);
}

fn lock_data(world: &World) -> fs::File {
    let held = fs::File::open(world.data_dir()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    held
}

#[test]
fn a_refused_run_writes_no_record_and_runs_no_hook() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let before = hook(dir.path(), "before", &format!("touch {}/ran", dir.path().display()));
    let schedule = "schedule: {when: every 12h, retries: 1, retry-after: 2s}";
    settings(&world, &format!("{schedule}\nhooks: {{before: {}}}\n", before.display()));
    let inside = world.data_dir().join("member/backups");
    for word in ["scheduled=false", "scheduled=true"] {
        run(&world, BACKUP, &[&format!("target={}", inside.display()), word])
            .refused(&["lies in etcd's data directory"]);
        assert!(!inside.exists(), "{word}");
    }
    let busy = lock_data(&world);
    run(&world, BACKUP, &[&world.to_target()]).refused(&["is working on"]);
    assert!(!world.target().join(".runs").exists());
    // A refused scheduled run is tried again, and `check` reports it.
    let words = [&*world.to_target(), "scheduled=true"];
    let started = Run::start(program(&world, BACKUP, &words), &world.path("runs"));
    wait_until("a refused try", || started.stderr_so_far().contains("trying again in 2s, because "));
    assert!(!dir.path().join("ran").exists());
    drop(busy);
    let _ = started.finish().completed();
    assert!(dir.path().join("ran").exists());
    // The removal of the records also forgets that this slot has a finished run.
    fs::remove_dir_all(world.target()).unwrap();
    let _busy = lock_data(&world);
    run(&world, BACKUP, &words).refused(&["is working on"]);
    let (status, line) = check(&world, &[]);
    assert!(status == 2 && line.contains("; the last run failed ") && line.contains(" is working on"));
}

#[test]
fn check_exits_like_a_monitoring_plugin() {
    let world = World::plain(Version::V35);
    settings(&world, "schedule: {when: '0 25 * * *'}\n");
    let out = run(&world, CHECK, &[&world.to_target()]);
    assert_eq!((out.status.code(), out.stdout.lines().count()), (Some(3), 1), "{}", out.describe());
    assert!(out.stdout.starts_with("BACKUP UNKNOWN - the schedule cannot be used: "), "{}", out.describe());
    let out = run(&world, CHECK, &["nonsense=1"]);
    assert_eq!(out.status.code(), Some(3), "{}", out.describe());
    let out = run(&world, CHECK, &["--help"]);
    assert!(out.status.success() && out.stdout.contains("Exit status: 0"), "{}", out.describe());
    settings(&world, "schedule: {when: every 20m, jitter: 1m}\n");
    assert!(check(&world, &[]).1.contains(" | age=U;1360;2560;0 "), "{}", check(&world, &[]).1);
}

#[test]
fn validates_and_prints_the_schedule_before_installing_it() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    // The timer runs the programs as root, so only root may be able to change them. The build directory may
    // not satisfy this.
    let [schedule, _] = [SCHEDULE, BACKUP].map(|program| {
        let installed = dir.path().join(Path::new(program).file_name().unwrap());
        copy_program(program, &installed);
        installed.to_str().unwrap().to_owned()
    });
    settings(&world, "");
    run(&world, &schedule, &["plan=true"]).refused(&["no schedule is configured"]);
    settings(&world, "schedule: {when: 30 2 * * 1-5, zone: Europe/Atlantis}\n");
    run(&world, &schedule, &["plan=true"]).refused(&["systemd rejects", "Atlantis"]);
    settings(&world, "schedule: {when: 30 2 * * 1-5, zone: Europe/Berlin, jitter: 5m}\n");
    let plan = run(&world, &schedule, &["plan=true"]).completed();
    assert_eq!(plan.get("schedule.next").split(", ").count(), 5);
    let (timer, service) = (plan.get("schedule.timer"), plan.get("schedule.service"));
    assert!(timer.contains("OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 02:30:00 Europe/Berlin\n"), "{timer}");
    assert!(service.contains("/backup\" \"scheduled=true\"\n"), "{service}");
    assert!(
        service.contains(&format!("Environment=\"ETCD_BACKUP={}\"\n", world.path("backup.yaml").display())),
        "{service}"
    );
    let with = |name: &str, value: &str| {
        let mut command = program(&world, &schedule, &["plan=true"]);
        command.env("no_proxy", "10.0.0.0/8,minio").env(name, value);
        Run::start(command, &world.path("runs")).finish()
    };
    // The service uses the same proxy as an action.
    let service = with("HTTPS_PROXY", "http://proxy:3128").completed().get("schedule.service");
    for line in ["https_proxy=http://proxy:3128", "no_proxy=10.0.0.0/8,minio"] {
        assert!(service.contains(&format!("Environment=\"{line}\"\n")), "{service}");
    }
    // The service file is world-readable, so a proxy with a password is refused, but only if a destination
    // uses the proxy.
    let login = "http://me:canary@proxy:3128";
    let schedule = "schedule: {when: '@daily'}\n";
    let to = |host: &str| {
        let s3 = format!("{{bucket: b, endpoint: 'https://{host}', credentials-file: /c}}");
        settings(&world, &format!("{schedule}destinations: {{offsite: {{s3: {s3}}}}}\n"));
    };
    to("minio");
    let service = with("HTTPS_PROXY", login).completed().get("schedule.service");
    assert!(!service.contains("canary") && !service.contains("proxy="), "{service}");
    to("elsewhere");
    let out = with("HTTPS_PROXY", login);
    assert!(!out.stdout.contains("canary") && !out.stderr.contains("canary"), "{}", out.describe());
    out.refused(&["the proxy to destination offsite has a login", "NO_PROXY"]);
    let out = with("ETCDCTL_PASSWORD", "canary");
    assert!(!out.stdout.contains("canary") && !out.stderr.contains("canary"), "{}", out.describe());
    out.refused(&["the etcd password is set only in the environment", "password-file"]);
}

#[test]
fn unit_status_reports_the_last_good_backup() {
    let world = World::plain(Version::V35);
    let target = world.target();
    settings(&world, &format!("schedule: {{when: every 12h, target: {}}}\n", target.display()));
    let unit = Unit::new(&world);
    unit.hook("update-status").assert_status("active", &["1 member, healthy; there is no good backup"]);
    run(&world, BACKUP, &[&world.to_target()]).completed();
    unit.hook("update-status")
        .assert_status("active", &["1 member, healthy; the last good backup is ", " old, revision "]);
}

#[test]
fn actions_use_the_target_of_the_schedule_by_default() {
    let world = World::plain(Version::V35);
    world.fill();
    let target = world.target();
    settings(
        &world,
        &format!("keep: {{last: 2}}\nschedule: {{when: every 12h, target: {}}}\n", target.display()),
    );
    let run = |name: &str, words: &[&str]| {
        let out = run(&world, crate::list_snapshots::program(name), words).completed();
        world.put(0..1, name);
        out
    };
    for _ in 0..3 {
        let path = run("backup", &[]).get("snapshot.path");
        assert!(Path::new(&path).starts_with(&target), "{path}");
    }
    let listed = run("list-snapshots", &["format=json", "runs=true"]);
    assert_eq!(listed.get("count"), "2", "retention keeps two of three snapshots");
    assert!(listed.get("runs").contains("Completed"));
    let latest = run("verify-snapshot", &[]).get("verify.snapshots");
    assert_eq!(run("pin-snapshot", &[&format!("snapshot={latest}")]).get("pinned"), latest);
    assert_eq!(run("prune-snapshots", &["keep=1", "plan=true"]).get("would-delete"), "1");
    let planned = run("restore", &["from=latest", "plan=true", "skip-backup=true"]).get("plan.snapshot");
    assert!(planned.contains(&latest) && Path::new(&planned).starts_with(&target), "{planned}");
    // An explicit `target` overrides the target of the schedule.
    let elsewhere = format!("target={}", world.path("elsewhere").display());
    fs::create_dir(world.path("elsewhere")).unwrap();
    assert_eq!(run("list-snapshots", &[&elsewhere]).get("count"), "0");
}

/// Runs in a mount namespace with an empty /home, because the default directory is the same on every machine.
#[test]
fn a_snapshot_outside_the_target_needs_its_path() {
    if !is_root() {
        return eprintln!("skipped: only root has a /home of its own");
    }
    let world = World::plain(Version::V35);
    let (scheduled, archive) = (world.path("scheduled"), world.saved());
    fs::create_dir(&scheduled).unwrap();
    settings(&world, &format!("schedule: {{when: every 12h, target: {}}}\n", scheduled.display()));
    let at_home = |words: &[&str]| {
        let own = r#"mount -t tmpfs -o mode=755 tmpfs /home && install -d -m 700 /home/ubuntu/etcd-snapshots &&
            cp "$ARCHIVE" /home/ubuntu/etcd-snapshots/ && exec "$0" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", own]);
        let mut command = wrap(command, &program(&world, program!("restore"), words));
        command.env("ARCHIVE", &archive);
        Run::start(command, &world.path("runs")).finish()
    };
    let name = archive.file_name().unwrap().to_str().unwrap();
    let path = format!("from=/home/ubuntu/etcd-snapshots/{name}");
    let plan = |from: &str| at_home(&[from, "plan=true", "skip-backup=true"]);
    for asked in [name, "latest"] {
        let out = plan(&format!("from={asked}"));
        out.assert_stderr_contains(&[&format!("in {}", scheduled.display())]);
        out.refused(&["those in another directory"]);
    }
    assert!(plan(&path).completed().get("plan.snapshot").ends_with(name));
    let there = at_home(&[&format!("from={name}"), "target=/home/ubuntu/etcd-snapshots", "plan=true"]);
    assert!(there.completed().get("plan.snapshot").ends_with(name));
}

#[test]
fn reports_an_unreadable_upload_queue_as_unknown() {
    let world = World::plain(Version::V35);
    let Some(dir) = root_only_dir() else { return };
    settings(&world, &format!("metrics: {}\n", dir.path().display()));
    fs::write(world.target().join(".uploads"), "").unwrap();
    let ended = run(&world, BACKUP, &[&world.to_target()]).completed();
    let warning = ended.get("run.warning");
    assert!(warning.contains("the number of pending uploads is unknown: opening "), "{warning}");
    let records = fs::read_dir(world.target().join(".runs")).unwrap();
    let record = records.map(|record| record.unwrap().path().join("run.json")).next().unwrap();
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!((&record["pending_uploads"], &record["backup_phase"]), (&Value::Null, &"Completed".into()));
    let (status, line) = check(&world, &[]);
    assert_eq!(status, 1, "{line}");
    for words in [
        "BACKUP WARNING - the last good backup is ",
        "the number of pending uploads is unknown",
        " pending=U;0;;0 ",
    ] {
        assert!(line.contains(words), "{line}");
    }
    let metrics = fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap();
    assert_eq!(value_of(&metrics, "last_run_success", &world.target()).as_deref(), Some("1"), "{metrics}");
    assert!(!metrics.contains("pending"), "{metrics}");
}

#[test]
fn a_manual_snapshot_does_not_change_the_series_of_the_schedule() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let target = world.target();
    let schedule = format!("schedule: {{when: every 12h, target: {}, retries: 0}}\n", target.display());
    settings(&world, &format!("metrics: {}\n{schedule}", dir.path().display()));
    run(&world, BACKUP, &["scheduled=true"]).completed();
    world.stop();
    run(&world, BACKUP, &[]).failed(&["failed: "]);
    world.start();
    let metrics = || fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap();
    let value = |name: &str| value_of(&metrics(), name, &target);
    let names = [
        "last_run_success",
        "last_run_timestamp_seconds",
        "last_success_timestamp_seconds",
        "failures_total",
    ];
    let before = names.map(value);
    assert_eq!((&before[0], &before[3]), (&Some("0".to_owned()), &Some("1".to_owned())), "{}", metrics());
    // Into the target of the schedule itself: one that succeeds, and one that fails.
    run(&world, SNAPSHOT, &[]).completed();
    world.stop();
    run(&world, SNAPSHOT, &[]).failed(&["failed: "]);
    assert_eq!(names.map(value), before, "{}", metrics());
    assert_eq!(value("archives").as_deref(), Some("2"), "{}", metrics());
    assert_eq!(runs(&world)[0]["trigger"], "snapshot");
}

#[test]
fn a_verification_is_in_the_metrics_and_in_check() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    world.fill();
    settings(&world, &format!("metrics: {}\n", dir.path().display()));
    run(&world, BACKUP, &[&world.to_target()]).completed();
    let value = |name: &str| {
        value_of(&fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap(), name, &world.target())
    };
    assert_eq!(value("last_drill_success"), None);
    run(&world, program!("verify-snapshot"), &[&world.to_target(), "drill=true"]).completed();
    assert_eq!(
        (value("last_verify_success"), value("last_drill_success")),
        (Some("1".into()), Some("1".into()))
    );
    // One byte of the archive changes.
    let archive =
        world.target().join(world.in_target().iter().find(|name| name.ends_with(".tar.gz")).unwrap());
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let _ = run(&world, program!("verify-snapshot"), &[&world.to_target()]);
    assert_eq!(
        (value("last_verify_success"), value("last_drill_success")),
        (Some("0".into()), Some("1".into()))
    );
    assert_eq!(value("damaged_archives").as_deref(), Some("1"));
    let (status, line) = check(&world, &[]);
    assert!(status == 2 && line.contains(" is damaged") && line.contains(" damaged=1;0;;0 "), "{line}");
}

#[test]
fn a_run_of_the_schedule_takes_no_snapshot_of_unchanged_data() {
    let world = World::plain(Version::V35);
    world.fill();
    let schedule = |skip: &str| {
        let target = world.target();
        settings(&world, &format!("schedule: {{when: every 1h, target: {}{skip}}}\n", target.display()));
    };
    let scheduled = || run(&world, BACKUP, &["scheduled=true"]).completed();
    let archives = || world.in_target().iter().filter(|name| name.ends_with(".tar.gz")).count();
    schedule(", skip-unchanged: 24h");
    let first = scheduled();
    assert_eq!((first.find("run.unchanged"), archives()), (None, 1));
    let second = scheduled();
    let name = first.get("snapshot.path").rsplit('/').next().unwrap().to_owned();
    assert_eq!((second.get("run.unchanged"), archives()), (name.clone(), 1));
    let last = runs(&world).remove(0);
    assert_eq!((&last["backup_phase"], &last["unchanged"]), (&"Completed".into(), &true.into()));
    assert_eq!(last["backup_name"], name.as_str());
    let (status, line) = check(&world, &[]);
    assert!(status == 0 && line.contains(&format!(", unchanged since {name}")), "{line}");
    // A person who asks for a backup gets one.
    run(&world, BACKUP, &[]).completed();
    assert_eq!(archives(), 2);
    // The newest snapshot would become too old before the next run.
    schedule(", skip-unchanged: 1m");
    scheduled();
    assert_eq!(archives(), 3);
    // etcd has changed.
    schedule(", skip-unchanged: 24h");
    world.put(0..1, "changed");
    assert_eq!(scheduled().find("run.unchanged"), None);
    assert_eq!(archives(), 4);
    scheduled().get("run.unchanged");
    // A destination that has no snapshot yet gets one.
    let copies = world.path("copies");
    fs::create_dir(&copies).unwrap();
    let text = fs::read_to_string(world.path("backup.yaml")).unwrap();
    settings(
        &world,
        &format!("{text}destinations: {{nas: {{directory: {}, mount: none}}}}\n", copies.display()),
    );
    assert_eq!(scheduled().get("destinations.nas"), "uploaded");
    scheduled().get("run.unchanged");
}

#[test]
fn refuses_a_warning_age_that_is_longer_than_the_critical_age() {
    let world = World::plain(Version::V35);
    settings(&world, "");
    let out = run(&world, CHECK, &[&world.to_target(), "warn=50h", "crit=1h"]);
    assert_eq!(out.status.code(), Some(3), "{}", out.describe());
    assert!(
        out.stdout.starts_with("BACKUP UNKNOWN - warn (50h) is longer than crit (1h)"),
        "{}",
        out.describe()
    );
}

#[test]
fn plans_the_removal_of_a_timer_and_names_skipped_runs() {
    let world = World::plain(Version::V35);
    settings(&world, "");
    for words in [&["remove=true", "plan=true"][..], &["remove=true"]] {
        let results = run(&world, SCHEDULE, words).completed();
        let removed = (results.find("schedule.would-remove"), results.find("schedule.removed"));
        let expected = if words.len() == 2 { (Some("none"), None) } else { (None, Some("false")) };
        assert_eq!((removed.0.as_deref(), removed.1.as_deref()), expected);
    }
    let Some(dir) = root_only_dir() else { return };
    let [schedule, _] = [SCHEDULE, BACKUP].map(|program| {
        let installed = dir.path().join(Path::new(program).file_name().unwrap());
        copy_program(program, &installed);
        installed.to_str().unwrap().to_owned()
    });
    settings(&world, "schedule: {when: 30 2 * * *, zone: Europe/Berlin}\n");
    let warning = run(&world, &schedule, &["plan=true"]).completed().get("schedule.warning");
    assert!(warning.contains("systemd skips the run of ") && warning.contains("-03-"), "{warning}");
}
