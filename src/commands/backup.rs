//! The command `backup`: takes a snapshot, uploads it and applies the retention. The schedule runs it, and a person
//! can too.
//!
//! Must never delete an archive after a backup that failed.

use super::next::repeat;
use super::runs::{Watch, in_short};
use super::snapshot;
use super::snapshot::Ready;
use super::snapshots::prune;
use super::target::target;
use super::{Call, now, unchanged};
use crate::archive::human_size;
use crate::error::{ActionError, Failure, Refusal, Subcommand};
use crate::progress::Progress;
use crate::schedule::runs::{Run, RunPhase, Trigger, list};
use crate::schedule::timer::{self, TimerState};
use crate::schedule::{Timetable, format_seconds};
use crate::settings::Settings;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::clock::{Clock, is_in_the_future};
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use jiff::Timestamp;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// The decision for a run that the timer started.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// No run is due, for this reason.
    Not(String),
    /// A run is due. `tries` is the number of attempts that already failed or were killed.
    Now { scheduled: Option<Timestamp>, tries: u32 },
}

/// A request for a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The snapshot to take.
    pub snapshot: snapshot::Request,
    /// Whether the timer started this run, so that it works only if a run is due.
    pub scheduled: bool,
}

/// The result of a backup.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The snapshot and its uploads.
    #[serde(flatten)]
    pub backup: snapshot::Outcome,
    /// The reason why no backup was taken, if the timer started this run and no run is due.
    pub not_due: Option<String>,
    /// The newest snapshot, if etcd has not changed since, so that the schedule took no new one.
    pub unchanged: Option<String>,
    /// Number of attempts of the run.
    pub tries: u32,
    /// The result of the retention, if the settings have one and the backup is good.
    pub retention: Option<Retention>,
}

/// The result of the retention.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Retention {
    /// Number of deleted archives.
    pub deleted: usize,
    /// Their size in bytes.
    pub freed_bytes: u64,
    /// The archives that it could only hide, because the bucket keeps versions.
    pub hidden: Option<String>,
}

/// Takes a backup, unless the timer started this run and no run is due.
///
/// # Errors
/// Fails if no archive was verified, if a destination did not get it, or if the retention failed.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let settings = super::offsite::settings(call)?;
    let table = match request.scheduled {
        true => Some(timetable(&settings)?),
        false => None,
    };
    let target = &target(call, &settings, request.snapshot.target.as_deref());
    let untouched = |error| {
        let next = repeat(&error, target, &call.typed);
        ActionError::from_error(error, "no run was begun", next)
    };
    let (user, owner) = archive_owner().map_err(untouched)?;
    let (due, trouble) = match &table {
        None => (Due::Now { scheduled: None, tries: 0 }, None),
        Some(table) => due_at(table, target, owner, call.now).map_err(untouched)?,
    };
    let (scheduled, tries) = match due {
        Due::Not(why) => {
            outcome.not_due = Some(why);
            return Ok(());
        }
        Due::Now { scheduled, tries } => (scheduled, tries),
    };
    let found = match Ready::find(call, &settings, &request.snapshot) {
        Err(stop) if table.is_none() || !may_tell(call, request, target, (&user, owner)) => return Err(stop),
        found => found,
    };
    let started_by = (if table.is_some() { Trigger::Timer } else { Trigger::Backup }, scheduled);
    let mut watch = Watch::begin(call, &settings, (target, owner), started_by, tries).map_err(untouched)?;
    if let Some(trouble) = trouble {
        watch.trouble(trouble);
    }
    let attempts = Attempts { request: &request.snapshot, settings: &settings, table: table.as_ref() };
    let ended = attempts.run(call, found, &mut watch, &mut outcome.backup);
    watch.finish(&ended, &outcome.backup.destinations, table.is_none());
    let pruned = match ended {
        Ok(()) if settings.has_rules() && !watch.run.unchanged => {
            retain(call, request, target, &mut watch, outcome)
        }
        _ => Ok(()),
    };
    outcome.tries = watch.run.tries;
    outcome.unchanged = watch.run.backup_name.clone().filter(|_| watch.run.unchanged);
    outcome.backup.run_warnings = watch.report(&ended);
    ended.and(pruned)
}

