//! Applies changes of the cluster, and publishes data for the other units. Every change can be repeated without harm.

use super::facts::ClusterFacts;
use super::membership::Change;
use crate::etcd::client::{Client, MembershipRefusal};
use crate::juju::{Juju, Scope};
use anyhow::{Context, Error, Result, anyhow};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a hook tries to add or remove a member.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a unit that joins waits for members that have just connected: etcd accepts no change for 5 s after that.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a unit that joins waits for anything else. When another unit has joined, Juju runs a hook of this one.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a hook waits for a learner to receive the data.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Adds this unit as a learner, by one of these voters. `others_are_silent` is whether nothing listens at another voter.
///
/// # Errors
/// If etcd refuses for some seconds, or no voter answers. If etcd waits for a voter that does not answer, at once.
pub fn add_learner(voters: &[Client], others_are_silent: bool, name: &str, peer_url: &str) -> Result<()> {
    let added = Attempt { voters, others_are_silent, timeout: CHANGE_TIMEOUT, joins: true };
    let added = added.retry(&|voter| voter.add_learner(name, peer_url));
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
    let removed = Attempt { voters, others_are_silent: false, timeout: CHANGE_TIMEOUT, joins: false };
    let removed = removed.retry(&|voter| voter.remove_member(member));
    ignore(removed, MembershipRefusal::NotFound)
}

/// Applies one change. `own` is the client of this unit's etcd if it serves, and `voters` are those of other units.
///
/// # Errors
/// If etcd refuses, or no voter answers.
pub fn apply(change: &Change, own: Option<&Client>, voters: &[Client]) -> Result<()> {
    let asked = own.map_or(voters, std::slice::from_ref);
    match change {
        Change::PromoteSelf(member) => {
            let promoted = Attempt { voters, others_are_silent: false, timeout: SYNC_TIMEOUT, joins: false };
            let promoted = promoted.retry(&|voter| voter.promote(*member));
            ignore(promoted, MembershipRefusal::IsVoter)
        }
        Change::Promote(member) => {
            ignore(ask_once(asked, &|voter| voter.promote(*member)), MembershipRefusal::IsVoter)
        }
        Change::Move(member, url) => ask_once(asked, &|voter| voter.move_member(*member, url)),
        Change::Remove(member, _) => remove(asked, *member),
    }
}

