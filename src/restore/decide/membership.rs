//! Decides from its members whether a cluster may be restored, and which member the restored data is for.

use super::one_member::Way;
use crate::etcd::member::Member;
use crate::etcd::site::{DEFAULT_NAME, InitialMember};
use crate::restore::existing::ExistingData;
use crate::restore::facts::Facts;
use crate::restore::plan::Identity;
use crate::restore::refusals::{Obstacle, Stop};
use crate::restore::request::Request;

/// Accepts only a cluster of one voting member that has started, or an empty data directory of an etcd that is configured
/// alone: etcd would serve the restored data as a second cluster next to the other members.
///
/// # Errors
/// The cluster has or may have other members, or its members are unknown.
pub fn check_membership(facts: &Facts, request: &Request) -> Result<Identity, Obstacle> {
    let data_dir = facts.data_dir.clone();
    let stop = Stop { command: facts.stop_command.clone(), dependents: facts.dependents.clone() };
    let start = facts.start_command.clone();
    match &facts.existing {
        ExistingData::Served { members, .. } | ExistingData::Stopped { members, .. } => {
            check_single_member(members, start, || way_to_one_member(facts, request, members))
        }
        ExistingData::Empty => match &facts.initial {
            Some(InitialMember { others, source, .. }) if !others.is_empty() => {
                let (others, source) = (others.clone(), source.clone());
                Err(Obstacle::EmptyMember { data_dir, others, source, stop })
            }
            initial => Ok(initial_identity(initial.clone().unwrap_or_default())),
        },
        ExistingData::NotAnswering(reason) => Err(Obstacle::NotAnswering { reason: reason.clone(), stop }),
        ExistingData::Damaged(reason) => {
            Err(Obstacle::DamagedData { reason: reason.clone(), data_dir, stop })
        }
        ExistingData::NotReadable(reason) => Err(Obstacle::DataNotReadable { reason: reason.clone(), start }),
        ExistingData::WithoutLog => Err(Obstacle::WithoutLog { data_dir, stop }),
        &ExistingData::OfAnotherEtcd { is_open } => Err(Obstacle::OfAnotherEtcd { data_dir, is_open }),
    }
}

/// Returns the member that etcd's configuration would create, with etcd's own defaults (etcd, server/embed/config.go).
fn initial_identity(initial: InitialMember) -> Identity {
    let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
    Identity {
        name: or(initial.name, DEFAULT_NAME),
        peer_urls: or(initial.peer_urls, "http://localhost:2380"),
    }
}

/// Returns the commands with which this cluster of several members can be restored.
fn way_to_one_member(facts: &Facts, request: &Request, members: &[Member]) -> String {
    let own = match &facts.existing {
        ExistingData::Served { status, .. } => Some(status.member_id),
        _ => None,
    };
    let Facts { etcdctl, start_command: start, .. } = facts;
    let (unit, restore) = (request.unit.as_deref(), &request.command);
    Way { members, own, etcdctl, unit, restore, start }.describe()
}

fn check_single_member(
    members: &[Member],
    start: String,
    way: impl FnOnce() -> String,
) -> Result<Identity, Obstacle> {
    match members {
        [one] if one.is_learner => Err(Obstacle::OnlyLearner { member: describe_member(one) }),
        [one] if !one.has_started() => Err(Obstacle::NotStarted { start }),
        [one] => Ok(Identity { name: one.name.clone(), peer_urls: one.peer_urls.join(",") }),
        [] => Err(Obstacle::NoMembers),
        _ => {
            let members = members.iter().map(describe_member).collect();
            Err(Obstacle::SeveralMembers { members, way: way() })
        }
    }
}

/// Describes a member for a message.
pub fn describe_member(member: &Member) -> String {
    match (member.name.as_str(), member.is_learner) {
        ("", _) if !member.has_started() => format!("{:x} (not started)", member.id),
        ("", _) => format!("{:x} (without a name)", member.id),
        (name, true) => format!("{name} (a learner)"),
        (name, false) => name.to_owned(),
    }
}
