//! Whether etcd's programs here can verify and drill an archive, by their versions.
//!
//! Must never judge an archive: that it cannot be drilled here says nothing of it.

use crate::archive;
use crate::error::Refusal;
use crate::etcd::backend::Backend;
use crate::etcd::site::Site;
use crate::system::durable::Dir;
use anyhow::Result;

/// Refuses programs that could verify no archive, or with `drill` drill none.
///
/// # Errors
/// The refusal; or a program does not run, or prints no version.
pub fn admit_programs(site: &Site, drill: bool) -> Result<()> {
    site.tools.check_can_read_snapshots()?;
    if drill {
        site.program_source().check_same_minor(&site.tools.versions()?)?;
    }
    Ok(())
}

/// Refuses to boot the snapshot in `stage` if it is of a newer etcd than the one here.
pub(super) fn admit_drill(site: &Site, stage: &Dir) -> Result<()> {
    let Some(etcd) = site.tools.versions()?.etcd else { return Ok(()) };
    let data = Backend::open(&stage.handle(archive::DB))?.versions()?;
    let Some(data) = data.too_new_for(&etcd.version) else { return Ok(()) };
    Err(Refusal::new(
        format!("it is of etcd {data}, and {etcd}: only etcd {data} or later can be booted on it"),
        format!("drill it on a machine with etcd {data}, or verify it with drill=false"),
    )
    .into())
}