/// Asks one voter after the other, until one has made the change.
fn ask_once(voters: &[Client], change: &dyn Fn(&Client) -> Result<()>) -> Result<()> {
    let mut outcome = Err(anyhow!("no other voter is known"));
    for voter in voters {
        outcome = if voter.is_listening() { change(voter) } else { Err(voter.silence()) };
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn ignore(result: Result<()>, harmless: MembershipRefusal) -> Result<()> {
    match result {
        Err(error) if MembershipRefusal::from_error(&error) == Some(harmless) => Ok(()),
        result => result,
    }
}

/// Returns how long a unit that joins waits while the answer of the voters stays the same. `None` is a voter that does not answer.
/// `all_listen` is whether something listens at each voter.
fn join_timeout(refusal: Option<MembershipRefusal>, all_listen: bool) -> Duration {
    match refusal {
        // A machine that is off comes back later than a hook can wait.
        Some(MembershipRefusal::Unhealthy) if !all_listen => Duration::ZERO,
        Some(MembershipRefusal::Unhealthy) => CONNECTION_TIMEOUT,
        _ => JOIN_TIMEOUT,
    }
}

/// An attempt to change the cluster.
struct Attempt<'a> {
    voters: &'a [Client],
    /// Whether nothing listens at a voter that is not among these.
    others_are_silent: bool,
    timeout: Duration,
    /// Whether this unit joins. Some versions of etcd add a member only while all voters are connected.
    joins: bool,
}

impl Attempt<'_> {
    /// Asks one voter after the other, until one has made the change, one refuses for good, or the time is up. A voter at
    /// which nothing listens is skipped.
    fn retry(&self, change: &dyn Fn(&Client) -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let (mut last, mut since) = (None, began);
        loop {
            let (mut refused, mut all_listen) = (None, !self.others_are_silent);
            for voter in self.voters {
                let listens = voter.is_listening();
                all_listen &= listens;
                let outcome = if listens { change(voter) } else { Err(voter.silence()) };
                let Err(error) = outcome else { return Ok(()) };
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
            let refusal = MembershipRefusal::from_error(&error);
            if last != Some(refusal) {
                (last, since) = (Some(refusal), Instant::now());
            }
            let is_in_vain = self.joins && since.elapsed() >= join_timeout(refusal, all_listen);
            if is_in_vain || began.elapsed() >= self.timeout {
                return Err(error);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
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
    use crate::etcd::tls::Tls;
    use anyhow::anyhow;
    use std::net::TcpListener;
    use std::path::Path;

    /// Returns a client of a server at this address.
    fn voter(address: &str) -> Client {
        let tls = Tls { cacert: None, cert: None, key: None };
        Client::of_endpoint(Path::new("etcdctl"), &format!("https://{address}"), tls, None)
    }

    #[test]
    fn does_not_wait_for_a_voter_at_which_nothing_listens() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let up = voter(&server.local_addr().unwrap().to_string());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let off = voter(&closed.local_addr().unwrap().to_string());
        drop(closed);
        let attempt = |voters: &[Client], others_are_silent: bool, joins: bool| {
            let began = Instant::now();
            let timeout = Duration::from_secs(2);
            let refused = Attempt { voters, others_are_silent, timeout, joins }.retry(&|voter| {
                assert!(voter.is_listening(), "etcdctl would wait for seconds");
                Err(anyhow!("etcdserver: unhealthy cluster"))
            });
            assert!(format!("{:#}", refused.unwrap_err()).contains("unhealthy"));
            began.elapsed() < timeout
        };
        // It may have been connected for less than 5 s.
        assert!(!attempt(std::slice::from_ref(&up), false, true));
        assert!(attempt(&[off.clone(), up.clone()], false, true));
        // One that no unit has announced is off.
        assert!(attempt(std::slice::from_ref(&up), true, true));
        // Another change may be possible without it.
        assert!(!attempt(&[off, up], false, false));
    }

    #[test]
    fn a_unit_that_joins_waits_longest_for_members_that_have_just_connected() {
        for refusal in [Some(MembershipRefusal::AnotherLearner), None] {
            assert!(join_timeout(refusal, true) <= Duration::from_secs(3));
        }
        let connected = join_timeout(Some(MembershipRefusal::Unhealthy), true);
        assert!(Duration::from_secs(5) < connected && connected < CHANGE_TIMEOUT);
    }

    #[test]
    fn waits_again_if_a_refusal_becomes_another_one() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let voters = [voter(&server.local_addr().unwrap().to_string())];
        let learner = "etcdserver: too many learner members in cluster";
        let attempt = |joins: bool, is_learner: &dyn Fn(Duration) -> bool| {
            let began = Instant::now();
            let timeout = Duration::from_secs(5);
            let refused =
                Attempt { voters: &voters, others_are_silent: false, timeout, joins }.retry(&|_| {
                    let answer =
                        if is_learner(began.elapsed()) { learner } else { "etcdserver: unhealthy cluster" };
                    Err(anyhow!(answer))
                });
            (refused.unwrap_err().to_string() == learner, began.elapsed())
        };
        let (is_learner, passed) = attempt(true, &|_| true);
        assert!(is_learner && JOIN_TIMEOUT <= passed && passed < Duration::from_secs(5), "{passed:?}");
        // The other unit is a voter now: etcd accepts a change after some more seconds.
        let (is_learner, passed) = attempt(true, &|passed| passed < Duration::from_secs(1));
        assert!(!is_learner && passed >= Duration::from_secs(5), "{passed:?}");
        // A unit that leaves is not woken.
        assert!(attempt(false, &|_| true).1 >= Duration::from_secs(5));
    }

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
