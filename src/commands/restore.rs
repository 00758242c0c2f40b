//! The command `restore`: turns the request into that of the procedure, and its report into the outcome.

use super::Call;
use super::archive::Archive;
use crate::error::{ActionError, Failure, Refusal, Subcommand, quoted};
use crate::etcd::site::Site;
use crate::exchange::UnfinishedRestore;
use crate::juju::Resource;
use crate::restore::{self, BackupMethod, Bump, Plan, Report, Source, recover_command};
use crate::store::trusted_path::archive_owner;
use anyhow::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A request for a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Only complete or roll back an interrupted restore.
    Recover {
        /// The etcd, if the machine has several.
        site: Option<String>,
    },
    /// Restore a snapshot, or only plan that.
    Restore(Box<Options>),
}

/// What to restore, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command")]
pub struct Options {
    /// The snapshot.
    pub from: SnapshotName,
    /// The directory for a backup of the existing data, if not the default one.
    pub target: Option<PathBuf>,
    /// Whether the existing data is not saved first.
    pub skip_backup: bool,
    /// The SHA-256 that the file must have, in lower-case hexadecimal digits.
    pub expected_sha256: Option<String>,
    /// How to raise the revision.
    pub bump: Bump,
    /// The file with the age identities that decrypt the snapshot.
    pub identity_file: Option<PathBuf>,
    /// Whether a snapshot of another cluster may replace data.
    pub allow_foreign: bool,
    /// Whether keys of the v2 API may be lost with the data.
    pub allow_v2_loss: bool,
    /// Whether a snapshot without its SHA-256 trailer is accepted.
    pub allow_unhashed: bool,
    /// Whether to only plan the restore.
    pub plan: bool,
    /// The etcd, if the machine has several.
    pub site: Option<String>,
}

/// The snapshot that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotName {
    /// The charm resource `snapshot`.
    Resource,
    /// A file on this machine: an archive, or a bare snapshot file.
    File(PathBuf),
    /// A name in the target, `latest`, or an archive in a destination.
    Name(String),
}

/// The result of a restore, or the plan.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The plan, if only a plan was requested.
    pub plan: Option<Planned>,
    /// The etcd that would be restored, if only a plan was requested.
    pub site: Option<super::site::Outcome>,
    /// The data that etcd serves now.
    pub restored: Option<Restored>,
    /// The archive of the data that was replaced.
    pub backup: Option<Archive>,
    /// The directory of the old data, if that is kept.
    pub old_data: Option<PathBuf>,
    /// The command that removes the old data, if that is kept.
    pub remove_command: Option<String>,
    /// Number of revisions of the old data that the backup does not contain.
    pub old_data_ahead_by: i64,
    /// Number of revisions of the replaced data that the snapshot does not contain.
    pub lost_revisions: i64,
    /// Facts about the restored data that are not warnings.
    pub notes: Vec<String>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The plan of a restore.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Planned {
    /// The archive.
    pub snapshot: String,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// The revision that etcd would have.
    pub revision: i64,
    /// When the data in the archive was saved, in RFC 3339, if its manifest says so.
    pub created: Option<String>,
    /// The name of the member.
    pub member: String,
    /// The peer URLs of the member.
    pub peer_urls: String,
    /// The present revision, if it is known.
    pub old_revision: Option<i64>,
    /// The archive that the present data would be saved as.
    pub backup: String,
    /// The directory of that archive, if there would be one.
    pub backup_target: Option<PathBuf>,
    /// Number of revisions by which the revision would be raised.
    pub bump: i64,
    /// The keys that the restore would change, if the existing data could be compared.
    pub keys: Option<KeyChanges>,
    /// The reason why the keys could not be compared.
    pub keys_unknown: Option<String>,
}

/// The keys that a restore would change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KeyChanges {
    /// Keys that were created since, and would be removed.
    pub removed: u64,
    /// Keys that were deleted since, and would be brought back.
    pub brought_back: u64,
    /// Keys with another value, which would be replaced by the value in the snapshot.
    pub replaced: u64,
    /// Keys with the same value.
    pub unchanged: u64,
}

/// The data that etcd serves after a restore.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Restored {
    /// The revision.
    pub revision: i64,
    /// The number of keys, if it is known.
    pub keys: Option<u64>,
    /// The new id of the cluster, in hexadecimal digits.
    pub cluster_id: String,
    /// The time from stopping etcd until it served again.
    pub downtime_seconds: f64,
    /// Number of revisions by which the revision was raised.
    pub bumped_by: i64,
    /// Whether a NOSPACE alarm in the snapshot was disarmed.
    pub disarmed: bool,
    /// Files that could not be cleaned up.
    pub left_over: Option<String>,
}

/// Restores a snapshot, or completes or rolls back an interrupted restore.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    match request {
        Request::Recover { site } => recover(call, site.as_deref(), outcome),
        Request::Restore(options) => restore(call, options, outcome),
    }
}

fn recover(call: &Call<'_>, site: Option<&str>, outcome: &mut Outcome) -> Result<(), ActionError> {
    let site = super::site(call, site)?;
    check_restore_of_no_other(&site)?;
    let recovered = super::settle(call, &site, &restore::open_data_dir(&site)?)?;
    outcome.recovered = Some(recovered.unwrap_or_else(|| "no interrupted restore was found".to_owned()));
    Ok(())
}

