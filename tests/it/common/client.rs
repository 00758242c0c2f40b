//! Reads and writes the etcd of a world: keys, revisions, hashes and members. Tests of what operators type use etcdctl, and
//! everything else uses the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::fs_util::succeed;
use crate::common::gateway::{bytes, encode, number};
use crate::common::world::{PASSWORD, World};

/// All keys with their values.
pub type Data = BTreeMap<Vec<u8>, Vec<u8>>;

/// A member in the output of `member list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The id.
    pub id: u64,
    /// The name. It is empty until the member has started.
    pub name: String,
    /// The peer URLs.
    pub peers: Vec<String>,
    /// Whether the member is a learner.
    pub learner: bool,
}

impl World {
    /// Returns the command etcdctl for this world, with the secrets in environment variables.
    pub fn etcdctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.setup().version.bin_dir().join("etcdctl"));
        command
            .args(args)
            .env_clear()
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.endpoint())
            .stdin(Stdio::null());
        if self.setup().tls {
            for (key, file) in [("CACERT", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
                command.env(format!("ETCDCTL_{key}"), self.path("tls").join(file));
            }
        }
        if self.setup().auth {
            command.env("ETCDCTL_USER", format!("root:{PASSWORD}")).env("ETCDCTL_DIAL_TIMEOUT", "10s");
        }
        command
    }

    /// Runs etcdctl, which must succeed. Returns its stdout.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        succeed(self.etcdctl_command(args).output().unwrap(), &args.join(" "))
    }

    /// Returns a shell command with which a supervisor script puts a key, in a world without TLS.
    pub fn put_command(&self, key: &str, value: &str) -> String {
        let etcdctl = self.setup().version.bin_dir().join("etcdctl");
        format!("ETCDCTL_API=3 {} --endpoints {} put {key} {value} >&2", etcdctl.display(), self.endpoint())
    }

    /// Waits until etcd has stored the version of its storage, which 3.6 and later do some seconds after their first start. Until
    /// then, they report 3.5 (`server/storage/schema/schema.go` `DetectSchemaVersion`).
    #[track_caller]
    pub fn await_storage_version(&self) {
        let version = self.setup().version;
        let stored = format!("\"storageVersion\":\"{}.", version.minor());
        let deadline = Instant::now() + Duration::from_secs(60);
        while version.needs_etcdutl()
            && !self.etcdctl(&["endpoint", "status", "-w", "json"]).contains(&stored)
        {
            assert!(Instant::now() < deadline, "etcd has stored no version");
            sleep(Duration::from_millis(200));
        }
    }

    /// Sets the keys with these numbers to values that contain `word`, in one revision.
    pub fn put(&self, numbers: std::ops::Range<u32>, word: &str) {
        let padding = "x".repeat(150);
        self.transact(numbers.map(|n| {
            let value = encode(format!("{word} {n} {padding}").as_bytes());
            json!({"request_put": {"key": encode(key(n).as_bytes()), "value": value}})
        }));
    }

    /// Deletes the keys with these numbers, in one revision.
    pub fn delete(&self, numbers: std::ops::Range<u32>) {
        self.transact(numbers.map(|n| json!({"request_delete_range": {"key": encode(key(n).as_bytes())}})));
    }

    fn transact(&self, operations: impl Iterator<Item = Value>) {
        self.change("/v3/kv/txn", &json!({"success": operations.collect::<Vec<_>>()}));
    }

    /// Sets a key to exactly these bytes.
    pub fn put_bytes(&self, key: &str, value: &[u8]) {
        self.change("/v3/kv/put", &json!({"key": encode(key.as_bytes()), "value": encode(value)}));
    }

    /// Adds `count` revisions by setting the same key repeatedly.
    pub fn add_revisions(&self, count: usize, word: &str) {
        for n in 0..count {
            self.put_bytes("/registry/leases/ticker", format!("{word} {n}").as_bytes());
        }
    }

    /// Writes a few hundred keys, with history, deletions and a value that is not text.
    pub fn fill(&self) {
        self.put(0..300, "first");
        self.put(50..150, "second");
        self.delete(140..160);
        self.put_bytes("/registry/secrets/default/raw", b"k8s\0\n\x0c\x00\xff\xfe tail\n\n");
    }

    /// Changes the keys of [`Self::fill`]: deletes, overwrites and adds some.
    pub fn damage(&self) {
        self.delete(0..100);
        self.put(200..260, "damaged");
        self.put(1000..1020, "stray");
        self.put_bytes("/registry/secrets/default/raw", b"gone");
    }

    /// Reads all keys with a linearizable read.
    pub fn dump(&self) -> Data {
        self.dump_with(&json!({}))
    }

    /// Reads all keys with a serializable read, which works without a quorum.
    pub fn dump_local(&self) -> Data {
        self.dump_with(&json!({"serializable": true}))
    }

    /// Reads all keys as they were at `revision`.
    pub fn dump_at(&self, revision: i64) -> Data {
        self.dump_with(&json!({"revision": revision.to_string()}))
    }

    /// Reads all keys through etcdctl, as the user of the client certificate if etcd has one. The gateway has no such user.
    pub fn dump_through_etcdctl(&self) -> Data {
        let text = self.etcdctl(&["get", "", "--prefix", "-w", "json"]);
        pairs(&serde_json::from_str(&text).unwrap())
    }

    fn dump_with(&self, options: &Value) -> Data {
        let mut request = options.clone();
        // From the first key to the last.
        request["key"] = encode(b"\0").into();
        request["range_end"] = encode(b"\0").into();
        pairs(&self.query("/v3/kv/range", &request))
    }

    /// Returns whether etcd answers a linearizable read.
    pub fn healthy(&self) -> bool {
        self.call_once("/v3/kv/range", &json!({"key": encode(b"health")})).is_ok()
    }

    /// Returns the hash of all keys and their history up to `revision` (0: now), and the compacted revision.
    pub fn hashkv(&self, revision: i64) -> (u64, i64) {
        // In the gateway of etcd 3.4, the path of this method is that of another one.
        let text = self.etcdctl(&["endpoint", "hashkv", "--rev", &revision.to_string(), "-w", "json"]);
        let answer: Value = serde_json::from_str(&text).unwrap();
        let hash = &answer[0]["HashKV"];
        (hash["hash"].as_u64().unwrap(), hash["compact_revision"].as_i64().unwrap_or(0))
    }

    fn status(&self) -> Value {
        self.query("/v3/maintenance/status", &json!({}))
    }

    /// Returns the current revision.
    pub fn revision(&self) -> i64 {
        number(&self.status()["header"]["revision"])
    }

    /// Returns the id of the cluster.
    pub fn cluster_id(&self) -> u64 {
        self.status()["header"]["cluster_id"].as_str().unwrap().parse().unwrap()
    }

    /// Returns the size of the database in bytes, and the number of bytes in use.
    pub fn sizes(&self) -> (u64, u64) {
        let status = self.status();
        let size = |field: &str| number(&status[field]).unsigned_abs();
        (size("dbSize"), size("dbSizeInUse"))
    }

    /// Returns the members of the cluster.
    pub fn members(&self) -> Vec<Member> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let answer = self.query("/v3/cluster/member/list", &json!({}));
        let member = |member: &Value| Member {
            id: member["ID"].as_str().unwrap().parse().unwrap(),
            name: text(&member["name"]),
            peers: member["peerURLs"].as_array().into_iter().flatten().map(text).collect(),
            learner: member["isLearner"].as_bool().unwrap_or(false),
        };
        answer["members"].as_array().unwrap().iter().map(member).collect()
    }
}

/// Returns the keys in the answer to a range request.
fn pairs(answer: &Value) -> Data {
    let pairs = answer["kvs"].as_array().into_iter().flatten();
    pairs.map(|pair| (bytes(&pair["key"]), bytes(&pair["value"]))).collect()
}

/// Checks that two sets of keys are equal. On failure, prints only the first differences, not megabytes.
#[track_caller]
pub fn assert_same(got: &Data, wanted: &Data, what: &str) {
    if got == wanted {
        return;
    }
    let keys: BTreeSet<_> = got.keys().chain(wanted.keys()).collect();
    let different: Vec<String> = keys
        .into_iter()
        .filter(|key| got.get(*key) != wanted.get(*key))
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    panic!(
        "{what}: {} keys, wanted {}; {} differ, the first are {:?}",
        got.len(),
        wanted.len(),
        different.len(),
        &different[..different.len().min(3)]
    );
}

/// Returns the key with a number, in the form of a Kubernetes key.
pub fn key(n: u32) -> String {
    format!("/registry/configmaps/default/item-{n:05}")
}
