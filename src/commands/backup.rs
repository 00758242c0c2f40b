//! The action `backup`: a snapshot, the uploads, the retention. What the schedule runs, and a person may too.
//!
//! Must never delete an archive after a backup that failed.

use super::runs::{Watch, in_short};
use super::snapshot;
use super::snapshot::Ready;
use super::snapshots::prune;
use super::target::target;
use super::{Call, now};
use crate::archive::human_size;
use crate::error::{ActionError, Failure, Refusal};
use crate::progress::Progress;
use crate::schedule::runs::{Run, RunPhase, list};
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

/// What a call of the timer's comes to.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// Nothing: why.
    Not(String),
    /// A run, with as many tries behind it as failed or were killed.
    Now { scheduled: Option<Timestamp>, tries: u32 },
}

/// What a backup leaves.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The snapshot and its uploads.
    #[serde(flatten)]
    pub backup: snapshot::Outcome,
    /// Why no backup was taken, if the timer started this run and none is due.
    pub not_due: Option<String>,
    /// How many times the run was tried.
    pub tries: u32,
    /// What the retention of the settings did, if there is one and the backup is good.
    pub retention: Option<Retention>,
}

/// What the retention did.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Retention {
    /// How many archives it deleted.
    pub deleted: usize,
    /// Their size in bytes.
    pub freed_bytes: u64,
    /// What it could only hide, because the bucket keeps versions.
    pub hidden: Option<String>,
}

/// Takes a backup, or does nothing if the timer started this run and none is due.
///
/// # Errors
/// Fails if there is no verified archive at the end, if a destination did not get it, or if the retention failed.
pub fn perform(call: &Call<'_>, outcome: &mut Outcome) -> Result<(), ActionError> {
    let settings = super::offsite::settings(call)?;
    let table = match call.params.flag("scheduled")? {
        true => Some(timetable(&settings)?),
        false => None,
    };
    let untouched =
        |error| ActionError::from_error(error, "no run was begun", "mend the cause and run it again");
    let (user, owner) = archive_owner().map_err(untouched)?;
    let target = &target(call, &settings)?;
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
    let found = match Ready::find(call, &settings) {
        Err(stop) if table.is_none() || !may_tell(call, target, &user, owner) => return Err(stop),
        found => found,
    };
    let mut watch = Watch::begin(call, &settings, (target, owner), scheduled, tries).map_err(untouched)?;
    if let Some(trouble) = trouble {
        watch.trouble(trouble);
    }
    let ended = tried(call, &settings, found, table.as_ref(), &mut watch, &mut outcome.backup);
    watch.finish(&ended, &outcome.backup, table.is_none());
    let pruned = match ended {
        Ok(()) if settings.has_rules() => retain(call, target, &mut watch, outcome),
        _ => Ok(()),
    };
    outcome.tries = watch.run.tries;
    watch.tell(ended, &mut outcome.backup)?;
    pruned
}

/// Whether a run of the timer's that is refused leaves a record in `target`, as nobody but `check` would tell of it. It does
/// where an archive might be put, and beside the records of others; never in etcd's data.
fn may_tell(call: &Call<'_>, target: &Path, user: &str, owner: Owner) -> bool {
    let Ok(approach) = TrustedPath::open(target, owner) else { return false };
    let data = super::site(call).ok().and_then(|site| Dir::open(&site.data_dir.canonicalize().ok()?).ok());
    match data.map(|data| approach.check_outside(&data)) {
        Some(Err(_)) => return false,
        Some(Ok(())) if approach.check_accessible_to(user).is_ok() => return true,
        _ => {}
    }
    remembered(approach, call.now).is_ok_and(|runs| !runs.is_empty())
}

/// The runs that are remembered there.
fn remembered(approach: TrustedPath, now: Timestamp) -> anyhow::Result<Vec<Run>> {
    approach.existing().map_or_else(|| Ok(Vec::new()), |home| list(&home, now))
}

fn timetable(settings: &Settings) -> Result<Timetable, Refusal> {
    match &settings.schedule {
        Some(schedule) => schedule.timetable(),
        None => Err(Refusal::new(
            "the timer has called, and no schedule is written down",
            "run `schedule remove=true`, or write one into the settings",
        )),
    }
}

/// What is due, and what is not known of that. A backup is worth more: where the timer cannot be asked, or a record cannot be
/// read, it is taken all the same.
fn due_at(
    table: &Timetable,
    target: &Path,
    owner: Owner,
    now: Timestamp,
) -> anyhow::Result<(Due, Option<String>)> {
    let mut troubles = Vec::new();
    let runs = remembered(TrustedPath::open(target, owner)?, now).unwrap_or_else(|error| {
        troubles.push(format!("it is not known which runs were before: {error:#}"));
        Vec::new()
    });
    let state = match timer::state() {
        Ok(state) => state,
        Err(error) => {
            interrupt::check()?;
            troubles.push(format!("it is not known when the run was to begin: {error:#}"));
            None
        }
    };
    let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
    Ok((due(table, state.as_ref(), &runs, now), trouble))
}

