//! The parameters and the source of a snapshot.

use crate::archive::Effort;
use crate::archive::age::Recipient;
use crate::archive::labels::Labels;
use crate::etcd::client::Client;
use crate::etcd::sandbox::BootedCopy;
use crate::system::owner::Owner;
use jiff::Timestamp;
use std::path::PathBuf;

/// A valid request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory to put the archive in.
    pub target: PathBuf,
    /// The compression effort.
    pub effort: Effort,
    /// The user that the archive belongs to.
    pub owner: Owner,
    /// The recipients that the archive is encrypted for. If empty, it is not encrypted.
    pub encrypt_to: Vec<Recipient>,
    /// The Juju unit that this runs on, if any.
    pub unit: Option<String>,
    /// Whether a restore is about to replace the data.
    pub before_restore: bool,
    /// The files to include, in addition to the database. Only in an encrypted archive.
    pub include: Vec<PathBuf>,
    /// The labels of the snapshot.
    pub labels: Labels,
    /// The note of the snapshot.
    pub note: Option<String>,
    /// The current time, for the name and the manifest.
    pub now: Timestamp,
}

/// The source of a snapshot.
pub enum Source<'a> {
    /// A serving member.
    Serving(&'a Client),
    /// A booted copy of the data of a stopped member.
    Stopped(&'a BootedCopy),
}
