//! The action `snapshot`: parameters to a request, the walk's report to results.

use super::results::Results;
use super::runs::Watch;
use super::target::target;
use super::{Call, key, settled};
use crate::archive::{Effort, human_size};
use crate::error::{ActionError, Refusal};
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::snapshot::{self, Report, Request, Source};
use crate::store::directory::{Approach, archive_owner};
use crate::system::durable::NotDurable;

/// Takes a snapshot and says where it is.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    refuse_old_keys(call.params.text("keys-version")?)?;
    let settings = super::offsite::settings(call)?;
    let ready = Ready::find(call, &settings)?;
    let place = (ready.request.target.as_path(), ready.request.owner);
    let mut watch = Watch::begin(call, &settings, place, None, 1).map_err(|e| ready.untouched(e))?;
    let outcome = watch.before().and_then(|()| ready.take(call, &mut watch, results));
    watch.finish(&outcome, results, true);
    watch.tell(outcome, results)
}

/// All that a snapshot takes, found and allowed; nobody else works on the data while this lives, up to the upload.
pub(super) struct Ready {
    site: Site,
    user: String,
    request: Request,
    data: DataDir,
}

impl Ready {
    /// Finds it, or refuses.
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
        let approach = || Approach::to(&request.target, owner);
        let hold = || {
            site.tools.check_can_read_snapshots()?;
            approach()?.must_be_open_to(&user)?;
            let data = DataDir::open(&site)?;
            approach()?.must_not_lie_in(data.dir())?;
            Ok(data)
        };
        let data = hold().map_err(|error| untouched(&site, error))?;
        Ok(Self { site, user, request, data })
    }

    /// Takes the snapshot, sends it to every destination, and says so. Once the archive is there, others may work on the data:
    /// a line that hangs must not keep a restore from it.
    pub fn take(
        self,
        call: &Call<'_>,
        watch: &mut Watch<'_>,
        results: &mut Results,
    ) -> Result<(), ActionError> {
        let Self { site, user, request, data } = self;
        settled(call, &site, &data, results)?;
        let report =
            snapshot::take(&Source::Serving(&Client::new(&site)), &site.tools, &request, &mut call.tell())
                .map_err(|error| untouched(&site, error))?;
        let v2_keys = super::v2_keys::warning(&site, &report.manifest.etcd_version);
        drop(data);
        if let Some(warning) = &v2_keys {
            call.tell()(Progress::Step(&format!("warning: {warning}")));
        }
        results.set(key!("copy.cmd"), call.copy_command(&user, &report.path));
        let warnings = super::site::warnings(&site, call.now).into_iter().chain(v2_keys);
        tell(&report, warnings.collect(), results);
        watch.published(report);
        watch.send(call, results).unwrap_or(Ok(()))
    }

    fn untouched(&self, error: anyhow::Error) -> ActionError {
        untouched(&self.site, error)
    }
}

fn untouched(site: &Site, error: anyhow::Error) -> ActionError {
    let next = format!("{}, mend the cause, then run snapshot again", site.service.status_command());
    let archive = match error.downcast_ref::<NotDurable>() {
        None => "no archive was published".to_owned(),
        Some(NotDurable(path)) => {
            format!("{} is whole and stands there, but its disk did not take its name", path.display())
        }
    };
    ActionError::from_error(error, format!("{archive} and etcd was not touched"), next)
}

/// The older charm's parameter: it could copy the store of the v2 API too, which etcd 3.6 no longer has.
fn refuse_old_keys(version: &str) -> Result<(), Refusal> {
    match version {
        "v3" => Ok(()),
        "v2" => Err(Refusal::new(
            "keys-version=v2 asks for the store of etcd's v2 API, which this charm does not keep",
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

fn tell(report: &Report, warnings: Vec<String>, results: &mut Results) {
    let manifest = &report.manifest;
    results.set(key!("snapshot.path"), report.path.display().to_string());
    results.set(key!("snapshot.size"), human_size(report.packed.size));
    results.set(key!("snapshot.sha256"), &*report.packed.sha256);
    results.set(key!("snapshot.revision"), manifest.revision.to_string());
    if let Some(keys) = manifest.keys {
        results.set(key!("snapshot.keys"), keys.to_string());
    }
    results.set(key!("snapshot.version"), &*manifest.etcd_version);
    results.set(key!("snapshot.verified"), "true");
    if !report.encrypted_for.is_empty() {
        results.set(key!("snapshot.encrypted-for"), report.encrypted_for.join(", "));
    }
    let alarms = (!report.alarms.is_empty()).then(|| in_words(&report.alarms.join("; ")));
    let warnings: Vec<String> = alarms.into_iter().chain(warnings).collect();
    if !warnings.is_empty() {
        results.set(key!("snapshot.warning"), warnings.join("; "));
    }
}

fn in_words(alarms: &str) -> String {
    let corrupt = if alarms.contains("CORRUPT") {
        ": the data of its members differ, and this is what one of them has"
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
