//! A database with canary values goes through every action, every damaged form of an archive, and failures of
//! etcd's tools. No output, argument, environment, result or readable file may contain a canary.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::archive::unpack;
use crate::common::tools::Tools;
use crate::common::unit::Unit;
use crate::common::world::{Version, World};
use crate::encryption::{self, IDENTITY, encrypt, identity, manifest_next_to};
use crate::hostile::{file, gzip, packed};
use crate::list_snapshots::name;
use crate::restore::from;
use crate::secret_leaks::{LeakDetector, VALUE};
use crate::secrets::{BY_ETCDUTL, damaged, guarded, put_canaries};
use crate::upkeep::lock_credentials_path;
use crate::zips::{streamed, zip};

/// Every action with its parameters, in the order in which they run. `TARGET` is the directory of archives,
/// `ARCHIVE` the name of the newest, `PATH` its path, `FETCHED` another directory.
const CASES: &[(&str, &[&str])] = &[
    ("site", &[]),
    ("health", &[]),
    ("alarm-list", &[]),
    ("alarm-disarm", &[]),
    ("upload", &["target=TARGET", "plan=true"]),
    ("upload", &["target=TARGET"]),
    ("compact", &["physical=true"]),
    ("defrag", &[]),
    ("snapshot", &["target=TARGET"]),
    ("backup", &["target=TARGET"]),
    ("list-snapshots", &["target=TARGET", "runs=true"]),
    ("list-snapshots", &["target=TARGET", "format=json"]),
    ("list-snapshots", &["target=TARGET", "format=yaml"]),
    ("verify-snapshot", &["target=TARGET"]),
    ("verify-snapshot", &["target=TARGET", "snapshot=offsite/latest"]),
    ("verify-snapshot", &["target=TARGET", "drill=true"]),
    ("pin-snapshot", &["target=TARGET", "snapshot=ARCHIVE"]),
    ("unpin-snapshot", &["target=TARGET", "snapshot=ARCHIVE"]),
    ("fetch-snapshot", &["target=FETCHED", "from=offsite/latest"]),
    ("prune-snapshots", &["target=TARGET", "keep=2", "plan=true"]),
    ("prune-snapshots", &["target=TARGET", "keep=2"]),
    ("check", &["target=TARGET"]),
    ("check-config", &[]),
    ("schedule", &["plan=true"]),
    ("package-client-credentials", &[]),
    ("restore", &["target=TARGET", "snapshot=PATH", "plan=true"]),
    ("restore", &["target=TARGET", "snapshot=PATH"]),
    ("delete-snapshot", &["target=TARGET", "snapshot=ARCHIVE", "force=true"]),
];

/// The tests run programs from the build directory, so `schedule` may find them unsafe to run from a timer.
const MAY_REFUSE: &[&str] = &["schedule"];

