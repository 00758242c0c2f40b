//! The command `restore`: turns the parameters into a request, and the report into the outcome.

use super::Call;
use crate::error::{ActionError, Failure, Refusal};
use crate::juju::Resource;
use crate::restore::{self, Bump, Plan, Report, Request, Source};
use crate::store::trusted_path::archive_owner;
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

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
    pub backup: Option<Backup>,
    /// The directory of the old data, if that is kept.
    pub old_data: Option<PathBuf>,
    /// Number of revisions of the old data that the backup does not contain.
    pub old_data_ahead_by: i64,
    /// Number of revisions of the replaced data that the snapshot does not contain.
    pub lost_revisions: i64,
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
    /// Number of revisions by which the revision would be raised.
    pub bump: i64,
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

/// The archive of the data that a restore replaced.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Backup {
    /// The absolute path.
    pub path: PathBuf,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
}

/// Restores a snapshot, or completes or rolls back an interrupted restore.
pub fn perform(call: &Call<'_>, outcome: &mut Outcome) -> Result<(), ActionError> {
    if call.recover {
        let site = super::site(call)?;
        let recovered = super::settle(call, &site, &restore::open_data_dir(&site)?)?;
        outcome.recovered = Some(recovered.unwrap_or_else(|| "no interrupted restore was found".to_owned()));
        return Ok(());
    }
    let request = request(call)?;
    let site = super::site(call)?;
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
    all_are_back(&report)
}

/// Fails if processes that depend on etcd are still stopped, even though etcd serves the restored data.
fn all_are_back(report: &Report) -> Result<(), ActionError> {
    let kept_away = report.outcome.as_ref().and_then(|outcome| outcome.exchanged.release_error.clone());
    kept_away.map_or(Ok(()), |why| {
        Err(ActionError::Failed(Failure {
            cause: anyhow::anyhow!(why),
            state: "etcd is serving the restored, verified data, but processes that were stopped with it are not \
                    running"
                .to_owned(),
            next: "fix the cause, then run etcd-backup restore --recover".to_owned(),
        }))
    })
}

fn request(call: &Call<'_>) -> Result<Request, ActionError> {
    let params = &call.params;
    let (_, owner) = archive_owner().map_err(untouched)?;
    let settings = super::offsite::settings(call)?;
    let target = super::target::target(call, &settings)?;
    // Before the source, which may have to be downloaded from the controller.
    let expected_sha256 = sha256(params.text("expected-sha256")?)?;
    let bump = Bump::parse(params.text("bump-revision")?)?;
    let source = source(call)?;
    Ok(Request {
        expected_sha256,
        identities: call.identities()?,
        encrypt_to: settings.encrypt_to,
        allow_unhashed: params.flag("allow-unhashed")?,
        allow_foreign: params.flag("allow-foreign")?,
        allow_v2_loss: params.flag("allow-v2-loss")?,
        bump,
        backup: (!params.flag("skip-backup")?).then_some(target),
        plan_only: params.flag("plan")?,
        owner,
        unit: call.unit().map(str::to_owned),
        now: call.now,
        command: command(call.unit(), &source),
        source,
    })
}

/// Returns the command that repeats this restore, as it is typed on this machine.
fn command(unit: Option<&str>, source: &Source) -> String {
    let program = match unit {
        Some(unit) => format!("juju run {unit} restore"),
        None => "etcd-backup restore".to_owned(),
    };
    match source {
        // The charm resource needs no parameter.
        Source::File { may_be_bare: false, .. } => program,
        Source::File { path, .. } => format!("{program} snapshot={}", path.display()),
        Source::Stored(_) => format!("{program} from={source}"),
    }
}

fn sha256(text: &str) -> Result<Option<String>, Refusal> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "" => Ok(None),
        _ if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(Some(text)),
        _ => Err(Refusal::new(
            "expected-sha256 is not a SHA-256 hash",
            "give the 64 hexadecimal digits that the snapshot action or sha256sum printed",
        )),
    }
}

/// Returns the source that `from` or `snapshot` names, or else the charm resource `snapshot`.
fn source(call: &Call<'_>) -> Result<Source, ActionError> {
    let (from, named) = (call.params.text("from")?, call.params.text("snapshot")?);
    match (from, named) {
        ("", "") => resource(call).map_err(untouched),
        // A name, or `latest`.
        ("", name) if !name.contains('/') => super::snapshots::source(call, name),
        ("", path) => Ok(Source::File { path: PathBuf::from(path), may_be_bare: true }),
        (from, "") => super::snapshots::source(call, from),
        _ => Err(Refusal::new("both from and snapshot are given", "give one of them").into()),
    }
}

fn untouched(error: anyhow::Error) -> ActionError {
    ActionError::from_error(error, "nothing was changed", "fix the cause and run restore again")
}

/// The charm resource.
fn resource(call: &Call<'_>) -> Result<Source> {
    let next = match call.unit().map(|unit| unit.split('/').next().unwrap_or(unit)) {
        Some(application) => {
            format!("juju attach-resource {application} snapshot=ARCHIVE, or give snapshot=PATH")
        }
        None => "name the archive: restore snapshot=PATH".to_owned(),
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
fn add(report: &Report, request: &Request, outcome: &mut Outcome) {
    match &report.outcome {
        None => outcome.plan = Some(planned(report, request)),
        Some(done) => add_done(&report.plan, done, outcome),
    }
    outcome.lost_revisions = report.lost_revisions();
    outcome.warnings = report.warnings();
}

fn planned(report: &Report, request: &Request) -> Planned {
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
        bump: plan.bump,
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
    outcome.backup = backup.as_ref().map(|backup| Backup {
        path: backup.path.clone(),
        sha256: backup.packed.sha256.to_string(),
        size_bytes: backup.packed.size,
    });
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
    use super::sha256;

    #[test]
    fn a_sha256_is_64_hexadecimal_digits() {
        assert_eq!(sha256("").unwrap(), None);
        assert_eq!(sha256(&"AB".repeat(32)).unwrap(), Some("ab".repeat(32)));
        for text in ["ab", &"zz".repeat(32), &"é".repeat(32)] {
            assert!(sha256(text).is_err(), "{text}");
        }
    }
}
