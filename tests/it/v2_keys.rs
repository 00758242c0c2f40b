//! Keys of etcd's v2 API: v3 snapshots do not contain them, and a restore must not destroy them unless it is
//! allowed to.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::names;
use crate::common::world::{Version, World};
use crate::restore::from;

/// The v2 key of flannel's network configuration.
const FLANNEL: &str = "coreos.com/network/config";

/// Returns a filled etcd that serves the v2 API, which etcd 3.6 removed: the older etcd takes the place of such a one.
fn with_v2(version: Version, options: &[&str]) -> World {
    let version = if version.needs_etcdutl() { Version::V34 } else { version };
    let world = World::plain(version);
    world.stop();
    for option in ["--enable-v2=true"].iter().chain(options) {
        world.add_option(option);
    }
    world.start();
    world.fill();
    world
}

impl World {
    /// Sends a request to the v2 API, and returns the status and the body of its answer.
    fn v2(&self, method: &str, key: &str, form: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.client_address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "{method} /v2/keys/{key} HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    }

    fn put_v2(&self, key: &str, value: &str) {
        let (status, body) = self.v2("PUT", key, &format!("value={value}"));
        assert_eq!(status, "201", "{body}");
    }

    fn site_action(&self) -> Out {
        Run::start(self.action(program!("site"), &[]), &self.path("runs")).finish()
    }

    /// Adds revisions until etcd has written a new `.snap` file.
    fn await_snap(&self) {
        let snaps = || {
            let all = names(&self.data_dir().join("member/snap"));
            all.into_iter().filter(|name| name.ends_with(".snap")).collect::<Vec<_>>()
        };
        let (before, until) = (snaps(), Instant::now() + Duration::from_secs(20));
        while snaps() == before {
            assert!(Instant::now() < until, "no .snap: {before:?}");
            self.add_revisions(10, "more");
            sleep(Duration::from_millis(50));
        }
    }

    /// Starts etcd on data that a restore kept.
    fn start_on(&self, kept: &str) {
        self.stop();
        let member = self.data_dir().join("member");
        fs::rename(&member, self.path("restored-member")).unwrap();
        fs::rename(kept, &member).unwrap();
        self.start();
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn v2_keys_in_the_log_are_reported_and_kept(version: Version) {
    let world = with_v2(version, &[]);
    let archive = world.saved();
    world.put_v2(FLANNEL, "network");
    world.put_v2("other", "value");
    world.put_v2("gone", "value");
    assert_eq!(world.v2("DELETE", "gone", "").0, "200");

    for (out, key) in
        [(world.site_action(), "site.warning"), (world.snapshot(&[&world.to_target()]), "snapshot.warning")]
    {
        let warning = out.completed().get(key);
        assert!(warning.contains("2 v2 keys (under /coreos.com, /other)"), "{key}: {warning}");
    }
    let (pid, tree, words) = (world.pid(), world.tree(), [from(&archive), world.to_target()]);
    for plan in [&["plan=true"][..], &[]] {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(plan.iter().copied()).collect();
        world.restore(&words).refused(&["2 v2 keys", "--allow-v2-loss"]);
    }
    assert_eq!((world.pid(), world.tree()), (pid, tree));
    assert!(world.v2("GET", FLANNEL, "").1.contains("network"));

    let results = world.restore(&[&words[0], &words[1], "allow-v2-loss=true"]).completed();
    assert!(results.get("restore.warning").contains("2 v2 keys"), "{}", results.out.describe());
    assert_eq!(world.v2("GET", FLANNEL, "").0, "404");
    world.start_on(&results.get("backup.old-data"));
    assert!(world.v2("GET", FLANNEL, "").1.contains("network"));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn v2_keys_in_a_snap_file_and_their_deletion_are_found(version: Version) {
    let world = with_v2(version, &["--snapshot-count=10"]);
    let (archive, saved) = (world.saved(), world.dump());
    world.put_v2(FLANNEL, "network");
    world.await_snap();
    let words = [from(&archive), world.to_target()];
    let refused = || world.restore(&[&words[0], &words[1]]).refused(&["1 v2 key", "--allow-v2-loss"]);
    refused();
    // Only the log contains this request.
    assert_eq!(world.v2("DELETE", "coreos.com", "").0, "403");
    refused();
    assert_eq!(world.v2("DELETE", "coreos.com?recursive=true", "").0, "200");
    let results = world.restore(&[&words[0], &words[1]]).completed();
    assert_eq!(results.find("backup.old-data"), None);
    assert_same(&world.dump(), &saved, "after the v2 key was deleted");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn v2_keys_of_a_stopped_etcd_are_kept(version: Version) {
    let world = with_v2(version, &[]);
    let archive = world.saved();
    world.put_v2(FLANNEL, "network");
    world.stop();
    let words = [from(&archive), world.to_target()];
    world.restore(&[&words[0], &words[1]]).refused(&["1 v2 key (under /coreos.com)", "--allow-v2-loss"]);
    // No backup contains the v2 key, so restore keeps the old data.
    let results = world.restore(&[&words[0], "skip-backup=true", "allow-v2-loss=true"]).completed();
    world.start_on(&results.get("backup.old-data"));
    assert!(world.v2("GET", FLANNEL, "").1.contains("network"));
}

#[test]
fn v2_keys_that_are_unreadable_count_as_unknown_and_are_kept() {
    let world = with_v2(Version::V35, &[]);
    let archive = world.saved();
    let (snap, hidden) = (world.data_dir().join("member/snap"), "0000000000000009-0000000000000009.snap");
    // No readable `.snap` file shows which keys existed before the remaining log.
    fs::write(snap.join(hidden), "not a snapshot").unwrap();
    let warning = world.snapshot(&[&world.to_target()]).completed().get("snapshot.warning");
    assert!(warning.contains("unknown") && warning.contains(hidden), "{warning}");
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert!(results.get("restore.warning").contains("unknown"), "{}", results.out.describe());
    assert!(PathBuf::from(results.get("backup.old-data")).join("wal").is_dir());
}

#[test]
fn v2_keys_written_during_a_restore_are_kept() {
    let world = with_v2(Version::V35, &[]);
    let archive = world.saved();
    let address = world.client_address();
    // At the last moment at which a client can write.
    world.arm(
        "before-stop",
        format!("curl -sS -X PUT http://{address}/v2/keys/{FLANNEL} -d value=network >/dev/null"),
    );
    let results = world.restore(&[&from(&archive), "skip-backup=true"]).completed();
    world.disarm("before-stop");
    world.start_on(&results.get("backup.old-data"));
    assert!(world.v2("GET", FLANNEL, "").1.contains("network"));
}
