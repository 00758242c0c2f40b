//! The action `restore`: parameters to a request, the walk's report to results.

use super::results::Results;
use super::{Call, key};
use crate::archive::human_size;
use crate::error::{ActionError, Failure, Refusal};
use crate::juju::Resource;
use crate::restore::{self, Bump, Outcome, Plan, Report, Request, Source};
use crate::store::trusted_path::archive_owner;
use anyhow::Result;
use std::path::PathBuf;

/// Restores a snapshot, or finishes or undoes what an earlier run left.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    if call.recover {
        let site = super::site(call)?;
        if !super::settled(call, &site, &restore::open_data_dir(&site)?, results)? {
            results.set(key!("restore.recovered"), "there was nothing to recover");
        }
        return Ok(());
    }
    let request = request(call)?;
    let site = super::site(call)?;
    let said = (!request.plan_only).then(|| call.maintenance("restoring a snapshot")).flatten();
    let data = restore::open_data_dir(&site)?;
    if request.plan_only {
        restore::check_can_plan(&site, &data)?;
    }
    // Whatever comes of this run: what became of the one before is told.
    super::settled(call, &site, &data, results)?;
    let report = restore::run(&site, &data, &request, &mut call.tell())?;
    if let Some(said) = said {
        said.restored();
    }
    if request.plan_only {
        super::site::describe(&site, call.now).add_to(results);
    }
    tell(&report, &request, results);
    all_are_back(&report)
}

/// A restore that leaves others waiting for etcd has failed, however well etcd serves.
fn all_are_back(report: &Report) -> Result<(), ActionError> {
    let kept_away = report.outcome.as_ref().and_then(|outcome| outcome.exchanged.release_error.clone());
    kept_away.map_or(Ok(()), |why| {
        Err(ActionError::Failed(Failure {
            cause: anyhow::anyhow!(why),
            state: "etcd serves the restored data, which is proved, and nobody is let back in to it"
                .to_owned(),
            next: "mend the cause, then restore --recover".to_owned(),
        }))
    })
}

fn request(call: &Call<'_>) -> Result<Request, ActionError> {
    let params = &call.params;
    let (_, owner) = archive_owner().map_err(untouched)?;
    let settings = super::offsite::settings(call)?;
    let target = super::target::target(call, &settings)?;
    let source = source(call)?;
    Ok(Request {
        expected_sha256: sha256(params.text("expected-sha256")?)?,
        identities: call.identities()?,
        encrypt_to: settings.encrypt_to,
        allow_unhashed: params.flag("allow-unhashed")?,
        allow_foreign: params.flag("allow-foreign")?,
        allow_v2_loss: params.flag("allow-v2-loss")?,
        bump: Bump::parse(params.text("bump-revision")?)?,
        backup: (!params.flag("skip-backup")?).then_some(target),
        plan_only: params.flag("plan")?,
        owner,
        unit: call.unit().map(str::to_owned),
        now: call.now,
        command: command(call.unit(), &source),
        source,
    })
}

/// The command that repeats this restore, as it is typed here.
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
            "expected-sha256 is not a sha256",
            "give the 64 hexadecimal digits that the snapshot action or sha256sum printed",
        )),
    }
}

/// What `from` or `snapshot` names, or else the charm resource `snapshot`.
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
    ActionError::from_error(error, "nothing was changed", "mend the cause and run restore again")
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
            Err(Refusal::new(format!("there is no snapshot to restore: {why}"), next).into())
        }
        Resource::At(path) if std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) => {
            Err(Refusal::new("no snapshot is attached: the resource is empty", next).into())
        }
        Resource::At(path) => Ok(Source::File { path, may_be_bare: false }),
    }
}

fn tell(report: &Report, request: &Request, results: &mut Results) {
    match &report.outcome {
        None => tell_plan(report, request, results),
        Some(outcome) => tell_outcome(&report.plan, outcome, results),
    }
    let lost = report.lost_revisions();
    if lost > 0 {
        results.set(key!("restore.lost-revisions"), lost.to_string());
    }
    let warnings = report.warnings();
    if !warnings.is_empty() {
        results.set(key!("restore.warning"), warnings.join("; "));
    }
}

fn tell_plan(report: &Report, request: &Request, results: &mut Results) {
    let Report { plan, snapshot, .. } = report;
    results.set(key!("plan.snapshot"), request.source.to_string());
    results.set(key!("plan.sha256"), &*snapshot.contents.sha256);
    results.set(
        key!("plan.revision"),
        snapshot.revision.max(snapshot.last_record.saturating_add(plan.bump)).to_string(),
    );
    if let Some(manifest) = &snapshot.contents.manifest {
        results.set(key!("plan.taken"), &*manifest.taken);
    }
    results.set(key!("plan.member"), format!("{} at {}", plan.member.name, plan.member.peer_urls));
    if let Some(revision) = plan.old_revision {
        results.set(key!("plan.old-revision"), revision.to_string());
    }
    results.set(key!("plan.backup"), plan.backup.describe());
    results.set(key!("plan.bump"), plan.bump.to_string());
}

fn tell_outcome(plan: &Plan, outcome: &Outcome, results: &mut Results) {
    let Outcome { expected, backup, exchanged, disarmed, data_dir } = outcome;
    results.set(key!("restore.revision"), expected.revision.to_string());
    if let Some(keys) = expected.keys {
        results.set(key!("restore.keys"), keys.to_string());
    }
    results.set(key!("restore.cluster-id"), format!("{:x}", expected.cluster_id));
    results.set(key!("restore.downtime"), format!("{:.2}s", exchanged.downtime.as_secs_f64()));
    if plan.bump > 0 {
        results.set(key!("restore.bumped-by"), plan.bump.to_string());
    }
    if let Some(backup) = backup {
        results.set(key!("backup.path"), backup.path.display().to_string());
        results.set(key!("backup.sha256"), &*backup.packed.sha256);
        results.set(key!("backup.size"), human_size(backup.packed.size));
    }
    if let Some(name) = &exchanged.kept_as {
        results.set(key!("backup.old-data"), data_dir.join(name).display().to_string());
        if let (Some(backup), Some(old)) = (backup, exchanged.old_revision) {
            // Data with v2 keys is kept even if the backup has all else.
            let ahead = old - backup.manifest.revision;
            if ahead > 0 {
                results.set(key!("backup.old-data-ahead-by"), ahead.to_string());
            }
        }
    }
    if *disarmed {
        results.set(key!("restore.disarmed"), "NOSPACE");
    }
    if let Some(left_over) = &exchanged.cleanup_error {
        results.set(
            key!("restore.left-over"),
            format!("{left_over}; the next action, or restore --recover, clears it up"),
        );
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
