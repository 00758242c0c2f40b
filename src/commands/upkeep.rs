//! The maintenance commands of the older charm: `health`, `alarm-list`, `alarm-disarm`, `compact`, `defrag`.
//!
//! The names, the parameters and the result `output` are the same. Unlike in the older charm, an action that did not
//! do its job is reported as failed.

use super::unfinished::describe_at as describe_unfinished;
use super::{Call, SiteRequest, settle};
use crate::error::{ActionError, Refusal, Subcommand};
use crate::etcd::client::Client;
use crate::etcd::diagnose::next_step;
use crate::etcd::maintenance::Voters;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use anyhow::{Result, anyhow};
use serde::Serialize;

/// The health of the cluster.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Health {
    /// The unfinished restore on this machine, if there is one. This command does not finish it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_restore: Option<String>,
    /// healthy, degraded (a quorum answers) or unhealthy. Missing if etcd does not answer.
    pub cluster: Option<&'static str>,
    /// The answer of each member, in the words of etcdctl.
    pub answers: Vec<String>,
    /// Number of members of the cluster.
    pub members: usize,
    /// Number of alarms.
    pub alarms: usize,
}

/// The alarms of etcd.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Alarms {
    /// The unfinished restore on this machine, if there is one. Listing the alarms does not finish it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_restore: Option<String>,
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The output of etcdctl: the alarms, or those that were disarmed.
    pub output: Option<String>,
    /// Number of active alarms.
    pub alarms: Option<usize>,
}

/// A request for a compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionRequest {
    /// The etcd, if the machine has several.
    pub site: Option<String>,
    /// The last revision to remove from the history, above 0. If it is missing, all history is removed.
    pub revision: Option<i64>,
    /// Whether to wait until the history is removed from the database.
    pub physical: bool,
}

/// The result of a compaction.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Compaction {
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The output of etcdctl.
    pub output: Option<String>,
    /// The revision before which the history was removed.
    pub revision: Option<i64>,
}

/// The result of a defragmentation.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Defragmentation {
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The output of etcdctl.
    pub output: Option<String>,
    /// The size of the database before, in bytes.
    pub size_before_bytes: Option<u64>,
    /// The size of the database afterwards, in bytes.
    pub size_after_bytes: Option<u64>,
}

/// The state that a failure leaves.
const UNCHANGED: &str = "etcd's keys are unchanged";

/// Reports whether every voting member of the cluster answers, in the words of the older `etcdctl cluster-health`.
pub fn health(call: &Call<'_>, request: &SiteRequest, outcome: &mut Health) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    outcome.unfinished_restore = describe_unfinished(&site);
    let client = Client::new(&site);
    let ask = || {
        // If etcd is down, this call returns the cause, unlike the list of members of etcd 3.4.
        client.status()?;
        let members = client.members()?;
        Ok((client.health(members.len() > 1)?, members, client.alarms()?))
    };
    let (health, members, alarms) = ask().map_err(|error| failed(error, &site, call))?;
    let said: Vec<String> = health
        .iter()
        .map(|one| match one.healthy {
            true => format!("got healthy result from {}", one.endpoint),
            false => format!("got unhealthy result from {}: {}", one.endpoint, one.error),
        })
        .collect();
    let votes = Voters::count(&members, &health);
    let verdict = match votes.unreachable.is_empty() {
        true => "healthy",
        false if votes.have_quorum() => "degraded",
        false => "unhealthy",
    };
    outcome.cluster = Some(verdict);
    outcome.answers.clone_from(&said);
    outcome.members = members.len();
    outcome.alarms = alarms.lines().count();
    if votes.unreachable.is_empty() && alarms.is_empty() {
        return Ok(());
    }
    let mut what = format!("{} of {} voting members are healthy", votes.reachable(), votes.total);
    if !votes.unreachable.is_empty() {
        let left = if votes.have_quorum() {
            "the others continue without"
        } else {
            "which is less than a quorum, without"
        };
        what += &format!(", {left} {}: {}", votes.unreachable.join(", "), said.join("; "));
    }
    if !alarms.is_empty() {
        what += &format!("; etcd has an alarm: {alarms}");
    }
    match votes.unreachable.is_empty() {
        true => Err(alarmed(what, &alarms)),
        false => Err(failed(anyhow!(what), &site, call)),
    }
}