/// Returns whether a refused run of the timer may be recorded in `target`, so that `check` can report it. It may be
/// recorded in a valid place for archives, and next to the records of other runs, but never in etcd's data.
fn may_tell(call: &Call<'_>, request: &Request, target: &Path, (user, owner): (&str, Owner)) -> bool {
    let Ok(approach) = TrustedPath::open(target, owner) else { return false };
    let site = super::site(call, request.snapshot.site.as_deref());
    let data = site.ok().and_then(|site| Dir::open(&site.data_dir.canonicalize().ok()?).ok());
    match data.map(|data| approach.check_outside(&data)) {
        Some(Err(_)) => return false,
        Some(Ok(())) if approach.check_accessible_to(user).is_ok() => return true,
        _ => {}
    }
    remembered(approach, call.now).is_ok_and(|runs| !runs.is_empty())
}

/// Returns the recorded runs in that place.
fn remembered(approach: TrustedPath, now: Timestamp) -> anyhow::Result<Vec<Run>> {
    approach.existing().map_or_else(|| Ok(Vec::new()), |home| list(&home, now))
}

fn timetable(settings: &Settings) -> Result<Timetable, Refusal> {
    match &settings.schedule {
        Some(schedule) => schedule.timetable(),
        None => Err(Refusal::new(
            "started by the systemd timer, but no schedule is configured",
            format!("{}, or add a schedule to the settings", Subcommand::new("schedule").flag("remove")),
        )),
    }
}

/// Decides whether a run is due, and returns a warning about facts that could not be read. If the timer does not
/// answer or a record cannot be read, the backup is taken anyway.
fn due_at(
    table: &Timetable,
    target: &Path,
    owner: Owner,
    now: Timestamp,
) -> anyhow::Result<(Due, Option<String>)> {
    let mut troubles = Vec::new();
    let runs = remembered(TrustedPath::open(target, owner)?, now).unwrap_or_else(|error| {
        troubles.push(format!("the earlier runs are unknown: {error:#}"));
        Vec::new()
    });
    let state = match timer::state() {
        Ok(state) => state,
        Err(error) => {
            interrupt::check()?;
            troubles.push(format!("the scheduled time of the run is unknown: {error:#}"));
            None
        }
    };
    let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
    Ok((due(table, state.as_ref(), &runs, now), trouble))
}

/// Decides from the recorded runs whether a run is due. The last start by the timer is the scheduled time. If the
/// timer starts more often than runs are due, the run may have to wait.
fn due(table: &Timetable, state: Option<&TimerState>, runs: &[Run], now: Timestamp) -> Due {
    let went_off = || state.and_then(|state| state.last).filter(|last| !is_in_the_future(*last, now));
    let slot = table.due_time(now).or_else(went_off);
    // A run that is dated in the future, or marked as such, has a wrong time.
    let of_slot = || {
        let dated_well = runs.iter().filter(|run| !run.is_misdated(now));
        dated_well.filter(|run| slot.is_some() && run.scheduled_time == slot)
    };
    let Some(last) = of_slot().next() else { return Due::Now { scheduled: slot, tries: 0 } };
    let tries = of_slot().map(|run| run.tries).max().unwrap_or(0);
    let at = slot.map(|slot| slot.to_string()).unwrap_or_default();
    let is_coarse = table.fires_more_often_than_due();
    match last.was_killed() || last.interrupted {
        true if tries <= table.retries => Due::Now { scheduled: slot, tries },
        // systemd starts a killed run again.
        true if last.was_killed() || is_coarse => Due::Not(format!(
            "the run of {at} was tried {tries} times, and was killed or interrupted in the last attempt"
        )),
        _ if is_coarse => {
            let has = if last.backup_phase == RunPhase::Failed { "failed" } else { "already finished" };
            Due::Not(format!("the run scheduled for {at} has {has}"))
        }
        // Someone has started the service.
        _ => Due::Now { scheduled: None, tries: 0 },
    }
}

/// The attempts of a run.
struct Attempts<'a> {
    request: &'a snapshot::Request,
    settings: &'a Settings,
    /// The schedule, if the timer started the run. Without one, there is one attempt.
    table: Option<&'a Timetable>,
}