/// Whether a run is due, by what is remembered of those before. A timer that went off tells when the run was to be; one that
/// goes off more often than runs are wanted is told to wait.
fn due(table: &Timetable, state: Option<&TimerState>, runs: &[Run], now: Timestamp) -> Due {
    let went_off = || state.and_then(|state| state.last).filter(|last| !is_in_the_future(*last, now));
    let slot = table.due_time(now).or_else(went_off);
    // A run dated in the future, or marked as such, was of another time than it says.
    let of_slot = || {
        let dated_well = runs.iter().filter(|run| !run.is_misdated(now));
        dated_well.filter(|run| slot.is_some() && run.scheduled_time == slot)
    };
    let Some(last) = of_slot().next() else { return Due::Now { scheduled: slot, tries: 0 } };
    let tries = of_slot().map(|run| run.tries).max().unwrap_or(0);
    let at = slot.map(|slot| slot.to_string()).unwrap_or_default();
    match last.was_killed() {
        true if tries > table.retries => {
            Due::Not(format!("the run of {at} was tried {tries} times, and killed in the last try"))
        }
        true => Due::Now { scheduled: slot, tries },
        false if table.fires_more_often_than_due() => Due::Not(format!("the run of {at} has been")),
        // Somebody has started the service.
        false => Due::Now { scheduled: None, tries: 0 },
    }
}

/// One try after the other, as many as the schedule has, up to the first that is good; what the first is to go by is `found`
/// already. An archive that is there is not taken anew: what is left to do then is to upload it.
fn tried(
    call: &Call<'_>,
    settings: &Settings,
    found: Result<Ready, ActionError>,
    table: Option<&Timetable>,
    watch: &mut Watch<'_>,
    result: &mut snapshot::Outcome,
) -> Result<(), ActionError> {
    let (mut found, mut begun) = (Some(found), false);
    loop {
        watch.run.tries += 1;
        watch.note();
        let call = call.again();
        let outcome = match watch.send(&call, result) {
            Some(outcome) => outcome,
            None => match found.take().unwrap_or_else(|| Ready::find(&call, settings)) {
                Ok(ready) => {
                    // Once, and only while nobody else can be at work. Its no is not asked for again.
                    if !begun {
                        watch.before()?;
                        begun = true;
                    }
                    ready.take(&call, watch, result)
                }
                Err(stop) => Err(stop),
            },
        };
        let Err(stop) = outcome else { return Ok(()) };
        let tries = watch.run.tries;
        let Some(table) = table.filter(|table| tries <= table.retries && interrupt::requested().is_none())
        else {
            return Err(stop);
        };
        let pause = table.retry_delay(tries);
        watch.run.backup_message = Some(format!("try {tries}: {}", in_short(&stop)));
        watch.note();
        let said = format!("trying again in {}, because {}", format_seconds(pause), in_short(&stop));
        (call.tell())(Progress::Step(&said));
        if interrupt::sleep(Duration::from_secs(pause)).is_err() {
            return Err(stop);
        }
    }
}

/// Has `prune-snapshots` do what the settings say.
fn retain(
    call: &Call<'_>,
    target: &Path,
    watch: &mut Watch<'_>,
    outcome: &mut Outcome,
) -> Result<(), ActionError> {
    let params = prune::params(target, call.params.text("site")?);
    // Later than the archive was taken: it would otherwise be dated in the future, and not be counted.
    let call = Call { params, ..call.again() };
    watch.run.delete_phase = Some(RunPhase::Running);
    watch.note();
    let mut pruned = prune::Outcome::default();
    match prune::perform(&call, &mut pruned) {
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
            Err(ActionError::Failed(Failure {
                cause: anyhow::anyhow!("{}", in_short(&stop)).context("applying the retention"),
                state: "the backup itself is good, and what was to be deleted may be there still".to_owned(),
                next: "run `prune-snapshots plan=true` and see".to_owned(),
            }))
        }
    }
}

impl Call<'_> {
    /// The same call at a later time: an archive has the time of its try.
    fn again(&self) -> Call<'_> {
        let now = now();
        Call { now, clock: Clock::at(now), params: self.params.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

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
        // Its ticks are 12 hours apart.
        assert_eq!(
            due(&coarse, None, &[run(36, 1)], at(60)),
            Due::Not("the run of 1970-01-02T12:00:00Z has been".into())
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
        // Three that failed, and a fourth that was killed.
        let not = "the run of 1970-01-02T00:00:00Z was tried 4 times, and killed in the last try";
        assert_eq!(due(&table, None, &[killed(24, 4)], at(25)), Due::Not(not.to_owned()));
        assert_eq!(due(&table, None, &[killed(24, 4)], at(36)), now(36, 0));
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
        // Somebody has typed `systemctl start`.
        assert_eq!(due(&table, Some(&state), &[run(24, 1)], at(30)), Due::Now { scheduled: None, tries: 0 });
        assert_eq!(due(&table, None, &[run(24, 1)], at(30)), Due::Now { scheduled: None, tries: 0 });
    }
}
