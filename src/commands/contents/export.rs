//! The command `export`: writes keys of an archive with their values to a private file.
//!
//! Must never replace a file.

use super::{ArchiveName, OpenDatabase, with_archive};
use crate::commands::Call;
use crate::error::{ActionError, Refusal};
use crate::etcd::backend::{KeyFileHeader, KeyFileWriter, KeyScope};
use crate::store::work_dir::WorkDir;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// The name of the file until it is published.
const DRAFT: &str = "keys";

/// A request to export keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive.
    pub archive: ArchiveName,
    /// The bytes that the keys begin with.
    pub prefix: Vec<u8>,
    /// The revision, if not the last one.
    pub at: Option<i64>,
    /// The absolute path of the file.
    pub output: PathBuf,
}

/// The exported keys.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The path or URL of the archive.
    pub archive: String,
    /// The revision of the exported state.
    pub revision: i64,
    /// The file, once it is complete.
    pub path: Option<PathBuf>,
    /// The number of keys in it.
    pub keys: u64,
    /// The size of the file in bytes.
    pub size_bytes: u64,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// Exports keys.
///
/// # Errors
/// Refuses a file that exists, and an archive that cannot be read.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    if request.output.symlink_metadata().is_ok() {
        return Err(taken(&request.output).into());
    }
    *outcome = with_archive(call, &request.archive, |open| {
        let revision = open.revision(request.at)?;
        let (keys, size_bytes) = write(open, request, revision)?;
        Ok(Outcome {
            archive: open.location.clone(),
            revision,
            path: Some(request.output.clone()),
            keys,
            size_bytes,
            warnings: open.warnings(),
        })
    })?;
    Ok(())
}

fn taken(path: &Path) -> Refusal {
    Refusal::new(format!("{} exists already", path.display()), "choose another name with --output FILE")
}

/// Writes the file, and returns the number of keys and its size in bytes.
fn write(open: &OpenDatabase<'_>, request: &Request, revision: i64) -> Result<(u64, u64)> {
    let output = &request.output;
    let name = output.file_name().and_then(|name| name.to_str()).with_context(|| no_name(output))?;
    let parent = output.parent().with_context(|| no_name(output))?;
    let parent = parent.canonicalize().with_context(|| format!("opening {}", parent.display()))?;
    let parent = Dir::open(&parent)?;
    let stage = WorkDir::create(&parent)?;
    let file = stage.dir().create(DRAFT)?;
    let scope = KeyScope { prefix: &request.prefix, revision, digests: false };
    let keys = open.backend.live_keys(scope, open.stage.dir(), &interrupt::check)?;
    let header = KeyFileHeader::new(open.cluster_id(), revision, &request.prefix);
    let mut writer = KeyFileWriter::new(BufWriter::with_capacity(1 << 20, &file), &header)?;
    let mut all = keys.iter()?;
    while let Some(version) = all.next()? {
        interrupt::check()?;
        writer.add(&version, &open.backend.value_of(&version)?)?;
    }
    let count = writer.finish()?;
    file.sync_all().context("writing the keys")?;
    let size = file.metadata().context("measuring the file of keys")?.len();
    match stage.publish(DRAFT, name, None, Owner::ourselves())? {
        Some(_) => Err(taken(output).into()),
        None => Ok((count, size)),
    }
}

fn no_name(path: &Path) -> String {
    format!("{} is not the name of a file", path.display())
}
