//! Queries a plain world's etcd through the gRPC gateway on its client port, without a process per query.
//!
//! Tests with thousands of queries use it. All others use etcdctl, as operators do. It does not support TLS
//! or auth.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_case::test_case;

use crate::common::client::{Data, decode_base64};
use crate::common::world::{Version, World};

/// How long a query is repeated while etcd starts.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);

impl World {
    /// Sends one query. Returns etcd's answer, or its error message.
    fn ask_once(&self, path: &str, question: &Value) -> Result<Value, String> {
        let asked = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.client_address())?;
            stream.set_read_timeout(Some(STARTUP_TIMEOUT))?;
            let body = question.to_string();
            // HTTP/1.0 responses are not chunked.
            write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = asked().map_err(|error| error.to_string())?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => {
                serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))
            }
            _ => Err(answer),
        }
    }

    fn ask(&self, path: &str, question: &Value) -> Value {
        let until = Instant::now() + STARTUP_TIMEOUT;
        loop {
            match self.ask_once(path, question) {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < until, "{path}: {error}: {}", self.log()),
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Returns all keys and values, as every client reads them.
    pub fn read(&self) -> Data {
        let answer = self.ask("/v3/kv/range", &json!({"key": "AA==", "range_end": "AA=="}));
        let bytes = |pair: &Value, field| decode_base64(pair[field].as_str().unwrap_or_default());
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        pairs.map(|pair| (bytes(pair, "key"), bytes(pair, "value"))).collect()
    }

    /// Returns the number of members.
    pub fn count_of_members(&self) -> usize {
        self.ask("/v3/cluster/member/list", &json!({}))["members"].as_array().map_or(0, Vec::len)
    }

    /// Returns the size of the database in bytes, and the number of bytes in use.
    pub fn sizes(&self) -> (u64, u64) {
        let answer = self.ask("/v3/maintenance/status", &json!({}));
        let number = |field: &str| answer[field].as_str().unwrap().parse().unwrap();
        (number("dbSize"), number("dbSizeInUse"))
    }

    /// Returns the current revision, the hash of the content, and the compacted revision.
    pub fn content(&self) -> Content {
        let answer = self.ask("/v3/maintenance/hashkv", &json!({}));
        let revision = answer["header"]["revision"].as_str().unwrap().parse().unwrap();
        Content { revision, ..Content::from_answer(&answer) }
    }

    /// Returns the same at `revision`, or `None` if that revision is compacted or in the future.
    pub fn content_at(&self, revision: i64) -> Option<Content> {
        let answer = self.ask_once("/v3/maintenance/hashkv", &json!({"revision": revision.to_string()}));
        Some(Content { revision, ..Content::from_answer(&answer.ok()?) })
    }
}

/// etcd's hash of all its data, including the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub revision: i64,
    pub hash: u64,
    pub compacted_at: i64,
}

impl Content {
    fn from_answer(answer: &Value) -> Self {
        let compacted_at = answer["compact_revision"].as_str().map_or(0, |text| text.parse().unwrap());
        Self { revision: 0, hash: answer["hash"].as_u64().unwrap(), compacted_at }
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_gateway_agrees_with_etcdctl(version: Version) {
    let world = World::plain(version);
    world.fill();
    assert_eq!(world.read(), world.dump());
    assert_eq!(world.count_of_members(), 1);
    let (all, used) = world.sizes();
    assert!(0 < used && used <= all, "{used} of {all}");
    // In the gateway of etcd 3.4, this path has a different meaning.
    if version == Version::V35 {
        let content = world.content();
        assert_eq!((content.hash, content.compacted_at), world.hashkv(0));
        assert_eq!(content.revision, world.revision());
        world.put(0..3, "more");
        assert_eq!(world.content_at(content.revision), Some(content));
        assert_ne!(world.content(), content);
    }
}
