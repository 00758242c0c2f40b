//! A bucket on a server that speaks S3: list, read, put, delete.
//!
//! Must never overwrite an object that it did not write, nor call an object good that it has not read back. A half upload is
//! no object: S3 shows one only when all of it is there.

mod agent;
mod credentials;
mod encryption;
mod listing;
mod place;
mod proxy;
mod removal;
mod shelf;
mod sign;
mod trouble;
mod upload;
mod wire;

pub use credentials::{Credentials, FromEnvironment};
pub use encryption::Encryption;
pub use place::Style;
pub use proxy::Proxies;
pub use trouble::Trouble;

use crate::error::Refusal;
use crate::system::clock::Clock;
use anyhow::{Context, Result, ensure};
use credentials::Login;
use encryption::{Said, Wanted};
use place::Place;
use removal::Retention;
use serde::Deserialize;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use wire::{Ask, Wire};

/// How much is sent or fetched by one request, and so held in memory.
const PART: u64 = 8 << 20;

/// A bucket as the settings describe it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Description {
    /// The server's URL; Amazon's of the region where there is none.
    pub endpoint: Option<String>,
    /// For signatures; `us-east-1` where there is none.
    pub region: Option<String>,
    /// The bucket's name.
    pub bucket: String,
    /// What keys begin with.
    #[serde(default)]
    pub folder: String,
    /// How the bucket stands in a URL. Without it: by host with Amazon, by path elsewhere.
    pub style: Option<Style>,
    /// A PEM file with the authorities to trust in place of the machine's.
    pub ca: Option<PathBuf>,
    /// The file of the access key.
    pub credentials_file: Option<PathBuf>,
    /// Whether the machine's role is asked for a key.
    #[serde(default)]
    pub instance_role: bool,
    /// What the server is to encrypt objects with.
    pub encryption: Option<Encryption>,
    /// The key of the server's key service, where it is not the default one.
    pub kms_key: Option<String>,
    /// The way out, `http://HOST:PORT`; the environment's where there is none.
    pub proxy: Option<String>,
    /// Whether archives may go over the network in clear.
    #[serde(default)]
    pub allow_http: bool,
}

impl Description {
    /// What it is called in results: a URL that ends in a slash.
    pub fn shown(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix())
    }

    /// What two descriptions of the same folder of the same bucket have in common, however the server is spelled.
    pub fn identity(&self) -> String {
        format!("s3://{}/{}/{}", place::server_name(self.endpoint.as_deref()), self.bucket, self.prefix())
    }

    /// What its keys begin with: nothing, or a folder and a slash.
    fn prefix(&self) -> String {
        match self.folder.trim_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        }
    }

    /// Refuses what no bucket could be opened by, as far as that shows without its files and the network.
    pub fn check(&self) -> Result<(), Refusal> {
        let place = self.place()?;
        proxy::way_to(place.host(), place.is_tls(), self.proxy.as_deref(), &Proxies::default())?;
        Wanted::new(self).map(|_| ())
    }

    /// Whether the way there is by a proxy of the environment's that wants a login.
    pub fn needs_login(&self, found: &Proxies) -> bool {
        let by = |place: Place| {
            found.to(place.host(), place.is_tls()).is_some_and(|url| proxy::has_login(url.reveal()))
        };
        self.proxy.is_none() && self.place().is_ok_and(by)
    }

    fn place(&self) -> Result<Place, Refusal> {
        let endpoint = self.endpoint.as_deref();
        Place::new(endpoint, self.region.as_deref(), &self.bucket, self.style, self.allow_http)
    }
}

/// A folder in a bucket.
#[derive(Debug)]
pub struct Bucket {
    wire: Arc<Wire>,
    /// Empty, or ending in a slash.
    folder: String,
    shown: String,
    encryption: Option<Wanted>,
    /// What the bucket does with deleted objects, once it was asked.
    retention: OnceLock<Retention>,
}

/// What a server says of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Head {
    size: u64,
    etag: String,
    /// The hash that whoever put it there gave along.
    sha256: String,
    /// Its version; empty if the server names none.
    version: String,
    /// What keeps it from being deleted, in words.
    lock: Option<String>,
    /// What it is encrypted with.
    encryption: Said,
}

