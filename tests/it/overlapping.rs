//! Destinations that contain one another. After a deletion, the program lists each destination again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::mount;
use crate::common::s3::{Can, Fault, Faults, Server};
use crate::common::world::{Version, World, is_root};
use crate::list_snapshots::program;

struct Fixture {
    world: World,
    server: Server,
    faults: Faults,
}

impl Fixture {
    fn new(version: Version) -> Self {
        let world = World::plain(version);
        let server = Server::new(&["backups", "kept-versioned"]);
        server.write_credentials(&world.path("credentials"));
        let faults = Faults::before(server.port);
        fs::create_dir_all(world.path("disk/long")).unwrap();
        Self { world, server, faults }
    }

    /// Returns the settings of a bucket as a destination that keeps the `last` newest snapshots.
    fn bucket(&self, name: &str, host: &str, bucket: &str, folder: &str, last: u32) -> String {
        format!(
            "  {name}:\n    s3: {{credentials-file: {}, endpoint: 'http://{host}:{}', bucket: {bucket}, \
             folder: '{folder}'}}\n    keep: {{last: {last}}}\n",
            self.world.path("credentials").display(),
            self.faults.port
        )
    }

    fn directory(name: &str, path: &Path, last: u32) -> String {
        format!("  {name}:\n    directory: {}\n    mount: none\n    keep: {{last: {last}}}\n", path.display())
    }

    fn settings(&self, destinations: &[String]) {
        let text = format!("destinations:\n{}", destinations.concat());
        fs::write(self.world.path("backup.yaml"), text).unwrap();
    }

    fn start(&self, action: &str, words: &[&str]) -> Run {
        let mut command = self.world.action(program(action), words);
        command.env("ETCD_BACKUP", self.world.path("backup.yaml"));
        Run::start(command, &self.world.path("runs"))
    }

    fn run(&self, action: &str, words: &[&str]) -> Out {
        let target = self.world.to_target();
        self.start(action, &[&[&*target], words].concat()).finish()
    }

    /// Takes a snapshot of a new revision and returns its name.
    fn saved(&self) -> String {
        self.world.put(900..901, "once more");
        let path = self.run("snapshot", &[]).completed().get("snapshot.path");
        path.rsplit('/').next().unwrap().to_owned()
    }

    /// Returns the number of snapshots that are listed in a destination.
    fn count(&self, destination: &str) -> usize {
        let all = self.run("list-snapshots", &["format=json", "limit=0"]).completed().get("snapshots");
        let all: Vec<Value> = serde_json::from_str(&all).unwrap();
        all.iter().filter(|one| one["destination"] == destination).count()
    }

    fn folder(&self) -> String {
        format!("{:x}/m1", self.world.cluster_id())
    }
}

#[test]
fn nested_destinations_apply_their_own_rules() {
    let here = Fixture::new(Version::V35);
    let (disk, long) = (here.world.path("disk"), here.world.path("disk/long"));
    here.settings(&[
        here.bucket("short", "127.0.0.1", "backups", "", 1),
        here.bucket("long", "127.0.0.1", "backups", "longterm", 5),
        Fixture::directory("disk", &disk, 1),
        Fixture::directory("disk-long", &long, 5),
    ]);
    for _ in 0..3 {
        here.saved();
    }
    for name in ["short", "long", "disk", "disk-long"] {
        assert_eq!(here.count(name), 3, "{name}");
    }
    let done = here.run("prune-snapshots", &[]).completed();
    assert_eq!(done.get("deleted"), "4", "{}", done.out.describe());
    for (name, expected, left) in [
        ("short", "2 deleted, 1 kept", 1),
        ("long", "0 deleted, 3 kept", 3),
        ("disk", "2 deleted, 1 kept", 1),
        ("disk-long", "0 deleted, 3 kept", 3),
    ] {
        assert_eq!(done.get(&format!("destinations.{name}")), expected, "{name}");
        assert_eq!(here.count(name), left, "{name}");
    }
}

#[test]
fn refuses_two_destinations_at_the_same_place() {
    let here = Fixture::new(Version::V35);
    let disk = here.world.path("disk");
    let bucket = |name: &str, host: &str, folder: &str| here.bucket(name, host, "backups", folder, 1);
    for pair in [
        [bucket("a", "127.0.0.1", "etcd"), bucket("b", "127.0.0.1", "/etcd/")],
        // Two spellings of the address of one server.
        [bucket("a", "127.0.0.1", "etcd"), bucket("b", "LOCALHOST", "etcd")],
        [Fixture::directory("a", &disk, 1), Fixture::directory("b", &disk.join("."), 5)],
    ] {
        here.settings(&pair);
        for action in ["snapshot", "prune-snapshots", "list-snapshots"] {
            here.run(action, &[]).refused(&["destinations a and b are the same place", "folder of its own"]);
        }
    }
    assert!(here.world.in_target().is_empty());
    // A destination is never opened through a symlink.
    symlink(&disk, here.world.path("link")).unwrap();
    let other = here.world.path("other");
    let to = |path: &Path| {
        here.settings(&[Fixture::directory("a", &disk, 1), Fixture::directory("b", path, 5)]);
    };
    to(&here.world.path("link"));
    here.run("snapshot", &[]).failed(&["uploading to b", "is a symlink"]);
    if !is_root() {
        return eprintln!("skipped: only root can mount a file system");
    }
    let before = names(&disk);
    fs::create_dir(&other).unwrap();
    let _mounted = mount::bind(&disk, &other);
    to(&other);
    here.run("prune-snapshots", &[]).failed(&["destinations a and b are the same place"]);
    here.run("snapshot", &[]).failed(&["destinations a and b are the same place"]);
    assert_eq!(names(&disk), before);
}

