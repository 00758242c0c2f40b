//! The snapshot procedure: observes the member, saves, packs and reads back the data, verifies, publishes and reports
//! it.
//!
//! No file gets its final name before it is complete, verified and durable. Must never touch etcd's own files, and
//! does not depend on Juju.

mod include;
mod observe;
mod pipeline;
mod request;

pub use include::{Included, collect};
pub use pipeline::Packed;
pub use request::{Request, Source};

use crate::archive::manifest::Manifest;
use crate::archive::name::archive_name;
use crate::etcd::tools::Tools;
use crate::inventory::sidecar::{Sidecar, encrypted_name, sidecar_name};
use crate::progress::{Progress, Sink};
use crate::store::trusted_path::TrustedPath;
use crate::store::work_dir::{Companion, WorkDir, make_room};
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Result, bail, ensure};
use observe::{Observed, observe};
use pipeline::{ARCHIVE, Pipeline};
use std::path::{Path, PathBuf};

/// Maximum number of archives with the same second in their names.
const MAX_PER_SECOND: u32 = 1000;

/// The outcome of a snapshot.
#[derive(Debug, Clone)]
pub struct Report {
    /// The path of the archive.
    pub path: PathBuf,
    /// Its size and hash.
    pub packed: Packed,
    /// Its manifest.
    pub manifest: Manifest,
    /// The recipients that can decrypt it, if it is encrypted.
    pub encrypted_for: Vec<String>,
    /// The alarms of the member, as etcd reports them. The snapshot contains them too.
    pub alarms: Vec<String>,
    /// A sentence for each file that could not be included.
    pub skipped: Vec<String>,
}

/// Takes a snapshot of `source` and publishes it as an archive.
///
/// # Errors
/// A refusal if the member or the target is not suitable. After any other error, no archive is published.
pub fn take(source: &Source<'_>, tools: &Tools, request: &Request, report: Sink<'_>) -> Result<Report> {
    take_and_publish_if(source, tools, request, report, &mut |_| Ok(()))
}

/// Takes a snapshot of `source`, and publishes it as an archive unless `agree` fails. `agree` is called when the archive
/// is complete and verified, and may wait.
///
/// # Errors
/// See [`take`]; or the error of `agree`.
pub fn take_and_publish_if(
    source: &Source<'_>,
    tools: &Tools,
    request: &Request,
    report: Sink<'_>,
    agree: &mut dyn FnMut(Sink<'_>) -> Result<()>,
) -> Result<Report> {
    report(Progress::Step("looking at etcd and at the target"));
    // Before etcd sends anything: a file that cannot be read is reported at once.
    let included = collect(&request.include)?;
    ensure!(
        included.is_none() || !request.encrypt_to.is_empty(),
        "files are included only in encrypted archives"
    );
    let observed = observe(source)?;
    let target = open_target(request, &observed)?;
    let stage = WorkDir::create(&target)?;

    let pipeline = Pipeline::new(source, tools, &stage, &observed, request).include(included.as_ref());
    let (packed, manifest) = pipeline.run(report)?;
    agree(report)?;
    interrupt::check()?;

    let encrypted_for: Vec<String> = request.encrypt_to.iter().map(ToString::to_string).collect();
    let sidecar = (!encrypted_for.is_empty())
        .then(|| Sidecar::new(packed.size, packed.sha256.clone(), encrypted_for.clone(), manifest.clone()));
    let path = publish(&target, &stage, sidecar.as_ref(), request)?;
    let skipped = included.map(|included| included.skipped).unwrap_or_default();
    Ok(Report { path, packed, manifest, encrypted_for, alarms: observed.alarms, skipped })
}

/// Opens the target directory, and creates it if it does not exist.
fn open_target(request: &Request, observed: &Observed) -> Result<Dir> {
    let approach = TrustedPath::open(&request.target, request.owner)?;
    make_room(&approach, required_space(observed.db_size, observed.db_in_use), "the snapshot")?;
    approach.create()
}

/// Returns the bytes that a snapshot of a database of `size` bytes needs, of which `in_use` are in use. That is the
/// sum of:
///
/// - the database, which may grow by a tenth while it is saved,
/// - an archive of half of the bytes in use: Kubernetes objects compress to a fifth.
///
/// If the data compresses less, the disk may still fill up. The archive is not published then.
pub fn required_space(size: u64, in_use: u64) -> u64 {
    size.saturating_add(size / 10).saturating_add(in_use / 2).saturating_add(1 << 20)
}

/// Gives the archive the first free name of its second, and its sidecar the matching name.
fn publish(
    target: &Dir,
    stage: &WorkDir<'_>,
    sidecar: Option<&Sidecar>,
    request: &Request,
) -> Result<PathBuf> {
    let sidecar = sidecar.map(Sidecar::to_json).transpose()?;
    for number in 1..=MAX_PER_SECOND {
        let plain = archive_name(request.now, number);
        let name = if sidecar.is_some() { encrypted_name(&plain) } else { plain };
        let sidecar_name = sidecar_name(&name);
        let companion = sidecar.as_deref().map(|bytes| Companion { name: &sidecar_name, bytes });
        if stage.publish(ARCHIVE, &name, companion, request.owner)?.is_none() {
            return Ok(target.path().join(name));
        }
    }
    bail!("{} already holds {MAX_PER_SECOND} archives of this second", Path::display(target.path()))
}