impl Bucket {
    /// The bucket of destination `name`. Asks nobody yet.
    pub fn new(name: &str, said: &Description, found: &FromEnvironment, clock: Clock) -> Result<Self> {
        let about =
            |refusal: Refusal| Refusal::new(format!("destination {name}: {}", refusal.reason), refusal.next);
        let place = said.place().map_err(about)?;
        let login = Login::choose(name, said.credentials_file.as_deref(), said.instance_role, found)?;
        let way = proxy::way_to(place.host(), place.is_tls(), said.proxy.as_deref(), &found.proxies);
        let agent = agent::agent(said.ca.as_deref(), way.map_err(about)?, place.is_tls());
        let agent = agent.map_err(|error| match error.downcast::<Refusal>() {
            Ok(refusal) => about(refusal).into(),
            Err(error) => error,
        })?;
        Ok(Self {
            shown: said.shown(),
            wire: Arc::new(Wire::new(place, login, agent, clock)),
            folder: said.prefix(),
            encryption: Wanted::new(said).map_err(about)?,
            retention: OnceLock::new(),
        })
    }

    /// Opens `name`, to be read from its beginning, a part at a time. Reading fails where it changes meanwhile.
    fn open(&self, name: &str) -> Result<Reading> {
        self.opened(name)?.with_context(|| format!("there is no {}{name}", self.shown))
    }

    /// `None` where there is none.
    fn opened(&self, name: &str) -> Result<Option<Reading>> {
        let head = self.head(&self.key(name)).with_context(|| format!("looking at {}{name}", self.shown))?;
        Ok(head.map(|head| self.reading(name, head)))
    }

    fn reading(&self, name: &str, head: Head) -> Reading {
        let (wire, key) = (Arc::clone(&self.wire), self.key(name));
        Reading { wire, key, head, at: 0, part: io::Cursor::default() }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    fn head(&self, key: &str) -> Result<Option<Head>> {
        let answer = match self.wire.ask(&Ask { method: "HEAD", key, ..Ask::default() }) {
            Ok(answer) => answer,
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_absent) => return Ok(None),
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_mute) => {
                return Err(self.why(key, error));
            }
            Err(error) => return Err(error),
        };
        let size = answer.header("content-length").parse().context("the server tells no size")?;
        let said = |name: &str| answer.header(name).to_owned();
        Ok(Some(Head {
            size,
            etag: said("etag"),
            sha256: said("x-amz-meta-sha256"),
            version: said("x-amz-version-id"),
            lock: removal::lock_in(&answer),
            encryption: Said::in_answer(&answer),
        }))
    }

    /// The server's words for its no to a `HEAD`, whose answer has no room for them: those that it has for a `GET`.
    fn why(&self, key: &str, mute: anyhow::Error) -> anyhow::Error {
        let headers = vec![("range", "bytes=0-0".to_owned())];
        self.wire.ask(&Ask { method: "GET", key, headers, ..Ask::default() }).err().unwrap_or(mute)
    }
}

/// An object on its way to us.
#[derive(Debug)]
struct Reading {
    wire: Arc<Wire>,
    key: String,
    head: Head,
    at: u64,
    part: io::Cursor<Vec<u8>>,
}

impl Reading {
    /// So many of its bytes, as long as it is what it was when it was opened.
    fn range(&self, from: u64, length: u64) -> Result<Vec<u8>> {
        let mut headers = vec![("range", format!("bytes={from}-{}", from + length - 1))];
        if !self.head.etag.is_empty() {
            headers.push(("if-match", self.head.etag.clone()));
        }
        let ask = Ask { method: "GET", key: &self.key, headers, ..Ask::default() };
        let answer = self.wire.ask(&ask)?;
        let (of, sent) = (answer.header("content-range").rsplit('/').next(), answer.body.len());
        let same = of.and_then(|of| of.parse().ok()).is_none_or(|size: u64| size == self.head.size);
        ensure!(same, "it is another than when it was looked at");
        ensure!(sent as u64 == length, "the server sent {sent} bytes of {length}");
        Ok(answer.body)
    }

    /// Its first bytes, up to `length`.
    fn start(&self, length: u64) -> Result<Vec<u8>> {
        match length.min(self.head.size) {
            0 => Ok(Vec::new()),
            length => self.range(0, length),
        }
    }

    /// Its last bytes, up to `length`.
    fn tail(&self, length: u64) -> Result<Vec<u8>> {
        match length.min(self.head.size) {
            0 => Ok(Vec::new()),
            length => self.range(self.head.size - length, length),
        }
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.part.read(buffer)?;
        let left = self.head.size - self.at;
        if length > 0 || left == 0 || buffer.is_empty() {
            return Ok(length);
        }
        // The old part goes before the new one comes.
        self.part = io::Cursor::default();
        let part = self.range(self.at, left.min(PART));
        let part = part.map_err(|error| io::Error::other(format!("{error:#}")))?;
        self.at += part.len() as u64;
        self.part = io::Cursor::new(part);
        self.part.read(buffer)
    }
}