#[test]
fn no_action_reports_a_secret() {
    let actions = Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml");
    let declared: Map<String, Value> = serde_yaml::from_str(&fs::read_to_string(actions).unwrap()).unwrap();
    let declared: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
    let covered: BTreeSet<&str> = CASES.iter().map(|(action, _)| *action).collect();
    assert_eq!(covered, declared, "an action has no case");

    let world = guarded(Version::V35);
    let shelf = world.path("shelf");
    let settings = format!(
        "schedule: {{when: '@daily'}}\ndestinations:\n  offsite: {{directory: {}, mount: none}}\n",
        shelf.display()
    );
    fs::write(world.path("backup.yaml"), settings).unwrap();
    let unit = Unit::new(&world);
    let mut detector = LeakDetector::new(&world);

    // A destination that is a file leaves an upload in the queue.
    fs::write(&shelf, "").unwrap();
    let out = detector.run(&unit.queued("snapshot", &[&detector.to_target()]));
    unit.judge(out).failed(&["offsite"]);
    fs::remove_file(&shelf).unwrap();
    fs::create_dir(&shelf).unwrap();
    world.set_mode("shelf", 0o700);

    for (action, words) in CASES {
        let _lock = match *action {
            "package-client-credentials" => match lock_credentials_path() {
                Some(lock) => Some(lock),
                None => continue,
            },
            _ => None,
        };
        let words: Vec<String> = words.iter().map(|word| filled_in(word, &world, &detector)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let out = detector.run(&unit.queued(action, &words));
        let ended = unit.judge(out);
        detector.check_files_in(&world.path("juju/agents/unit-etcd-0"));
        if MAY_REFUSE.contains(action) && !ended.message.is_empty() {
            continue;
        }
        let results = ended.completed();
        if *action == "package-client-credentials" {
            fs::remove_file(results.get("credentials.path")).unwrap();
        }
    }
    detector.check_remaining_files();
    detector.check_files_in(&shelf);
    detector.check_files_in(&world.path("fetched"));
}

fn filled_in(word: &str, world: &World, detector: &LeakDetector<'_>) -> String {
    let newest = newest(&detector.archives());
    word.replace("TARGET", detector.target().to_str().unwrap())
        .replace("FETCHED", world.path("fetched").to_str().unwrap())
        .replace("ARCHIVE", &name(&newest))
        .replace("PATH", newest.to_str().unwrap())
}

fn newest(archives: &[PathBuf]) -> PathBuf {
    archives.iter().max().unwrap().clone()
}

#[test]
fn no_damaged_archive_reports_a_secret() {
    let world = World::plain(Version::V35);
    put_canaries(&world);
    let unit = Unit::new(&world);
    let mut detector = LeakDetector::new(&world);
    let (to, identity) = (detector.to_target(), identity(&world, IDENTITY));
    let (mut refused, mut taken) = (0, 0);
    for (name, bytes) in damaged_forms(&world) {
        fs::write(world.path(name), bytes).unwrap();
        world.set_mode(name, 0o600);
        let path = detector.target().join(name);
        fs::rename(world.path(name), &path).unwrap();
        let path = path.display();
        let (from, snapshot) = (format!("from={path}"), format!("snapshot={path}"));
        let fetched = format!("target={}", world.path("fetched").display());
        let mut more = vec![];
        if name.ends_with(".age") {
            more.push(identity.as_str());
        }
        let calls: [(&str, &[&str]); 3] = [
            ("fetch-snapshot", &[&from, &fetched]),
            ("verify-snapshot", &[&snapshot, &to]),
            ("restore", &[&from, &to, "skip-backup=true"]),
        ];
        for (action, words) in calls {
            let out = detector.run(&unit.queued(action, &[words, &more].concat()));
            let ended = unit.judge(out);
            detector.check_files_in(&world.path("juju/agents/unit-etcd-0"));
            *(if ended.message.is_empty() { &mut taken } else { &mut refused }) += 1;
        }
        // The archive itself contains the canaries.
        fs::remove_file(detector.target().join(name)).unwrap();
        detector.check_remaining_files();
    }
    assert!(refused > 0 && taken > 0, "{refused} refused, {taken} accepted");
}

/// Returns file names and contents: archives and databases, each damaged in another way.
fn damaged_forms(world: &World) -> Vec<(&'static str, Vec<u8>)> {
    let to = LeakDetector::new(world).to_target();
    let archive = PathBuf::from(world.snapshot(&[&to]).completed().get("snapshot.path"));
    let good = fs::read(&archive).unwrap();
    let database = fs::read(unpack(world, &archive).join("db")).unwrap();
    let body = &database[..database.len() - 32];
    // One byte of each value, with a recomputed trailer. `old-trailer` below keeps the old trailer.
    let flipped = flipped_values(body);
    let hashed = [flipped.as_slice(), Sha256::digest(&flipped).as_slice()].concat();
    let wrong_trailer = [body, &[7; 32]].concat();
    let broken_record = damaged(&database, 2, 0x0f, true);
    let tar = |db: &[u8]| packed(&[file("./db", db)]);
    let in_the_middle = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    vec![
        ("value.tar.gz", tar(&hashed)),
        ("record.tar.gz", tar(&broken_record)),
        ("record.db.gz", gzip(&broken_record)),
        ("old-trailer.tar.gz", tar(&[&flipped, &database[body.len()..]].concat())),
        ("trailer.tar.gz", tar(&wrong_trailer)),
        ("trailer.db.gz", gzip(&wrong_trailer)),
        ("cut.tar.gz", good[..good.len() / 2].to_vec()),
        ("cut-database.tar.gz", tar(&database[..database.len() / 2])),
        ("flipped.tar.gz", in_the_middle(good)),
        ("flipped.zip", in_the_middle(zip(&[streamed("snapshot", &database)]))),
        ("flipped.db.gz", in_the_middle(gzip(&database))),
        ("flipped.tar.gz.age", in_the_middle(encrypted(world, "flipped.tar.gz.age"))),
    ]
}

/// Returns an encrypted archive, and copies its manifest next to the future path `name`.
fn encrypted(world: &World, name: &str) -> Vec<u8> {
    encrypt(world, "");
    let archive = encryption::saved(world);
    fs::write(world.path("backup.yaml"), "").unwrap();
    fs::copy(manifest_next_to(&archive), manifest_next_to(&LeakDetector::new(world).target().join(name)))
        .unwrap();
    fs::read(archive).unwrap()
}

/// Returns the database with one byte of each value altered after the canary. Every record stays readable.
fn flipped_values(database: &[u8]) -> Vec<u8> {
    let mut flipped = database.to_vec();
    let value = format!("{VALUE} ");
    let places: Vec<usize> = (0..database.len() - value.len())
        .filter(|at| database[*at..].starts_with(value.as_bytes()))
        .collect();
    assert!(!places.is_empty());
    for place in places {
        flipped[place + value.len()] ^= 1;
    }
    flipped
}

/// A stand-in for a tool that truncates or alters its files.
type Fault = fn(&Tools);

#[test]
fn a_failing_tool_in_a_snapshot_reports_no_secret() {
    let faults: [Fault; 2] =
        [|tools| tools.corrupt("etcdctl *snapshot*save*"), |tools| tools.cut("etcdctl *snapshot*save*")];
    fails_at_each_call(Version::V35, "snapshot", &[], &faults, 5);
}

/// The calls of the backup that `restore` takes first are the calls of `snapshot`.
#[test]
fn a_failing_tool_in_a_restore_reports_no_secret() {
    let faults: [Fault; 2] = [
        |tools| tools.cut("etcdutl *snapshot*status*"),
        |tools| tools.cut("etcdutl *snapshot*restore*--data-dir*"),
    ];
    fails_at_each_call(Version::V35, "restore", &["skip-backup=true"], &faults, 10);
}

/// Runs the action once for each of its tool calls, with a tool that does its work and then fails, and once
/// for each fault. At least `least` of its calls must make the action fail.
fn fails_at_each_call(version: Version, action: &str, more: &[&str], faults: &[Fault], least: usize) {
    let world = World::plain(version);
    put_canaries(&world);
    let mut detector = LeakDetector::new(&world);
    let to = detector.to_target();
    let archive = world.snapshot(&[&to]).completed().get("snapshot.path");
    let from = from(Path::new(&archive));
    let unit = Unit::new(&world);
    let tools = world.stand_in_tools();
    let mut words = [&[to.as_str()], more].concat();
    if action == "restore" {
        words.push(&from);
    }
    let mut fails = || {
        let ended = unit.judge(detector.run(&unit.queued(action, &words)));
        detector.check_files_in(&world.path("juju/agents/unit-etcd-0"));
        !ended.message.is_empty()
    };
    let mut failed = 0;
    for number in 1.. {
        tools.fail_after(number, BY_ETCDUTL);
        failed += usize::from(fails());
        if tools.calls().len() < number {
            break;
        }
    }
    assert!(failed >= least, "only {failed} failing calls made {action} fail");
    tools.remove_fault();
    for fault in faults {
        fault(&tools);
        assert!(fails(), "{action} completed with damaged files");
        tools.remove_fault();
    }
    detector.check_remaining_files();
}
