//! Forgets the files that an earlier unit of this machine has left: its certificates and signing requests, and the state of its
//! upgrades. A unit that was removed by force has run no hook to remove them.
//!
//! Must never be used while the machine's etcd may be that of another unit. The data of an earlier unit stays as it is.

use super::files::{open_or_create_dir, split_path, write_if_changed};
use super::install::upgrade;
use super::request_files::request_dir;
use super::unit_record::UnitRecord;
use crate::system::durable::{Dir, PUBLIC};
use anyhow::{Context, Result};
use std::path::Path;

/// The file with the name of the unit that the other files belong to.
const OWNER: &str = "/etc/etcd-charm/unit";

/// Forgets the files of an earlier unit, unless the files are those of `own`, and then records `own`. `is_set_up` is whether this
/// unit has a configuration or data: then all files are its own. `certificates` is the directory of the relation's
/// certificates. Returns whether something was forgotten.
///
/// # Errors
/// If a file cannot be removed or written. Then this can be repeated.
pub fn forget(own: &UnitRecord, is_set_up: bool, certificates: &Path) -> Result<bool> {
    forget_in(Path::new(OWNER), own, is_set_up, certificates, &upgrade::forget_all)
}

fn forget_in(
    owner: &Path,
    own: &UnitRecord,
    is_set_up: bool,
    certificates: &Path,
    forget_upgrades: &dyn Fn() -> Result<()>,
) -> Result<bool> {
    let (dir, name) = split_path(owner)?;
    let dir = open_or_create_dir(dir)?;
    let token = format!("{}\n", own.cluster_token());
    let is_recorded = dir.read_small(name)?.as_deref() == Some(token.as_bytes());
    let forgets = !is_recorded && !is_set_up;
    if forgets {
        remove_dir(certificates)?;
        remove_dir(&request_dir(certificates))?;
        forget_upgrades().context("forgetting the upgrades of an earlier unit")?;
    }
    write_if_changed(&dir, name, &token, PUBLIC)?;
    Ok(forgets)
}

fn remove_dir(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let (parent, name) = split_path(path)?;
    Dir::open(&parent.canonicalize()?)?.remove_tree(name)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not be durable")]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs;

    #[test]
    fn a_unit_keeps_its_own_files_and_forgets_those_of_an_earlier_one() {
        let home = tempfile::tempdir().unwrap();
        let (owner, certificates) = (home.path().join("charm/unit"), home.path().join("etcd/relation-tls"));
        let requests = request_dir(&certificates);
        let unit =
            |name: &str| UnitRecord { unit: name.into(), model: "m".into(), served: false, member: None };
        let forgotten = Cell::new(0);
        let forget = |name: &str, is_set_up: bool| {
            for dir in [&certificates, &requests] {
                fs::create_dir_all(dir).unwrap();
                fs::write(dir.join("server.key"), "key").unwrap();
            }
            let forget_upgrades = || {
                forgotten.set(forgotten.get() + 1);
                Ok(())
            };
            let forgets = forget_in(&owner, &unit(name), is_set_up, &certificates, &forget_upgrades).unwrap();
            assert_eq!((certificates.exists(), requests.exists()), (!forgets, !forgets));
            forgets
        };
        // An earlier version of the charm has set it up, and has recorded no unit.
        assert!(!forget("etcd/0", true));
        // A unit that waits to join has certificates, and no configuration yet.
        assert!(!forget("etcd/0", false));
        assert!(forget("etcd/1", false) && !forget("etcd/1", false));
        assert_eq!(forgotten.get(), 1);
    }
}
