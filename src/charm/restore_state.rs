//! Recovery of an interrupted restore, and the lock on the data while a hook runs.
//!
//! Must never touch the data of an etcd that is not this unit's, unless the unit manages it by a site file.

use super::etcd_config;
use super::files::read_optional;
use super::install_method::InstallMethod;
use super::unit_record::{DataState, UnitRecord, open_data_dir};
use crate::error::{ActionError, Failure, Refusal};
use crate::etcd::site::Site;
use crate::exchange::{DataDir, has_journal};
use crate::restore;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause between two attempts to lock data that another process works on.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The next step after an error that may be gone in the next hook.
const RETRIES: &str = "wait for the next hook, which retries within 5 minutes";

/// The state of restores on this unit, after recovery of an interrupted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreState {
    /// No restore was interrupted.
    None,
    /// An interrupted restore was completed or rolled back, as the text describes.
    Recovered(String),
    /// A restore or another run works on the data now; the text names it.
    Busy(String),
    /// An interrupted restore can be neither completed nor rolled back.
    Stuck(Refusal),
}

/// Returns the data directory in the configuration file that the charm wrote, if there is such a file.
///
/// # Errors
/// If a configuration file exists and cannot be read.
pub fn configured_data_dir() -> Result<Option<PathBuf>> {
    for method in [InstallMethod::Debian, InstallMethod::Snap] {
        let text = read_optional(method.config_file())?;
        if let Some(text) = text.filter(|text| etcd_config::is_written_by_charm(text)) {
            return Ok(etcd_config::data_dir_in(&text));
        }
    }
    Ok(None)
}

/// Completes or rolls back an interrupted restore, and locks the data.
///
/// As long as the returned [`DataDir`] lives, no other run can work on the data. `configured` is the data directory in the
/// charm's own configuration file. If the etcd of `site` has its data elsewhere, it is not touched. Without `configured`,
/// it is not touched either unless its data has the record of `own`. `own` is `None` if the etcd is that of a site file.
/// If `site` cannot be used, the data in `configured` is only inspected.
pub fn recover_restore(
    site: &Result<Site>,
    configured: Option<&Path>,
    own: Option<&UnitRecord>,
) -> (RestoreState, Option<DataDir>) {
    let (data_dir, site) = match (site, configured) {
        (Ok(site), None) if own.is_some_and(|own| !has_record_of(own, &site.data_dir)) => {
            return (RestoreState::None, None);
        }
        (Ok(site), None) => (&**site.data_dir, Ok(site)),
        (Ok(site), Some(configured)) if is_same_dir(&site.data_dir, configured) => {
            (&**site.data_dir, Ok(site))
        }
        (Ok(site), Some(configured)) => {
            (configured, Err(format!("{} has its data in another directory", site.description)))
        }
        (Err(error), Some(configured)) => (configured, Err(format!("{error:#}"))),
        (Err(_), None) => return (RestoreState::None, None),
    };
    let data = match lock_data(data_dir) {
        Ok(Some(data)) => data,
        Ok(None) => return (RestoreState::None, None),
        Err(state) => return (state, None),
    };
    let state = match site {
        Ok(site) => match restore::recover(site, &data, &mut |_| {}) {
            Ok(None) => RestoreState::None,
            Ok(Some(recovered)) => RestoreState::Recovered(recovered.to_string()),
            Err(error) => stuck(error),
        },
        Err(reason) => inspect_journal(&data, data_dir, &reason),
    };
    (state, Some(data))
}

/// Waits until the data is unlocked, because no later hook will stop the etcd of a unit or storage that is being removed.
///
/// After `timeout`, `end_backup` ends a scheduled backup. A restore is not ended.
pub fn wait_for_data<T>(
    timeout: Duration,
    recover: &dyn Fn() -> (RestoreState, T),
    end_backup: &dyn Fn(),
) -> (RestoreState, T) {
    let deadline = Instant::now() + timeout;
    loop {
        let outcome = recover();
        if !matches!(outcome.0, RestoreState::Busy(_)) {
            return outcome;
        }
        if Instant::now() >= deadline {
            end_backup();
            return recover();
        }
        std::thread::sleep(RETRY_INTERVAL.min(timeout));
    }
}

/// Locks a data directory, or returns `None` if it does not exist. The error is the state of the unit that has no lock.
pub fn lock_data(data_dir: &Path) -> Result<Option<DataDir>, RestoreState> {
    if !data_dir.exists() {
        return Ok(None);
    }
    DataDir::open_path(data_dir).map(Some).map_err(|error| {
        let error = error.context(format!("locking {}", data_dir.display()));
        match ActionError::from_error(error, "nothing was changed", RETRIES) {
            ActionError::Refused(refusal) => RestoreState::Busy(refusal.reason),
            other => stuck(other),
        }
    })
}

