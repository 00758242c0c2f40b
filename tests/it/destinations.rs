//! Uploads of `snapshot` to real S3 servers, with injected faults.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::command::{Out, Run};
use crate::common::fs_util::{names, sha256sum};
use crate::common::s3::{Can, Fault, Faults, SECRET, Server, write_credentials};
use crate::common::unit::Unit;
use crate::common::world::{Version, World, is_root};

/// Writes a settings file. Each destination has a name, a port, a bucket, and additional settings.
pub fn write_destinations(world: &World, all: &[(&str, u16, &str, &str)]) {
    let credentials = world.path("credentials");
    let mut text = "destinations:\n".to_owned();
    for (name, port, bucket, more) in all {
        let login = if more.contains("instance-role") || more.contains("credentials-file") {
            String::new()
        } else {
            format!("credentials-file: {}, ", credentials.display())
        };
        text += &format!(
            "  {name}:\n    s3: {{{login}endpoint: 'http://127.0.0.1:{port}', bucket: {bucket}, folder: etcd{more}}}\n"
        );
    }
    fs::write(world.path("backup.yaml"), text).unwrap();
}

pub fn command(world: &World) -> Command {
    let mut command = world.action(program!("snapshot"), &[&world.to_target()]);
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    command
}

pub fn snapshot(world: &World) -> Out {
    Run::start(command(world), &world.path("runs")).finish()
}

/// Returns the pending uploads as `ARCHIVE@DESTINATION`.
pub fn waiting(world: &World) -> Vec<String> {
    names(&world.target().join(".uploads"))
}

/// Returns the names of the archives in the target directory.
pub fn archives(world: &World) -> Vec<String> {
    world.in_target().into_iter().filter(|name| name.ends_with(".tar.gz")).collect()
}

