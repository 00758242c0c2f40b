//! The versions of etcd that take part in a restore: the programs, the image of a static pod, and the data at rest.
//!
//! Must never decide whether they are compatible: see `decide::versions`.

use crate::etcd::backend::Backend;
use crate::etcd::site::{ProgramSource, Site};
use crate::etcd::versions::{Minor, Programs, Version};
use crate::exchange::{DataDir, MEMBER};
use crate::system::lock::try_lock;
use anyhow::Result;

/// The versions that are known before etcd is queried for its own.
#[derive(Debug, Clone)]
pub struct Versions {
    /// The programs on this machine.
    pub programs: Programs,
    /// The source of programs of another version.
    pub supply: ProgramSource,
    /// The server version in the manifest of a static pod.
    pub image: Option<Version>,
    /// The command that restarts etcd, as typed.
    pub restart: String,
    /// The version of etcd that last served the data at rest; `None` if an etcd has it open, or if it is not
    /// recorded.
    pub data: Option<Minor>,
}

impl Versions {
    /// Queries the programs for their versions, and reads the data if no etcd has it open.
    ///
    /// # Errors
    /// A refusal if the programs cannot restore any snapshot; an error if one of them prints no version.
    pub fn gather(site: &Site, data: &DataDir) -> Result<Self> {
        site.tools.check_can_read_snapshots()?;
        let programs = site.tools.versions()?;
        Ok(Self {
            programs,
            supply: site.program_source(),
            image: site.image_version(),
            restart: site.service.restart_command(),
            data: last_served_by(data).ok().flatten(),
        })
    }
}

/// Returns the version of etcd that last served the data at rest. Data that an etcd has open is not read, because
/// that etcd reports its own version.
fn last_served_by(data: &DataDir) -> Result<Option<Minor>> {
    let file = data.dir().child(MEMBER)?.child("snap")?.read("db")?;
    let Some(_lock) = try_lock(&file)? else { return Ok(None) };
    Ok(Backend::from_file(file, &data.database_path())?.versions()?.written_by())
}
