//! A bucket on a server that exists only in memory, and answers with what the fuzzer made.
//!
//! Built with the feature `fuzz` alone, and in no package.

use super::config::S3Config;
use super::credential_source::CredentialSource;
use super::credentials::Credentials;
use super::protocol::S3Protocol;
use super::service::S3Service;
use crate::store::BlobStore;
use crate::store::cloud::bucket::Bucket;
use crate::store::cloud::client::Client;
use crate::store::cloud::http::Http;
use crate::system::clock::Clock;
use crate::system::digest::hex;
use crate::system::secret::Secret;
use jiff::Timestamp;
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Error};

/// Separates two answers: one byte that neither a head nor XML contains.
const SEPARATOR: u8 = 0xff;
/// What follows is up to the fuzzer: the status, the headers and the body.
const START: &[u8] = b"HTTP/1.1 ";

/// Answers with the given answers in turn, and again from the beginning.
#[derive(Debug)]
struct Answers {
    all: Vec<Vec<u8>>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct InMemory(Arc<Answers>);

struct Connection {
    answer: Vec<u8>,
    sent: usize,
    buffers: LazyBuffers,
}

impl Connector<()> for InMemory {
    type Out = Connection;

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, Error> {
        let answers = &self.0;
        let index = answers.next.fetch_add(1, Ordering::Relaxed) % answers.all.len().max(1);
        let answer = answers.all.get(index).cloned().unwrap_or_default();
        Ok(Some(Connection {
            answer: [START, &answer].concat(),
            sent: 0,
            buffers: LazyBuffers::new(64 << 10, 64 << 10),
        }))
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let mut rest = &self.answer[self.sent..];
        let length = rest.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(length);
        self.sent += length;
        Ok(length > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

#[derive(Debug)]
struct Anywhere;

impl Resolver for Anywhere {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        Ok(addresses)
    }
}

/// Does with a bucket what backups and restores do. Whatever the server answers, each request returns, an upload is
/// reported as good only if its bytes came back, and no listed name leaves the folder.
pub fn exercise(bytes: &[u8]) {
    let Some((bucket, content, sha256)) = prepare(bytes) else { return };
    let listed = bucket.list("").unwrap_or_default();
    assert!(listed.iter().all(|blob| blob.name.len() <= 1024));
    for name in listed.iter().take(2).map(|blob| blob.name.as_str()).chain(["c/m/a.tar.gz"]) {
        let Ok(Some(blob)) = bucket.head(name) else { continue };
        if let Ok(range) = bucket.get_range(&blob, 1, 3) {
            assert_eq!(range.len(), 3);
        }
        if let Ok(mut object) = bucket.get(name) {
            let _ = object.by_ref().take(1 << 20).read_to_end(&mut Vec::new());
        }
        let _ = bucket.delete(&blob);
    }
    let put = bucket.put_if_absent("c/m/a.tar.gz", &content, &sha256, &mut |_| ());
    if put.is_ok() {
        let is_chunked = String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("chunked");
        let is_there = bytes.windows(CONTENT.len()).any(|window| window == CONTENT);
        assert!(is_chunked || is_there, "nothing was read back");
    }
    let _ = bucket.replace_small("c/m/a.tar.gz.json", None, b"{}");
    let _ = bucket.remove_unfinished("c/m/a.tar.gz");
    for error in [bucket.list("").err(), put.err()].into_iter().flatten() {
        assert!(!format!("{error:#}").contains("canary"));
        let _ = bucket.error_scope(&error);
    }
}

/// What is uploaded.
const CONTENT: &[u8] = b"CONTENT";

fn prepare(bytes: &[u8]) -> Option<(Bucket, File, String)> {
    let all = bytes.split(|byte| *byte == SEPARATOR).map(<[u8]>::to_vec).collect();
    let answers = Arc::new(Answers { all, next: AtomicUsize::new(0) });
    let config: S3Config = serde_yaml::from_str("endpoint: http://127.0.0.1:1\nbucket: b\nfolder: f").ok()?;
    let limits =
        Agent::config_builder().http_status_as_error(false).max_redirects(0).max_redirects_will_error(false);
    let agent = Agent::with_parts(limits.build(), InMemory(answers), Anywhere);
    let credentials =
        Credentials { access_key: "key".to_owned(), secret: Secret::new("canary"), token: None };
    let source = CredentialSource::Environment(credentials);
    let clock = Clock::at(Timestamp::UNIX_EPOCH);
    let client =
        Client::new(Box::new(S3Service::new(config.server().ok()?, source)), Http::with_agent(agent), clock);
    let mut content = File::from(memfd_create("content", MemfdFlags::CLOEXEC).ok()?);
    content.write_all(CONTENT).ok()?;
    let bucket =
        Bucket::new(Arc::new(client), Box::new(S3Protocol::default()), config.prefix(), config.url());
    Some((bucket, content, hex(&Sha256::digest(CONTENT))))
}