fn restore(call: &Call<'_>, options: &Options, outcome: &mut Outcome) -> Result<(), ActionError> {
    let request = request(call, options)?;
    let site = super::site(call, options.site.as_deref())?;
    check_only_etcd(call, &site)?;
    let said = (!request.plan_only).then(|| call.maintenance("restoring a snapshot")).flatten();
    let data = restore::open_data_dir(&site)?;
    if request.plan_only {
        restore::check_can_plan(&site, &data)?;
    }
    // Report the recovery of an earlier run even if this run fails.
    outcome.recovered = super::settle(call, &site, &data)?;
    let report = restore::run(&site, &data, &request, &mut call.progress())?;
    if let Some(said) = said {
        said.restored();
    }
    if request.plan_only {
        outcome.site = Some(super::site::describe(&site, call.now));
    }
    add(&report, &request, outcome);
    outcome.notes.extend(describe_included(&report, &request.source, options.identity_file.as_deref()));
    all_are_back(&report, &site)
}

/// Refuses to choose the etcd that runs if another one of this machine does not run: that one may need the restore.
fn check_only_etcd(call: &Call<'_>, site: &Site) -> Result<(), Refusal> {
    let others = site.stopped_others().into_iter().filter(|other| !other.is_disabled);
    let others: Vec<String> = others.map(|other| other.description).collect();
    if others.is_empty() {
        return Ok(());
    }
    let running = call.typed.clone().option("site", site.data_dir.as_os_str());
    Err(Refusal::new(
        format!(
            "{} runs, and this machine has another etcd that does not run: {}",
            site.description,
            others.join("; ")
        ),
        format!(
            "to restore the one that runs: {running}; to restore another one, give its data directory as site"
        ),
    ))
}

/// Refuses to recover the etcd that runs if the restore of another one was interrupted, which may be why that one does not run.
fn check_restore_of_no_other(site: &Site) -> Result<(), Refusal> {
    let is_interrupted = |data_dir: &Path| {
        UnfinishedRestore::find(data_dir)
            .is_ok_and(|found| found.is_some_and(|found| !found.is_in_progress()))
    };
    if is_interrupted(&site.data_dir) {
        return Ok(());
    }
    match site.stopped_others().into_iter().find(|other| is_interrupted(&other.data_dir)) {
        None => Ok(()),
        Some(other) => Err(Refusal::new(
            format!(
                "{} runs and has no interrupted restore, but the restore of another etcd was interrupted: {}",
                site.description, other.description
            ),
            Subcommand::new("restore").flag("recover").option("site", &other.data_dir).to_string(),
        )),
    }
}

/// Describes the included files of the snapshot, which a restore never puts in place.
fn describe_included(report: &Report, source: &Source, identity_file: Option<&Path>) -> Option<String> {
    let included = report.snapshot.contents.manifest.as_ref()?.included.as_ref()?;
    let fetch = Subcommand::new("fetch")
        .word(source.to_string())
        .option_if_some("identity-file", identity_file)
        .option("extract", "/root/included");
    Some(format!(
        "the snapshot also includes {} files of {}, which were not put in place: {fetch} unpacks them into that directory",
        included.files,
        included.paths.join(", ")
    ))
}

/// Fails if processes that depend on etcd are still stopped, even though etcd serves the restored data.
fn all_are_back(report: &Report, site: &Site) -> Result<(), ActionError> {
    let Some(outcome) = &report.outcome else { return Ok(()) };
    let (cause, next) = match (&outcome.exchanged.release_error, &outcome.exchanged.stopped_dependents) {
        (Some(cause), _) => (cause, recover_command(site).to_string()),
        (None, Some(stopped)) => (&stopped.error, format!("`{}`", stopped.start_command)),
        (None, None) => return Ok(()),
    };
    Err(ActionError::Failed(Failure {
        cause: anyhow::anyhow!("{cause}"),
        state: "etcd is serving the restored, verified data, but processes that were stopped with it are not running"
            .to_owned(),
        next,
    }))
}

fn request(call: &Call<'_>, options: &Options) -> Result<restore::Request, ActionError> {
    let untouched = |error| untouched(error, call);
    let (_, owner) = archive_owner().map_err(untouched)?;
    let settings = super::offsite::settings(call)?;
    let target = super::target::target(call, &settings, options.target.as_deref());
    // Before the source, which may have to be downloaded from the controller.
    let identities = super::identities(options.identity_file.as_deref())?;
    let source = source(call, options)?;
    Ok(restore::Request {
        expected_sha256: options.expected_sha256.clone(),
        identities,
        encrypt_to: settings.encrypt_to,
        allow_unhashed: options.allow_unhashed,
        allow_foreign: options.allow_foreign,
        allow_v2_loss: options.allow_v2_loss,
        bump: options.bump,
        backup: (!options.skip_backup).then_some(target),
        plan_only: options.plan,
        owner,
        unit: call.unit().map(str::to_owned),
        now: call.now,
        command: call.typed.clone(),
        source,
    })
}

