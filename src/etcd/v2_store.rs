//! Finds out whether a member holds keys of the v2 API. A v3 snapshot lacks them, and a restore would destroy them.
//!
//! etcd keeps these keys in memory. From time to time it writes all of them to `member/snap/TERM-INDEX.snap`
//! (`snappb.Snapshot{crc, data}`; its data is a `raftpb.Snapshot`, which contains the store's JSON), and later changes
//! are only in the write-ahead log. The files are read because that always works: the API `/v2/keys` exists only with
//! `--enable-v2` and may require a login.
//!
//! Must never write. Must never report files that could not be read as having no keys. etcd 3.6 and later refuse to
//! start on data with such keys (`server/etcdserver/bootstrap.go` `assertNoV2StoreContent`).

mod request;
mod store;

use super::protobuf::MessageFields;
use super::site::Site;
use super::wal::{self, WalItem};
use crate::system::durable::Dir;
use anyhow::{Context, Result, ensure};
use crc32c::crc32c;
use request::V2Request;
use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use store::V2Store;

/// The v2 keys of a member, according to its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2Keys {
    /// The member holds no v2 keys.
    None,
    /// The member holds v2 keys.
    Held {
        /// The number of keys.
        keys: usize,
        /// The first few names of keys and directories at the top level.
        top: Vec<String>,
    },
    /// It could not be determined, for this reason.
    Unknown(String),
}

/// The largest `.snap` file that is read, in bytes. Without v2 keys it has a few kilobytes.
const MAX_SNAP_SIZE: u64 = 64 << 20;
/// The number of attempts to read files that a running etcd changes at the same time.
const MAX_ATTEMPTS: u32 = 4;
/// The pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// The most uncommitted requests that are held in memory. etcd itself has far fewer in flight.
const MAX_PENDING: usize = 100_000;

const ENTRIES_MISSING: &str = "entries are missing between the newest good .snap and the write-ahead log";

impl V2Keys {
    /// Reads the files of the site's member, which may be running or stopped.
    pub fn read_site(site: &Site) -> Self {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match read_live(site) {
                Ok(store) => return Self::in_store(&store),
                Err(error) if attempts == MAX_ATTEMPTS => return Self::Unknown(format!("{error:#}")),
                // A running etcd may have removed an old file or be in the middle of a write.
                Err(_) => std::thread::sleep(RETRY_DELAY),
            }
        }
    }

    /// Reads the files in a `member` directory that no etcd has open.
    pub fn read_member_dir(member: &Path) -> Self {
        match read(member, None) {
            Ok(store) => Self::in_store(&store),
            Err(error) => Self::Unknown(format!("{error:#}")),
        }
    }

    /// Reads the files of the site's member, unless its etcd is of a `version` that has no such keys.
    pub fn read_for_version(site: &Site, version: &str) -> Self {
        let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
        match numbers.next().zip(numbers.next()) {
            Some(version) if version >= (3, 6) => Self::None,
            _ => Self::read_site(site),
        }
    }

    fn in_store(store: &V2Store) -> Self {
        match store.count() {
            0 => Self::None,
            keys => Self::Held { keys, top: store.top() },
        }
    }

    /// Describes the v2 keys; `None` if the member holds no such keys.
    pub fn describe(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Held { keys, top } => {
                let top: Vec<String> = top.iter().map(|name| format!("/{}", name.escape_debug())).collect();
                let keys = if *keys == 1 { "1 v2 key".to_owned() } else { format!("{keys} v2 keys") };
                Some(format!("{keys} (under {})", top.join(", ")))
            }
            Self::Unknown(why) => Some(format!("an unknown number of v2 keys ({why})")),
        }
    }
}

fn read_live(site: &Site) -> Result<V2Store> {
    // The path comes from etcd's configuration, so a symlink in it is intended.
    let real = |dir: &Path| dir.canonicalize().with_context(|| format!("opening {}", dir.display()));
    let wal_dir = site.wal_dir.as_ref().map(|dir| real(dir)).transpose()?;
    read(&real(&site.data_dir)?.join("member"), wal_dir.as_deref())
}

/// Reads the newest valid `.snap`, and the log after it.
fn read(member: &Path, wal_dir: Option<&Path>) -> Result<V2Store> {
    let snapshots = Dir::open(&member.join("snap"))?;
    let log = Dir::open(&wal_dir.map_or_else(|| member.join("wal"), Path::to_owned))?;
    let (mut store, index) = newest(&snapshots)?.unwrap_or_default();
    let mut replay = Replay {
        store: &mut store,
        index,
        last: index,
        committed: index,
        pending: VecDeque::new(),
        error: None,
    };
    wal::read_after(&log, index, &mut |item| replay.process(item))?;
    replay.finish()?;
    Ok(store)
}

