//! A bucket as a [`Store`]: archives with their records beside them.

use super::encryption::Wanted;
use super::listing::Object;
use super::wire::Ask;
use super::{Bucket, Head, Reading, Trouble};
use crate::archive::tail::manifest_at_end;
use crate::catalog::entry::{Entry, may_be_archive};
use crate::catalog::outside::{Outside, is_encrypted, is_outside, outside_name};
use crate::catalog::record::{About, Record, record_name};
use crate::error::describe_inline;
use crate::progress::Sink;
use crate::store::{Removed, Store, is_in_place};
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::thread;

/// How many archives are looked at at a time: each costs a request or two, which mostly wait.
const AT_ONCE: usize = 16;
/// A record is under a kilobyte.
const LONGEST_RECORD: u64 = 64 << 10;

impl Store for Bucket {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let objects = self.objects()?;
        let named: BTreeMap<&str, &Object> =
            objects.iter().map(|object| (object.name.as_str(), object)).collect();
        let archives: Vec<&Object> = objects.iter().filter(|object| is_archive(&object.name)).collect();
        let share = archives.len().div_ceil(AT_ONCE).max(1);
        let shares: Vec<Result<Vec<Entry>>> = thread::scope(|scope| {
            let look = |share: &[&Object]| {
                let looked = share.iter().map(|object| {
                    let listed = |name: String| named.get(name.as_str()).map(|object| self.listed(object));
                    let (record, outside) =
                        (listed(record_name(&object.name)), listed(outside_name(&object.name)));
                    self.entry(object, Beside { record, outside }).transpose()
                });
                looked.flatten().collect()
            };
            let shares = archives.chunks(share);
            let threads: Vec<_> =
                shares.map(|share| spawn_scoped(scope, "list", move || look(share))).collect();
            threads.into_iter().map(|thread| thread.and_then(join)).collect()
        });
        shares.into_iter().try_fold(Vec::new(), |mut all, share| {
            all.extend(share?);
            Ok(all)
        })
    }

    fn names(&self) -> Result<BTreeSet<String>> {
        let names = self.objects()?.into_iter().map(|object| object.name);
        Ok(names.filter(|name| is_archive(name)).collect())
    }

    fn read(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.open(name)?))
    }

    fn put(&self, name: &str, archive: &File, sha256: &str, tell: Sink<'_>) -> Result<()> {
        ensure!(is_archive(name) || is_outside(name), "{name} is not the name of an archive");
        self.upload(name, archive, sha256, tell)
    }

    fn note(&self, entry: &Entry, change: &dyn Fn(&mut Record)) -> Result<()> {
        let (now, _) = self.still(entry)?;
        now.must_be_read()?;
        let mut record = now.record;
        change(&mut record);
        let (key, body) = (self.key(&record_name(&entry.name)), record.to_json()?);
        let headers = self.encryption.iter().flat_map(Wanted::headers).collect();
        let ask = Ask { method: "PUT", key: &key, headers, body: &body, ..Ask::default() };
        self.wire.ask(&ask).with_context(|| format!("writing the record of {}", entry.location()))?;
        Ok(())
    }

    fn delete(&self, entry: &Entry) -> Result<Removed> {
        let (now, head) = self.still(entry)?;
        now.must_be_read()?;
        ensure!(now.record.pinned <= entry.record.pinned, "{} was pinned meanwhile", entry.location());
        let removed = self.erase(&entry.name, &head)?;
        if is_encrypted(&entry.name) {
            self.remove(&outside_name(&entry.name))?;
        }
        self.remove(&record_name(&entry.name))?;
        Ok(removed)
    }
}

