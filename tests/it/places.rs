//! Tests of all locations for archives with the same actions: a local directory, buckets and mounted disks of
//! other machines.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::cluster;
use crate::common::command::{Out, Run};
use crate::common::fs_util::{names, sha256sum};
use crate::common::mount;
use crate::common::s3::{Fault, Faults, Server};
use crate::common::world::{Setup, Version, World, is_root};
use crate::destinations::archives;
use crate::list_snapshots::program;

/// The header of a request that reads an archive from its beginning.
const WHOLE: &str = "range: bytes=0-";

/// A world with a bucket and a directory as destinations.
struct Fixture {
    world: World,
    server: Server,
    faults: Faults,
}

impl Fixture {
    fn new(version: Version) -> Self {
        Self::of(World::plain(version))
    }

    fn of(world: World) -> Self {
        let server = Server::new(&["backups", "spare"]);
        server.write_credentials(&world.path("credentials"));
        let faults = Faults::before(server.port);
        fs::create_dir(world.path("nfs")).unwrap();
        Self { world, server, faults }
    }

    /// Returns the settings of a destination in a bucket, with the additional lines `more`.
    fn bucket(&self, name: &str, bucket: &str, more: &str) -> String {
        let (port, credentials) = (self.faults.port, self.world.path("credentials"));
        format!(
            "  {name}:\n    s3: {{credentials-file: {}, endpoint: 'http://127.0.0.1:{port}', bucket: {bucket}, \
             folder: etcd}}\n{more}",
            credentials.display()
        )
    }

    /// Returns the settings of a destination in the directory `nfs`, which is on the local disk.
    fn directory(&self, more: &str) -> String {
        format!("  nfs:\n    directory: {}\n    mount: none\n{more}", self.world.path("nfs").display())
    }

    fn settings(&self, keep: &str, destinations: &[String]) {
        let text = format!("{keep}destinations:\n{}", destinations.concat());
        fs::write(self.world.path("backup.yaml"), text).unwrap();
    }

    fn start(&self, action: &str, words: &[&str]) -> Run {
        let target = self.world.to_target();
        let mut command = self.world.action(program(action), &[&[&*target], words].concat());
        command.env("ETCD_BACKUP", self.world.path("backup.yaml"));
        Run::start(command, &self.world.path("runs"))
    }

    fn run(&self, action: &str, words: &[&str]) -> Out {
        self.start(action, words).finish()
    }

    /// Takes a snapshot, uploads it to all destinations, and returns its name. Each snapshot has a new
    /// revision.
    fn saved(&self) -> String {
        self.world.put(900..901, "once more");
        let path = self.run("snapshot", &[]).completed().get("snapshot.path");
        path.rsplit('/').next().unwrap().to_owned()
    }

    fn listed(&self) -> Vec<Value> {
        let all = self.run("list-snapshots", &["format=json", "limit=0"]).completed().get("snapshots");
        serde_json::from_str(&all).unwrap()
    }

    /// Returns the path of a snapshot in the directory `nfs`.
    fn in_directory(&self, name: &str) -> PathBuf {
        self.world.path("nfs").join(self.folder()).join(name)
    }

    /// Returns the folder of this cluster and member.
    fn folder(&self) -> String {
        format!("{:x}/m1", self.world.cluster_id())
    }

    /// Returns the files other than data, archives and the upload queue.
    fn leftovers(&self) -> Vec<String> {
        self.world.leftovers().into_iter().filter(|path| !path.ends_with("/.uploads")).collect()
    }

    fn archives(&self) -> Vec<String> {
        archives(&self.world)
    }
}

/// Returns the snapshots in this destination, or in the target if `destination` is `None`.
fn of<'a>(all: &'a [Value], destination: Option<&str>) -> Vec<&'a Value> {
    all.iter().filter(|one| one["destination"].as_str() == destination).collect()
}

