//! The facts about the application's units and its etcd cluster. Only data.

use super::databag::{ApplicationData, KnownUnit, UnitData};
use crate::error::quoted;
use crate::etcd::member::Member;
use crate::juju::{GoalUnit, Status};
use std::collections::{BTreeMap, BTreeSet};

/// The URLs under which others reach the etcd of this unit, if its certificates suffice for peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Urls {
    /// For peers.
    pub peer: String,
    /// For clients.
    pub client: String,
}

/// The units of the application, as this unit sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The name of this unit.
    pub unit: String,
    /// Whether Juju considers this unit the leader of the application.
    pub is_leader: bool,
    /// The units that Juju knows, from goal-state. Includes this one.
    pub units: BTreeMap<String, GoalUnit>,
    /// The id of the peer relation. `None` in the first hooks of a unit.
    pub relation: Option<String>,
    /// The data that the leader has published.
    pub application: ApplicationData,
    /// The data that this unit has published.
    pub own: UnitData,
    /// The data that the other units have published. A unit is missing until this unit has run its hook `cluster-relation-joined`.
    pub others: BTreeMap<String, UnitData>,
    /// Where others reach this unit, if it has certificates for peers.
    pub urls: Option<Urls>,
    /// Whether a provider of certificates is related.
    pub has_certificate_provider: bool,
    /// The problem with certificates that are in place but cannot be used for peers.
    pub certificate_problem: Option<String>,
    /// Whether the address of this unit has changed, and its etcd does not reach the other members since then.
    pub has_lost_peers: bool,
    /// Whether no member serves, as far as this unit can find out. Only asked if its etcd waits for a restart.
    pub is_down: bool,
    /// The members of the cluster. `None` if etcd was not asked, or no voter answered.
    pub members: Option<Vec<Member>>,
    /// etcdctl with the options that reach the voter that answered or refused, as typed on this machine.
    pub etcdctl: String,
    /// Whether a voter refused to list them, because authentication is enabled and the charm has no login.
    pub refuses_charm: bool,
    /// The common name of the certificate that the charm shows etcd, which takes it as the user.
    pub certificate_user: Option<String>,
    /// The version of the etcd that is installed on this unit.
    pub version: Option<String>,
}

/// Returns the status of a unit to which etcd does not list its members.
pub fn status_of_refused_charm(facts: &ClusterFacts) -> Status {
    let can_be_typed = |name: &&str| !name.is_empty() && !name.chars().any(char::is_control);
    let user = facts.certificate_user.as_deref().filter(can_be_typed).unwrap_or("USER");
    let user = quoted(user.as_ref());
    // A login counts before the user in the certificate (`server/etcdserver/v3_server.go` `AuthInfoFromCtx`).
    let etcdctl = format!("{} --user=root", facts.etcdctl);
    Status::blocked_with_commands(
        &format!("etcd's user {user} needs the role root"),
        &facts.unit,
        &format!("{etcdctl} user add {user} --no-password; {etcdctl} user grant-role {user} root"),
    )
}

/// Returns the status of a unit whose etcd serves `cluster`, an id in hex, while other units serve another one. `heir_of` are the
/// clusters that its data was before a restore: then it may be the only data that is left.
pub fn status_of_other_cluster(
    facts: &ClusterFacts,
    cluster: &str,
    heir_of: &BTreeSet<String>,
) -> Option<Status> {
    let recorded = facts.application.cluster.as_ref().filter(|_| facts.is_other_cluster(cluster))?;
    if heir_of.contains(recorded) {
        return None;
    }
    Some(Status::blocked(
        &format!("etcd of this unit serves cluster {cluster}, and the other units serve cluster {recorded}"),
        &format!("juju remove-unit {}; juju add-unit APPLICATION (the data of this unit stays)", facts.unit),
    ))
}

/// Returns the name of a unit's member: the unit's name without its slash, as in the older charm.
pub fn member_name(unit: &str) -> String {
    unit.replace('/', "")
}

impl ClusterFacts {
    /// Whether this unit is being removed.
    pub fn is_dying(&self) -> bool {
        self.units.get(&self.unit).is_some_and(GoalUnit::is_dying)
    }

    /// Whether the leader has consented that this unit joins at its present URL.
    pub fn is_admitted(&self) -> bool {
        let known = self.application.known.get(&self.unit);
        self.urls.as_ref().is_some_and(|urls| known.is_some_and(|known| known.peer == urls.peer))
    }

    /// Whether the address of this unit has changed, so that its member has to be moved. What it has published is where etcd
    /// lists its member.
    pub fn has_moved(&self) -> bool {
        let listed = self.own.peer.as_ref();
        self.urls.as_ref().is_some_and(|urls| listed.is_some_and(|listed| *listed != urls.peer))
    }