#[test]
fn refuses_a_target_that_a_destination_would_prune() {
    let here = Fixture::new(Version::V35);
    let disk = here.world.path("disk");
    here.settings(&[Fixture::directory("disk", &disk, 1)]);
    for target in [disk.clone(), disk.join("a/b")] {
        let target = format!("target={}", target.display());
        for (action, words) in
            [("snapshot", [&*target, "compression=balanced"]), ("prune-snapshots", [&target, "keep=1"])]
        {
            here.start(action, &words).finish().refused(&["destination disk"]);
        }
    }
    // Archives at these depths are outside the folders of the destination.
    for target in [disk.join("a"), here.world.path(".").join("disk/a/b/c")] {
        let target = format!("target={}", target.display());
        // Two targets use the same name for archives of the same second.
        std::thread::sleep(Duration::from_millis(1100));
        here.start("snapshot", &[&target]).finish().completed();
    }
    assert_eq!(here.count("disk"), 2);
}

#[test]
fn reports_a_kept_snapshot_that_is_missing_after_a_prune() {
    let here = Fixture::new(Version::V35);
    let disk = here.world.path("disk");
    here.settings(&[
        here.bucket("offsite", "127.0.0.1", "backups", "", 1),
        Fixture::directory("disk", &disk, 5),
    ]);
    let first = here.saved();
    let last = here.saved();
    here.faults.inject("DELETE", &*first.clone().leak(), Fault::Late(2000), 1);
    let target = here.world.to_target();
    let run = here.start("prune-snapshots", &[&target]);
    while here.faults.seen("DELETE", &first).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Another program or a lifecycle rule of the bucket could do this.
    fs::remove_file(disk.join(here.folder()).join(&last)).unwrap();
    let out = run.finish();
    assert!(out.stdout.contains("disk: 0 deleted, 1 kept"), "{}", out.describe());
    assert!(out.stdout.contains("offsite: 1 deleted, 1 kept"), "{}", out.describe());
    assert!(out.stdout.contains("GONE"), "{}", out.describe());
    out.failed(&[&format!("disk/{}/{last}: it was to be kept, but it has disappeared", here.folder())]);
}

#[test]
fn a_snapshot_that_still_exists_is_not_reported_as_deleted() {
    let here = Fixture::new(Version::V35);
    here.settings(&[here.bucket("offsite", "127.0.0.1", "backups", "", 1)]);
    let first = here.saved();
    let _ = here.saved();
    // The server reports success but does not delete.
    here.faults.inject("DELETE", &*first.clone().leak(), Fault::Answer(200, "", ""), 100);
    let out = here.run("prune-snapshots", &[]);
    assert!(out.stdout.contains("deleted: '0'"), "{}", out.describe());
    assert!(out.stdout.contains("offsite: 0 deleted, 2 kept"), "{}", out.describe());
    out.failed(&["the server reported it as deleted, and it is still listed"]);
    let out = here.run("delete-snapshot", &[&format!("snapshot=offsite/{first}")]);
    assert!(!out.stdout.contains(&first), "{}", out.describe());
    out.failed(&["the server reported it as deleted, and it is still listed"]);
    here.faults.clear();
    let done = here.run("delete-snapshot", &[&format!("snapshot=offsite/{first}")]).completed();
    assert_eq!(done.get("deleted"), format!("offsite/{}/{first}", here.folder()));
}

#[test]
fn a_hidden_snapshot_is_not_reported_as_deleted() {
    if !Can::Lock.is_supported() {
        return;
    }
    let mut here = Fixture::new(Version::V35);
    here.settings(&[here.bucket("offsite", "127.0.0.1", "kept-versioned", "", 1)]);
    let all = [here.saved(), here.saved(), here.saved(), here.saved()];
    let key = |name: &str| format!("{}/{name}", here.folder());
    let keys: Vec<String> = all.iter().map(|name| key(name)).collect();
    // A key that may delete objects, but not versions of them.
    here.faults.inject("DELETE", "versionId=", Fault::Answer(403, "AccessDenied", ""), 2);
    let done = here.run("delete-snapshot", &[&format!("snapshot=offsite/{}", all[0])]).completed();
    assert_eq!((done.get("deleted"), done.get("freed")), (String::new(), "0".to_owned()));
    assert!(done.get("hidden").contains(&keys[0]), "{}", done.out.describe());
    let done = here.run("prune-snapshots", &[]).completed();
    assert_eq!(done.get("deleted"), "1");
    assert!(done.get("hidden").starts_with("1; "), "{}", done.out.describe());
    assert_eq!(done.get("destinations.offsite"), "1 deleted, 1 hidden, 1 kept");
    let (versions, _) = here.server.versions("kept-versioned");
    assert!(versions.contains(&keys[0]) && versions.contains(&keys[3]), "{versions:?}");
    assert_eq!(versions.iter().filter(|key| key.ends_with(".tar.gz")).count(), 3, "{versions:?}");
}
