//! The command `keys`: lists the keys in an archive at a revision.

use super::streamed_list::{self, StreamedList};
use super::{ArchiveName, report_warnings, with_archive};
use crate::commands::Call;
use crate::error::ActionError;
use crate::etcd::backend::{KeyScope, KeyVersion, LiveKeys};
use crate::etcd::key_text::printable;
use crate::system::interrupt;
use anyhow::Result;
use serde::{Serialize, Serializer};

/// A request to list keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive.
    pub archive: ArchiveName,
    /// The bytes that the keys begin with.
    pub prefix: Vec<u8>,
    /// The revision, if not the last one.
    pub at: Option<i64>,
}

/// The keys in an archive.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The path or URL of the archive.
    pub archive: String,
    /// The revision of the listed state.
    pub revision: i64,
    /// The keys, sorted by their bytes.
    #[cfg_attr(test, schemars(with = "Vec<Key>"))]
    pub keys: KeyList,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The keys, which are read from the index while they are printed: there may be millions.
#[derive(Debug, Default)]
pub struct KeyList(pub LiveKeys);

/// A key.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Key {
    /// The key. Bytes outside printable ASCII are written as `\xNN`, and a backslash as two.
    pub key: String,
    /// The size of the value in bytes.
    pub size_bytes: u64,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The revision of the last change.
    pub mod_revision: i64,
    /// The number of changes since the key was created.
    pub version: i64,
    /// The id of its lease in hexadecimal digits, if it has one.
    pub lease: Option<String>,
}

impl Key {
    /// Describes a version of a key.
    pub fn new(version: &KeyVersion) -> Self {
        Self {
            key: printable(&version.key),
            size_bytes: version.value_size,
            create_revision: version.create_revision,
            mod_revision: version.mod_revision,
            version: version.version,
            lease: (version.lease != 0).then(|| format!("{:x}", version.lease)),
        }
    }
}

impl StreamedList for KeyList {
    type Item = Key;

    fn for_each(&self, visit: &mut dyn FnMut(Key) -> Result<()>) -> Result<()> {
        let mut keys = self.0.iter()?;
        while let Some(version) = keys.next()? {
            visit(Key::new(&version))?;
        }
        Ok(())
    }
}

impl Serialize for KeyList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        streamed_list::serialize(self, serializer)
    }
}

/// Lists the keys in an archive.
///
/// # Errors
/// Refuses an archive that cannot be read, and a revision that it does not hold.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    *outcome = with_archive(call, &request.archive, |open| {
        let revision = open.revision(request.at)?;
        let scope = KeyScope { prefix: &request.prefix, revision, digests: false };
        Ok(Outcome {
            archive: open.location.clone(),
            revision,
            keys: KeyList(open.backend.live_keys(scope, open.stage.dir(), &interrupt::check)?),
            warnings: open.warnings(),
        })
    })?;
    report_warnings(call, &outcome.warnings);
    Ok(())
}
