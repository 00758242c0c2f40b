//! Applies changes of the cluster, and publishes data for the other units. Every change can be repeated without harm.

use super::facts::ClusterFacts;
use super::membership::Change;
use crate::etcd::client::{Client, MembershipRefusal};
use crate::juju::{Juju, Scope};
use anyhow::{Context, Error, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a hook waits for another learner to be promoted, and for members that have just connected.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a hook waits for a learner to receive the data.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Adds this unit as a learner, by one of these voters.
///
/// # Errors
/// If etcd refuses for longer than 20 s, or no voter answers.
pub fn add_learner(voters: &[Client], name: &str, peer_url: &str) -> Result<()> {
    let added = retry(voters, CHANGE_TIMEOUT, &|voter| voter.add_learner(name, peer_url));
    match added {
        // An earlier hook has added it.
        Err(error) if format!("{error:#}").contains("Peer URLs already exists") => Ok(()),
        added => added,
    }
}

/// Removes a member, by one of these voters.
///
/// # Errors
/// If etcd refuses for longer than 20 s, or no voter answers.
pub fn remove(voters: &[Client], member: u64) -> Result<()> {
    let removed = retry(voters, CHANGE_TIMEOUT, &|voter| voter.remove_member(member));
    ignore(removed, MembershipRefusal::NotFound)
}

/// Applies one change. `own` is the client of this unit's etcd, and `voters` are those of other units.
///
/// # Errors
/// If etcd refuses, or no voter answers.
pub fn apply(change: &Change, own: &Client, voters: &[Client]) -> Result<()> {
    match change {
        Change::PromoteSelf(member) => {
            let promoted = retry(voters, SYNC_TIMEOUT, &|voter| voter.promote(*member));
            ignore(promoted, MembershipRefusal::IsVoter)
        }
        Change::Promote(member) => ignore(own.promote(*member), MembershipRefusal::IsVoter),
        Change::Move(member, url) => own.move_member(*member, url),
        Change::Remove(member, _) => remove(std::slice::from_ref(own), *member),
    }
}

fn ignore(result: Result<()>, harmless: MembershipRefusal) -> Result<()> {
    match result {
        Err(error) if MembershipRefusal::from_error(&error) == Some(harmless) => Ok(()),
        result => result,
    }
}

/// Asks one voter after the other, until one has made the change, one refuses for good, or the time is up. A voter that does
/// not answer is skipped.
fn retry(voters: &[Client], timeout: Duration, change: &dyn Fn(&Client) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut refused = None;
        for voter in voters {
            let Err(error) = change(voter) else { return Ok(()) };
            let is_final = match MembershipRefusal::from_error(&error) {
                Some(refusal) => !refusal.is_temporary(),
                None => format!("{error:#}").contains("Peer URLs already exists"),
            };
            if is_final {
                return Err(error);
            }
            refused = Some(clearer(refused, error));
        }
        let error = refused.context("no other voter is known")?;
        if Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

/// Returns the error that says more about the cluster: a refusal by etcd rather than a voter that does not answer. Otherwise
/// the newer one.
fn clearer(known: Option<Error>, new: Error) -> Error {
    let is_refusal = |error: &Error| MembershipRefusal::from_error(error).is_some();
    match known {
        Some(known) if is_refusal(&known) && !is_refusal(&new) => known,
        _ => new,
    }
}

/// Writes data of this unit or its application in the peer relation, if it has changed.
///
/// # Errors
/// If `relation-set` fails.
pub fn publish(
    juju: &Juju,
    facts: &ClusterFacts,
    scope: Scope,
    changes: &BTreeMap<String, String>,
) -> Result<()> {
    match &facts.relation {
        Some(relation) if !changes.is_empty() => juju.set_relation_data(relation, scope, changes),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_refusal_by_etcd_is_reported_rather_than_a_voter_that_is_off() {
        let unhealthy = || anyhow!("etcdserver: unhealthy cluster").context("adding a member");
        let off = || anyhow!("context deadline exceeded").context("adding a member");
        for (known, new, words) in [
            (None, off(), "deadline"),
            (None, unhealthy(), "unhealthy"),
            (Some(unhealthy()), off(), "unhealthy"),
            (Some(off()), unhealthy(), "unhealthy"),
            (Some(off()), off(), "deadline"),
        ] {
            assert!(format!("{:#}", clearer(known, new)).contains(words));
        }
    }
}
