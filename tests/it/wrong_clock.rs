//! A clock that was months ahead during one backup, and correct afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::common::command::{Out, Run};
use crate::common::world::{Version, World, root_only_dir};
use crate::list_snapshots::name;

/// How far the clock is ahead: about five months.
const AHEAD: &str = "13000000";

/// Shifts the clock by `CLOCK_SHIFT` seconds, or holds it at second `CLOCK_AT`, in each program that preloads
/// it.
const SHIM: &str = r#"
#[repr(C)]
pub struct Timespec { seconds: i64, nanoseconds: i64 }
unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn getenv(name: *const u8) -> *const u8;
    fn atol(text: *const u8) -> i64;
}
#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: i64 = 228;
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: i64 = 113;
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    unsafe {
        let result = syscall(CLOCK_GETTIME, clock, time);
        let shift = getenv(b"CLOCK_SHIFT\0".as_ptr());
        if result == 0 && clock == 0 && !shift.is_null() {
            (*time).seconds += atol(shift);
        }
        let at = getenv(b"CLOCK_AT\0".as_ptr());
        if result == 0 && clock == 0 && !at.is_null() {
            (*time).seconds = atol(at);
        }
        result as i32
    }
}
"#;

/// The library, built once for all tests of this process.
fn shim() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(dir).unwrap();
        let (source, draft) = (dir.join("clock.rs"), dir.join(format!("clock-{}.so", std::process::id())));
        fs::write(&source, SHIM).unwrap();
        let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
        let words = ["--edition=2024", "--crate-type=cdylib", "-Cpanic=abort", "-o"];
        let built = Command::new(rustc).args(words).arg(&draft).arg(&source).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let library = dir.join("clock.so");
        fs::rename(draft, &library).unwrap();
        library
    })
}

/// Holds the clock of a program at this second of Unix time.
pub fn hold_clock(command: &mut Command, second: u64) {
    command.env("LD_PRELOAD", shim()).env("CLOCK_AT", second.to_string());
}

fn program(world: &World, name: &str, words: &[&str]) -> Command {
    let mut command = world.action(program_of(name), words);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    command
}

fn program_of(name: &str) -> &'static str {
    match name {
        "check" => program!("check"),
        other => crate::list_snapshots::program(other),
    }
}

fn run(world: &World, name: &str, words: &[&str]) -> Out {
    Run::start(program(world, name, words), &world.path("runs")).finish()
}

/// Runs a program with a clock that is months ahead.
fn run_ahead(world: &World, name: &str, words: &[&str]) -> Out {
    let mut command = program(world, name, words);
    command.env("LD_PRELOAD", shim()).env("CLOCK_SHIFT", AHEAD);
    Run::start(command, &world.path("runs")).finish()
}

/// Returns the name of the archive that a run created.
fn archive_of(out: Out) -> String {
    name(Path::new(&out.completed().get("snapshot.path")))
}

#[test]
fn latest_is_not_an_archive_dated_in_the_future() {
    let world = World::plain(Version::V35);
    world.fill();
    let target = world.to_target();
    fs::write(world.path("backup.yaml"), "").unwrap();
    let early = archive_of(run_ahead(&world, "snapshot", &[&target]));
    // Without another archive, `latest` is the one that is dated in the future.
    let only = run(&world, "verify-snapshot", &[&target, "snapshot=latest"]).completed();
    assert_eq!(only.get("verify.snapshots"), early);

    world.put(0..3, "later");
    let right = archive_of(run(&world, "snapshot", &[&target]));
    let verified = run(&world, "verify-snapshot", &[&target, "snapshot=latest"]);
    assert!(verified.stderr.contains(&format!("{early} is dated ")), "{}", verified.describe());
    assert_eq!(verified.completed().get("verify.snapshots"), right);
    let pinned = run(&world, "pin-snapshot", &[&target, "snapshot=latest"]).completed();
    assert_eq!(pinned.get("pinned"), right);
    let plan = run(&world, "restore", &[&target, "from=latest", "plan=true", "skip-backup=true"]).completed();
    assert!(plan.get("plan.snapshot").contains(&right), "{}", plan.get("plan.snapshot"));
    let to = format!("target={}", world.path("fetched").display());
    let from = format!("from={}/latest", world.target().display());
    let fetched = run(&world, "fetch-snapshot", &[&from, &to]).completed();
    assert_eq!(name(Path::new(&fetched.get("snapshot.path"))), right);

    let listed = run(&world, "list-snapshots", &[&target, "format=json"]).completed();
    let warning = listed.get("warning");
    assert!(warning.contains(&early) && warning.contains("in the future"), "{warning}");
    let rows: Vec<Value> = serde_json::from_str(&listed.get("snapshots")).unwrap();
    let order: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(order, [&right, &early], "an archive dated in the future is listed as the newest");

    // After that date has passed, the lower revision still shows that the archive is older.
    let verified = run_ahead(&world, "verify-snapshot", &[&target, "snapshot=latest"]);
    assert!(verified.stderr.contains("lower revision"), "{}", verified.describe());
    assert_eq!(verified.completed().get("verify.snapshots"), right);
}

/// Returns the value of a time series, which may have labels.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(&format!("{series}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_run_dated_in_the_future_is_not_a_success() {
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    world.fill();
    let target = world.to_target();
    fs::write(world.path("backup.yaml"), format!("metrics: {}\n", dir.path().display())).unwrap();
    let check = |words: &[&str]| {
        let out = run(&world, "check", &[&[&*target], words].concat());
        (out.status.code().unwrap(), out.stdout)
    };
    let early = archive_of(run_ahead(&world, "backup", &[&target]));
    let (status, line) = check(&[]);
    assert!(status == 2 && line.contains("there is no good backup"), "{line}");
    assert!(line.contains("in the future") && line.contains(" | age=U;"), "{line}");
    // After a good backup, `check` reports its age, and still warns about the other one.
    let _ = archive_of(run(&world, "backup", &[&target]));
    let (status, line) = check(&[]);
    assert!(status == 1 && line.contains("the last good backup is "), "{line}");
    assert!(line.contains(&format!("{early} is dated in the future")), "{line}");
    assert_eq!(check(&["crit=0s"]).0, 2, "its age counts");
    // The next run fails, and is reported as the last run.
    world.stop();
    run(&world, "backup", &[&target]).failed(&["failed: "]);
    let (_, line) = check(&[]);
    assert!(line.contains("; the last run failed "), "{line}");
    let metrics = fs::read_to_string(dir.path().join("etcd_backup.prom")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for (series, is_right) in [
        ("etcd_backup_last_run_success", &(|value| value == 0.0) as &dyn Fn(f64) -> bool),
        ("etcd_backup_last_success_timestamp_seconds", &|value| value <= now),
        ("etcd_backup_last_run_timestamp_seconds", &|value| value <= now),
        ("etcd_backup_failures_total", &|value| value == 1.0),
        ("etcd_backup_dated_in_future", &|value| value == 1.0),
    ] {
        assert!(value(&metrics, series).is_some_and(is_right), "{series}: {metrics}");
    }
    // After that date has passed, the run that was dated in the future still does not count as a success.
    for file in world.in_target().iter().filter(|name| name.ends_with(".tar.gz") && **name != early) {
        fs::remove_file(world.target().join(file)).unwrap();
    }
    let out = run_ahead(&world, "check", &[&target]);
    assert!(
        out.status.code() == Some(2) && out.stdout.contains("there is no good backup"),
        "{}",
        out.describe()
    );
}
