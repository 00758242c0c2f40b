//! Whether the structure of a backend is sound: every page of every bucket is read.
//!
//! Checks what a reader of the file relies on: that each tree leads to pages within the file, that no page is used twice, that
//! all elements lie in their page and all keys ascend. bbolt's own check reads the list of free pages too (`tx_check.go`);
//! only a writer needs it, and etcd's tool reports it. Must never take a failing disk for a fault of the file, nor quote a
//! key or a value.

use super::facts::{KEY, Revision};
use super::records::{Cursor, PageSet, Root};
use super::{Backend, bucket_root, is_read_error};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::Path;

/// How many records are read before it is asked again whether to go on.
const OFTEN: u64 = 65_536;

/// The buckets of etcd 3.4 to 3.7 (`server/storage/schema/bucket.go`). Any other name may be somebody's data.
const BUCKETS: [&str; 10] = [
    "key",
    "meta",
    "lease",
    "alarm",
    "cluster",
    "members",
    "members_removed",
    "auth",
    "authUsers",
    "authRoles",
];

/// What is wrong with a backend file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is a sound bbolt file without etcd's bucket of keys.
    NotEtcd,
    /// A page of it cannot be read: which one, and why.
    Corrupt(String),
}

/// Looks for a fault in the backend file `path`, which no etcd may be using. `go_on` ends the search by an error.
///
/// # Errors
/// The file could not be read, or the search was ended: nothing is known.
pub fn find_fault(path: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Option<Fault>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let outcome = match Backend::read(file, path) {
        Ok(backend) => backend.find_fault(go_on)?,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Fault::NotEtcd)),
        Err(error) if is_read_error(&error) => Err(error).with_context(|| super::context(path)),
        Err(error) => Ok(Some(Fault::Corrupt(format!("{error:#}")))),
    }
}

impl Backend {
    /// Reads every bucket, and returns whether one of them is etcd's bucket of keys. The outer error is that of `go_on`.
    fn find_fault(&self, go_on: &dyn Fn() -> Result<()>) -> Result<Result<bool>> {
        let seen = PageSet::of(self.pages);
        let mut has_keys = false;
        let mut buckets = match Cursor::marking(self, Root::Tree(self.root), &seen) {
            Ok(buckets) => buckets,
            Err(error) => return Ok(Err(error.context(ROOT))),
        };
        loop {
            let (name, root) = match buckets.next() {
                Ok(None) => return Ok(Ok(has_keys)),
                Ok(Some(item)) if !item.is_bucket => continue,
                Ok(Some(item)) => (item.key.to_vec(), bucket_root(item.value)),
                Err(error) => return Ok(Err(error.context(ROOT))),
            };
            has_keys |= name == KEY.as_bytes();
            let read = match root {
                Ok(root) => self.read_bucket(root, name == KEY.as_bytes(), &seen, go_on)?,
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                return Ok(Err(error.context(shown(&name))));
            }
        }
    }

    /// Reads every record of a bucket. The outer error is that of `go_on`.
    fn read_bucket(
        &self,
        root: Root,
        of_keys: bool,
        seen: &PageSet,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Result<()>> {
        let mut records = match Cursor::marking(self, root, seen) {
            Ok(records) => records,
            Err(error) => return Ok(Err(error)),
        };
        for number in 0_u64.. {
            if number.is_multiple_of(OFTEN) {
                go_on()?;
            }
            let judged = match records.next() {
                Ok(None) => break,
                Ok(Some(item)) => judge(item.is_bucket, item.key, of_keys),
                Err(error) => Err(error),
            };
            if let Err(error) = judged {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

const ROOT: &str = "the tree of buckets";

/// Fails if a bucket of etcd's never has this element.
fn judge(is_bucket: bool, key: &[u8], of_keys: bool) -> Result<()> {
    ensure!(!is_bucket, "a bucket lies within it");
    ensure!(!of_keys || Revision::parse(key).is_ok(), "one of its keys is not a revision");
    Ok(())
}

fn shown(name: &[u8]) -> String {
    match BUCKETS.iter().find(|known| known.as_bytes() == name) {
        Some(known) => format!("bucket `{known}`"),
        None => "a bucket of another name".to_owned(),
    }
}
