//! The keys of the v2 API and what a request does to them, as far as that decides which keys there are.
//!
//! Follows etcd's `server/etcdserver/api/v2store/store.go`. In two cases it cannot know what etcd did: it does not count
//! etcd's indexes, so that it neither knows whether a comparison with one succeeds nor the name that a POST gives. It then takes
//! the key for one that is still there: a key too many costs the operator a question, and one too few would be lost.

use super::request::{Method, Request, digest};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// The directory of users' keys (`server.go` `StoreKeysPrefix`). `/0` is etcd's own, `/2` the users of its v2 API.
const KEYS: &str = "/1";
/// The most nodes that are held.
const MOST: usize = 1_000_000;
/// How many names at the top are reported.
const SHOWN: usize = 3;
/// etcd takes an earlier time for "never" (`store.go` `minExpireTime`: 2000-01-01, in nanoseconds).
const EARLIEST: i64 = 946_684_800_000_000_000;

/// The users' keys, by their full paths.
#[derive(Debug, Default)]
pub(super) struct Store {
    nodes: BTreeMap<String, Node>,
    /// How many unique names were given.
    posted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    is_dir: bool,
    /// The digest of the value; `None` if it is not known which of two it is.
    value: Option<u64>,
    /// Unix time in nanoseconds, if it expires.
    expires: Option<i64>,
}

impl Store {
    /// Reads the JSON of a store; nothing at all is an empty one.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let mut store = Self::default();
        if json.is_empty() {
            return Ok(store);
        }
        let Saved { root } = serde_json::from_slice(json).context("reading the v2 store")?;
        if let Some(keys) = root.children.unwrap_or_default().remove("1") {
            store.load(KEYS, keys)?;
        }
        Ok(store)
    }

    fn load(&mut self, path: &str, node: SavedNode) -> Result<()> {
        for (name, child) in node.children.unwrap_or_default() {
            ensure!(self.nodes.len() < MOST, TOO_MANY);
            let path = format!("{path}/{name}");
            let expires = child.expires.parse::<Timestamp>().ok().map(|time| time.as_nanosecond());
            let expires = expires.and_then(|time| i64::try_from(time).ok());
            let is_dir = child.children.is_some();
            self.insert(&path, is_dir, child.value.0, expires.unwrap_or(0));
            self.load(&path, child)?;
        }
        Ok(())
    }

    /// Returns the number of keys, or that of directories if there are only those.
    pub fn count(&self) -> usize {
        match self.nodes.values().filter(|node| !node.is_dir).count() {
            0 => self.nodes.len(),
            keys => keys,
        }
    }

    /// Returns the first few names at the top.
    pub fn top(&self) -> Vec<String> {
        let names = self.nodes.keys().filter_map(|path| path.strip_prefix("/1/")?.split('/').next());
        let names: BTreeSet<&str> = names.collect();
        names.into_iter().take(SHOWN).map(str::to_owned).collect()
    }

    /// Does what `request` did.
    ///
    /// # Errors
    /// The store has grown too large to be held.
    pub fn apply(&mut self, request: Request) -> Result<(), &'static str> {
        if request.method == Method::Sync {
            self.expire(request.time);
            return Ok(());
        }
        let Some(path) = clean(&request.path) else { return Ok(()) };
        match request.method {
            Method::Put | Method::Delete if path == KEYS => {}
            Method::Put => self.put(&path, &request),
            Method::Post => {
                self.posted += 1;
                // etcd's names are numbers: this is the name of none.
                self.create(&format!("{path}/post-{}", self.posted), &request, false);
            }
            Method::Delete => self.delete(&path, &request),
            Method::Sync | Method::Other => {}
        }
        if self.nodes.len() > MOST { Err(TOO_MANY) } else { Ok(()) }
    }

    /// As `apply_v2.go` `Put`.
    fn put(&mut self, path: &str, request: &Request) {
        let compares = request.previous_value.is_some() || request.has_previous_index;
        match request.previous_exists {
            Some(false) => self.create(path, request, false),
            Some(true) if !compares => self.update(path, request),
            _ if compares => self.compare_and_swap(path, request),
            _ if request.refresh && !self.nodes.contains_key(path) => {}
            _ => self.create(path, request, true),
        }
    }

    fn create(&mut self, path: &str, request: &Request, replace: bool) {
        let before = self.nodes.get(path).copied();
        let is_in_the_way = before.is_some_and(|node| !replace || node.is_dir);
        if is_in_the_way || !self.make_parents(path) {
            return;
        }
        let refreshed = before.filter(|_| request.refresh).map(|node| node.value);
        self.insert(path, request.dir, request.value, request.expires);
        if let (Some(value), Some(node)) = (refreshed, self.nodes.get_mut(path)) {
            node.value = value;
        }
    }

    fn insert(&mut self, path: &str, is_dir: bool, value: u64, expires: i64) {
        let expires = (expires >= EARLIEST).then_some(expires);
        self.nodes.insert(path.to_owned(), Node { is_dir, value: Some(value), expires });
    }

    /// Makes the directories above `path`; false if a key is in their place.
    fn make_parents(&mut self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > KEYS.len());
        for parent in ends.filter_map(|at| path.get(..at)) {
            match self.nodes.get(parent) {
                Some(node) if !node.is_dir => return false,
                Some(_) => {}
                None => self.insert(parent, true, digest(b""), 0),
            }
        }
        true
    }

    fn update(&mut self, path: &str, request: &Request) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        if node.is_dir && request.has_value {
            return;
        }
        if !request.refresh {
            node.value = Some(request.value);
        }
        node.expires = (request.expires >= EARLIEST).then_some(request.expires);
    }

    fn compare_and_swap(&mut self, path: &str, request: &Request) {
        let Some(node) = self.nodes.get_mut(path).filter(|node| !node.is_dir) else { return };
        match node.matches(request) {
            Some(false) => {}
            Some(true) => {
                if !request.refresh {
                    node.value = Some(request.value);
                }
                node.expires = (request.expires >= EARLIEST).then_some(request.expires);
            }
            None => (node.value, node.expires) = (None, None),
        }
    }

    fn delete(&mut self, path: &str, request: &Request) {
        let Some(node) = self.nodes.get(path) else { return };
        if request.previous_value.is_some() || request.has_previous_index {
            if !node.is_dir && node.matches(request) == Some(true) {
                self.nodes.remove(path);
            }
            return;
        }
        let may = match node.is_dir {
            false => true,
            true => request.recursive || (request.dir && !self.has_children(path)),
        };
        if may {
            self.remove(path);
        }
    }

    fn has_children(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.nodes.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// Removes a node and all below it.
    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        let below = format!("{path}/");
        let names = self.nodes.range(below.clone()..).map(|(name, _)| name);
        let names: Vec<String> = names.take_while(|name| name.starts_with(&below)).cloned().collect();
        for name in names {
            self.nodes.remove(&name);
        }
    }

    fn expire(&mut self, now: i64) {
        let has_expired = |node: &Node| node.expires.is_some_and(|expires| expires <= now);
        let names = self.nodes.iter().filter(|(_, node)| has_expired(node)).map(|(name, _)| name);
        let names: Vec<String> = names.cloned().collect();
        for name in names {
            self.remove(&name);
        }
    }
}

