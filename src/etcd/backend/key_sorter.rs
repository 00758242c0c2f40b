//! Sorts the versions of keys in a bounded amount of memory, and returns the newest version of each key in the order of
//! the keys.
//!
//! bbolt sorts records by revision, so the state of a store at a revision needs an index by key. The index is sorted in
//! runs of at most [`MEMORY`] bytes. Only if one run is not enough, they are written to an unnamed file and merged from
//! there. Must never hold a value.

use crate::system::durable::Dir;
use anyhow::{Context, Result};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

/// The memory for one run, in bytes. While a run is sorted and grows, about a quarter more is used.
const MEMORY: usize = 64 << 20;
/// The memory to read one run from the file, in bytes.
const READ_BUFFER: usize = 32 << 10;
/// The name of the file, until it is opened.
const FILE: &str = "key-index";
/// The bytes of a version in the file, without its key.
const FIXED: usize = 4 + 6 * 8 + 16 + 1;

/// The first half of the SHA-256 of a value.
pub type ValueDigest = [u8; 16];

/// A version of a key, without its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyVersion {
    /// The key.
    pub key: Box<[u8]>,
    /// The revision of this version.
    pub mod_revision: i64,
    /// The number of the change in that revision.
    pub(super) sub: i64,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The number of changes since then; 1 for a new key.
    pub version: i64,
    /// The id of its lease; 0 without a lease.
    pub lease: i64,
    /// The size of the value in bytes.
    pub value_size: u64,
    /// The digest of the value; zeros if digests were not requested.
    pub digest: ValueDigest,
    /// Whether this version deletes the key.
    pub(super) deletion: bool,
}

impl KeyVersion {
    /// The memory that it takes, with the overhead of its allocation.
    fn memory(&self) -> usize {
        size_of::<Self>() + self.key.len() + 16
    }

    /// Compares by key, and then the newest version first.
    fn order(&self, other: &Self) -> Ordering {
        let newest = || (other.mod_revision, other.sub).cmp(&(self.mod_revision, self.sub));
        self.key.cmp(&other.key).then_with(newest)
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.key.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        let numbers = [self.mod_revision, self.sub, self.create_revision, self.version, self.lease];
        for number in numbers {
            out.write_all(&number.to_le_bytes())?;
        }
        out.write_all(&self.value_size.to_le_bytes())?;
        out.write_all(&self.digest)?;
        out.write_all(&[u8::from(self.deletion)])?;
        out.write_all(&self.key)
    }

    fn read(source: &mut impl Read) -> io::Result<Self> {
        let length = u32::from_le_bytes(bytes(source)?);
        let mut number = || bytes(source).map(i64::from_le_bytes);
        let (mod_revision, sub, create_revision) = (number()?, number()?, number()?);
        let (version, lease) = (number()?, number()?);
        let value_size = u64::from_le_bytes(bytes(source)?);
        let (digest, [deletion]) = (bytes(source)?, bytes(source)?);
        let mut key = vec![0; length as usize].into_boxed_slice();
        source.read_exact(&mut key)?;
        let deletion = deletion != 0;
        Ok(Self { key, mod_revision, sub, create_revision, version, lease, value_size, digest, deletion })
    }
}

fn bytes<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).map(|()| bytes)
}

/// Collects versions of keys, in the order of their revisions.
pub(super) struct KeySorter<'d> {
    dir: &'d Dir,
    memory: usize,
    held: Vec<KeyVersion>,
    used: usize,
    spilled: Spilled,
}

/// The runs in the file, oldest revisions first.
#[derive(Debug, Default)]
struct Spilled {
    file: Option<File>,
    /// The end of each run.
    ends: Vec<u64>,
}

impl<'d> KeySorter<'d> {
    /// Returns an empty sorter. It creates its file in `dir`, if it needs one.
    pub fn new(dir: &'d Dir) -> Self {
        Self::with_memory(dir, MEMORY)
    }

    pub(super) fn with_memory(dir: &'d Dir, memory: usize) -> Self {
        Self { dir, memory, held: Vec::new(), used: 0, spilled: Spilled::default() }
    }

    /// Adds a version, which must be newer than all earlier ones.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn add(&mut self, version: KeyVersion) -> Result<()> {
        self.used += version.memory();
        self.held.push(version);
        if self.used > self.memory {
            self.keep_newest();
            // Superseded versions alone do not need the file.
            if self.used > self.memory / 2 {
                self.spill()?;
            }
        }
        Ok(())
    }

    /// Returns the keys.
    pub fn finish(mut self) -> LiveKeys {
        self.keep_newest();
        self.held.shrink_to_fit();
        LiveKeys { held: self.held, spilled: self.spilled }
    }

    /// Sorts the held versions, and removes the superseded ones.
    fn keep_newest(&mut self) {
        self.held.sort_unstable_by(KeyVersion::order);
        self.held.dedup_by(|older, newest| older.key == newest.key);
        self.used = self.held.iter().map(KeyVersion::memory).sum();
    }

    fn spill(&mut self) -> Result<()> {
        let Spilled { file, ends } = &mut self.spilled;
        if file.is_none() {
            let created = self.dir.create(FILE)?;
            // The file is removed as soon as it is closed, even if this process is killed.
            self.dir.remove_file(FILE)?;
            *file = Some(created);
        }
        let file = file.as_ref().context("the index of keys has no file")?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut end = ends.last().copied().unwrap_or(0);
        for version in &self.held {
            version.write(&mut out).context("writing the index of keys")?;
            end += (FIXED + version.key.len()) as u64;
        }
        out.flush().context("writing the index of keys")?;
        ends.push(end);
        self.held.clear();
        self.used = 0;
        Ok(())
    }
}