#[test]
fn a_directory_works_like_a_bucket() {
    let fixture = Fixture::new(Version::V35);
    fixture.world.fill();
    fixture.settings("", &[fixture.bucket("offsite", "backups", ""), fixture.directory("")]);
    let name = fixture.saved();
    let (here, there) = (fixture.world.target().join(&name), fixture.in_directory(&name));
    assert_eq!(sha256sum(&here), sha256sum(&there));
    assert_eq!(names(there.parent().unwrap()), std::slice::from_ref(&name), "a staging file is left behind");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(there.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);

    // A different file with the same name is not overwritten: the archive gets another name.
    fs::write(fixture.world.path("other"), "another's").unwrap();
    fs::remove_file(&there).unwrap();
    fs::copy(fixture.world.path("other"), &there).unwrap();
    let queue = fixture.world.target().join(".uploads");
    let order = format!(
        "{{\"archive\": \"{name}\", \"sha256\": \"{}\", \"destination\": \"nfs\", \"remote\": \"{}/{name}\", \
         \"since\": \"2026-11-21T00:00:00Z\"}}",
        sha256sum(&here),
        fixture.folder()
    );
    fs::write(queue.join(format!("{name}@nfs")), &order).unwrap();
    let _ = fixture.run("snapshot", &[]).completed();
    assert_eq!(fs::read(&there).unwrap(), b"another's");
    let own = name.replace(".tar.gz", &format!("-{}.tar.gz", &sha256sum(&here)[..12]));
    assert_eq!(sha256sum(&fixture.in_directory(&own)), sha256sum(&here));
    assert!(names(&queue).is_empty());
    fs::remove_file(fixture.in_directory(&own)).unwrap();
    // If a killed run has already copied the archive, it is not copied again.
    fs::copy(&here, &there).unwrap();
    fs::write(queue.join(format!("{name}@nfs")), order).unwrap();
    let _ = fixture.run("snapshot", &[]).completed();
    assert!(names(&queue).is_empty() && !fixture.in_directory(&own).exists());

    // It is fetched from there by name, and by path.
    for from in [format!("nfs/{name}"), there.display().to_string()] {
        fs::remove_file(&here).unwrap();
        let fetched = fixture.run("fetch-snapshot", &[&format!("from={from}")]).completed();
        assert_eq!(fetched.get("snapshot.sha256"), sha256sum(&here));
    }
}

#[test]
fn refuses_a_missing_directory_or_an_empty_mount_point() {
    let fixture = Fixture::new(Version::V35);
    let at = fixture.world.path("nfs");
    let to = |directory: &Path, mount: &str| {
        let mount = if mount.is_empty() { String::new() } else { format!("    mount: {mount}\n") };
        fixture.settings("", &[format!("  nfs:\n    directory: {}\n{mount}", directory.display())]);
    };
    to(&at.join("etcd"), "none");
    let missing = format!("destination nfs: directory {} does not exist", at.join("etcd").display());
    fixture.run("snapshot", &[]).failed(&[&missing]);
    assert!(!at.join("etcd").exists());
    to(&at, at.to_str().unwrap());
    fixture.run("snapshot", &[]).failed(&["no file system is mounted at"]);
    to(&at, "/elsewhere");
    fixture.run("snapshot", &[]).failed(&["is not in its mount point /elsewhere"]);
    assert!(names(&at).is_empty());
    if !is_root() {
        return eprintln!("skipped: only root can mount");
    }
    for mount_point in ["", at.to_str().unwrap()] {
        to(&at, mount_point);
        let mounted = mount::small(&at, "10m");
        let _ = fixture.run("snapshot", &[]).completed();
        assert_eq!(names(&at), [format!("{:x}", fixture.world.cluster_id())]);
        drop(mounted);
        to(&at, at.to_str().unwrap());
        fixture.run("snapshot", &[]).failed(&["no file system is mounted at"]);
        assert!(names(&at).is_empty());
    }
    // A copy that was killed has filled the disk. The next one removes it.
    to(&at, "");
    let mounted = mount::small(&at, "2m");
    let folder = at.join(format!("{:x}/m1", fixture.world.cluster_id()));
    fill_as_a_killed_run(&folder);
    let _ = fixture.run("snapshot", &[]).completed();
    assert_eq!(names(&folder).iter().filter(|name| name.starts_with('.')).count(), 0);
    drop(mounted);
    // A full disk is reported before the archive is written.
    to(&at, "");
    let _small = mount::small(&at, "4k");
    fixture.world.fill();
    fixture.run("snapshot", &[]).failed(&["the archive needs", "are free"]);
}

