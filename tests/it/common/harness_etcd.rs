//! Tests of the harness itself: worlds, clusters and stand-in tools.

use std::fs;
use std::time::{Duration, Instant};

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::cluster;
use crate::common::command::Run;
use crate::common::fs_util::{Detail, names, shape};
use crate::common::world::{PASSWORD, Setup, Version, World};

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_of_every_kind_serves_and_is_private(version: Version) {
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.etcdctl(&["put", "a", "b"]);
        assert_eq!(world.dump().len(), 1);
        assert_eq!(world.revision(), 2);
        let members = world.members();
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].name.as_str(), members[0].learner), ("m1", false));
        assert_eq!(members[0].peers, [world.peer_url()]);
        assert_ne!(world.cluster_id(), 0);

        let mut naked = world.etcdctl_command(&["--command-timeout=1s", "get", "a"]);
        for key in ["USER", "CERT", "KEY"] {
            naked.env_remove(format!("ETCDCTL_{key}"));
        }
        let open = naked.output().unwrap().status.success();
        assert_eq!(open, !setup.tls && !setup.auth, "{setup:?}");

        let site = fs::read_to_string(world.site()).unwrap();
        assert!(!site.contains(PASSWORD));
        let site: serde_json::Value = serde_yaml::from_str(&site).unwrap();
        assert_eq!(site["endpoint"], world.endpoint());
        assert_eq!(site["service"]["start"].as_array().unwrap().len(), 3);
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_gateway_agrees_with_etcdctl(version: Version) {
    for setup in Setup::each(version) {
        let world = World::new(setup);
        world.fill();
        assert_same(&world.dump(), &world.dump_through_etcdctl(), "through the gateway");
        let status = world.etcdctl(&["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let header = &status[0]["Status"]["header"];
        assert_eq!(header["revision"], world.revision());
        assert_eq!(header["cluster_id"], world.cluster_id());
        assert_eq!(header["member_id"], world.members()[0].id);
        let (all, used) = world.sizes();
        assert!(0 < used && used <= all, "{used} of {all}");
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_fills_damages_and_dumps(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (full, at, hash) = (world.dump(), world.revision(), world.hashkv(0));
    assert_eq!(full.len(), 281);
    assert_eq!(full[b"/registry/secrets/default/raw".as_slice()], b"k8s\0\n\x0c\x00\xff\xfe tail\n\n");
    world.damage();
    let damaged = world.dump();
    assert_ne!(full, damaged);
    assert_eq!(world.hashkv(at), hash, "the hash at an older revision changed");
    assert_ne!(world.hashkv(0), hash);
    world.add_revisions(3, "tick");
    assert_eq!(world.revision(), at + 7);
    assert!(std::panic::catch_unwind(|| assert_same(&full, &damaged, "expected to differ")).is_err());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_survives_a_restart_and_cleans_up(version: Version) {
    let world = World::plain(version);
    world.fill();
    let full = world.dump();
    let first = world.pid().unwrap();
    assert_eq!(world.processes().into_iter().collect::<Vec<_>>(), [first]);
    world.stop();
    assert!(!world.listening());
    let still = shape(&world.data_dir(), Detail::Contents);
    world.start();
    assert_ne!(world.pid().unwrap(), first);
    assert_ne!(shape(&world.data_dir(), Detail::Contents), still);
    assert_same(&world.dump(), &full, "after a restart");
    assert_eq!((world.request_count("start"), world.request_count("stop")), (2, 1));
    assert!(world.leftovers().is_empty());
    fs::write(world.data_dir().join("stage"), "").unwrap();
    assert_eq!(world.leftovers().len(), 1);

    let (dir, pid) = (world.path(""), world.pid().unwrap());
    drop(world);
    assert!(!dir.exists());
    let deadline = Instant::now() + Duration::from_secs(5);
    while crate::common::service::alive(pid) {
        assert!(Instant::now() < deadline, "etcd outlived its world");
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_reports_a_failed_start(version: Version) {
    let world = World::plain(version);
    world.stop();
    world.arm("only-tree", world.tree() + 1);
    assert!(world.try_start().unwrap_err().contains("this tree does not start"));
    world.arm("only-tree", world.tree());
    world.start();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_has_clusters(version: Version) {
    let three = cluster::of_three(version);
    three[1].etcdctl(&["put", "a", "b"]);
    assert_eq!(three[0].dump().len(), 1);
    assert_eq!(three[0].members().len(), 3);

    let (voter, learner) = cluster::with_learner(version);
    assert!(learner.running());
    let members = voter.members();
    assert_eq!(members.iter().filter(|member| member.learner).count(), 1);
    assert_eq!(members.len(), 2);

    let alone = cluster::with_unstarted_learner(version);
    alone.etcdctl(&["put", "a", "b"]);
    assert!(alone.members().iter().any(|member| member.learner && member.name.is_empty()));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_has_a_cluster_without_quorum(version: Version) {
    let world = World::plain(version);
    world.fill();
    let full = world.dump();
    cluster::lose_quorum(&world);
    assert!(world.running());
    assert_same(&world.dump_local(), &full, "without a quorum");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn world_replaces_the_tools_by_stand_ins(version: Version) {
    let world = World::plain(version);
    let tools = world.stand_in_tools();
    let run = |args: &[&str]| {
        let command = world.action(world.path("tools/etcdctl").to_str().unwrap(), args);
        Run::start(command, &world.path("runs")).finish()
    };
    assert!(run(&["version"]).stdout.contains("etcdctl version: 3."));
    assert!(tools.calls()[0].1.starts_with("etcdctl version"));
    tools.answer("etcdctl *save*", "so\n", "it goes\n", 6);
    let out = run(&["snapshot", "save", "x"]);
    assert_eq!((out.status.code(), out.stdout.as_str(), out.stderr.as_str()), (Some(6), "so\n", "it goes\n"));
    assert!(run(&["version"]).status.success());
    tools.kill("etcdctl version");
    assert_eq!(run(&["version"]).status.code(), None);
    assert_eq!(names(&world.path("tools")).contains(&"etcdutl".to_owned()), version == Version::V35);
}
