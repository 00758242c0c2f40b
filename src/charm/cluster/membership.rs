//! Decides how a unit changes the cluster, and which data it publishes. Pure.
//!
//! Must never remove a member that no unit ever announced: an operator added it. Must never promote a member without a name:
//! it has not started, and etcd before 3.4.24 and 3.5.7 would make it a voter.

use super::databag::{ApplicationData, KnownUnit, UnitData};
use super::facts::{ClusterFacts, Urls, member_name};
use crate::etcd::client::Status;
use crate::etcd::member::Member;
use std::collections::BTreeSet;

/// The etcd of this unit, as it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its status.
    pub status: Status,
    /// The clusters that its data was before a restore, in hex.
    pub heir_of: BTreeSet<String>,
}

/// A change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make the learner of this unit a voter, and wait until etcd accepts that.
    PromoteSelf(u64),
    /// Try to make the learner of another unit a voter.
    Promote(u64),
    /// Change the peer URL of this unit's member in etcd.
    Move(u64, String),
    /// Remove the member of a unit that is gone.
    Remove(u64, String),
}

/// Returns the changes, in their order. `served` is `None` if the etcd of this unit does not serve: then it changes only its URL, by
/// another member. A leader of etcd that does not reach it at its new address would never send it that change.
pub fn changes(facts: &ClusterFacts, served: Option<&Served>) -> Vec<Change> {
    if let Some(served) = served.filter(|served| served.status.is_learner) {
        return vec![Change::PromoteSelf(served.status.member_id)];
    }
    let Some(members) = &facts.members else { return Vec::new() };
    let own = match served {
        Some(served) => members.iter().find(|member| member.id == served.status.member_id),
        None => facts.published_member(members),
    };
    let mut changes = Vec::from_iter(own.and_then(|own| move_to_own_url(facts, own)));
    if served.is_none() {
        return changes;
    }
    let removals = removals(facts).into_iter().map(|(member, unit)| Change::Remove(member, unit));
    changes.extend(removals);
    let is_of_a_unit = |member: &&Member| facts.units.keys().any(|unit| member_name(unit) == member.name);
    let learners = members.iter().filter(|member| member.is_learner && !member.name.is_empty());
    changes.extend(learners.filter(is_of_a_unit).map(|member| Change::Promote(member.id)));
    changes
}

/// A learner stays: etcd before 3.5.31 would make it a voter.
fn move_to_own_url(facts: &ClusterFacts, own: &Member) -> Option<Change> {
    let urls = facts.urls.as_ref().filter(|_| !own.is_learner)?;
    (own.peer_urls != [urls.peer.as_str()]).then(|| Change::Move(own.id, urls.peer.clone()))
}

/// Returns the ids of the members that the leader has to remove, with their units, which are gone. A list of units without this unit
/// is not trusted.
pub fn removals(facts: &ClusterFacts) -> Vec<(u64, String)> {
    if !facts.is_leader || facts.is_dying() || !facts.units.contains_key(&facts.unit) {
        return Vec::new();
    }
    let members = facts.members.as_deref().unwrap_or_default();
    let gone = facts.application.known.iter().filter(|(unit, _)| !facts.units.contains_key(*unit));
    gone.filter_map(|(unit, known)| {
        let member = member_left_behind(facts, known, members)?;
        Some((member.id, unit.clone()))
    })
    .collect()
}

/// Returns the member of a unit that is gone. Another unit may have got its address: a member is that of a unit that is present if
/// it has the name of one, or, unless its id is known, if it has the address of one.
fn member_left_behind<'m>(
    facts: &ClusterFacts,
    known: &KnownUnit,
    members: &'m [Member],
) -> Option<&'m Member> {
    let has_name_of_unit = |member: &&Member| facts.units.keys().any(|unit| member_name(unit) == member.name);
    let others = facts.others.iter().filter(|(unit, _)| facts.units.contains_key(*unit));
    let mut published: BTreeSet<&String> = others
        .map(|(_, published)| published)
        .chain([&facts.own])
        .filter_map(|unit| unit.peer.as_ref())
        .collect();
    published.extend(facts.urls.as_ref().map(|urls| &urls.peer));
    let has_address_of_unit = |member: &Member| member.peer_urls.iter().any(|url| published.contains(url));
    let is_left = |member: &&Member| {
        let has_id = known.member.as_deref() == Some(&hex(member.id));
        has_id || (member.peer_urls.contains(&known.peer) && !has_address_of_unit(member))
    };
    members.iter().filter(|member| !has_name_of_unit(member)).find(is_left)
}