impl Attempts<'_> {
    /// Tries as often as the schedule allows, until an attempt succeeds. The first attempt uses `found`. If the archive
    /// already exists, only the upload is repeated.
    fn run(
        &self,
        call: &Call<'_>,
        found: Result<Ready, ActionError>,
        watch: &mut Watch<'_>,
        result: &mut snapshot::Outcome,
    ) -> Result<(), ActionError> {
        let (mut found, mut begun) = (Some(found), false);
        loop {
            watch.run.tries += 1;
            watch.note();
            let call = call.again();
            let outcome = match snapshot::send(&call, watch, result) {
                Some(outcome) => outcome,
                None => {
                    let find = || Ready::find(&call, self.settings, self.request);
                    match found.take().unwrap_or_else(find) {
                        Ok(ready) => {
                            // Run the hook only once, and only while the data is locked. Do not run it again after
                            // it has failed.
                            if !begun {
                                watch.before()?;
                                begun = true;
                            }
                            let (home, table) = (watch.home(), self.table);
                            match unchanged::find(ready.site(), home, self.settings, table, call.now) {
                                Some(newest) => {
                                    watch.unchanged(&newest);
                                    Ok(())
                                }
                                None => ready.take(&call, watch, result),
                            }
                        }
                        Err(stop) => Err(stop),
                    }
                }
            };
            let Err(stop) = outcome else { return Ok(()) };
            self.pause(&call, watch, stop)?;
        }
    }

    /// Waits for the next attempt. Returns `stop`, the reason why the last one failed, if there is no further one.
    fn pause(&self, call: &Call<'_>, watch: &mut Watch<'_>, stop: ActionError) -> Result<(), ActionError> {
        let tries = watch.run.tries;
        let table = self.table.filter(|_| interrupt::requested().is_none());
        let Some(pause) = table.and_then(|table| table.retry_delay(tries, call.now)) else {
            return Err(stop);
        };
        watch.run.backup_message = Some(format!("try {tries}: {}", in_short(&stop)));
        watch.note();
        let said = format!("trying again in {}, because {}", format_seconds(pause), in_short(&stop));
        (call.progress())(Progress::Step(&said));
        interrupt::sleep(Duration::from_secs(pause)).map_err(|_| match interrupt::requested() {
            Some(signal) => {
                let state = format!("the last attempt has failed: {}", in_short(&stop));
                ActionError::Interrupted { signal, state }
            }
            None => stop,
        })
    }
}

/// Runs `prune-snapshots` with the rules of the settings.
fn retain(
    call: &Call<'_>,
    request: &Request,
    target: &Path,
    watch: &mut Watch<'_>,
    outcome: &mut Outcome,
) -> Result<(), ActionError> {
    let by_settings = prune::Request::by_settings(target, request.snapshot.site.as_deref());
    // The time must be later than that of the archive, which would otherwise be dated in the future and not count.
    let call = call.again();
    watch.run.delete_phase = Some(RunPhase::Running);
    watch.note();
    let mut pruned = prune::Outcome::default();
    match prune::perform(&call, &by_settings, &mut pruned) {
        Ok(()) => {
            let prune::Outcome { deleted, freed_bytes, hidden, .. } = pruned;
            let of_hidden = hidden.as_ref().map(|hidden| format!(", hidden: {hidden}")).unwrap_or_default();
            let freed = human_size(freed_bytes);
            watch.pruned(RunPhase::Completed, format!("{deleted} deleted, {freed} freed{of_hidden}"));
            outcome.retention = Some(Retention { deleted, freed_bytes, hidden });
            Ok(())
        }
        Err(stop) => {
            watch.pruned(RunPhase::Failed, in_short(&stop));
            Err(not_pruned(stop, target))
        }
    }
}

/// Returns the error of a backup whose retention ended with `stop`.
fn not_pruned(stop: ActionError, target: &Path) -> ActionError {
    let state =
        "the backup itself is good, but archives that should have been deleted may still exist".to_owned();
    if let ActionError::Interrupted { signal, .. } = stop {
        return ActionError::Interrupted { signal, state };
    }
    let plan = Subcommand::new("prune").option("target", target).flag("plan");
    ActionError::Failed(Failure {
        cause: anyhow::anyhow!("{}", in_short(&stop)).context("applying the retention"),
        state,
        next: format!("{plan} shows what is still to be deleted"),
    })
}