#[test]
fn uploads_a_snapshot_to_every_destination() {
    let world = World::plain(Version::V35);
    world.fill();
    let server = Server::new(&["bucket-one", "bucket-two"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(
        &world,
        &[
            ("near", faults.port, "bucket-one", ""),
            ("offsite", faults.port, "bucket-two", ", region: us-east-1"),
        ],
    );
    let results = snapshot(&world).completed();
    assert_eq!(results.get("destinations.near"), "uploaded");
    assert_eq!(results.get("destinations.offsite"), "uploaded");
    assert!(results.out.stderr.contains("uploading to offsite"), "{}", results.out.describe());
    assert_eq!(results.get("snapshot.sha256"), sha256sum(Path::new(&results.get("snapshot.path"))));
    let name = archives(&world).remove(0);
    // Each bucket has a folder per cluster and per member.
    for bucket in ["bucket-one", "bucket-two"] {
        let puts = faults.seen("PUT", &format!("/{bucket}/etcd/"));
        assert_eq!(puts.len(), 1, "{puts:?}");
        assert!(puts[0].contains(&format!("/m1/{name} ")), "{puts:?}");
    }
    assert!(waiting(&world).is_empty());
}

#[test]
fn forgets_a_pending_upload_if_its_archive_was_deleted() {
    if !Can::MissBuckets.is_supported() {
        return;
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    write_destinations(&world, &[("offsite", server.port, "missing", "")]);
    snapshot(&world).failed(&["uploading to offsite: "]);
    let first = archives(&world).remove(0);
    fs::remove_file(world.target().join(&first)).unwrap();
    // In the same second, the next archive would get the same name and the same queue entry.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    write_destinations(&world, &[("offsite", server.port, "backups", "")]);
    let out = snapshot(&world);
    assert!(
        out.stderr.contains(&format!("removing {first}, which was deleted, from the queue for offsite")),
        "{}",
        out.describe()
    );
    assert_eq!(out.completed().get("destinations.offsite"), "uploaded");
    assert!(waiting(&world).is_empty());
}

#[test]
fn a_failed_upload_stays_pending_and_others_complete() {
    if !Can::MissBuckets.is_supported() {
        return;
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("bad", faults.port, "missing", ""), ("good", faults.port, "backups", "")]);
    let out = snapshot(&world);
    let output = out.stdout.clone();
    assert!(output.contains("good: uploaded") && output.contains("bad: 'queued: "), "{}", out.describe());
    assert!(output.contains("path: ") && output.contains("verified: 'true'"), "{}", out.describe());
    out.failed(&["uploading to bad: "]);
    let first = archives(&world).remove(0);
    assert_eq!(waiting(&world), [format!("{first}@bad")]);

    // The next run uploads the pending archive and the new one.
    write_destinations(
        &world,
        &[("bad", faults.port, "backups", ", region: us-east-1"), ("good", faults.port, "backups", "")],
    );
    fs::write(
        world.path("backup.yaml"),
        fs::read_to_string(world.path("backup.yaml")).unwrap().replacen("folder: etcd,", "folder: other,", 1),
    )
    .unwrap();
    let results = snapshot(&world).completed();
    assert_eq!(results.get("destinations.bad"), "uploaded (2 archives)");
    assert_eq!(results.get("destinations.good"), "uploaded");
    assert!(waiting(&world).is_empty());
    // One upload to the good destination, one that failed at the missing bucket, and one after the bucket was
    // corrected.
    assert_eq!(faults.seen("PUT", &first).len(), 3);
}

#[test]
fn a_killed_upload_stays_pending() {
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    faults.inject("PUT", "", Fault::Slow(100), 1);
    let run = Run::start(command(&world), &world.path("runs"));
    while faults.seen("PUT", "").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = run.kill();
    assert_eq!(archives(&world).len(), 1);
    assert_eq!(waiting(&world).len(), 1);
    let results = snapshot(&world).completed();
    assert_eq!(results.get("destinations.offsite"), "uploaded (2 archives)");
    assert!(waiting(&world).is_empty());
}

#[test]
fn refuses_a_snapshot_with_invalid_settings() {
    let world = World::plain(Version::V35);
    let file = world.path("backup.yaml");
    snapshot(&world).refused(&["backup.yaml cannot be used"]);
    fs::write(&file, "destinations: {a: {s3: {bucket: b, secret-key: x}}}").unwrap();
    snapshot(&world).refused(&["line 1: unknown key destinations.a.s3.secret-key"]);
    world.set_mode("backup.yaml", 0o666);
    snapshot(&world).refused(&["users other than root can change it"]);
    assert!(world.in_target().is_empty());
}

/// A fake of Amazon's instance metadata service. It returns the key only to requests with its token.
#[test]
fn uses_the_credentials_of_the_instance_role() {
    if !Can::Sessions.is_supported() {
        return;
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    let metadata = crate::common::s3::metadata_service(&server.role_key);
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", ", instance-role: true")]);
    let mut command = command(&world);
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://127.0.0.1:{metadata}"));
    let out = Run::start(command, &world.path("runs")).finish();
    // The requests contain the session token of the role and sign it.
    let puts = faults.seen("PUT", "backups");
    assert_eq!(puts.len(), 1, "{}", out.describe());
    assert!(puts[0].contains("x-amz-security-token: canary-token"), "{puts:?}");
    assert!(puts[0].contains(";x-amz-security-token, Signature="), "{puts:?}");
    assert_eq!(out.completed().get("destinations.offsite"), "uploaded");

    // If the metadata service does not answer, the message names the request.
    let mut command = self::command(&world);
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    let none = Run::start(command, &world.path("runs")).finish();
    assert!(
        none.stdout.contains("the role of this machine from http://127.0.0.1:1: "),
        "{}",
        none.describe()
    );
    none.failed(&["Connection refused"]);
}

#[test]
fn fetches_and_verifies_a_snapshot_by_name_or_as_latest() {
    let world = World::plain(Version::V35);
    world.fill();
    let saved = world.dump();
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    let first = snapshot(&world).completed();
    let sha256 = first.get("snapshot.sha256");
    let name = first.get("snapshot.path").rsplit('/').next().unwrap().to_owned();
    fs::remove_dir_all(world.target()).unwrap();
    let fetch = |from: &str| {
        let words = [format!("from={from}"), world.to_target()];
        let mut command = world.action(program!("fetch-snapshot"), &words.each_ref().map(String::as_str));
        command.env("ETCD_BACKUP", world.path("backup.yaml")).env_remove("ETCD_SITE");
        Run::start(command, &world.path("runs")).finish()
    };
    let mut list = world.action(program!("list-snapshots"), &[&world.to_target()]);
    list.env("ETCD_BACKUP", world.path("backup.yaml"));
    let listed = Run::start(list, &world.path("runs")).finish().completed();
    let line = listed.get("snapshots");
    assert!(line.contains(&name) && line.contains("offsite/") && line.contains("/m1 "), "{line}");
    assert!(
        listed.get("destinations.offsite").ends_with("in s3://backups/etcd/"),
        "{}",
        listed.out.describe()
    );
    assert_eq!(listed.get("count"), "1");

    for from in [&format!("offsite/{name}"), "offsite/latest"] {
        let fetched = fetch(from).completed();
        let path = fetched.get("snapshot.path");
        assert_eq!(
            (fetched.get("snapshot.sha256"), sha256sum(Path::new(&path))),
            (sha256.clone(), sha256.clone())
        );
        // The file that is there is verified, and not fetched again.
        let again = fetch(from).completed();
        assert_eq!(again.get("snapshot.path"), path);
        assert!(!again.out.stderr.contains("fetching offsite"), "{}", again.out.describe());
        fs::write(&path, "another file").unwrap();
        fetch(from).refused(&["exists already, and is another file than"]);
        fs::remove_file(path).unwrap();
    }
    for (from, reason) in [
        ("offsite/none.tar.gz", "no snapshot none.tar.gz in offsite"),
        ("nowhere/latest", "names no destination"),
        ("offsite/elsewhere/latest", "no snapshot that is known to be good in offsite"),
        ("s3://other/x", "is in no destination"),
        ("", "parameter from is empty"),
    ] {
        fetch(from).refused(&[reason]);
    }
    // The answer is altered in transit, so the downloaded file is not published.
    faults.inject("GET", &*name.clone().leak(), Fault::FlipAnswer, 100);
    fetch(&format!("offsite/{name}")).refused(&["cut short or altered"]);
    faults.clear();
    assert!(world.in_target().iter().all(|name| !name.ends_with(".tar.gz")), "{:?}", world.in_target());

    // A restore of the fetched archive restores the saved data.
    let path = fetch("offsite/latest").completed().get("snapshot.path");
    world.put(0..5, "later");
    let _ = world.restore(&[&format!("snapshot={path}"), &world.to_target(), "skip-backup=true"]).completed();
    assert!(world.dump() == saved, "the restored data differs from the saved data");
}

#[test]
fn never_exposes_the_secret_key() {
    if !is_root() {
        return eprintln!("skipped: only root can see the arguments of all processes");
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups", "spare"]);
    server.write_credentials(&world.path("credentials"));
    write_credentials(&world.path("wrong"), &server.access_key, "canary-wrong-secret");
    let faults = Faults::before(server.port);
    let wrong = format!(", credentials-file: {}", world.path("wrong").display());
    write_destinations(
        &world,
        &[("good", faults.port, "backups", ""), ("wrong", faults.port, "spare", &wrong)],
    );
    faults.inject("PUT", "", Fault::Slow(2000), 1);
    let mut run = Run::start(command(&world), &world.path("runs"));
    let mut seen = String::new();
    while !run.ended() {
        let arguments = fs::read(format!("/proc/{}/cmdline", run.pid())).unwrap_or_default();
        seen += &String::from_utf8_lossy(&arguments);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let out = run.finish();
    assert!(out.stdout.contains("good: uploaded"), "{}", out.describe());
    seen += &out.describe();
    for name in waiting(&world) {
        seen += &fs::read_to_string(world.target().join(".uploads").join(name)).unwrap();
    }
    seen += &faults.seen("", "").concat();
    for canary in [SECRET, "canary-wrong-secret"] {
        assert!(!seen.contains(canary), "{canary} is in {seen}");
    }
    out.failed(&["uploading to wrong: "]);
}

/// A bucket with a thousand archives, ten of them with a record, on a server that answers after 20 ms.
#[test]
fn lists_a_thousand_archives_in_a_bucket_within_64_mib() {
    let world = World::plain(Version::V35);
    let archive = fs::read(world.saved()).unwrap();
    let server = Server::filled(&["backups"], &|root| {
        let folder = root.join("backups/etcd/cluster/m1");
        fs::create_dir_all(&folder).unwrap();
        for copy in 0..1000 {
            fs::write(folder.join(format!("copy-{copy}.tar.gz")), &archive).unwrap();
            if copy % 100 == 0 {
                fs::write(folder.join(format!("copy-{copy}.tar.gz.json")), "{}").unwrap();
            }
        }
    });
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    faults.inject("GET", "", Fault::Late(20), usize::MAX);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    let nowhere = format!("target={}", world.path("nowhere").display());
    let listing = world.action(program!("list-snapshots"), &[&nowhere, "limit=0"]);
    // Limits CPU time, because wall-clock time depends on other processes. An unoptimised build needs several
    // times as much.
    let mut command = Command::new("prlimit");
    let seconds = if cfg!(debug_assertions) { "--cpu=10" } else { "--cpu=2" };
    command.arg(seconds).arg(listing.get_program()).args(listing.get_args());
    command.env("ETCD_BACKUP", world.path("backup.yaml"));
    let began = std::time::Instant::now();
    let mut run = Run::start(command, &world.path("runs"));
    let mut peak = 0;
    while !run.ended() {
        peak = peak.max(crate::malicious_archives::memory_of(run.pid()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let results = run.finish().completed();
    assert_eq!((results.get("count").as_str(), results.get("snapshots").lines().count()), ("1000", 1001));
    assert!((1..=64 << 10).contains(&peak), "{peak} KiB were resident");
    // Two pages of the object list, the end of each archive, and the records, with several requests at once.
    let asked = faults.seen("", "").len();
    let (at_once, took) = (faults.most_late_at_once(), began.elapsed());
    eprintln!("{asked} requests, up to {at_once} at once, {took:.1?}, {peak} KiB");
    assert!(asked <= 2 + 1000 + 10, "{asked} requests");
    assert!(at_once > 1, "at most {at_once} request at a time");
}

/// As `juju run etcd/0 etcd/1 etcd/2 snapshot` does: three members of one cluster upload in the same second.
#[test]
fn units_that_upload_at_once_use_different_folders() {
    let members = crate::common::cluster::of_three(Version::V35);
    let server = Server::new(&["backups"]);
    let faults = Faults::before(server.port);
    let units: Vec<Unit<'_>> = members
        .iter()
        .zip(["etcd/0", "etcd/1", "etcd/2"])
        .map(|(member, name)| {
            server.write_credentials(&member.path("credentials"));
            write_destinations(member, &[("offsite", faults.port, "backups", "")]);
            Unit::named(member, name)
        })
        .collect();
    let both = units.iter().zip(&members);
    let tasks: Vec<_> = both.map(|(unit, member)| unit.start("snapshot", &[&member.to_target()])).collect();
    for task in tasks {
        assert_eq!(task.finish().completed().get("destinations.offsite"), "uploaded");
    }
    let listed = units[1].run("list-snapshots", &[&members[1].to_target(), "format=json"]).completed();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed.get("snapshots")).unwrap();
    let there =
        listed.iter().filter_map(|entry| entry["location"].as_str()?.strip_prefix("s3://backups/etcd/"));
    let there: Vec<&str> = there.collect();
    assert_eq!(there.len(), 3, "{listed:?}");
    let folders: BTreeSet<&str> = there.iter().map(|name| name.rsplit_once('/').unwrap().0).collect();
    let cluster = there[0].split('/').next().unwrap();
    let expected = ["etcd-0", "etcd-1", "etcd-2"].map(|unit| format!("{cluster}/{unit}"));
    assert_eq!(folders, expected.iter().map(String::as_str).collect());
    // Each unit can fetch the archive of every other unit.
    let (from, to) = (format!("from=offsite/{cluster}/etcd-2/latest"), fetch_target(&members[0]));
    let fetched = units[0].run("fetch-snapshot", &[&from, &to]).completed();
    assert_eq!(fetched.get("snapshot.taken-on"), "etcd/2");
}

/// Returns an empty target directory, because archives of the same second have the same name.
fn fetch_target(world: &World) -> String {
    format!("target={}", world.path("fetched").display())
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_server() {
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    write_destinations(&world, &[("offsite", faults.port, "backups", "")]);
    let metrics = world.path("metrics");
    fs::create_dir(&metrics).unwrap();
    let settings = fs::read_to_string(world.path("backup.yaml")).unwrap();
    fs::write(world.path("backup.yaml"), format!("{settings}metrics: {}\n", metrics.display())).unwrap();
    for method in ["HEAD", "PUT"] {
        faults.inject(method, "", Fault::Hang, usize::MAX);
        // The metrics after the run list the bucket.
        faults.inject("GET", "list-type=2", Fault::Hang, usize::MAX);
        let before = faults.seen(method, "").len();
        let run = Run::start(command(&world), &world.path("runs"));
        while faults.seen(method, "").len() == before {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let since = std::time::Instant::now();
        kill(Pid::from_raw(run.pid()), Signal::SIGTERM).unwrap();
        let out = run.finish();
        // A busy machine takes a part of this.
        assert!(
            since.elapsed() < std::time::Duration::from_secs(2),
            "{:?}: {}",
            since.elapsed(),
            out.describe()
        );
        assert_eq!(out.status.code(), Some(128 + Signal::SIGTERM as i32), "{}", out.describe());
        assert!(!waiting(&world).is_empty());
        assert!(metrics.join("etcd_backup.prom").exists());
        faults.clear();
        // The next archive would get the same name in the same second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
}

#[test]
fn deleting_a_waiting_archive_removes_its_parts() {
    if !Can::Encrypt.is_supported() {
        return;
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups"]);
    server.write_credentials(&world.path("credentials"));
    let faults = Faults::before(server.port);
    // An encrypted object is always sent in parts.
    write_destinations(&world, &[("offsite", faults.port, "backups", ", encryption: s3")]);
    faults.inject("PUT", "partNumber=", Fault::Hang, 1);
    let run = Run::start(command(&world), &world.path("runs"));
    while faults.seen("PUT", "partNumber=").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = run.kill();
    assert!(faults.seen("DELETE", "uploadId=").is_empty());
    let name = archives(&world).remove(0);
    let words = [&*world.to_target(), &format!("snapshot={name}"), "force=true"];
    let mut delete = world.action(program!("delete-snapshot"), &words);
    delete.env("ETCD_BACKUP", world.path("backup.yaml"));
    let _ = Run::start(delete, &world.path("runs")).finish().completed();
    assert_eq!(faults.seen("DELETE", "uploadId=").len(), 1, "its parts are still there");
    assert!(waiting(&world).is_empty());
}

#[test]
fn a_locked_archive_is_kept_and_is_no_failure() {
    if !Can::Lock.is_supported() {
        return;
    }
    let world = World::plain(Version::V35);
    let server = Server::new(&["backups-locked"]);
    server.write_credentials(&world.path("credentials"));
    write_destinations(&world, &[("offsite", server.port, "backups-locked", "")]);
    let settings = fs::read_to_string(world.path("backup.yaml")).unwrap();
    fs::write(world.path("backup.yaml"), settings + "    keep: {last: 1}\n").unwrap();
    for number in 0..2 {
        world.put(number..number + 1, "new");
        let _ = snapshot(&world).completed();
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let words = [&*world.to_target(), "destination=offsite"];
    let mut prune = world.action(program!("prune-snapshots"), &words);
    prune.env("ETCD_BACKUP", world.path("backup.yaml"));
    let pruned = Run::start(prune, &world.path("runs")).finish().completed();
    assert_eq!(pruned.get("destinations.offsite"), "0 deleted, 2 kept");
    assert!(pruned.get("snapshots").contains("object lock keeps"), "{}", pruned.get("snapshots"));
}