/// Lists the alarms.
pub fn alarm_list(call: &Call<'_>, request: &SiteRequest, outcome: &mut Alarms) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    outcome.unfinished_restore = describe_unfinished(&site);
    let alarms = Client::new(&site).alarms().map_err(|error| failed(error, &site, call))?;
    outcome.alarms = Some(alarms.lines().count());
    outcome.output = Some(alarms);
    Ok(())
}

/// Disarms all alarms, and reports the remaining ones.
pub fn alarm_disarm(call: &Call<'_>, request: &SiteRequest, outcome: &mut Alarms) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    let _ours = take(call, &site, &mut outcome.recovered)?;
    let client = Client::new(&site);
    let disarmed = client.disarm().map_err(|error| failed(error, &site, call))?;
    outcome.output = Some(disarmed);
    let left = client.alarms().map_err(|error| failed(error, &site, call))?;
    outcome.alarms = Some(left.lines().count());
    match left.is_empty() {
        true => Ok(()),
        false => Err(alarmed(format!("an alarm was raised again at once: {left}"), &left)),
    }
}

/// Compacts the history up to `revision`, or all of it.
pub fn compact(
    call: &Call<'_>,
    request: &CompactionRequest,
    outcome: &mut Compaction,
) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    let _ours = take(call, &site, &mut outcome.recovered)?;
    let client = Client::new(&site);
    let status = client.status().map_err(|error| failed(error, &site, call))?;
    let revision = request.revision.unwrap_or(status.revision);
    if revision > status.revision {
        return Err(Refusal::new(
            format!("revision {revision} does not exist yet: etcd is at {}", status.revision),
            "leave revision out to compact all history",
        )
        .into());
    }
    let output = match client.compact(revision, request.physical, status.db_size) {
        // The history was already compacted, perhaps because a restore raised the revision.
        Err(error) if format!("{error:#}").contains("has been compacted") => {
            format!("there is no history before revision {revision}")
        }
        compacted => compacted.map_err(|error| failed(error, &site, call))?,
    };
    outcome.output = Some(output);
    outcome.revision = Some(revision);
    Ok(())
}

/// Returns the free space in the database to the disk.
pub fn defrag(
    call: &Call<'_>,
    request: &SiteRequest,
    outcome: &mut Defragmentation,
) -> Result<(), ActionError> {
    let site = super::site(call, request.site.as_deref())?;
    let _ours = take(call, &site, &mut outcome.recovered)?;
    let client = Client::new(&site);
    let size = || client.status().map(|status| status.db_size).map_err(|error| failed(error, &site, call));
    let before = size()?;
    let output = client.defragment(before).map_err(|error| failed(error, &site, call))?;
    outcome.output = Some(output);
    outcome.size_before_bytes = Some(before);
    outcome.size_after_bytes = Some(size()?);
    Ok(())
}

/// Locks the data and settles an unfinished restore before etcd is changed.
fn take(call: &Call<'_>, site: &Site, recovered: &mut Option<String>) -> Result<DataDir, ActionError> {
    let data = DataDir::open(site).map_err(|error| failed(error, site, call))?;
    *recovered = settle(call, site, &data)?;
    Ok(data)
}

fn failed(error: anyhow::Error, site: &Site, call: &Call<'_>) -> ActionError {
    let next = format!("{}, then {}", next_step(site, &error), call.typed);
    ActionError::from_error(error, UNCHANGED, next)
}

/// Fails because of alarms, which stay until their causes are gone.
fn alarmed(what: String, alarms: &str) -> ActionError {
    // `disarm` ends all alarms, and a corrupt member would serve again.
    let next = match alarms.contains("NOSPACE") && !alarms.contains("CORRUPT") {
        true => format!(
            "make room in the database: {}, then {}, then {}",
            Subcommand::new("compact").flag("physical"),
            Subcommand::new("defrag"),
            Subcommand::new("disarm")
        ),
        false => {
            "compare the members with `etcdctl endpoint hashkv --cluster`, and replace the one that differs"
                .to_owned()
        }
    };
    ActionError::from_error(anyhow!(what), UNCHANGED, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_member_is_not_disarmed_to_make_room() {
        let next = |alarms: &str| match alarmed("alarms".to_owned(), alarms) {
            ActionError::Failed(failure) => failure.next,
            other => panic!("{other:?}"),
        };
        assert!(next("memberID:1 alarm:NOSPACE").contains("disarm"));
        for alarms in ["memberID:1 alarm:CORRUPT", "memberID:1 alarm:NOSPACE\nmemberID:2 alarm:CORRUPT"] {
            assert!(!next(alarms).contains("disarm"), "{alarms}");
        }
    }
}