fn is_member_of(known: &KnownUnit, member: &Member) -> bool {
    member.peer_urls.contains(&known.peer) || known.member.as_deref() == Some(&hex(member.id))
}

/// Returns the members that no unit has announced.
pub fn strangers(facts: &ClusterFacts) -> Vec<&Member> {
    let published = || facts.others.values().chain([&facts.own]);
    let is_known = |member: &&Member| {
        let is_unit = facts.units.keys().any(|unit| member_name(unit) == member.name);
        // A unit adds its member after it has published the URL.
        let is_announced =
            published().filter_map(|unit| unit.peer.as_ref()).any(|peer| member.peer_urls.contains(peer));
        is_unit || is_announced || facts.application.known.values().any(|known| is_member_of(known, member))
    };
    facts.members.iter().flatten().filter(|member| !is_known(member)).collect()
}

/// Describes members that no unit has announced, or returns `None` if all belong to units.
pub fn describe_strangers(facts: &ClusterFacts) -> Option<String> {
    let names: Vec<String> = strangers(facts).into_iter().map(describe_stranger).collect();
    (!names.is_empty())
        .then(|| format!("members that belong to no unit, and are never removed: {}", names.join(", ")))
}

/// Returns the name of a member, or its URL if it has not started.
pub fn describe_stranger(member: &Member) -> String {
    match &*member.name {
        "" => format!("the one at {}", member.peer_urls.join(" ")),
        name => name.to_owned(),
    }
}

/// Returns the data that this unit publishes for the others. `has_data` is whether etcd has started with its data, even if the data is
/// missing now.
pub fn unit_data(facts: &ClusterFacts, served: Option<&Served>, has_data: bool) -> UnitData {
    let Some(served) = served else {
        // While etcd does not answer, its member stays where it was, unless another member has moved it.
        if has_data {
            let peer = facts.listed_url().or(facts.own.peer.as_ref()).cloned();
            return UnitData { peer, seen_turn: facts.application.turn.clone(), ..facts.own.clone() };
        }
        return UnitData {
            peer: facts.urls.as_ref().map(|urls| urls.peer.clone()),
            founder: facts.application.founder.clone(),
            seen_turn: facts.application.turn.clone(),
            ..UnitData::default()
        };
    };
    let member = hex(served.status.member_id);
    let (peer, client) = match &facts.members {
        Some(members) => urls_of_member(facts, served, members),
        // A cluster without a leader does not list its members. Its addresses are still the same.
        None => {
            let is_same = facts.own.member.as_ref() == Some(&member);
            (facts.own.peer.clone(), facts.own.client.clone().filter(|_| is_same))
        }
    };
    UnitData {
        peer,
        client,
        member: Some(member),
        cluster: Some(hex(served.status.cluster_id)),
        heir_of: served.heir_of.clone(),
        version: Some(served.status.version.clone()),
        seen_turn: facts.application.turn.clone(),
        ..UnitData::default()
    }
}

/// Returns the URLs for peers and for clients under which others reach the member of this unit. Clients can use only a voter.
fn urls_of_member(
    facts: &ClusterFacts,
    served: &Served,
    members: &[Member],
) -> (Option<String>, Option<String>) {
    let own = members.iter().find(|member| member.id == served.status.member_id);
    if facts.urls.is_none() {
        return urls_as_published(facts, own);
    }
    let is_there =
        |urls: &&Urls| own.map_or(served.status.is_learner, |own| own.peer_urls.contains(&urls.peer));
    let urls = facts.urls.as_ref().filter(is_there);
    let voter = own.filter(|own| !own.is_learner);
    let client = urls.zip(voter).and_then(|(urls, voter)| client_url(urls, voter));
    (urls.map(|urls| urls.peer.clone()), client)
}

/// Returns the URLs that this unit has published for its member. An etcd that serves still does so there after an option became invalid
/// or the certificates cannot be read, although the URLs of its next start are unknown then.
fn urls_as_published(facts: &ClusterFacts, own: Option<&Member>) -> (Option<String>, Option<String>) {
    let is_published = |own: &&Member| {
        let peer = facts.own.peer.as_ref();
        facts.own.member.as_ref() == Some(&hex(own.id))
            && peer.is_some_and(|peer| own.peer_urls.contains(peer))
    };
    let Some(own) = own.filter(is_published) else { return (None, None) };
    (facts.own.peer.clone(), facts.own.client.clone().filter(|_| !own.is_learner))
}