/// Returns the command that removes the directory `old`, as it is typed on this machine or by a Juju client.
fn remove_command(unit: Option<&str>, old: &Path) -> String {
    let remove = format!("sudo rm -r {}", quoted(old.as_os_str()));
    unit.map_or_else(|| remove.clone(), |unit| format!("juju ssh {unit} {remove}"))
}

/// Finds the snapshot to restore.
fn source(call: &Call<'_>, options: &Options) -> Result<Source, ActionError> {
    match &options.from {
        SnapshotName::Resource => resource(call).map_err(|error| untouched(error, call)),
        SnapshotName::File(path) => Ok(Source::File { path: path.clone(), may_be_bare: true }),
        SnapshotName::Name(name) => {
            super::snapshots::source(call, (name, options.site.as_deref()), options.target.as_deref())
        }
    }
}

fn untouched(error: anyhow::Error, call: &Call<'_>) -> ActionError {
    ActionError::from_error(error, "nothing was changed", call.typed.to_string())
}

/// The charm resource.
fn resource(call: &Call<'_>) -> Result<Source> {
    let next = match call.unit().map(|unit| unit.split('/').next().unwrap_or(unit)) {
        Some(application) => {
            format!("juju attach-resource {application} snapshot=ARCHIVE, or give snapshot=PATH")
        }
        None => format!(
            "{} lists the archives; {} restores the newest good one",
            Subcommand::new("list"),
            Subcommand::new("restore").word("latest")
        ),
    };
    match call.secret_resource("snapshot")? {
        Resource::Missing(why) => {
            Err(Refusal::new(format!("no snapshot to restore was given: {why}"), next).into())
        }
        Resource::At(path) if std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) => {
            Err(Refusal::new("no snapshot is attached: the resource is empty", next).into())
        }
        Resource::At(path) => Ok(Source::File { path, may_be_bare: false }),
    }
}

/// Adds the results of a plan or a restore.
fn add(report: &Report, request: &restore::Request, outcome: &mut Outcome) {
    match &report.outcome {
        None => outcome.plan = Some(planned(report, request)),
        Some(done) => add_done(&report.plan, done, outcome),
    }
    outcome.remove_command =
        outcome.old_data.as_ref().map(|old| remove_command(request.unit.as_deref(), old));
    outcome.lost_revisions = report.lost_revisions();
    outcome.notes = report.notes();
    outcome.warnings = report.warnings();
}

fn planned(report: &Report, request: &restore::Request) -> Planned {
    let Report { plan, snapshot, .. } = report;
    Planned {
        snapshot: request.source.to_string(),
        sha256: snapshot.contents.sha256.to_string(),
        revision: snapshot.revision.max(snapshot.last_record.saturating_add(plan.bump)),
        created: snapshot.contents.manifest.as_ref().map(|manifest| manifest.taken.to_string()),
        member: plan.member.name.to_string(),
        peer_urls: plan.member.peer_urls.to_string(),
        old_revision: plan.old_revision,
        backup: plan.backup.describe().to_string(),
        backup_target: request.backup.clone().filter(|_| plan.backup != BackupMethod::None),
        bump: plan.bump,
        keys: report.key_changes.as_ref().and_then(|changes| changes.as_ref().ok()).map(|counts| {
            KeyChanges {
                removed: counts.removed,
                brought_back: counts.added,
                replaced: counts.changed,
                unchanged: counts.unchanged,
            }
        }),
        keys_unknown: report.key_changes.as_ref().and_then(|changes| changes.as_ref().err()).cloned(),
    }
}

fn add_done(plan: &Plan, done: &restore::Outcome, outcome: &mut Outcome) {
    let restore::Outcome { expected, backup, exchanged, disarmed, data_dir } = done;
    outcome.restored = Some(Restored {
        revision: expected.revision,
        keys: expected.keys,
        cluster_id: format!("{:x}", expected.cluster_id),
        downtime_seconds: exchanged.downtime.as_secs_f64(),
        bumped_by: plan.bump,
        disarmed: *disarmed,
        left_over: exchanged.cleanup_error.as_ref().map(ToString::to_string),
    });
    outcome.backup = backup.as_ref().map(Archive::taken);
    if let Some(name) = &exchanged.kept_as {
        outcome.old_data = Some(data_dir.join(name));
        if let (Some(backup), Some(old)) = (backup, exchanged.old_revision) {
            // Data with v2 keys is kept even if the backup contains everything else.
            outcome.old_data_ahead_by = old - backup.manifest.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::remove_command;
    use std::path::Path;

    #[test]
    fn old_data_is_removed_by_a_command_that_can_be_typed() {
        let old = Path::new("/var/lib/etcd/default/member.before-restore-2026-11-20-20.49.17");
        let typed = format!("sudo rm -r {}", old.display());
        assert_eq!(remove_command(None, old), typed);
        assert_eq!(remove_command(Some("etcd/0"), old), format!("juju ssh etcd/0 {typed}"));
        assert_eq!(remove_command(None, Path::new("/my data/x")), "sudo rm -r '/my data/x'");
    }
}