impl Node {
    /// Whether the comparison in `request` succeeds; `None` if that is not known.
    fn matches(self, request: &Request) -> Option<bool> {
        let value = match request.previous_value {
            None => Some(true),
            Some(wanted) => self.value.map(|value| value == wanted),
        };
        match value {
            Some(true) if request.has_previous_index => None,
            value => value,
        }
    }
}

const TOO_MANY: &str = "the v2 store has more than 1,000,000 keys";

/// Returns a path below the directory of users' keys as Go's `path.Clean` does; `None` for every other one.
fn clean(path: &str) -> Option<String> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    match names.as_slice() {
        ["1", _, ..] => Some(format!("/{}", names.join("/"))),
        // A POST to the directory itself makes a key in it.
        ["1"] => Some(KEYS.to_owned()),
        _ => None,
    }
}

/// A store as it is saved (`store.go` `SaveNoCopy`).
#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Root")]
    root: SavedNode,
}

#[derive(Deserialize)]
struct SavedNode {
    #[serde(rename = "Value", default)]
    value: Digest,
    #[serde(rename = "ExpireTime", default)]
    expires: String,
    /// `null` for a key.
    #[serde(rename = "Children", default)]
    children: Option<BTreeMap<String, SavedNode>>,
}

/// The digest of a text that is not held.
#[derive(Default)]
struct Digest(u64);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        Ok(Self(digest(text.as_bytes())))
    }
}
