//! The day-two actions: health, alarms, compaction, defragmentation, credentials.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::{names, succeed};
use crate::common::unit::Unit;
use crate::common::world::{Setup, Version, World};

fn run(world: &World, action: &str, words: &[&str]) -> Out {
    let binary = match action {
        "health" => program!("health"),
        "alarm-list" => program!("alarm-list"),
        "alarm-disarm" => program!("alarm-disarm"),
        "compact" => program!("compact"),
        "defrag" => program!("defrag"),
        "package-client-credentials" => program!("package-client-credentials"),
        other => panic!("{other}"),
    };
    Run::start(world.action(binary, words), &world.path("runs")).finish()
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_health_is_reported_as_in_the_older_charm(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    let unit = Unit::new(&world);
    let ended = unit.run("health", &[]).completed();
    assert!(ended.get("output").contains("cluster is healthy"), "{}", ended.get("output"));
    assert!(ended.get("output").contains(&world.endpoint()));
    assert_eq!((ended.get("health.members"), ended.get("health.alarms")), ("1".into(), "0".into()));
    world.stop();
    unit.run("health", &[]).failed(&["connection refused"]);
    run(&world, "health", &[]).failed(&["connection refused"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_health_reports_a_dead_member_next_to_two_urls(version: Version) {
    let members = crate::common::cluster::of_three(version);
    let port = members[0].client_address().replace("127.0.0.1", "");
    members[0]
        .add_option(&format!("--advertise-client-urls={},http://localhost{port}", members[0].endpoint()));
    members[0].stop();
    members[0].start();
    let all = run(&members[0], "health", &[]).completed();
    assert!(all.get("output").contains(&format!("healthy result from http://localhost{port}")));
    members[2].stop();
    let out = run(&members[0], "health", &[]);
    assert!(out.stdout.contains("cluster is degraded"), "{}", out.describe());
    out.failed(&["2 of 3 voting members are healthy, the others continue without m3"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_a_cluster_with_a_learner_is_healthy(version: Version) {
    let (voter, _learner) = crate::common::cluster::with_learner(version);
    let ended = run(&voter, "health", &[]).completed();
    assert!(ended.get("output").contains("cluster is healthy"), "{}", ended.get("output"));
    assert_eq!(ended.get("health.members"), "2");
}

/// Sets a quota so small that the next write raises the alarm.
fn raise_the_alarm(world: &World) {
    world.add_option("--quota-backend-bytes=200000");
    world.stop();
    world.start();
    while world.etcdctl_command(&["put", "k", &"x".repeat(50_000)]).output().unwrap().status.success() {}
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_an_alarm_is_listed_and_disarmed(version: Version) {
    let world = World::plain(version);
    let none = run(&world, "alarm-list", &[]).completed();
    assert_eq!((none.get("alarms"), none.get("output")), ("0".into(), String::new()));
    raise_the_alarm(&world);
    let one = run(&world, "alarm-list", &[]).completed();
    assert_eq!(one.get("alarms"), "1");
    assert!(one.get("output").contains("alarm:NOSPACE"), "{}", one.get("output"));
    run(&world, "health", &[]).failed(&["alarm:NOSPACE"]);
    Unit::new(&world).hook("update-status").assert_status("blocked", &["alarm", "NOSPACE", "alarm-list"]);
    let _ = run(&world, "compact", &["physical=true"]).completed();
    let _ = run(&world, "defrag", &[]).completed();
    let disarmed = run(&world, "alarm-disarm", &[]).completed();
    assert_eq!(disarmed.get("alarms"), "0");
    assert!(disarmed.get("output").contains("alarm:NOSPACE"), "{}", disarmed.get("output"));
    world.etcdctl(&["put", "k", "v"]);
    let _ = run(&world, "health", &[]).completed();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_compact_and_defrag_keep_every_key(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    world.fill();
    let old = world.revision();
    for n in 0..20 {
        world.put(0..200, &format!("again {n}"));
    }
    let (before, now) = (world.dump(), world.revision());
    let compacted = run(&world, "compact", &[&format!("revision={old}")]).completed();
    assert_eq!(compacted.get("output"), format!("compacted revision {old}"));
    let unit = Unit::new(&world);
    let compacted = unit.run("compact", &["physical=true"]).completed();
    assert_eq!(compacted.get("compact.revision"), now.to_string());
    let gone = world.etcdctl_command(&["get", "x", &format!("--rev={old}")]).output().unwrap();
    assert!(String::from_utf8_lossy(&gone.stderr).contains("compacted"));
    let size = || std::fs::metadata(world.data_dir().join("member/snap/db")).unwrap().len();
    let large = size();
    let defragmented = unit.run("defrag", &[]).completed();
    assert!(size() < large, "{} of {large} bytes", size());
    assert!(defragmented.get("output").contains("Finished defragmenting"));
    assert_ne!(defragmented.get("defrag.size-before"), defragmented.get("defrag.size-after"));
    assert_same(&world.dump(), &before, "after compact and defrag");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn upkeep_refuses_impossible_parameters(version: Version) {
    let world = World::plain(version);
    world.fill();
    run(&world, "compact", &["revision=0"]).refused(&["must be a whole number above 0"]);
    run(&world, "compact", &["revision=1000000"]).refused(&["does not exist yet"]);
    run(&world, "defrag", &["now=true"]).refused(&["unknown parameter now"]);
    let _ = run(&world, "compact", &[]).completed();
    let again = run(&world, "compact", &[]).completed();
    assert!(again.get("output").contains("there is no history"), "{}", again.get("output"));
    let again = run(&world, "compact", &["revision=1"]).completed();
    assert_eq!(again.get("output"), "there is no history before revision 1");
    run(&world, "package-client-credentials", &[]).refused(&["does not ask its clients for a certificate"]);
    // `juju run etcd/0 compact revision=5` passes a number, because Juju parses the value as YAML.
    let unit = Unit::new(&world);
    unit.run("compact", &["revision=5000000"]).failed(&["does not exist yet"]);
}

/// Locks the fixed path of the credentials archive for one test at a time. Returns `None` if another archive
/// exists there.
pub fn lock_credentials_path() -> Option<File> {
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("credentials.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let exists = |home: &&str| Path::new(home).join("etcd_credentials.tar.gz").exists();
    let is_taken = ["/root", "/home/ubuntu"].iter().any(exists);
    if is_taken {
        eprintln!("skipped: another etcd_credentials.tar.gz exists on this machine");
    }
    (!is_taken).then_some(lock)
}

/// The action always writes to the same path in a home directory. An existing file there does not belong to
/// the test.
#[test]
fn upkeep_packages_client_credentials() {
    let Some(_lock) = lock_credentials_path() else { return };
    let world = World::new(Setup { tls: true, ..Setup::plain(Version::V35) });
    let unit = Unit::new(&world);
    let ended = unit.run("package-client-credentials", &[]).completed();
    let path = ended.get("credentials.path");
    assert_eq!(ended.get("copy.cmd"), format!("juju scp etcd/0:{path} .\n"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let out = world.path("credentials");
    std::fs::create_dir(&out).unwrap();
    let tar = Command::new("tar").args(["xzf", &path, "-C"]).arg(&out).output().unwrap();
    let _ = succeed(tar, "tar");
    std::fs::remove_file(Path::new(&path)).unwrap();
    assert_eq!(names(&out), ["README", "ca.crt", "client.crt", "client.key"]);
    // etcd accepts the credentials.
    let mut etcdctl = world.etcdctl_command(&["endpoint", "health"]);
    for (key, file) in [("CACERT", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
        etcdctl.env(format!("ETCDCTL_{key}"), out.join(file));
    }
    let _ = succeed(etcdctl.output().unwrap(), "endpoint health");
}

#[test]
fn upkeep_refuses_to_run_while_the_data_is_locked() {
    let world = World::plain(Version::V35);
    let held = std::fs::File::open(world.data_dir()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for action in ["compact", "defrag", "alarm-disarm"] {
        run(&world, action, &[]).refused(&["is working on"]);
    }
    for action in ["health", "alarm-list"] {
        let _ = run(&world, action, &[]).completed();
    }
}
