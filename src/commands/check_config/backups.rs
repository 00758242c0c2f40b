//! The checks of backups: the target, the destinations, hooks, metrics, the upload queue and the schedule.

use super::etcd::database_size;
use super::findings::Findings;
use crate::archive::human_size;
use crate::commands::schedule::{self, NextRun};
use crate::commands::{Call, moved_uploads, offsite};
use crate::error::{Refusal, Subcommand};
use crate::etcd::site::Site;
use crate::inventory::upload;
use crate::progress::Progress;
use crate::schedule::timer;
use crate::settings::Settings;
use crate::snapshot::{collect, required_space};
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use std::path::Path;

/// Checks the directory of the archives: whether it can be used and has room for a snapshot.
pub(super) fn check_target(settings: &Settings, target: &Path, site: Option<&Site>, all: &mut Findings) {
    let check = || {
        settings.check_target(target)?;
        let (user, owner) = archive_owner()?;
        let path = TrustedPath::open(target, owner)?;
        path.check_accessible_to(&user)?;
        path.check_writable()?;
        let data = site.and_then(|site| Dir::open(&site.data_dir.canonicalize().ok()?).ok());
        if let Some(data) = data {
            path.check_outside(&data)?;
        }
        let size = site.map_or(0, database_size);
        let needed = required_space(size, size);
        path.check_space(needed, "a snapshot")?;
        let free = human_size(path.free_bytes()?);
        let made = if path.existing().is_some() { "" } else { " will be created," };
        Ok(format!(
            "{}{made} has {free} free; a snapshot needs up to {}",
            target.display(),
            human_size(needed)
        ))
    };
    all.result("target", check());
}

/// Checks the hooks, the directory of the metrics, and the recipients.
pub(super) fn check_programs(settings: &Settings, all: &mut Findings) {
    if let Some(hooks) = &settings.hooks {
        let names: Vec<String> = hooks.programs().map(|program| program.display().to_string()).collect();
        all.result("hooks", hooks.check().map(|()| names.join(", ")).map_err(Into::into));
    }
    if let Some(metrics) = &settings.metrics {
        all.result("metrics", check_metrics(metrics));
    }
    let recipients = settings.encrypt_to.len();
    if recipients > 0 {
        let noun = if recipients == 1 { "recipient" } else { "recipients" };
        all.ok("encryption", format!("archives are encrypted for {recipients} {noun}"));
    }
}

/// Reads the files that archives include.
pub(super) fn check_included(settings: &Settings, all: &mut Findings) {
    let read = || {
        let included = collect(settings.included()?)?;
        Ok(included.map(|included| {
            let files = included.description.files;
            let size = human_size(included.description.size);
            (format!("archives include {files} files, {size}"), included.skipped)
        }))
    };
    match read() {
        Ok(None) => {}
        Ok(Some((message, skipped))) if skipped.is_empty() => all.ok("included files", message),
        Ok(Some((message, skipped))) => {
            all.warn("included files", format!("{message}; {}", skipped.join("; ")), None);
        }
        Err(error) => all.error("included files", error),
    }
}

fn check_metrics(metrics: &Path) -> Result<String> {
    let shown = metrics.display();
    let path = metrics.canonicalize().map_err(|error| {
        Refusal::new(
            format!("the directory for metrics, {shown}, cannot be used: {error}"),
            format!("sudo install -d {shown}"),
        )
    })?;
    let dir = Dir::open(&path)?;
    dir.check_writable().with_context(|| format!("checking whether {shown} can be written"))?;
    Ok(format!("{shown} can be written"))
}

/// Writes a small object to a destination, reads it back and deletes it.
pub(super) fn check_destination(call: &Call<'_>, settings: &Settings, name: &str, all: &mut Findings) {
    (call.progress())(Progress::Step(&format!("checking the destination {name}")));
    let label = format!("destination {name}");
    let destinations = offsite::destinations(call, settings.clone());
    let probe = || {
        let repository = destinations.open(name)?;
        let left = repository.probe(&mut call.progress())?;
        Ok((repository.url().to_owned(), left))
    };
    match probe() {
        Ok((url, None)) => {
            all.ok(&label, format!("a small object was written to {url}, read back and deleted"))
        }
        Ok((url, Some(left))) => all.warn(
            &label,
            format!("a small object was written to {url} and read back, but {left}"),
            Some("let a lifecycle rule of the bucket remove old versions".to_owned()),
        ),
        Err(error) => all.error(&label, without_name(error, &label)),
    }
}

/// Removes the name of the destination from the beginning of a message, because the line has it already.
fn without_name(error: anyhow::Error, label: &str) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) => {
            let reason = refusal.reason.strip_prefix(&format!("{label}: ")).map(str::to_owned);
            Refusal { reason: reason.unwrap_or(refusal.reason.clone()), ..refusal }.into()
        }
        Err(error) => error,
    }
}

/// Reports the uploads that are waiting, above all those to destinations that the settings no longer have.
pub(super) fn check_queue(settings: &Settings, target: &Path, all: &mut Findings) {
    let look = || {
        let (_, owner) = archive_owner()?;
        TrustedPath::open(target, owner)?.existing().map_or(Ok(Vec::new()), |home| upload::list(&home))
    };
    // The check of the target reports why it cannot be opened.
    let Ok(waiting) = look() else { return };
    let names: Vec<&str> = settings.destinations.keys().map(String::as_str).collect();
    let unknown = moved_uploads::unknown_destinations(&waiting, &names);
    let known = waiting.len() - unknown.values().sum::<usize>();
    if known > 0 {
        let message = format!("uploads are waiting: {known}");
        let send = Subcommand::new("upload").option("target", target);
        all.warn("upload queue", message, Some(send.to_string()));
    }
    for (name, count) in unknown {
        let message = moved_uploads::describe_unknown(name, count);
        all.warn("upload queue", message, Some(moved_uploads::how_to_move(name, &names, target)));
    }
}

/// Checks the schedule and its timer. Returns the next run.
pub(super) fn check_schedule(call: &Call<'_>, settings: &Settings, all: &mut Findings) -> Option<String> {
    if settings.schedule.is_none() {
        let next = "add `schedule: {when: every 12h}` to the configuration file".to_owned();
        all.warn("schedule", "no backup is scheduled", Some(next));
        return None;
    }
    if !timer::is_available() {
        let next = format!("run {} from another scheduler, such as cron", Subcommand::new("backup"));
        let checked = settings.schedule.as_ref().map_or(Ok(()), |schedule| schedule.timetable().map(drop));
        match checked {
            Ok(()) => all.warn(
                "schedule",
                "systemd does not run this machine, so no timer can be installed",
                Some(next),
            ),
            Err(refusal) => all.error("schedule", refusal.into()),
        }
        return None;
    }
    match schedule::next_run(settings, call.environment, call.now) {
        Err(error) => {
            all.error("schedule", error);
            None
        }
        Ok(NextRun { time, timer, is_for_settings }) => {
            let shown = time.as_deref().unwrap_or("never");
            let problem = match timer.filter(|timer| timer.active) {
                None => Some("the timer is not active; with it"),
                Some(_) if !is_for_settings => Some("the timer was installed for other settings; with these"),
                Some(_) => None,
            };
            match problem {
                None => all.ok("schedule", format!("the next run is at {shown}")),
                Some(problem) => all.warn(
                    "schedule",
                    format!("{problem}, the next run would be at {shown}"),
                    Some(Subcommand::new("schedule").to_string()),
                ),
            }
            time
        }
    }
}
