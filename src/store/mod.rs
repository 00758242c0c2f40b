//! Where archives live, and what can be done to them there.

pub mod directory;
pub mod folders;
pub mod local;
pub mod s3;
pub mod stage;

use crate::catalog::entry::Entry;
use crate::catalog::record::Record;
use crate::progress::Sink;
use anyhow::Result;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{self, Debug, Display, Formatter};
use std::fs::File;
use std::io::Read;

/// The cause of a refusal to put an archive into a store: something else has its name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTaken;

impl Display for NameTaken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the name is taken")
    }
}

impl Error for NameTaken {}

/// A place that keeps archives: a directory, or a bucket.
pub trait Store: Debug {
    /// What it is called in results: a path or a URL.
    fn shown(&self) -> &str;

    /// All archives in it, in no order. What is half there is not among them.
    fn entries(&self) -> Result<Vec<Entry>>;

    /// The names of all archives in it now, without a look into them.
    fn names(&self) -> Result<BTreeSet<String>>;

    /// An archive, to be read once from its beginning.
    fn read(&self, name: &str) -> Result<Box<dyn Read + Send>>;

    /// Puts `archive`, whose SHA-256 is `sha256`, in as `name`: durable, and read back before this says so. What is there
    /// already and is the same is an earlier run's, and read back too.
    ///
    /// # Errors
    /// Refuses a name that something else has: the cause is [`NameTaken`].
    fn put(&self, name: &str, archive: &File, sha256: &str, tell: Sink<'_>) -> Result<()>;

    /// Changes the record of `entry`, from what it is now, which may be more than what `entry` says.
    fn note(&self, entry: &Entry, change: &dyn Fn(&mut Record)) -> Result<()>;

    /// Deletes `entry` with its record. Refuses if it is not what it was when it was looked at: another archive, or pinned
    /// since.
    fn delete(&self, entry: &Entry) -> Result<Removed>;
}

/// What a store did with an archive that it was asked to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Its bytes are gone.
    Deleted,
    /// It is no longer listed, but the bucket keeps its bytes as an older version.
    Hidden,
}

/// Whether `name` is where a destination keeps archives: `CLUSTER/MEMBER/NAME`, right under its folder. A destination in a
/// folder of another one has its archives deeper, and so neither sees those of the other.
fn is_in_place(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty())
}