    /// Whether this unit leaves the cluster: it is being removed, others stay, and another voter keeps the data.
    pub fn leaves_cluster(&self) -> bool {
        let members = self.members.as_deref().unwrap_or_default();
        self.is_dying() && self.has_others_that_stay() && !self.other_voters(members).is_empty()
    }

    /// Whether this unit is being removed with the only voter, and has to wait for another unit: one that is about to join or has a
    /// learner, stays, and does not need an operator.
    pub fn waits_for_joiner(&self) -> bool {
        let members = self.members.as_deref().unwrap_or_default();
        let is_at_work = |joiner: &str| self.units_at_work().any(|unit| unit == joiner);
        self.is_dying()
            && self.own_member(members).is_some_and(|own| !own.is_learner)
            && self.other_voters(members).is_empty()
            && self.joining_unit().is_some_and(is_at_work)
    }

    /// Returns the names of the other units that Juju knows, also those that are being removed.
    pub fn other_units(&self) -> impl Iterator<Item = &str> {
        self.units.keys().map(String::as_str).filter(|unit| *unit != self.unit)
    }

    /// Returns the units that stay and are not waiting for an operator: those that serve, and those that will join.
    pub fn units_at_work(&self) -> impl Iterator<Item = &String> {
        let stuck = |unit: &GoalUnit| ["blocked", "error"].contains(&unit.status.as_str());
        let at_work = self.units.iter().filter(move |(_, unit)| !unit.is_dying() && !stuck(unit));
        at_work.map(|(name, _)| name)
    }

    /// Whether another unit will stay.
    pub fn has_others_that_stay(&self) -> bool {
        self.units.iter().any(|(name, unit)| *name != self.unit && !unit.is_dying())
    }

    /// Returns the other unit whose member is a learner, or that is about to add one: it is admitted, and no member yet.
    pub fn joining_unit(&self) -> Option<&str> {
        let members = self.members.as_deref().unwrap_or_default();
        let learner = members.iter().find(|member| member.is_learner);
        let is_learner = |unit: &str| {
            let known = self.application.known.get(unit);
            learner.is_some_and(|learner| known.is_some_and(|known| learner.peer_urls.contains(&known.peer)))
        };
        let joins = |unit: &str| self.application.known.get(unit).is_some_and(|known| known.member.is_none());
        self.other_units()
            .find(|unit| is_learner(unit))
            .or_else(|| self.other_units().find(|unit| joins(unit)))
    }

    /// Returns a unit other than this one that serves a cluster, as far as this unit knows.
    pub fn other_serving_unit(&self) -> Option<&str> {
        let has_published = |unit: &str| {
            self.others
                .get(unit)
                .is_some_and(|published| published.cluster.is_some() && published.member.is_some())
        };
        let is_known =
            |unit: &str| self.application.known.get(unit).is_some_and(|known| known.member.is_some());
        self.other_units().find(|unit| has_published(unit) || is_known(unit))
    }