/// Returns the URL for clients of a voter: the present address of its unit, and the port with which its etcd was started. That is the port
/// that etcd lists. etcd listens on all addresses, and on a new port only after its restart in turn.
fn client_url(urls: &Urls, voter: &Member) -> Option<String> {
    let listed = voter.client_urls.iter().find(|url| url.starts_with("https://"))?;
    let (address, port) = (urls.client.rsplit_once(':')?.0, listed.rsplit_once(':')?.1);
    Some(format!("{address}:{port}"))
}

/// Returns the data of the application, which the leader publishes. `own` is the data that this unit publishes now.
pub fn application_data(facts: &ClusterFacts, own: &UnitData) -> ApplicationData {
    let published = |unit: &str| if unit == facts.unit { Some(own) } else { facts.others.get(unit) };
    let mut data = facts.application.clone();
    data.cluster = cluster(facts, own);
    let is_here = |unit: &String| facts.units.get(unit).is_some_and(|unit| !unit.is_dying());
    let is_new = data.cluster.is_none() && own.cluster.is_none();
    data.founder = match data.founder.filter(|founder| is_new && is_here(founder)) {
        None if is_new => Some(facts.unit.clone()),
        founder => founder,
    };
    // A unit is forgotten only when etcd does not list its member any more.
    if let Some(members) = &facts.members {
        let is_left = |known: &KnownUnit| member_left_behind(facts, known, members).is_some();
        data.known.retain(|unit, known| facts.units.contains_key(unit) || is_left(known));
    }
    for unit in facts.units.keys() {
        let Some(published) = published(unit) else { continue };
        // A unit that serves another cluster is not a member of this one.
        let member = published.member.clone().filter(|_| published.cluster == data.cluster);
        let joins = data.cluster.is_some() && published.cluster.is_none() && published.peer.is_some();
        // The machine of another unit may be off, and its address given to this one.
        let is_taken = data.known.iter().any(|(other, known)| {
            other != unit && known.member.is_some() && Some(&known.peer) == published.peer.as_ref()
        });
        let counts = member.is_some() || (joins && !is_taken);
        if counts && (is_here(unit) || data.known.contains_key(unit)) {
            // A member on loopback has no URL for peers.
            let peer = published.peer.clone().unwrap_or_default();
            data.known.insert(unit.clone(), KnownUnit { peer, member });
        }
    }
    data
}

/// Returns the cluster of the application that has ended with its units, as long as no unit has its data again. `data` is what the
/// leader publishes now, and `served` the etcd of this unit, the leader.
///
/// A new unit then starts with an empty etcd. Clients must not use it in the place of that cluster: to Kubernetes, all objects would
/// be gone. A restore makes this etcd an heir of the cluster. A key in it shows that an operator goes on without the data.
pub fn ended_cluster(
    facts: &ClusterFacts,
    data: &ApplicationData,
    own: &UnitData,
    served: Option<&Served>,
) -> Option<String> {
    let before = &facts.application;
    let was_replaced = |id: &&String| data.cluster.as_ref() != Some(id);
    let ended = before.cluster.as_ref().filter(was_replaced).or(before.ended.as_ref())?;
    let has_heir = std::iter::once(own).chain(facts.others.values()).any(|unit| unit.heir_of.contains(ended));
    let has_data = served.is_some_and(|served| served.status.revision > 1);
    (!has_heir && !has_data).then(|| ended.clone())
}

/// Returns the id of the application's cluster: the recorded one, its heir after a restore, or the one that a unit serves.
/// `None` if there was none yet, or it has ended.
fn cluster(facts: &ClusterFacts, own: &UnitData) -> Option<String> {
    let all = || std::iter::once(own).chain(facts.others.values());
    let recorded = facts.application.cluster.clone();
    let is_served = |id: &String| all().any(|published| published.cluster.as_ref() == Some(id));
    if recorded.as_ref().is_some_and(is_served) {
        return recorded;
    }
    let is_heir = |published: &&UnitData| recorded.as_ref().is_none_or(|old| published.heir_of.contains(old));
    let heir = all().filter(is_heir).find_map(|published| published.cluster.clone());
    // If all units of a cluster are removed, the cluster has ended. A new one may start.
    // A unit that serves another one does not have its data any more: it was restored.
    let serves_other = |unit: &String| facts.others.get(unit).is_some_and(|unit| unit.cluster.is_some());
    let has_ended = !facts.application.known.iter().any(|(unit, known)| {
        let is_here = *unit != facts.unit && facts.units.contains_key(unit);
        is_here && known.member.is_some() && !serves_other(unit)
    });
    match heir {
        None if has_ended => own.cluster.clone().or_else(|| all().find_map(|unit| unit.cluster.clone())),
        None => recorded,
        heir => heir,
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

#[cfg(test)]
mod tests;