/// Returns the store of the newest `.snap` that can be read, and the index of the last entry that is in it. etcd also
/// uses the newest valid one (`snapshotter.go` `loadMatching`). The log then has the changes of the invalid ones.
fn newest(dir: &Dir) -> Result<Option<(V2Store, u64)>> {
    let mut names = dir.names()?;
    names.retain(|name| name.ends_with(".snap"));
    names.reverse();
    let mut first_error = None;
    for name in &names {
        match snapshot(dir, name).with_context(|| format!("reading {name}")) {
            Ok(read) => return Ok(Some(read)),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

fn snapshot(dir: &Dir, name: &str) -> Result<(V2Store, u64)> {
    let file = dir.read(name)?;
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    let mut bytes = Vec::new();
    file.take(MAX_SNAP_SIZE + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_SNAP_SIZE, "it is larger than 64 MiB");
    parse(&bytes)
}

/// Reads a `snappb.Snapshot`.
fn parse(bytes: &[u8]) -> Result<(V2Store, u64)> {
    let (mut crc, mut checked) = (0, &[][..]);
    for field in MessageFields::new(bytes) {
        match field? {
            (1, value) => crc = value.integer()?,
            (2, value) => checked = value.bytes()?,
            _ => {}
        }
    }
    ensure!(!checked.is_empty() && u64::from(crc32c(checked)) == crc, "crc mismatch");
    let (mut content, mut index) = (&[][..], 0);
    for field in MessageFields::new(checked) {
        match field? {
            (1, value) => content = value.bytes()?,
            (2, value) => index = index_of(value.bytes()?)?,
            _ => {}
        }
    }
    Ok((V2Store::parse(content)?, index))
}

/// Returns the index in a `raftpb.SnapshotMetadata`.
fn index_of(metadata: &[u8]) -> Result<u64> {
    let mut index = 0;
    for field in MessageFields::new(metadata) {
        if let (2, value) = field? {
            index = value.integer()?;
        }
    }
    Ok(index)
}

/// Applies the log to a store. Until an entry is committed, a later one with the same index replaces it.
struct Replay<'s> {
    store: &'s mut V2Store,
    /// The index of the last entry in the store.
    index: u64,
    /// The index of the last entry that was read or is in the store.
    last: u64,
    /// The index of the last entry that is known to be committed.
    committed: u64,
    /// Requests that are not known to be committed.
    pending: VecDeque<(u64, V2Request)>,
    error: Option<&'static str>,
}

impl Replay<'_> {
    fn process(&mut self, item: WalItem<'_>) {
        match item {
            WalItem::Entry(entry) => {
                while self.pending.back().is_some_and(|(index, _)| *index >= entry.index) {
                    self.pending.pop_back();
                }
                if entry.index <= self.index {
                    return;
                }
                // A member that received its state from another member lacks the earlier entries.
                if entry.index > self.last + 1 {
                    self.error = Some(ENTRIES_MISSING);
                }
                self.last = entry.index;
                if !entry.is_request || entry.data.is_empty() {
                    return;
                }
                match V2Request::from_entry(entry.data) {
                    Ok(Some(_)) if self.pending.len() == MAX_PENDING => {
                        self.error = Some("the write-ahead log has more than 100,000 uncommitted requests");
                    }
                    Ok(Some(request)) => self.pending.push_back((entry.index, request)),
                    Ok(None) => {}
                    Err(_) => self.error = Some("the write-ahead log has an entry that cannot be decoded"),
                }
            }
            WalItem::Commit(committed) => self.apply_to(committed),
        }
    }

    fn apply_to(&mut self, committed: u64) {
        self.committed = self.committed.max(committed);
        while self.pending.front().is_some_and(|(index, _)| *index <= committed) {
            if let Some((index, request)) = self.pending.pop_front()
                && index > self.index
            {
                self.index = index;
                self.error = self.store.apply(request).err().or(self.error);
            }
        }
    }

    /// Applies the remaining requests: a single member commits them at its next start.
    fn finish(mut self) -> Result<()> {
        if self.committed > self.last {
            self.error = Some(ENTRIES_MISSING);
        }
        self.apply_to(u64::MAX);
        self.error.map_or(Ok(()), |error| Err(anyhow::anyhow!(error)))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