impl Bucket {
    /// A listed object with what its end and what is listed beside it say. `None` where it has gone since. One that the server
    /// refuses, because it lies in an archive of its own or is encrypted with a key that is disabled, hides none of the others.
    fn entry(&self, object: &Object, beside: Beside) -> Result<Option<Entry>> {
        match self.described(&object.name, &self.listed(object), object.modified, beside) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_absent) => Ok(None),
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_refusal) => {
                let why = format!("it cannot be read: {}", describe_inline(&error));
                Ok(Some(Entry { unread: Some(why), ..self.bare(&object.name, object.size, object.modified) }))
            }
            Err(error) => Err(error),
        }
    }

    /// An archive of which no more is known than its name and size.
    fn bare(&self, name: &str, size: u64, modified: Timestamp) -> Entry {
        Entry {
            name: name.to_owned(),
            store: self.shown.clone(),
            size,
            modified,
            manifest: None,
            encrypted_for: Vec::new(),
            record: About::of(size, None).record(Ok(None)).0,
            unread: None,
            waits_for: Vec::new(),
        }
    }

    /// A listed object, opened: the list has told all that is needed.
    fn listed(&self, object: &Object) -> Reading {
        let Object { name, size, etag, .. } = object;
        self.reading(name, Head { size: *size, etag: etag.clone(), ..Head::default() })
    }

    fn described(&self, name: &str, archive: &Reading, modified: Timestamp, beside: Beside) -> Result<Entry> {
        let size = archive.head.size;
        let Beside { record, outside } = beside;
        let (manifest, encrypted_for) = match (is_encrypted(name), outside) {
            (true, None) => (None, Vec::new()),
            (true, Some(outside)) => {
                let bytes = self.small(&outside_name(name), outside)?;
                let outside = bytes.and_then(|bytes| Outside::of(name, size, &bytes));
                outside.map_or((None, Vec::new()), |found| (Some(found.manifest), found.encrypted_for))
            }
            (false, _) => {
                let manifest = manifest_at_end(size, |length| archive.tail(length))
                    .with_context(|| format!("reading the end of {}{name}", self.shown))?;
                (manifest, Vec::new())
            }
        };
        let about = About::of(size, manifest.as_ref());
        let kept = match record {
            Some(record) => self.record(name, record)?,
            None => Ok(None),
        };
        let (record, unread) = about.record(kept);
        Ok(Entry { manifest, encrypted_for, record, unread, ..self.bare(name, size, modified) })
    }

    /// The record beside an archive. The inner error is the record's fault, or the server's word on it alone.
    fn record(&self, name: &str, found: Reading) -> Result<Result<Option<Record>>> {
        match self.small(&record_name(name), found) {
            Ok(bytes) => Ok(bytes.map(|bytes| Record::parse(&bytes)).transpose()),
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_refusal) => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// All of a small object, as it is now: it is replaced in one step.
    fn small(&self, name: &str, found: Reading) -> Result<Option<Vec<u8>>> {
        let bytes = match found.start(LONGEST_RECORD) {
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_taken) => {
                let Some(now) = self.opened(name)? else { return Ok(None) };
                now.start(LONGEST_RECORD)
            }
            Err(error) if error.downcast_ref().is_some_and(Trouble::is_absent) => return Ok(None),
            bytes => bytes,
        };
        bytes.map(Some).with_context(|| format!("reading {}{name}", self.shown))
    }

    /// What `entry` is now, and what the server says of it. Fails if it is another archive.
    fn still(&self, entry: &Entry) -> Result<(Entry, Head)> {
        let archive = self.opened(&entry.name)?.with_context(|| format!("{} has gone", entry.location()))?;
        let record = self.opened(&record_name(&entry.name))?;
        let outside = match is_encrypted(&entry.name) {
            true => self.opened(&outside_name(&entry.name))?,
            false => None,
        };
        let now = self.described(&entry.name, &archive, entry.modified, Beside { record, outside })?;
        let same = now.record.about == entry.record.about;
        ensure!(same, "{} is another archive than when it was looked at", entry.location());
        Ok((now, archive.head))
    }
}

/// What stands beside an archive, as far as it is there.
struct Beside {
    record: Option<Reading>,
    outside: Option<Reading>,
}

fn is_archive(name: &str) -> bool {
    is_in_place(name) && name.rsplit('/').next().is_some_and(may_be_archive)
}
