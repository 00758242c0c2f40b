//! The next step after an error of the operating system.

use crate::error::{Subcommand, quoted};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Returns the step that lets `again` succeed after `error` in the directory `place`: what to look at, if the system
/// reported a problem with the disk, and then the command again.
pub(super) fn repeat(error: &anyhow::Error, place: &Path, again: &Subcommand) -> String {
    disk_step(error, place).map_or_else(|| again.to_string(), |step| format!("{step}, then {again}"))
}

/// Returns the step after a problem with the disk of `place`, if `error` is one.
pub(super) fn disk_step(error: &anyhow::Error, place: &Path) -> Option<String> {
    let place = quoted(place.as_os_str());
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>().map(io::Error::kind));
    let errno = error.chain().filter_map(|cause| cause.downcast_ref::<rustix::io::Errno>());
    let kinds = kinds.chain(errno.map(|errno| io::Error::from(*errno).kind()));
    kinds.into_iter().find_map(|kind| match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some(format!("free some space (`df -h {place}` shows how much there is)"))
        }
        ErrorKind::ReadOnlyFilesystem => {
            Some(format!("mount its file system for writing (`findmnt -T {place}` shows it)"))
        }
        ErrorKind::StaleNetworkFileHandle | ErrorKind::TimedOut => {
            Some(format!("mount its file system again (`findmnt -T {place}` shows it)"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_full_disk_has_a_step_of_its_own() {
        let again = Subcommand::new("snapshot");
        let step = |error: anyhow::Error| repeat(&error.context("writing"), Path::new("/a b"), &again);
        let full = step(io::Error::from_raw_os_error(28).into());
        assert_eq!(
            full,
            "free some space (`df -h '/a b'` shows how much there is), then `sudo etcd-backup snapshot`"
        );
        let read_only = Err::<(), _>(rustix::io::Errno::ROFS).context("opening").unwrap_err();
        assert!(step(read_only).contains("findmnt -T '/a b'"));
        assert_eq!(step(anyhow::anyhow!("other")), "`sudo etcd-backup snapshot`");
    }
}
