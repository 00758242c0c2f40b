//! Whether a member holds keys of etcd's v2 API. They are not in a v3 snapshot, and a restore would destroy them.
//!
//! Owns where they are: etcd keeps them in memory. Now and then it writes all of them to `member/snap/TERM-INDEX.snap`
//! (`snappb.Snapshot{crc, data}`, whose data is a `raftpb.Snapshot`, whose data is the store's JSON), and what came
//! after that is only in the write-ahead log. The files are read because they answer in all cases: `/v2/keys` is there only
//! with `--enable-v2`, and needs a login.
//!
//! Must never write, nor say "none" of files that could not be read. etcd 3.6 and later have no such keys: they refuse to
//! start on data with them (`server/etcdserver/bootstrap.go` `assertNoV2StoreContent`).

mod request;
mod store;

use super::protobuf::MessageFields;
use super::site::Site;
use super::wal::{self, WalItem};
use crate::system::durable::Dir;
use anyhow::{Context, Result, ensure};
use crc32c::crc32c;
use request::Request;
use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use store::Store;

/// What a member's files say of v2 keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V2Keys {
    /// It holds none.
    None,
    /// It holds some.
    Held {
        /// How many.
        keys: usize,
        /// The names of the first few directories or keys at the top.
        top: Vec<String>,
    },
    /// It could not be determined, for this reason.
    Unknown(String),
}

/// The largest `.snap` that is read. One of v3 keys only has some kilobytes.
const LARGEST: u64 = 64 << 20;
/// How often files are read again that a running etcd changed meanwhile.
const TRIES: u32 = 4;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(100);
/// How many uncommitted requests are held at most. etcd itself has far fewer under way.
const MOST_PENDING: usize = 100_000;

const MISSING: &str = "entries are missing between the newest good .snap and the write-ahead log";

impl V2Keys {
    /// Reads the files of the site's member, be it running or stopped.
    pub fn read_site(site: &Site) -> Self {
        let mut tries = 0;
        loop {
            tries += 1;
            match read_live(site) {
                Ok(store) => return Self::in_store(&store),
                Err(error) if tries == TRIES => return Self::Unknown(format!("{error:#}")),
                // A running etcd removes old files and is in the middle of a write.
                Err(_) => std::thread::sleep(PAUSE),
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

    fn in_store(store: &Store) -> Self {
        match store.count() {
            0 => Self::None,
            keys => Self::Held { keys, top: store.top() },
        }
    }

    /// Returns the v2 keys in words; `None` if there are none.
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

fn read_live(site: &Site) -> Result<Store> {
    // The path comes from etcd's configuration, where a symlink is meant.
    let real = |dir: &Path| dir.canonicalize().with_context(|| format!("opening {}", dir.display()));
    let wal_dir = site.wal_dir.as_ref().map(|dir| real(dir)).transpose()?;
    read(&real(&site.data_dir)?.join("member"), wal_dir.as_deref())
}

/// Reads the newest valid `.snap`, and the log after it.
fn read(member: &Path, wal_dir: Option<&Path>) -> Result<Store> {
    let snapshots = Dir::open(&member.join("snap"))?;
    let log = Dir::open(&wal_dir.map_or_else(|| member.join("wal"), Path::to_owned))?;
    let (mut store, index) = newest(&snapshots)?.unwrap_or_default();
    let mut replay = Replay {
        store: &mut store,
        index,
        last: index,
        committed: index,
        pending: VecDeque::new(),
        trouble: None,
    };
    wal::read_after(&log, index, &mut |item| replay.take(item))?;
    replay.finish()?;
    Ok(store)
}

/// Returns the store of the newest `.snap` that can be read, and the index of the last entry that is in it. etcd takes the
/// newest valid one too (`snapshotter.go` `loadMatching`): what a newer one would have had is in the log then.
fn newest(dir: &Dir) -> Result<Option<(Store, u64)>> {
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

fn snapshot(dir: &Dir, name: &str) -> Result<(Store, u64)> {
    let file = dir.read(name)?;
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LARGEST, "it is larger than 64 MiB");
    parse(&bytes)
}

/// Reads a `snappb.Snapshot`.
fn parse(bytes: &[u8]) -> Result<(Store, u64)> {
    let (mut crc, mut sealed) = (0, &[][..]);
    for field in MessageFields::new(bytes) {
        match field? {
            (1, value) => crc = value.integer()?,
            (2, value) => sealed = value.bytes()?,
            _ => {}
        }
    }
    ensure!(!sealed.is_empty() && u64::from(crc32c(sealed)) == crc, "crc mismatch");
    let (mut content, mut index) = (&[][..], 0);
    for field in MessageFields::new(sealed) {
        match field? {
            (1, value) => content = value.bytes()?,
            (2, value) => index = index_of(value.bytes()?)?,
            _ => {}
        }
    }
    Ok((Store::parse(content)?, index))
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

/// Applies the log to a store, in the order of raft: an entry may replace others until it is committed.
struct Replay<'s> {
    store: &'s mut Store,
    /// The last entry that is in the store.
    index: u64,
    /// The last entry that was read, or that is in the store.
    last: u64,
    /// The last entry that is known to be committed.
    committed: u64,
    /// Requests that are not known to be committed.
    pending: VecDeque<(u64, Request)>,
    trouble: Option<&'static str>,
}

impl Replay<'_> {
    fn take(&mut self, item: WalItem<'_>) {
        match item {
            WalItem::Entry(entry) => {
                while self.pending.back().is_some_and(|(index, _)| *index >= entry.index) {
                    self.pending.pop_back();
                }
                if entry.index <= self.index {
                    return;
                }
                // A member that another one has sent its state has no entries from before.
                if entry.index > self.last + 1 {
                    self.trouble = Some(MISSING);
                }
                self.last = entry.index;
                if !entry.is_request || entry.data.is_empty() {
                    return;
                }
                match Request::in_entry(entry.data) {
                    Ok(Some(_)) if self.pending.len() == MOST_PENDING => {
                        self.trouble = Some("the write-ahead log has more than 100,000 uncommitted requests");
                    }
                    Ok(Some(request)) => self.pending.push_back((entry.index, request)),
                    Ok(None) => {}
                    Err(_) => self.trouble = Some("the write-ahead log has an entry that cannot be decoded"),
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
                self.trouble = self.store.apply(request).err().or(self.trouble);
            }
        }
    }

    /// Applies what is left: a member that is alone commits it at its next start.
    fn finish(mut self) -> Result<()> {
        if self.committed > self.last {
            self.trouble = Some(MISSING);
        }
        self.apply_to(u64::MAX);
        self.trouble.map_or(Ok(()), |trouble| Err(anyhow::anyhow!(trouble)))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
