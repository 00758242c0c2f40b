//! Makes the new data and saves the existing data: at the same time if there is room for both, because the two are
//! independent until the exchange.
//!
//! Must never publish the backup before the new data is proved, or return while one of the two is still running.

use super::backup::{self, BackupFailed};
use super::existing::ExistingData;
use super::facts::Facts;
use super::plan::{BackupMethod, Plan};
use super::request::Request;
use super::stage::{Stage, staged_size};
use super::unpacked::Snapshot;
use crate::etcd::site::Site;
use crate::exchange::Expected;
use crate::progress::{Progress, Sink};
use crate::snapshot;
use crate::store::trusted_path::TrustedPath;
use crate::system::cancellation::Cancellation;
use crate::system::first_error::{FirstError, Stopped, join_scoped};
use anyhow::{Context, Result};
use std::path::Path;
use std::thread;

const MAKING: &str = "restoring the snapshot next to the live data";

/// A restore that has been planned and has not changed anything.
#[derive(Clone, Copy)]
pub(super) struct Preparation<'a> {
    pub site: &'a Site,
    pub request: &'a Request,
    pub facts: &'a Facts,
    pub plan: &'a Plan,
    pub snapshot: &'a Snapshot,
    pub stage: &'a Stage<'a>,
}

/// A function that the backup calls when it is complete. The backup is only published if it succeeds.
type Agree<'a> = &'a mut dyn FnMut(Sink<'_>) -> Result<()>;

impl Preparation<'_> {
    /// Makes and proves the new data, and saves the existing data. Returns what etcd must serve, and the report of the
    /// backup.
    ///
    /// # Errors
    /// The error of the one that failed first. The other one is stopped then. No backup is published.
    pub(super) fn run(&self, report: Sink<'_>) -> Result<(Expected, Option<snapshot::Report>)> {
        let target = self.request.backup.as_deref().filter(|_| self.plan.backup != BackupMethod::None);
        let Some(target) = target else {
            return Ok((self.make_reported(report)?, None));
        };
        self.stage.record_backup_target(target)?;
        let (expected, saved) = if self.has_room_for_both(target)? {
            report(Progress::Step(&format!("{MAKING}, while the existing data is saved")));
            let new_data = self.new_data();
            make_and_save(|| new_data.make(), |agree| self.save(target, agree, report))?
        } else {
            let expected = self.make_reported(report)?;
            report(Progress::Step("saving the existing data"));
            (expected, self.save(target, &mut |_| Ok(()), report)?)
        };
        Ok((expected, Some(saved)))
    }

    /// Makes the new data, and reports the steps.
    fn make_reported(&self, report: Sink<'_>) -> Result<Expected> {
        let new_data = self.new_data();
        report(Progress::Step(MAKING));
        new_data.stage.restore(self.plan)?;
        report(Progress::Step("booting the restored data in private"));
        new_data.prove()
    }

    fn new_data(&self) -> NewData<'_> {
        let replaces_data = !matches!(self.facts.existing, ExistingData::Empty);
        NewData { stage: self.stage, plan: self.plan, snapshot: self.snapshot, replaces_data }
    }

    /// Saves the existing data in `target`.
    fn save(&self, target: &Path, agree: Agree<'_>, report: Sink<'_>) -> Result<snapshot::Report> {
        let request = backup::snapshot_request(self.request, target);
        backup::save_existing(self.site, self.stage, self.plan.backup, &request, agree, report)
            .context(BackupFailed)
    }

    /// Returns whether the new data and the backup fit on the disk at the same time, and there is a core for each.
    fn has_room_for_both(&self, target: &Path) -> Result<bool> {
        if thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) {
            return Ok(false);
        }
        let data = self.stage.data();
        if !TrustedPath::open(target, self.request.owner)?.shares_disk_with(data)? {
            return Ok(true);
        }
        let needed = staged_size(self.snapshot.size).saturating_add(self.facts.backup_space);
        Ok(data.free_bytes()? > needed)
    }
}