impl Call<'_> {
    /// Returns the same call at a later time: an archive has the time of its attempt.
    fn again(&self) -> Call<'_> {
        let now = now();
        Call { now, clock: Clock::at(now), typed: self.typed.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use nix::sys::signal::Signal;

    #[test]
    fn a_signal_during_the_retention_is_not_a_failure() {
        let stop =
            ActionError::Interrupted { signal: Signal::SIGTERM, state: "nothing was deleted".to_owned() };
        let ActionError::Interrupted { signal, state } = not_pruned(stop, Path::new("/t")) else {
            panic!("it is a failure");
        };
        assert_eq!(signal, Signal::SIGTERM);
        assert!(state.starts_with("the backup itself is good"), "{state}");
    }

    fn table(when: &str) -> Timetable {
        serde_yaml::from_str::<Schedule>(&format!("when: {when:?}")).unwrap().timetable().unwrap()
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    fn run(scheduled: i64, tries: u32) -> Run {
        let mut run = Run { tries, ..Run::new(at(scheduled), Some(at(scheduled))) };
        run.finish(at(scheduled), None);
        run
    }

    fn killed(scheduled: i64, tries: u32) -> Run {
        Run { backup_phase: RunPhase::Failed, backup_finished_time: None, ..run(scheduled, tries) }
    }

    fn now(scheduled: i64, tries: u32) -> Due {
        Due::Now { scheduled: Some(at(scheduled)), tries }
    }

    #[test]
    fn a_run_is_due_once_whatever_the_timer_and_reboots_do() {
        let coarse = table("every 36h");
        assert_eq!(due(&coarse, None, &[], at(40)), now(36, 0));
        // The timer fires every 12 hours.
        assert_eq!(
            due(&coarse, None, &[run(36, 1)], at(60)),
            Due::Not("the run scheduled for 1970-01-02T12:00:00Z has already finished".into())
        );
        assert_eq!(due(&coarse, None, &[run(36, 1)], at(72)), now(72, 0));
        // A machine that was off for days catches up once.
        assert_eq!(due(&coarse, None, &[run(36, 1)], at(1000)), now(972, 0));
    }

    #[test]
    fn a_run_that_was_killed_is_begun_again_so_many_times() {
        let table = table("every 12h");
        assert_eq!(due(&table, None, &[killed(24, 1)], at(25)), now(24, 1));
        assert_eq!(due(&table, None, &[killed(24, 3), killed(24, 1)], at(25)), now(24, 3));
        // Three attempts failed, and a fourth was killed.
        let not = "the run of 1970-01-02T00:00:00Z was tried 4 times, and was killed or interrupted in the last attempt";
        assert_eq!(due(&table, None, &[killed(24, 4)], at(25)), Due::Not(not.to_owned()));
        assert_eq!(due(&table, None, &[killed(24, 4)], at(36)), now(36, 0));
    }

    #[test]
    fn a_run_that_a_reboot_ended_is_begun_again_and_a_failed_one_is_not() {
        // The timer fires every 12 hours.
        let coarse = table("every 36h");
        let failed = |interrupted| {
            let mut run = run(36, 1);
            run.finish(at(36), Some("interrupted by SIGTERM".to_owned()));
            Run { interrupted, ..run }
        };
        assert_eq!(due(&coarse, None, &[failed(true)], at(60)), now(36, 1));
        let not = "the run scheduled for 1970-01-02T12:00:00Z has failed";
        assert_eq!(due(&coarse, None, &[failed(false)], at(60)), Due::Not(not.to_owned()));
    }

    #[test]
    fn a_run_under_a_wrong_clock_takes_no_slot() {
        let coarse = table("every 36h");
        let ahead = Run { clock_was_ahead: true, ..run(36, 1) };
        assert_eq!(due(&coarse, None, &[ahead], at(40)), now(36, 0));
        let state = TimerState { active: true, last: Some(at(5000)), next: None };
        assert_eq!(due(&table("@daily"), Some(&state), &[], at(25)), Due::Now { scheduled: None, tries: 0 });
    }

    #[test]
    fn of_a_calendar_the_timer_tells_when_it_went_off() {
        let table = table("@daily");
        let state = TimerState { active: true, last: Some(at(24)), next: None };
        assert_eq!(due(&table, Some(&state), &[run(0, 1)], at(25)), now(24, 0));
        assert_eq!(due(&table, Some(&state), &[killed(24, 2)], at(25)), now(24, 2));
        // Someone ran `systemctl start`.
        assert_eq!(due(&table, Some(&state), &[run(24, 1)], at(30)), Due::Now { scheduled: None, tries: 0 });
        assert_eq!(due(&table, None, &[run(24, 1)], at(30)), Due::Now { scheduled: None, tries: 0 });
    }
}