    /// Returns the member of this unit in `members`. Its name is empty until it has started.
    ///
    /// The address decides only for a member that is not known otherwise: another unit, which is off, may have had it before.
    pub fn own_member<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let name = member_name(&self.unit);
        let is_of_other = |member: &Member| self.other_units().any(|unit| member_name(unit) == member.name);
        let find_here = || members.iter().find(|member| self.is_at_own_url(member) && !is_of_other(member));
        let named = || members.iter().find(|member| member.name == name);
        self.published_member(members).or_else(named).or_else(find_here)
    }

    /// Whether the cluster with this id, in hex, is another one than that of the application, which another unit serves. If no other
    /// unit serves it, it may have been restored: then its id changes.
    pub fn is_other_cluster(&self, id: &str) -> bool {
        let recorded = self.application.cluster.as_deref();
        recorded.is_some_and(|recorded| recorded != id && self.is_served_elsewhere(recorded))
    }

    /// Whether another unit that stays has published that it serves the cluster with this id. One that is being removed may be lost:
    /// what it has published remains for a while.
    fn is_served_elsewhere(&self, id: &str) -> bool {
        let stays = |unit: &String| self.units.get(unit).is_some_and(|unit| !unit.is_dying());
        let mut others = self.others.iter().filter(|(unit, _)| stays(unit));
        others.any(|(_, published)| published.cluster.as_deref() == Some(id))
    }

    /// Returns the member in `members` that this unit has published as its own.
    pub fn published_member<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        members.iter().find(|member| self.own.member.as_ref() == Some(&format!("{:x}", member.id)))
    }

    /// Returns the URL of this unit for peers, if etcd lists the member there that this unit has published as its own.
    pub fn listed_url(&self) -> Option<&String> {
        let own = self.published_member(self.members.as_deref()?)?;
        self.urls.as_ref().map(|urls| &urls.peer).filter(|url| own.peer_urls.contains(url))
    }

    fn is_at_own_url(&self, member: &Member) -> bool {
        self.urls.as_ref().is_some_and(|urls| member.peer_urls.contains(&urls.peer))
    }

    /// Whether etcd lists the member that this unit has added for itself, and not started yet.
    pub fn is_added(&self) -> bool {
        let members = self.members.as_deref().unwrap_or_default();
        members.iter().any(|member| self.is_at_own_url(member) && !member.has_started())
    }

    /// Returns the member that has started at the URL of this unit.
    pub fn member_at_own_url(&self) -> Option<&Member> {
        let members = self.members.as_deref().unwrap_or_default();
        members.iter().find(|member| self.is_at_own_url(member) && member.has_started())
    }

    /// Returns the other unit that has, or had, a member at this URL.
    pub fn other_unit_at(&self, peer_url: &str) -> Option<&str> {
        let is_there = |unit: &String, known: &KnownUnit| {
            *unit != self.unit && known.peer == peer_url && known.member.is_some()
        };
        let mut all = self.application.known.iter();
        all.find(|(unit, known)| is_there(unit, known)).map(|(unit, _)| unit.as_str())
    }

    /// Returns the URLs at which clients may reach a member: those that etcd lists, and the one that its unit has published, because
    /// etcd lists its earlier address until it is restarted.
    pub fn client_urls<'a>(&'a self, member: &'a Member) -> BTreeSet<&'a str> {
        let id = format!("{:x}", member.id);
        let published = self.others.values().filter(|published| published.member.as_ref() == Some(&id));
        let published = published.filter_map(|published| published.client.as_ref());
        member.client_urls.iter().chain(published).map(String::as_str).collect()
    }

    /// Returns the voters of other units in `members` that have started.
    pub fn other_voters<'m>(&self, members: &'m [Member]) -> Vec<&'m Member> {
        let own = self.own_member(members).map(|own| own.id);
        let is_other_voter =
            |member: &&Member| !member.is_learner && member.has_started() && Some(member.id) != own;
        members.iter().filter(is_other_voter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_at_the_address_of_this_unit_may_be_that_of_another_one() {
        let peer = "https://10.0.0.2:2380";
        let member = |id: u64, name: &str, url: &str| Member {
            id,
            name: name.into(),
            peer_urls: vec![url.to_owned()],
            client_urls: Vec::new(),
            is_learner: false,
        };
        let facts = ClusterFacts {
            unit: "etcd/1".into(),
            units: ["etcd/1", "etcd/2"].map(|unit| (unit.to_owned(), GoalUnit::default())).into(),
            urls: Some(Urls { peer: peer.into(), client: String::new() }),
            ..ClusterFacts::default()
        };
        let own = |facts: &ClusterFacts, members: &[Member]| facts.own_member(members).map(|own| own.id);
        let (other, moved) = (member(2, "etcd2", peer), member(1, "etcd1", "https://10.0.0.9:2380"));
        assert_eq!(own(&facts, &[other.clone(), moved.clone()]), Some(1));
        assert_eq!(own(&facts, std::slice::from_ref(&other)), None);
        assert_eq!(own(&facts, &[member(7, "", peer)]), Some(7));
        // Data of an older charm has another name.
        let renamed = member(8, "default", "https://10.0.0.9:2380");
        let published = UnitData { member: Some("8".into()), ..UnitData::default() };
        let with_id = ClusterFacts { own: published, ..facts.clone() };
        assert_eq!(own(&with_id, &[other.clone(), renamed]), Some(8));
        assert_eq!(own(&facts, &[member(8, "default", peer)]), Some(8));
        let listed = |members: Vec<Member>| ClusterFacts { members: Some(members), ..facts.clone() };
        assert!(listed(vec![member(7, "", peer)]).is_added() && !listed(vec![other]).is_added());
    }

    #[test]
    fn the_only_voter_waits_for_a_unit_that_joins() {
        let peer = |number: u8| format!("https://10.0.0.{number}:2380");
        let member = |number: u8, is_learner: bool| Member {
            id: number.into(),
            name: format!("etcd{number}"),
            peer_urls: vec![peer(number)],
            client_urls: Vec::new(),
            is_learner,
        };
        let goal = |status: &str| GoalUnit { status: status.into() };
        let known = KnownUnit { peer: peer(1), member: None };
        let mut facts = ClusterFacts {
            unit: "etcd/0".into(),
            units: [("etcd/0".to_owned(), goal("dying")), ("etcd/1".to_owned(), goal("waiting"))].into(),
            members: Some(vec![member(0, false), member(1, true)]),
            ..ClusterFacts::default()
        };
        // A learner of an operator is not waited for.
        assert!(!facts.waits_for_joiner());
        facts.application.known.insert("etcd/1".into(), known);
        assert!(facts.waits_for_joiner());
        let admitted = ClusterFacts { members: Some(vec![member(0, false)]), ..facts.clone() };
        assert!(admitted.waits_for_joiner());
        let joined =
            ClusterFacts { members: Some(vec![member(0, false), member(1, false)]), ..facts.clone() };
        assert!(!joined.waits_for_joiner());
        for status in ["dying", "blocked"] {
            facts.units.insert("etcd/1".into(), goal(status));
            assert!(!facts.waits_for_joiner(), "{status}");
        }
    }

    #[test]
    fn reports_an_etcd_that_serves_another_cluster_than_the_other_units() {
        let serving =
            UnitData { cluster: Some("1a".into()), member: Some("1".into()), ..UnitData::default() };
        let application = ApplicationData { cluster: Some("1a".into()), ..ApplicationData::default() };
        let mut facts = ClusterFacts {
            unit: "etcd/1".into(),
            units: ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), GoalUnit::default())).into(),
            others: [("etcd/0".to_owned(), serving)].into(),
            application,
            ..ClusterFacts::default()
        };
        let none = BTreeSet::new();
        let status = status_of_other_cluster(&facts, "2b", &none).unwrap();
        for part in ["cluster 2b", "cluster 1a", "juju remove-unit etcd/1"] {
            assert!(status.is_blocked() && status.message.contains(part), "{status:?}");
        }
        assert_eq!(status_of_other_cluster(&facts, "1a", &none), None);
        assert_eq!(
            status_of_other_cluster(&facts, "2b", &["1a".to_owned()].into()),
            None,
            "restored from it"
        );
        // The only member was restored, or there was no cluster yet.
        let only = ClusterFacts { others: BTreeMap::new(), ..facts.clone() };
        assert_eq!(status_of_other_cluster(&only, "2b", &none), None);
        facts.application.cluster = None;
        assert_eq!(status_of_other_cluster(&facts, "2b", &none), None);
    }

    #[test]
    fn a_recorded_cluster_that_no_unit_serves_any_more_may_be_replaced() {
        let serving = |cluster: &str| UnitData {
            cluster: Some(cluster.into()),
            member: Some("1".into()),
            ..UnitData::default()
        };
        let known = KnownUnit { peer: "https://10.0.0.1:2380".into(), member: Some("1".into()) };
        let before = ClusterFacts {
            unit: "etcd/0".into(),
            units: ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), GoalUnit::default())).into(),
            others: [("etcd/1".to_owned(), serving("1a"))].into(),
            application: ApplicationData {
                cluster: Some("1a".into()),
                known: [("etcd/1".to_owned(), known)].into(),
                ..ApplicationData::default()
            },
            ..ClusterFacts::default()
        };
        assert!(before.is_other_cluster("2b"));
        // The other unit is lost and being removed, and the data of this one was restored. Its data remains in the relation.
        let mut lost = before.clone();
        lost.units.insert("etcd/1".into(), GoalUnit { status: "dying".into() });
        assert!(!lost.is_other_cluster("2b"));
        lost.units.remove("etcd/1");
        assert!(!lost.is_other_cluster("2b"));
        // An operator has restored all members, or this unit joins one that was restored.
        let restored = ClusterFacts { others: [("etcd/1".to_owned(), serving("2b"))].into(), ..before };
        assert!(!restored.is_other_cluster("2b"));
    }

    #[test]
    fn names_the_unit_that_joins_first() {
        let peer = |number: u64| format!("https://10.0.0.{number}:2380");
        let learner = |number: u64| Member {
            id: number,
            name: String::new(),
            peer_urls: vec![peer(number)],
            client_urls: Vec::new(),
            is_learner: true,
        };
        let known = |number: u64, member: Option<&str>| {
            let member = member.map(str::to_owned);
            (format!("etcd/{number}"), KnownUnit { peer: peer(number), member })
        };
        let units = [0, 1, 2, 3].map(|number| (format!("etcd/{number}"), GoalUnit::default()));
        let application = ApplicationData {
            known: [known(0, Some("a")), known(1, None), known(2, None), known(3, None)].into(),
            ..ApplicationData::default()
        };
        let facts = ClusterFacts {
            unit: "etcd/2".into(),
            units: units.into(),
            application,
            ..ClusterFacts::default()
        };
        assert_eq!(
            ClusterFacts { members: Some(vec![learner(3)]), ..facts.clone() }.joining_unit(),
            Some("etcd/3")
        );
        // The list of members is from before it was added.
        assert_eq!(facts.joining_unit(), Some("etcd/1"));
        let alone = ClusterFacts { application: ApplicationData::default(), ..facts };
        assert_eq!(alone.joining_unit(), None);
    }
}