/// The keys at a revision, sorted.
#[derive(Debug, Default)]
pub struct LiveKeys {
    /// The newest run.
    held: Vec<KeyVersion>,
    spilled: Spilled,
}

impl LiveKeys {
    /// Returns the keys from the first one on.
    ///
    /// # Errors
    /// Fails if the index cannot be read.
    pub fn iter(&self) -> Result<LiveKeysIter<'_>> {
        let mut runs = Vec::new();
        let mut at = 0;
        for end in &self.spilled.ends {
            let file = self.spilled.file.as_ref().context("the index of keys has no file")?;
            runs.push(Run::File(BufReader::with_capacity(READ_BUFFER, Part { file, at, end: *end })));
            at = *end;
        }
        runs.push(Run::Held(self.held.iter()));
        let mut all = LiveKeysIter { runs, heads: BinaryHeap::new() };
        for run in 0..all.runs.len() {
            all.advance(run)?;
        }
        Ok(all)
    }
}

/// The iteration over the keys.
pub struct LiveKeysIter<'a> {
    runs: Vec<Run<'a>>,
    heads: BinaryHeap<Head>,
}

impl LiveKeysIter<'_> {
    /// Returns the next live key; `None` after the last one.
    ///
    /// # Errors
    /// Fails if the index cannot be read.
    // Not an `Iterator`: a caller must not ignore an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<KeyVersion>> {
        while let Some(Head { version, run }) = self.heads.pop() {
            self.advance(run)?;
            while let Some(older) = self.heads.peek().filter(|head| head.version.key == version.key) {
                let run = older.run;
                self.heads.pop();
                self.advance(run)?;
            }
            if !version.deletion {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Reads the next version of a run.
    fn advance(&mut self, run: usize) -> Result<()> {
        let next = match self.runs.get_mut(run) {
            Some(Run::Held(held)) => held.next().cloned(),
            Some(Run::File(file)) => {
                let is_over = file.buffer().is_empty() && file.get_ref().is_over();
                let read = (!is_over).then(|| KeyVersion::read(file)).transpose();
                read.context("reading the index of keys")?
            }
            None => None,
        };
        self.heads.extend(next.map(|version| Head { version, run }));
        Ok(())
    }
}

enum Run<'a> {
    File(BufReader<Part<'a>>),
    Held(std::slice::Iter<'a, KeyVersion>),
}

/// A part of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Part<'_> {
    fn is_over(&self) -> bool {
        self.at >= self.end
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read_at(buffer.get_mut(..rest).unwrap_or_default(), self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// The next version of a run. The greatest head has the lowest key, and is the newest version of it.
struct Head {
    version: KeyVersion,
    run: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.version.order(&self.version)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn version(key: u8, revision: usize, deletion: bool) -> KeyVersion {
        let mod_revision = i64::try_from(revision).unwrap();
        let key = vec![b'k'; usize::from(key) + 1].into();
        KeyVersion { key, mod_revision, value_size: 7, deletion, ..KeyVersion::default() }
    }

    fn keys(sorted: &LiveKeys) -> Vec<KeyVersion> {
        let mut all = sorted.iter().unwrap();
        std::iter::from_fn(|| all.next().unwrap()).collect()
    }

    proptest! {
        // Each case creates files.
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_newest_version_of_each_key_is_returned_in_order(
            changes in proptest::collection::vec((0_u8..20, any::<bool>()), 0..200),
            memory in 200_usize..4000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let dir = Dir::open(dir.path()).unwrap();
            let mut sorter = KeySorter::with_memory(&dir, memory);
            let mut expected = BTreeMap::new();
            for (revision, (key, deletion)) in changes.into_iter().enumerate() {
                let one = version(key, revision, deletion);
                expected.insert(one.key.clone(), one.clone());
                sorter.add(one).unwrap();
            }
            let sorted = sorter.finish();
            let expected: Vec<_> = expected.into_values().filter(|one| !one.deletion).collect();
            prop_assert_eq!(&keys(&sorted), &expected);
            prop_assert_eq!(keys(&sorted), expected, "a second iteration");
            prop_assert!(dir.names().unwrap().is_empty());
        }
    }

    #[test]
    fn superseded_versions_alone_need_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::open(dir.path()).unwrap();
        let mut sorter = KeySorter::with_memory(&dir, 1000);
        for revision in 0..1000 {
            sorter.add(version(0, revision, false)).unwrap();
        }
        assert!(sorter.spilled.file.is_none());
        assert_eq!(keys(&sorter.finish()), [version(0, 999, false)]);
        let mut sorter = KeySorter::with_memory(&dir, 1000);
        for key in 0..100 {
            sorter.add(version(key, key.into(), false)).unwrap();
        }
        assert!(sorter.spilled.ends.len() > 5);
        assert_eq!(keys(&sorter.finish()).len(), 100);
    }
}
