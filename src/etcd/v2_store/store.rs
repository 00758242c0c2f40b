//! The keys of the v2 API, and the effect of requests on which keys exist.
//!
//! Follows etcd's `server/etcdserver/api/v2store/store.go`. In two cases the result is unknown, because etcd's indexes
//! are not tracked: a comparison with an index, and the name that a POST creates. The key then counts as existing. One
//! key too many costs the operator a question; one too few would be lost.

use super::request::{Method, V2Request, digest};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// The directory of the users' keys (`server.go` `StoreKeysPrefix`). `/0` belongs to etcd, and `/2` holds the v2 API's
/// users.
const KEYS: &str = "/1";
/// The most nodes that are held in memory.
const MAX_NODES: usize = 1_000_000;
/// The number of top-level names that are reported.
const MAX_TOP_NAMES: usize = 3;
/// The earliest expiry time. etcd treats an earlier one as "never" (`store.go` `minExpireTime`: 2000-01-01, in
/// nanoseconds).
const MIN_EXPIRE_TIME: i64 = 946_684_800_000_000_000;

/// The users' keys by full path.
#[derive(Debug, Default)]
pub(super) struct V2Store {
    nodes: BTreeMap<String, V2Node>,
    /// The number of unique names that were created.
    posted: u64,
}

#[derive(Debug, Clone, Copy)]
struct V2Node {
    is_dir: bool,
    /// The digest of the value; `None` if it is unknown.
    value: Option<u64>,
    /// The expiry as Unix time in nanoseconds, if it expires.
    expires: Option<i64>,
}

impl V2Store {
    /// Parses the JSON of a store. Empty input is an empty store.
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
            ensure!(self.nodes.len() < MAX_NODES, TOO_MANY);
            let path = format!("{path}/{name}");
            let expires = child.expires.parse::<Timestamp>().ok().map(|time| time.as_nanosecond());
            let expires = expires.and_then(|time| i64::try_from(time).ok());
            let is_dir = child.children.is_some();
            self.insert(&path, is_dir, child.value.0, expires.unwrap_or(0));
            self.load(&path, child)?;
        }
        Ok(())
    }

    /// Returns the number of keys, or the number of directories if there are no keys.
    pub fn count(&self) -> usize {
        match self.nodes.values().filter(|node| !node.is_dir).count() {
            0 => self.nodes.len(),
            keys => keys,
        }
    }

    /// Returns the first few top-level names.
    pub fn top(&self) -> Vec<String> {
        let names = self.nodes.keys().filter_map(|path| path.strip_prefix("/1/")?.split('/').next());
        let names: BTreeSet<&str> = names.collect();
        names.into_iter().take(MAX_TOP_NAMES).map(str::to_owned).collect()
    }

    /// Applies a request.
    ///
    /// # Errors
    /// Fails if the store becomes too large to be held in memory.
    pub fn apply(&mut self, request: V2Request) -> Result<(), &'static str> {
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
                // etcd creates numbers as names, so this name cannot collide with one.
                self.create(&format!("{path}/post-{}", self.posted), &request, false);
            }
            Method::Delete => self.delete(&path, &request),
            Method::Sync | Method::Other => {}
        }
        if self.nodes.len() > MAX_NODES { Err(TOO_MANY) } else { Ok(()) }
    }

    /// Applies a PUT as `apply_v2.go` `Put` does.
    fn put(&mut self, path: &str, request: &V2Request) {
        let compares = request.previous_value.is_some() || request.has_previous_index;
        match request.previous_exists {
            Some(false) => self.create(path, request, false),
            Some(true) if !compares => self.update(path, request),
            _ if compares => self.compare_and_swap(path, request),
            _ if request.refresh && !self.nodes.contains_key(path) => {}
            _ => self.create(path, request, true),
        }
    }

    fn create(&mut self, path: &str, request: &V2Request, replace: bool) {
        let before = self.nodes.get(path).copied();
        let is_blocked = before.is_some_and(|node| !replace || node.is_dir);
        if is_blocked || !self.make_parents(path) {
            return;
        }
        let refreshed = before.filter(|_| request.refresh).map(|node| node.value);
        self.insert(path, request.dir, request.value, request.expires);
        if let (Some(value), Some(node)) = (refreshed, self.nodes.get_mut(path)) {
            node.value = value;
        }
    }

    fn insert(&mut self, path: &str, is_dir: bool, value: u64, expires: i64) {
        let expires = (expires >= MIN_EXPIRE_TIME).then_some(expires);
        self.nodes.insert(path.to_owned(), V2Node { is_dir, value: Some(value), expires });
    }

    /// Creates the parent directories of `path`; returns false if a key has the path of one of them.
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

    fn update(&mut self, path: &str, request: &V2Request) {
        let Some(node) = self.nodes.get_mut(path) else { return };
        if node.is_dir && request.has_value {
            return;
        }
        if !request.refresh {
            node.value = Some(request.value);
        }
        node.expires = (request.expires >= MIN_EXPIRE_TIME).then_some(request.expires);
    }

    fn compare_and_swap(&mut self, path: &str, request: &V2Request) {
        let Some(node) = self.nodes.get_mut(path).filter(|node| !node.is_dir) else { return };
        match node.matches(request) {
            Some(false) => {}
            Some(true) => {
                if !request.refresh {
                    node.value = Some(request.value);
                }
                node.expires = (request.expires >= MIN_EXPIRE_TIME).then_some(request.expires);
            }
            None => (node.value, node.expires) = (None, None),
        }
    }

    fn delete(&mut self, path: &str, request: &V2Request) {
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

    /// Removes a node and all its descendants.
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
        let has_expired = |node: &V2Node| node.expires.is_some_and(|expires| expires <= now);
        let names = self.nodes.iter().filter(|(_, node)| has_expired(node)).map(|(name, _)| name);
        let names: Vec<String> = names.cloned().collect();
        for name in names {
            self.remove(&name);
        }
    }
}

impl V2Node {
    /// Whether the comparison in `request` succeeds; `None` if that is unknown.
    fn matches(self, request: &V2Request) -> Option<bool> {
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

/// Normalizes a path as Go's `path.Clean` does; returns `None` for a path outside the directory of the users' keys.
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
        // A POST to the directory itself creates a key in it.
        ["1"] => Some(KEYS.to_owned()),
        _ => None,
    }
}

/// The JSON form of a store (`store.go` `SaveNoCopy`).
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
    /// `null` if the node is a key.
    #[serde(rename = "Children", default)]
    children: Option<BTreeMap<String, SavedNode>>,
}

/// The digest of a text. The text itself is not kept.
#[derive(Default)]
struct Digest(u64);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        Ok(Self(digest(text.as_bytes())))
    }
}
