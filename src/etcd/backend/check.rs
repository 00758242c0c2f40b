//! Checks the structure of a backend by reading every page of every bucket.
//!
//! It checks the properties that a reader of the file relies on: that each tree refers to pages within the file, that
//! no page is used twice, that all elements lie in their page and all keys ascend. bbolt's own check reads the list of
//! free pages too (`tx_check.go`); only a writer needs it, and etcd's tool reports it. Must never report a failing disk
//! as a fault of the file, nor quote a key or a value.

use super::buckets::bucket_root;
use super::facts::{KEY, Revision};
use super::read_error::ReadingBackend;
use super::records::{Cursor, PageSet, Root};
use super::{Backend, is_read_error};
use crate::system::durable::Dir;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::Path;

/// The number of records that are read between two checks for cancellation.
const CHECK_INTERVAL: u64 = 65_536;

/// The buckets of etcd 3.4 to 3.7 (`server/storage/schema/bucket.go`). Any other name may be user data.
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

/// The fault of a backend file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is a valid bbolt file without etcd's bucket of keys.
    NotEtcd,
    /// A page of it is corrupt. The text says which one and why.
    Corrupt(String),
}

/// Searches the backend file `path`, which no etcd may be using, for a fault. An error from `go_on` cancels the search.
///
/// # Errors
/// Fails if the file cannot be read or the search is cancelled. The state of the file is then unknown.
pub fn find_fault(path: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Option<Fault>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    fault_of(file, path, go_on)
}

/// Searches the backend file `name` in `dir` for a fault, as [`find_fault`] does. Errors contain the path of `dir`.
///
/// # Errors
/// Fails as [`find_fault`] does.
pub fn find_fault_in(dir: &Dir, name: &str, go_on: &dyn Fn() -> Result<()>) -> Result<Option<Fault>> {
    fault_of(dir.read(name)?, &dir.path().join(name), go_on)
}

fn fault_of(file: File, path: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Option<Fault>> {
    let outcome = match Backend::read(file, path) {
        Ok(backend) => backend.find_fault(go_on)?,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Fault::NotEtcd)),
        Err(error) if is_read_error(&error) => Err(error).with_context(|| ReadingBackend::new(path)),
        Err(error) => Ok(Some(Fault::Corrupt(format!("{error:#}")))),
    }
}

impl Backend {
    /// Reads every bucket, and returns whether one of them is etcd's bucket of keys. The outer error is from `go_on`.
    fn find_fault(&self, go_on: &dyn Fn() -> Result<()>) -> Result<Result<bool>> {
        let seen = PageSet::new(self.pages);
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
                return Ok(Err(error.context(describe_bucket(&name))));
            }
        }
    }

    /// Reads every record of a bucket. The outer error is from `go_on`.
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
            if number.is_multiple_of(CHECK_INTERVAL) {
                go_on()?;
            }
            let checked = match records.next() {
                Ok(None) => break,
                Ok(Some(item)) => check_element(item.is_bucket, item.key, of_keys),
                Err(error) => Err(error),
            };
            if let Err(error) = checked {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

const ROOT: &str = "the tree of buckets";

/// Fails if etcd never writes such an element.
fn check_element(is_bucket: bool, key: &[u8], of_keys: bool) -> Result<()> {
    ensure!(!is_bucket, "it contains a nested bucket");
    ensure!(!of_keys || Revision::parse(key).is_ok(), "one of its keys is not a revision");
    Ok(())
}

fn describe_bucket(name: &[u8]) -> String {
    match BUCKETS.iter().find(|known| known.as_bytes() == name) {
        Some(known) => format!("bucket `{known}`"),
        None => "a bucket with another name".to_owned(),
    }
}