/// The new data, which is made next to the live data.
#[derive(Clone, Copy)]
struct NewData<'a> {
    stage: &'a Stage<'a>,
    plan: &'a Plan,
    snapshot: &'a Snapshot,
    replaces_data: bool,
}

impl NewData<'_> {
    /// Makes the new data, and proves it by a private boot.
    fn make(self) -> Result<Expected> {
        self.stage.restore(self.plan)?;
        self.prove()
    }

    fn prove(self) -> Result<Expected> {
        let expected = self.stage.prove(self.plan, self.snapshot)?;
        self.stage.copy_ownership_and_mode(self.replaces_data)?;
        Ok(expected)
    }
}

/// Runs `make` on a thread of its own, and `save` on the calling one. When `save` calls its argument, that waits for
/// `make`. If one fails, the other is cancelled.
fn make_and_save<Made: Send, Saved>(
    make: impl FnOnce() -> Result<Made> + Send,
    save: impl FnOnce(Agree<'_>) -> Result<Saved>,
) -> Result<(Made, Saved)> {
    let (first_error, cancellation) = (FirstError::default(), Cancellation::default());
    let end = || CancelAfterError(&first_error, &cancellation);
    let outcome = thread::scope(|scope| {
        let making = cancellation.run(|| first_error.spawn_scoped(scope, "stage", end(), move |_| make()))?;
        let (mut making, mut made) = (Some(making), None);
        let mut agree = |report: Sink<'_>| {
            let making = making.take().ok_or(Stopped)?;
            report(Progress::Step("waiting until the restored data has booted in private"));
            made = Some(join_scoped(making)?);
            Ok(())
        };
        let saved = cancellation.run(|| first_error.run("backup", end(), |_| save(&mut agree)));
        if let Some(making) = making {
            // Its error is stored.
            let _ = join_scoped(making);
        }
        Ok((made.ok_or(Stopped)?, saved?))
    });
    first_error.resolve(outcome)
}

/// Cancels both when it is dropped after one has failed. [`FirstError`] drops it after the error is stored, so the error
/// of the cancelled one comes second.
struct CancelAfterError<'a>(&'a FirstError, &'a Cancellation);

impl Drop for CancelAfterError<'_> {
    fn drop(&mut self) {
        if self.0.check().is_err() {
            self.1.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::interrupt;
    use anyhow::{anyhow, bail};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// Works until it is cancelled.
    fn work_on() -> Result<()> {
        interrupt::sleep(Duration::from_secs(50))?;
        bail!("it was not cancelled")
    }

    #[test]
    fn publishes_the_backup_after_the_new_data_is_made() {
        let made = AtomicBool::new(false);
        let make = || {
            std::thread::sleep(Duration::from_millis(50));
            made.store(true, Ordering::Relaxed);
            Ok(1)
        };
        let save = |agree: Agree<'_>| {
            agree(&mut |_| ())?;
            assert!(made.load(Ordering::Relaxed));
            Ok(2)
        };
        assert_eq!(make_and_save(make, save).unwrap(), (1, 2));
    }

    #[test]
    fn a_failure_of_one_stops_the_other_and_is_reported() {
        let saving = make_and_save(work_on, |_| Err::<(), _>(anyhow!("no space"))).unwrap_err();
        assert_eq!(saving.to_string(), "no space");
        let published = AtomicBool::new(false);
        let making = make_and_save(
            || Err::<(), _>(anyhow!("no boot")),
            |agree| {
                work_on().or_else(|_| agree(&mut |_| ()))?;
                published.store(true, Ordering::Relaxed);
                Ok(())
            },
        );
        assert_eq!(making.unwrap_err().to_string(), "no boot");
        assert!(!published.load(Ordering::Relaxed));
    }

    #[test]
    fn a_panic_of_one_is_the_error_of_both() {
        let error = make_and_save(|| -> Result<()> { panic!("no luck") }, |_| work_on()).unwrap_err();
        assert_eq!(error.to_string(), "the thread `stage` panicked");
    }
}
