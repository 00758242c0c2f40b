//! The difference between two states of a store: the keys that were added, removed or changed.
//!
//! A key has changed if its value has, by size and digest. Revisions do not count: those of different clusters cannot
//! be compared, and a value that is put again is the same. Must never hold more than one key of each state.

use super::key_sorter::{KeyVersion, LiveKeys, LiveKeysIter};
use anyhow::Result;
use std::cmp::Ordering;

/// A difference between two states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// Only the new state has the key.
    Added(KeyVersion),
    /// Only the old state has the key.
    Removed(KeyVersion),
    /// The value differs.
    Changed {
        /// The key in the old state.
        old: KeyVersion,
        /// The key in the new state.
        new: KeyVersion,
    },
}

/// The number of keys by their difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeCounts {
    /// Keys that only the new state has.
    pub added: u64,
    /// Keys that only the old state has.
    pub removed: u64,
    /// Keys with different values.
    pub changed: u64,
    /// Keys with the same value.
    pub unchanged: u64,
}

impl KeyChange {
    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Added(version) | Self::Removed(version) | Self::Changed { new: version, .. } => {
                &version.key
            }
        }
    }
}

impl ChangeCounts {
    /// Counts a difference.
    pub fn add(&mut self, change: &KeyChange) {
        match change {
            KeyChange::Added(_) => self.added += 1,
            KeyChange::Removed(_) => self.removed += 1,
            KeyChange::Changed { .. } => self.changed += 1,
        }
    }

    /// Counts all differences between two states. Their keys must have digests.
    ///
    /// # Errors
    /// Fails if an index cannot be read.
    pub fn between(old: &LiveKeys, new: &LiveKeys) -> Result<Self> {
        let (mut changes, mut counts) = (KeyChanges::between(old, new)?, Self::default());
        while let Some(change) = changes.next()? {
            counts.add(&change);
        }
        counts.unchanged = changes.unchanged();
        Ok(counts)
    }
}

/// The iteration over the differences, in the order of the keys.
pub struct KeyChanges<'a> {
    old: Side<'a>,
    new: Side<'a>,
    unchanged: u64,
}

struct Side<'a> {
    keys: LiveKeysIter<'a>,
    next: Option<KeyVersion>,
}

impl<'a> Side<'a> {
    fn new(keys: &'a LiveKeys) -> Result<Self> {
        let mut keys = keys.iter()?;
        let next = keys.next()?;
        Ok(Self { keys, next })
    }

    /// Returns the next key, and reads the one after it.
    fn take(&mut self) -> Result<Option<KeyVersion>> {
        let after = self.keys.next()?;
        Ok(std::mem::replace(&mut self.next, after))
    }
}

impl<'a> KeyChanges<'a> {
    /// Compares two states. Their keys must have digests.
    ///
    /// # Errors
    /// Fails if an index cannot be read.
    pub fn between(old: &'a LiveKeys, new: &'a LiveKeys) -> Result<Self> {
        Ok(Self { old: Side::new(old)?, new: Side::new(new)?, unchanged: 0 })
    }

    /// Returns the next difference; `None` after the last one.
    ///
    /// # Errors
    /// Fails if an index cannot be read.
    // Not an `Iterator`: a caller must not ignore an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<KeyChange>> {
        loop {
            let order = match (&self.old.next, &self.new.next) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.key.cmp(&new.key),
            };
            match order {
                Ordering::Less => return Ok(self.old.take()?.map(KeyChange::Removed)),
                Ordering::Greater => return Ok(self.new.take()?.map(KeyChange::Added)),
                Ordering::Equal => {}
            }
            let (Some(old), Some(new)) = (self.old.take()?, self.new.take()?) else { continue };
            if (old.value_size, old.digest) != (new.value_size, new.digest) {
                return Ok(Some(KeyChange::Changed { old, new }));
            }
            self.unchanged += 1;
        }
    }

    /// Returns the number of equal keys so far.
    #[must_use]
    pub fn unchanged(&self) -> u64 {
        self.unchanged
    }
}

#[cfg(test)]
mod tests {
    use super::super::key_sorter::KeySorter;
    use super::*;
    use crate::system::durable::Dir;

    /// A state with these keys and digests.
    fn state(dir: &Dir, keys: &[(&str, u8)]) -> LiveKeys {
        let mut sorter = KeySorter::new(dir);
        for (revision, (key, value)) in (1..).zip(keys) {
            let key = key.as_bytes().into();
            sorter
                .add(KeyVersion {
                    key,
                    mod_revision: revision,
                    digest: [*value; 16],
                    ..KeyVersion::default()
                })
                .unwrap();
        }
        sorter.finish()
    }

    #[test]
    fn finds_added_removed_and_changed_keys_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::open(dir.path()).unwrap();
        let old = state(&dir, &[("a", 1), ("c", 1), ("d", 1), ("f", 1)]);
        let new = state(&dir, &[("d", 2), ("b", 1), ("a", 1), ("f", 1), ("g", 1)]);
        let mut changes = KeyChanges::between(&old, &new).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| changes.next().unwrap()).collect();
        let kinds: Vec<_> = all
            .iter()
            .map(|change| {
                let kind = match change {
                    KeyChange::Added(_) => '+',
                    KeyChange::Removed(_) => '-',
                    KeyChange::Changed { .. } => '~',
                };
                format!("{kind}{}", String::from_utf8_lossy(change.key()))
            })
            .collect();
        assert_eq!(kinds, ["+b", "-c", "~d", "+g"]);
        assert_eq!(changes.unchanged(), 2);
        let counts = ChangeCounts { added: 2, removed: 1, changed: 1, unchanged: 2 };
        assert_eq!(ChangeCounts::between(&old, &new).unwrap(), counts);
        let none = ChangeCounts { unchanged: 4, ..ChangeCounts::default() };
        assert_eq!(ChangeCounts::between(&old, &old).unwrap(), none);
    }
}
