//! The command `snapshot`: saves the data of etcd as a verified archive, and sends it to the destinations.

use super::runs::Watch;
use super::target::target;
use super::{Call, settle};
use crate::archive::Effort;
use crate::error::{ActionError, Refusal};
use crate::etcd::client::Client;
use crate::etcd::diagnose::next_step;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::snapshot::{self, Report, Request, Source};
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::NotDurable;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The result of a snapshot.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The archive, once it exists.
    pub snapshot: Option<Archive>,
    /// The command that copies the archive to the operator's machine.
    pub copy_command: Option<String>,
    /// For each destination, whether it has the archive.
    pub destinations: BTreeMap<String, String>,
    /// Warnings about the data in the archive, or about this etcd.
    pub warnings: Vec<String>,
    /// Older archives that could not be sent.
    pub upload_warnings: Vec<String>,
    /// Warnings about recording or reporting this run.
    pub run_warnings: Vec<String>,
}

/// An archive that was published.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Archive {
    /// The absolute path.
    pub path: PathBuf,
    /// When etcd's data was saved, in RFC 3339.
    pub created: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The revision of the data.
    pub revision: i64,
    /// The number of keys, if it is known.
    pub keys: Option<u64>,
    /// The version of the etcd that the data is from.
    pub etcd_version: String,
    /// The id of the cluster, in hexadecimal digits.
    pub cluster_id: String,
    /// The name of the member.
    pub member: String,
    /// Whether the archive was read back and verified.
    pub verified: bool,
    /// The age recipients that can decrypt the archive. Empty if it is not encrypted.
    pub encrypted_for: Vec<String>,
}

/// Takes a snapshot.
///
/// # Errors
/// Fails if no archive was verified, or if a destination did not get it.
pub fn perform(call: &Call<'_>, outcome: &mut Outcome) -> Result<(), ActionError> {
    refuse_old_keys(call.params.text("keys-version")?)?;
    let settings = super::offsite::settings(call)?;
    let ready = Ready::find(call, &settings)?;
    let place = (ready.request.target.as_path(), ready.request.owner);
    let mut watch = Watch::begin(call, &settings, place, None, 1).map_err(|e| ready.untouched(e))?;
    let ended = watch.before().and_then(|()| ready.take(call, &mut watch, outcome));
    watch.finish(&ended, outcome, true);
    watch.report(ended, outcome)
}

/// The inputs of a snapshot after all checks. As long as it lives, other runs cannot use the data. It is dropped
/// before the upload.
pub(super) struct Ready {
    site: Site,
    user: String,
    request: Request,
    data: DataDir,
}

impl Ready {
    /// Gathers them, or refuses.
    pub fn find(call: &Call<'_>, settings: &Settings) -> Result<Self, ActionError> {
        let site = super::site(call)?;
        let (user, owner) = archive_owner().map_err(|error| untouched(&site, error))?;
        let request = Request {
            target: target(call, settings)?,
            effort: effort(call.params.text("compression")?)?,
            owner,
            encrypt_to: settings.encrypt_to.clone(),
            unit: call.unit().map(str::to_owned),
            before_restore: false,
            now: call.now,
        };
        settings.check_target(&request.target)?;
        let approach = || TrustedPath::open(&request.target, owner);
        let hold = || {
            site.tools.check_can_read_snapshots()?;
            approach()?.check_accessible_to(&user)?;
            let data = DataDir::open(&site)?;
            approach()?.check_outside(data.dir())?;
            Ok(data)
        };
        let data = hold().map_err(|error| untouched(&site, error))?;
        Ok(Self { site, user, request, data })
    }

    /// Takes the snapshot, sends it to every destination, and reports it. Releases the lock on the data as soon as
    /// the archive exists: a hanging connection must not block a restore.
    pub fn take(
        self,
        call: &Call<'_>,
        watch: &mut Watch<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), ActionError> {
        let Self { site, user, request, data } = self;
        outcome.recovered = settle(call, &site, &data)?.or(outcome.recovered.take());
        let report = snapshot::take(
            &Source::Serving(&Client::new(&site)),
            &site.tools,
            &request,
            &mut call.progress(),
        )
        .map_err(|error| untouched(&site, error))?;
        let v2_keys = super::v2_keys::warning(&site, &report.manifest.etcd_version);
        drop(data);
        if let Some(warning) = &v2_keys {
            call.progress()(Progress::Message(&format!("warning: {warning}")));
        }
        outcome.copy_command = Some(call.copy_command(&user, &report.path));
        let alarms = (!report.alarms.is_empty()).then(|| alarm_warning(&report.alarms.join("; ")));
        let warnings = super::site::warnings(&site, call.now);
        outcome.warnings = alarms.into_iter().chain(warnings).chain(v2_keys).collect();
        outcome.snapshot = Some(archive(&report));
        watch.published(report);
        watch.send(call, outcome).unwrap_or(Ok(()))
    }

    fn untouched(&self, error: anyhow::Error) -> ActionError {
        untouched(&self.site, error)
    }
}

fn untouched(site: &Site, error: anyhow::Error) -> ActionError {
    let next = format!("{}, then run snapshot again", next_step(site, &error));
    let archive = match error.downcast_ref::<NotDurable>() {
        None => "no archive was published".to_owned(),
        Some(NotDurable(path)) => {
            format!(
                "{} is complete, but its directory entry could not be synced; it may be gone after a power loss",
                path.display()
            )
        }
    };
    ActionError::from_error(error, format!("{archive} and etcd was not touched"), next)
}

/// Checks a parameter of the older charm, which could also copy the store of the v2 API. etcd 3.6 no longer has that
/// store.
fn refuse_old_keys(version: &str) -> Result<(), Refusal> {
    match version {
        "v3" => Ok(()),
        "v2" => Err(Refusal::new(
            "keys-version=v2 asks for the store of the v2 API, which this charm does not support",
            "leave keys-version out; use etcd 3.5 or older and `etcdctl backup` for v2 data",
        )),
        other => Err(Refusal::new(format!("keys-version is {other:?}"), "leave it out, or give v3")),
    }
}

fn effort(word: &str) -> Result<Effort, Refusal> {
    match word {
        "balanced" => Ok(Effort::Balanced),
        "small" => Ok(Effort::Small),
        other => Err(Refusal::new(format!("compression is {other:?}"), "give balanced or small")),
    }
}

/// Returns what is known about the archive of `report`.
fn archive(report: &Report) -> Archive {
    let manifest = &report.manifest;
    Archive {
        path: report.path.clone(),
        created: manifest.taken.to_string(),
        size_bytes: report.packed.size,
        sha256: report.packed.sha256.clone(),
        revision: manifest.revision,
        keys: manifest.keys,
        etcd_version: manifest.etcd_version.clone(),
        cluster_id: manifest.cluster_id.clone(),
        member: manifest.member_name.clone(),
        verified: true,
        encrypted_for: report.encrypted_for.clone(),
    }
}

/// Describes the alarms that the snapshot contains.
fn alarm_warning(alarms: &str) -> String {
    let corrupt = if alarms.contains("CORRUPT") {
        ": the data of its members differ, and this is the data of one of them"
    } else {
        ""
    };
    format!("etcd has an alarm, and so has the snapshot ({alarms}){corrupt}")
}

#[cfg(test)]
mod tests {
    use super::refuse_old_keys;

    #[test]
    fn only_the_v3_store_is_kept() {
        assert!(refuse_old_keys("v3").is_ok());
        for version in ["v2", "", "V3"] {
            assert!(refuse_old_keys(version).is_err(), "{version}");
        }
    }
}