fn stuck(error: ActionError) -> RestoreState {
    RestoreState::Stuck(match error {
        ActionError::Refused(refusal) => refusal,
        ActionError::Failed(Failure { cause, state, next }) => {
            Refusal::new(format!("{state}: {cause:#}"), next)
        }
        interrupted @ ActionError::Interrupted { .. } => Refusal::new(interrupted.reason(), RETRIES),
    })
}

fn has_record_of(own: &UnitRecord, data_dir: &Path) -> bool {
    let state = open_data_dir(data_dir).and_then(|dir| dir.map(|dir| own.data_state(&dir)).transpose());
    matches!(state, Ok(Some(DataState::New | DataState::Present | DataState::Lost)))
}

/// Reports an interrupted restore that cannot be recovered, because its etcd cannot be used for this `reason`.
fn inspect_journal(data: &DataDir, data_dir: &Path, reason: &str) -> RestoreState {
    match has_journal(data) {
        Ok(false) => RestoreState::None,
        Ok(true) => RestoreState::Stuck(Refusal::new(
            format!(
                "an interrupted restore in {} cannot be recovered, because its etcd cannot be used: {reason}",
                data_dir.display()
            ),
            "correct that; the next hook recovers the restore",
        )),
        Err(error) => stuck(ActionError::from_error(error, "an interrupted restore cannot be read", RETRIES)),
    }
}

fn is_same_dir(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::system::durable::Dir;
    use std::cell::Cell;

    #[test]
    fn a_removed_unit_waits_for_a_backup_and_then_ends_it() {
        let busy = || RestoreState::Busy("backup (pid 7) is working on /d".into());
        for (timeout, free_after, expected_ends) in [
            (Duration::from_secs(60), 3, 0),
            // This one ends only when it is ended.
            (Duration::ZERO, usize::MAX, 1),
        ] {
            let (attempts, ends) = (Cell::new(0), Cell::new(0));
            let recover = || {
                attempts.set(attempts.get() + 1);
                let is_free = attempts.get() > free_after || ends.get() > 0;
                (if is_free { RestoreState::None } else { busy() }, ())
            };
            let (state, ()) = wait_for_data(timeout, &recover, &|| ends.set(ends.get() + 1));
            assert_eq!((state, ends.get()), (RestoreState::None, expected_ends));
        }
        // A restore is not ended that way.
        assert_eq!(wait_for_data(Duration::ZERO, &|| (busy(), ()), &|| ()).0, busy());
    }

    #[test]
    fn locks_and_inspects_own_data_if_no_etcd_can_be_used() {
        let home = tempfile::tempdir().unwrap();
        let no_site = || Err(anyhow::anyhow!("there are two etcds"));
        let (state, lock) = recover_restore(&no_site(), Some(home.path()), None);
        assert_eq!(state, RestoreState::None);
        let (RestoreState::Busy(who), None) = recover_restore(&no_site(), Some(home.path()), None) else {
            panic!("not busy")
        };
        assert!(who.contains("is working on"), "{who}");
        drop(lock);
        let dir = Dir::open(home.path()).unwrap();
        let staging = dir.make_child(".etcd-restore", None).unwrap();
        staging.replace("journal.json", b"{}").unwrap();
        let (RestoreState::Stuck(why), Some(_)) = recover_restore(&no_site(), Some(home.path()), None) else {
            panic!("recovered")
        };
        assert!(why.reason.contains("an interrupted restore") && why.reason.contains("two etcds"), "{why}");
        assert!(why.next.contains("the next hook recovers"), "{why}");
        assert!(matches!(recover_restore(&no_site(), None, None), (RestoreState::None, None)));
        let missing = home.path().join("none");
        assert!(matches!(recover_restore(&no_site(), Some(&missing), None), (RestoreState::None, None)));
    }

    #[test]
    fn does_not_recover_the_restore_of_a_foreign_etcd() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let has_staging = || dir.inode(".etcd-restore").unwrap().is_some();
        dir.make_child(".etcd-restore", None).unwrap();
        let site = Ok(crate::etcd::site::tests::site(home.path(), Service::Unknown { pid: 42 }));
        let unit =
            |name: &str| UnitRecord { unit: name.into(), model: "m".into(), served: true, member: None };
        let own = unit("etcd/0");
        assert!(matches!(recover_restore(&site, None, Some(&own)), (RestoreState::None, None)));
        unit("etcd/7").write(&dir).unwrap();
        assert!(matches!(recover_restore(&site, None, Some(&own)), (RestoreState::None, None)));
        assert!(has_staging(), "the staging directory of another unit was removed");
        // The unit's own restore is recovered, even if its configuration is lost; and that of a site file.
        own.write(&dir).unwrap();
        assert!(matches!(recover_restore(&site, None, Some(&own)), (RestoreState::Recovered(_), Some(_))));
        assert!(!has_staging());
        dir.make_child(".etcd-restore", None).unwrap();
        assert!(matches!(recover_restore(&site, None, None), (RestoreState::Recovered(_), Some(_))));
        assert!(!has_staging());
    }
}