/// Fills the disk of `home` with the working directory of a killed run.
fn fill_as_a_killed_run(home: &Path) {
    let left = home.join(".etcd-snapshot-0f0e0d0c-0b0a-4908-8706-050403020100");
    fs::create_dir_all(&left).unwrap();
    let mut file = fs::File::create(left.join("db")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn the_files_of_a_killed_run_take_no_space_from_the_next_one() {
    if !is_root() {
        return eprintln!("skipped: only root can mount");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let elsewhere = world.path("elsewhere");
    let archive =
        world.snapshot(&[&format!("target={}", elsewhere.display())]).completed().get("snapshot.path");
    let _small = mount::small(&world.target(), "64m");
    let from = format!("snapshot={archive}");
    for (action, words) in [("snapshot", vec![]), ("restore", vec![&*from])] {
        fill_as_a_killed_run(&world.target());
        let command = world.action(program(action), &[&[&*world.to_target()], &*words].concat());
        let _ = Run::start(command, &world.path("runs")).finish().completed();
        assert!(world.leftovers().is_empty(), "{action}: {:?}", world.leftovers());
    }
}

#[test]
fn lists_the_other_places_if_one_cannot_be_read() {
    let fixture = Fixture::new(Version::V35);
    fixture.settings("", &[fixture.bucket("offsite", "backups", ""), fixture.directory("")]);
    let (first, second) = (fixture.saved(), fixture.saved());
    let all = fixture.listed();
    assert_eq!(all.len(), 6);
    // Equal copies are listed next to each other, and each location has its own newest snapshot.
    for (at, name) in [(0, &second), (3, &first)] {
        let shown: Vec<_> = all[at..at + 3].iter().map(|one| (&one["name"], &one["destination"])).collect();
        let name = Value::from(name.as_str());
        assert_eq!(shown, [(&name, &Value::Null), (&name, &"nfs".into()), (&name, &"offsite".into())]);
    }
    for (number, one) in all.iter().enumerate() {
        let because = one["kept_because"].as_array().unwrap();
        assert_eq!(
            because.first().map(|why| why == "the newest verified"),
            (number < 3).then_some(true),
            "{one}"
        );
    }
    assert_eq!(all[2]["snapshot"], format!("offsite/{}/{second}", fixture.folder()));
    assert_eq!(all[2]["location"], format!("s3://backups/etcd/{}/{second}", fixture.folder()));

    // One destination cannot be listed, and another cannot be opened.
    let missing = fixture.bucket("gone", "missing", "");
    let unmounted = "  unmounted: {directory: /nowhere/at/all}\n".to_owned();
    fixture.settings("", &[fixture.bucket("offsite", "backups", ""), missing, unmounted]);
    let out = fixture.run("list-snapshots", &[]);
    let stdout = out.stdout.clone();
    for part in [
        &*format!("offsite/{}", fixture.folder()),
        &second,
        "count: '4'",
        "gone: 'cannot be read: listing s3://missing/etcd/: http://127.0.0.1:",
        "unmounted: 'cannot be read: destination unmounted: directory /nowhere/at/all does not exist",
        "offsite: 2 snapshots, ",
    ] {
        assert!(stdout.contains(part), "{part}: {}", out.describe());
    }
    assert!(
        out.stderr.contains("reading gone: ") && out.stderr.contains("; reading unmounted: "),
        "{}",
        out.describe()
    );
    out.failed(&["NoSuchBucket"]);
    // Local archives do not need any destination.
    let _ = fixture.run("verify-snapshot", &[&format!("snapshot={first}")]).completed();
    fixture.run("verify-snapshot", &["snapshot=gone/latest"]).refused(&["gone cannot be read"]);
}

#[test]
fn pins_verifies_and_deletes_in_every_place() {
    let fixture = Fixture::new(Version::V35);
    fixture.world.fill();
    fixture.settings("", &[fixture.bucket("offsite", "backups", ""), fixture.directory("")]);
    let (first, second) = (fixture.saved(), fixture.saved());
    for place in ["offsite", "nfs"] {
        let named = format!("{place}/{}/{first}", fixture.folder());
        let by_name = format!("snapshot={place}/{first}");
        let done = fixture.run("pin-snapshot", &[&by_name]).completed();
        assert_eq!(done.get("pinned"), named);
        let all = fixture.listed();
        let pinned: Vec<_> =
            all.iter().filter(|one| one["pinned"] == true).map(|one| &one["snapshot"]).collect();
        assert_eq!(pinned, [&Value::from(&*named)], "only the copy in {place} must be pinned");
        fixture.run("delete-snapshot", &[&by_name]).refused(&["is pinned"]);
        let _ = fixture.run("unpin-snapshot", &[&by_name]).completed();

        let done = fixture.run("verify-snapshot", &[&by_name]).completed();
        assert_eq!(done.get("verify.snapshots"), named);
        assert_eq!(done.get("verify.sha256"), sha256sum(&fixture.world.target().join(&first)));

        fixture
            .run("delete-snapshot", &[&format!("snapshot={place}/{second},{place}/{first}")])
            .refused(&[&format!("would be left in {place}")]);
        let done = fixture.run("delete-snapshot", &[&by_name]).completed();
        assert_eq!(done.get("deleted"), named);
        let all = fixture.listed();
        assert_eq!(of(&all, Some(place)).len(), 1);
        assert_eq!(of(&all, None).len(), 2);
        fixture.run("delete-snapshot", &[&format!("snapshot={place}/{second}")]).refused(&["--force"]);
    }
    for all in ["all", "latest", "offsite/all"] {
        fixture
            .run("delete-snapshot", &[&format!("snapshot={all}"), "force=true"])
            .refused(&["all and latest are not accepted as names"]);
    }

    // Verifies all locations, with totals. One copy is damaged, and the others are good.
    let mut bytes = fs::read(fixture.in_directory(&second)).unwrap();
    bytes[2000] ^= 1;
    fs::write(fixture.in_directory(&second), bytes).unwrap();
    let out = fixture.run("verify-snapshot", &["snapshot=all"]);
    for part in ["good: '3'", "failed: '1'", "nfs: 0 good, 1 failed", "offsite: 1 good, 0 failed"] {
        assert!(out.stdout.contains(part), "{part}: {}", out.describe());
    }
    out.failed(&[&format!("nfs/{}/{second} is damaged: ", fixture.folder())]);
    let all = fixture.listed();
    assert!(of(&all, Some("nfs"))[0]["broken"].is_string());
    assert!(of(&all, Some("offsite"))[0]["verified"].is_string());
    assert!(fixture.world.in_target().iter().all(|name| !name.starts_with(".etcd")));
}

#[test]
fn prunes_each_place_by_its_own_rules() {
    let fixture = Fixture::new(Version::V35);
    let keep = |many: u64| format!("    keep: {{last: {many}}}\n");
    let destinations = || [fixture.bucket("offsite", "backups", &keep(1)), fixture.directory("")];
    fixture.settings("", &destinations()[1..]);
    fixture.run("prune-snapshots", &[]).refused(&["the settings contain no rule"]);
    fixture.settings("keep: {last: 2}\n", &destinations());
    let all: Vec<String> = (0..4).map(|_| fixture.saved()).collect();

    let planned = fixture.run("prune-snapshots", &["plan=true"]).completed();
    assert_eq!(planned.get("would-delete"), "5");
    assert_eq!(planned.get("destinations.offsite"), "3 would go, 1 kept");
    assert_eq!(fixture.listed().len(), 12, "a plan must not delete a snapshot");
    let because = |one: &Value| one["kept_because"].as_array().unwrap().len();
    let kept: Vec<usize> = of(&fixture.listed(), None).into_iter().map(because).collect();
    assert_eq!(kept, [2, 1, 0, 0], "the list must show the rules that keep a snapshot");

    // A snapshot that could not be deleted is not reported as deleted.
    fixture.faults.inject("DELETE", "", Fault::Answer(403, "AccessDenied", ""), 100);
    let out = fixture.run("prune-snapshots", &["destination=offsite"]);
    assert_eq!(out.stdout.matches("NOT DELETED").count(), 3, "{}", out.describe());
    for part in ["deleted: '0'", "0 deleted, 4 kept"] {
        assert!(out.stdout.contains(part), "{}", out.describe());
    }
    out.failed(&["AccessDenied"]);
    fixture.faults.clear();
    assert_eq!(fixture.listed().len(), 12);

    // A destination that cannot be read does not hide the others. Archives that wait for it are kept.
    let gone = fixture.bucket("gone", "missing", &keep(1));
    fixture.settings("keep: {last: 2}\n", &[&destinations()[..], std::slice::from_ref(&gone)].concat());
    let out = fixture.run("snapshot", &[]);
    out.failed(&["uploading to gone"]);
    // It need not be the last by name: the second snapshot of a second sorts before the first.
    let waits = fixture.archives().into_iter().find(|name| !all.contains(name)).unwrap();
    fixture.settings("keep: {last: 2}\n", &destinations());
    let newer = [fixture.saved(), fixture.saved()];
    fixture.settings("keep: {last: 2}\n", &[&destinations()[..], &[gone]].concat());
    let out = fixture.run("prune-snapshots", &[]);
    let stdout = out.stdout.clone();
    let verdict = |name: &str, place: &str| {
        let line =
            stdout.lines().find(|line| line.contains(name) && line.contains(place)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let here = fixture.world.target().display().to_string();
    assert!(verdict(&waits, &here).ends_with("kept still to be uploaded to gone"), "{}", out.describe());
    assert!(verdict(&all[0], &here).ends_with("deleted no rule keeps it"), "{}", out.describe());
    assert!(verdict(&all[3], "offsite/").ends_with("deleted no rule keeps it"), "{}", out.describe());
    assert!(
        stdout.contains("deleted: '10'") && stdout.contains("offsite: 6 deleted, 1 kept"),
        "{}",
        out.describe()
    );
    out.failed(&["reading gone: "]);

    // The directory has no rules, so it keeps all archives.
    let left = fixture.listed_though_one_fails();
    assert_eq!(of(&left, Some("nfs")).len(), 7);
    assert_eq!(of(&left, Some("offsite")).len(), 1);
    let mut here: Vec<String> = [&waits, &newer[0], &newer[1]].map(String::clone).into();
    here.sort();
    assert_eq!(fixture.archives(), here);

    // Rules on the command line apply to the target, or to the given destination.
    let done = fixture.run("prune-snapshots", &["keep=3", "destination=nfs"]).completed();
    assert_eq!((done.get("deleted"), done.get("destinations.nfs")), ("4".into(), "4 deleted, 3 kept".into()));
    let done = fixture.run("prune-snapshots", &["keep=1"]).completed();
    assert_eq!((done.get("deleted"), done.find("destinations.nfs")), ("1".into(), None));
    fixture.run("prune-snapshots", &["destination=nowhere"]).refused(&["give one of gone, nfs, offsite"]);
}

impl Fixture {
    /// Returns the list, although the run fails because a destination cannot be read.
    fn listed_though_one_fails(&self) -> Vec<Value> {
        let out = self.run("list-snapshots", &["format=json", "limit=0"]);
        let results: Value = serde_yaml::from_str(&out.stdout).unwrap();
        let results = results.get("results").unwrap_or(&results);
        serde_json::from_str(results["snapshots"].as_str().unwrap()).unwrap()
    }
}

#[test]
fn keeps_the_snapshots_of_other_members() {
    let [first, second, _third] =
        <[World; 3]>::try_from(cluster::of_three(Version::V35)).unwrap_or_else(|_| panic!());
    let shared = first.path("shared");
    fs::create_dir(&shared).unwrap();
    let fixture = Fixture::of(first);
    let text = format!(
        "destinations:\n  shared:\n    directory: {}\n    mount: none\n    keep: {{last: 1}}\n",
        shared.display()
    );
    fs::write(fixture.world.path("backup.yaml"), text).unwrap();
    let snapshot = |world: &World| {
        let mut command = world.action(program("snapshot"), &[&world.to_target()]);
        command.env("ETCD_BACKUP", fixture.world.path("backup.yaml"));
        let _ = Run::start(command, &world.path("runs")).finish().completed();
    };
    for world in [&second, &second, &fixture.world, &fixture.world] {
        fixture.world.put(1..2, "more");
        snapshot(world);
    }
    let done = fixture.run("prune-snapshots", &[]).completed();
    assert_eq!(done.get("destinations.shared"), "1 deleted, 3 kept");
    assert!(done.get("snapshots").contains("of another member, m2"), "{}", done.get("snapshots"));
    // With the id of the cluster, the rules apply to each of its members.
    let cluster = format!("cluster={:x}", fixture.world.cluster_id());
    let done = fixture.run("prune-snapshots", &[&cluster]).completed();
    assert_eq!(done.get("destinations.shared"), "1 deleted, 2 kept");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_from_a_bucket_and_from_a_directory(version: Version) {
    let fixture = Fixture::new(version);
    let world = &fixture.world;
    world.fill();
    fixture.settings("", &[fixture.bucket("offsite", "backups", ""), fixture.directory("")]);
    let name = fixture.saved();
    let (saved, folder) = (world.dump(), fixture.folder());
    let sha256 = sha256sum(&world.target().join(&name));
    // The whole target is lost.
    fs::remove_dir_all(world.target()).unwrap();
    let restore = |words: &[&str]| fixture.run("restore", &[&["skip-backup=true"], words].concat());
    restore(&["from=latest"]).refused(&["there is no snapshot that is known to be good"]);
    let planned = restore(&["from=offsite/latest", "plan=true"]).completed();
    assert_eq!(planned.get("plan.sha256"), sha256);
    assert_eq!(planned.get("plan.snapshot"), format!("s3://backups/etcd/{folder}/{name}"));
    assert!(fixture.leftovers().is_empty(), "{:?}", fixture.leftovers());
    for from in [
        "offsite/latest".to_owned(),
        format!("offsite/{name}"),
        format!("s3://backups/etcd/{folder}/{name}"),
        format!("nfs/{folder}/latest"),
    ] {
        world.damage();
        let _ = restore(&[&format!("from={from}"), &format!("expected-sha256={sha256}")]).completed();
        assert_same(&world.dump(), &saved, &from);
    }
    restore(&["from=offsite/all"]).refused(&["more than one"]);
    restore(&["from=offsite/none.tar.gz"]).refused(&["no snapshot none.tar.gz in offsite"]);

    // An archive of another cluster is refused, as from the target.
    let stranger = Fixture::of(World::new(Setup { name: "m2", ..Setup::plain(version) }));
    stranger.world.put(0..3, "stranger");
    stranger.settings("", &[fixture.bucket("offsite", "backups", "")]);
    fs::copy(world.path("credentials"), stranger.world.path("credentials")).unwrap();
    let _ = stranger.run("snapshot", &[]).completed();
    restore(&[&format!("from=offsite/{:x}/m2/latest", stranger.world.cluster_id())])
        .refused(&["is of another cluster"]);
    // `latest` means the latest archive of this cluster, not of all clusters.
    world.damage();
    let _ = restore(&["from=offsite/latest"]).completed();
    assert_same(&world.dump(), &saved, "the latest of this cluster");
}

#[test]
fn refuses_a_download_if_the_disk_has_no_space() {
    if !is_root() {
        return eprintln!("skipped: only root can mount");
    }
    let fixture = Fixture::new(Version::V35);
    fixture.settings("", &[fixture.bucket("offsite", "backups", "")]);
    fixture.world.fill();
    let name = fixture.saved();
    fixture.world.stop();
    let _small = mount::small(&fixture.world.path("data"), "70m");
    fs::create_dir(fixture.world.data_dir()).unwrap();
    let before = fixture.faults.seen("GET", &name).len();
    fixture.run("restore", &["from=offsite/latest"]).refused(&["restoring next to the live data needs"]);
    let since = fixture.faults.seen("GET", &name).split_off(before);
    assert!(since.iter().all(|get| !get.contains(WHOLE)), "{since:?}");
    assert!(names(&fixture.world.data_dir()).is_empty());
}

#[test]
fn restores_nothing_if_the_download_fails_or_is_killed() {
    let fixture = Fixture::new(Version::V35);
    let world = &fixture.world;
    world.fill();
    fixture.settings("", &[fixture.bucket("offsite", "backups", "")]);
    let name = fixture.saved();
    world.damage();
    let (live, tree) = (world.dump(), world.tree());
    let words = ["from=offsite/latest", "skip-backup=true"];
    let from = format!("from=s3://backups/etcd/{}/{name}", fixture.folder());
    let _ = fixture.run("restore", &[&from, "plan=true"]).completed();
    // The list reads only the ends of archives, without faults. Then the connection breaks in every attempt.
    fixture.faults.inject("GET", WHOLE, Fault::CutAnswer(700), 1000);
    let out = fixture.run("restore", &words);
    assert!(
        !out.stderr.contains("altered"),
        "a broken connection was reported as a damaged archive: {}",
        out.describe()
    );
    out.failed(&["reading s3://backups/etcd/"]);
    fixture.faults.clear();
    assert_eq!((world.dump(), world.tree()), (live.clone(), tree));
    assert!(fixture.leftovers().is_empty(), "{:?}", fixture.leftovers());

    // Kills the run during the download.
    let before = fixture.faults.seen("GET", WHOLE).len();
    fixture.faults.inject("GET", WHOLE, Fault::Slow(2000), 1000);
    let run = fixture.start("restore", &words);
    while fixture.faults.seen("GET", WHOLE).len() == before {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = run.kill();
    fixture.faults.clear();
    assert_eq!((world.dump(), world.tree()), (live, tree));
    let _ = world.restore(&["--recover"]).completed();
    assert!(fixture.leftovers().is_empty(), "{:?}", fixture.leftovers());
    let _ = fixture.run("restore", &words).completed();
    drop(fixture.server);
}
