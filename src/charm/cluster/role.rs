//! Decides what a unit does about the cluster before its etcd has data: start the cluster, join it, or wait. Pure.
//!
//! Must never let two units each start a cluster. The leader names a founder. The founder starts when every other unit has
//! agreed, which only a unit without data does. A unit that says nothing may run an older charm, and have an etcd.

use super::facts::{ClusterFacts, status_of_refused_charm};
use super::membership::describe_stranger;
use crate::etcd::versions::Version;
use crate::juju::Status;

/// What a unit does about the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Run the etcd of its own data. Without data, start a cluster.
    Run,
    /// Join the cluster as a learner. The field is true if etcd already lists this member.
    Join {
        /// Whether the member is in etcd's list.
        is_listed: bool,
    },
    /// Do nothing yet, for this reason.
    Wait(Status),
}

/// Returns the role of the unit. `has_data` is whether etcd has started in its data directory.
pub fn role(facts: &ClusterFacts, has_data: bool) -> Role {
    if has_data || facts.other_units().next().is_none() {
        return Role::Run;
    }
    if facts.relation.is_none() {
        return waiting("waiting for the relation to the other units");
    }
    match facts.other_serving_unit() {
        Some(other) => role_of_joiner(facts, other),
        None => role_without_cluster(facts),
    }
}

fn waiting(reason: impl Into<String>) -> Role {
    Role::Wait(Status::new("waiting", reason))
}

/// Returns the role of a unit without data, while `other` serves the cluster.
fn role_of_joiner(facts: &ClusterFacts, other: &str) -> Role {
    let Some(urls) = &facts.urls else {
        let reason = match &facts.certificate_problem {
            Some(problem) => format!("this unit cannot join {other}: {problem}"),
            None if facts.has_certificate_provider => {
                return waiting(format!("waiting for certificates, to join {other}"));
            }
            None => format!("a unit needs certificates to join {other}"),
        };
        return Role::Wait(Status::blocked(&reason, "juju integrate APPLICATION:certificates PROVIDER"));
    };
    if let Some(status) = address_obstacle(facts, &urls.peer) {
        return Role::Wait(status);
    }
    if !facts.is_admitted() {
        return waiting("waiting for the leader to admit this unit");
    }
    match &facts.members {
        Some(_) => {
            let is_listed = facts.is_added();
            version_obstacle(facts).map_or(Role::Join { is_listed }, Role::Wait)
        }
        None if facts.refuses_charm => Role::Wait(status_of_refused_charm(facts)),
        None => waiting(format!("waiting for the etcd of {other} to answer")),
    }
}

/// Returns the status of a unit without data if the address of its etcd, `peer_url`, is that of a member with data. With an empty log it would
/// forget what that member has acknowledged.
fn address_obstacle(facts: &ClusterFacts, peer_url: &str) -> Option<Status> {
    match (facts.other_unit_at(peer_url), facts.member_at_own_url()) {
        (None, None) => None,
        (Some(unit), _) if !facts.units.contains_key(unit) => Some(Status::new(
            "waiting",
            format!(
                "waiting for the leader to remove the member of {unit}, which had the address of this unit"
            ),
        )),
        (Some(unit), _) => Some(Status::blocked(
            &format!("{unit} has a member at the address of this unit, {peer_url}"),
            &format!("give one of them another address; if {unit} is lost: juju remove-unit --force {unit}"),
        )),
        (None, Some(member)) => Some(Status::blocked(
            &format!(
                "{} is a member at the address of this unit, {peer_url}, and its data is not here",
                describe_stranger(member)
            ),
            &format!("juju remove-unit {}; juju add-unit APPLICATION", facts.unit),
        )),
    }
}

/// Returns the status of a unit whose etcd cannot become a member: it is older than the oldest member, which decides the
/// version of the cluster, or newer by more than one minor version.
fn version_obstacle(facts: &ClusterFacts) -> Option<Status> {
    let own = Version::parse(facts.version.as_ref()?)?;
    let theirs = facts.others.values().filter_map(|published| published.version.as_deref());
    let oldest = Version::oldest(theirs.filter_map(Version::parse))?;
    (!own.can_join(&oldest)).then(|| {
        Status::blocked(
            &format!("etcd {own} of this unit cannot join a cluster with etcd {oldest}"),
            &format!(
                "juju remove-unit {}; juju attach-resource APPLICATION etcd=RELEASE (of etcd {}); juju add-unit APPLICATION",
                facts.unit,
                oldest.minor()
            ),
        )
    })
}

fn role_without_cluster(facts: &ClusterFacts) -> Role {
    let is_here = |unit: &&String| facts.units.get(*unit).is_some_and(|unit| !unit.is_dying());
    match facts.application.founder.as_ref().filter(is_here) {
        Some(founder) if *founder == facts.unit => match undecided(facts)[..] {
            [] => Role::Run,
            ref others => waiting(format!("waiting for {} before it starts the cluster", others.join(", "))),
        },
        Some(founder) => waiting(format!("waiting for {founder} to start the cluster")),
        None if facts.is_leader => waiting("starts the cluster with the next hook"),
        None => waiting("waiting for the leader to start the cluster"),
    }
}

/// Returns the other units that have not agreed to this one as the founder. A unit without a machine has the status
/// `waiting` and cannot agree yet; it cannot have an etcd either.
fn undecided(facts: &ClusterFacts) -> Vec<&str> {
    let has_agreed = |unit: &str| match facts.others.get(unit) {
        Some(published) => published.founder.as_ref() == Some(&facts.unit),
        None => facts
            .units
            .get(unit)
            .is_some_and(|goal| ["waiting", "allocating"].contains(&goal.status.as_str())),
    };
    facts.other_units().filter(|unit| !has_agreed(unit)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::databag::{ApplicationData, KnownUnit, UnitData};
    use super::super::facts::Urls;
    use super::*;
    use crate::etcd::member::Member;
    use crate::juju::GoalUnit;
    use std::collections::BTreeMap;

    fn goal(units: &[(&str, &str)]) -> BTreeMap<String, GoalUnit> {
        let one =
            |(name, status): &(&str, &str)| ((*name).to_owned(), GoalUnit { status: (*status).to_owned() });
        units.iter().map(one).collect()
    }

    fn urls(number: u8) -> Urls {
        Urls {
            peer: format!("https://10.0.0.{number}:2380"),
            client: format!("https://10.0.0.{number}:2379"),
        }
    }

    fn member(number: u8, name: &str) -> Member {
        let peer_urls = vec![urls(number).peer];
        Member { id: number.into(), name: name.into(), peer_urls, client_urls: Vec::new(), is_learner: false }
    }

    /// etcd/1, admitted to the cluster of etcd/0.
    fn admitted() -> ClusterFacts {
        let known = |number: u8, member: Option<&str>| KnownUnit {
            peer: urls(number).peer,
            member: member.map(str::to_owned),
        };
        let serving = UnitData {
            cluster: Some("1a".into()),
            member: Some("0".into()),
            client: Some(urls(0).client),
            ..UnitData::default()
        };
        ClusterFacts {
            unit: "etcd/1".into(),
            units: goal(&[("etcd/0", "active"), ("etcd/1", "waiting")]),
            relation: Some("cluster:0".into()),
            application: ApplicationData {
                cluster: Some("1a".into()),
                known: [("etcd/0".to_owned(), known(0, Some("0"))), ("etcd/1".to_owned(), known(1, None))]
                    .into(),
                ..ApplicationData::default()
            },
            others: [("etcd/0".to_owned(), serving)].into(),
            urls: Some(urls(1)),
            members: Some(vec![member(0, "etcd0")]),
            ..ClusterFacts::default()
        }
    }

    /// etcd/0, the founder of a new application with two units.
    fn founder() -> ClusterFacts {
        let agreed = UnitData { founder: Some("etcd/0".into()), ..UnitData::default() };
        ClusterFacts {
            unit: "etcd/0".into(),
            is_leader: true,
            units: goal(&[("etcd/0", "maintenance"), ("etcd/1", "maintenance")]),
            relation: Some("cluster:0".into()),
            application: ApplicationData { founder: Some("etcd/0".into()), ..ApplicationData::default() },
            others: [("etcd/1".to_owned(), agreed)].into(),
            ..ClusterFacts::default()
        }
    }

    #[track_caller]
    fn assert_waits(facts: &ClusterFacts, kind: &str, part: &str) {
        match role(facts, false) {
            Role::Wait(status) => {
                assert!(status.kind == kind && status.message.contains(part), "{status:?}");
                assert!(!status.is_cut() || status.shows_next_step(), "{status:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_single_unit_and_a_unit_with_data_run() {
        let single = ClusterFacts {
            unit: "etcd/3".into(),
            units: goal(&[("etcd/3", "active")]),
            ..ClusterFacts::default()
        };
        assert_eq!(role(&single, false), Role::Run);
        for facts in [admitted(), founder(), ClusterFacts { relation: None, ..admitted() }] {
            assert_eq!(role(&facts, true), Role::Run);
        }
        assert_waits(&ClusterFacts { relation: None, ..founder() }, "waiting", "relation");
    }

    #[test]
    fn joins_after_the_leader_has_admitted_it() {
        assert_eq!(role(&admitted(), false), Role::Join { is_listed: false });
        // Killed after it was added: etcd lists a member without a name.
        let members = Some(vec![member(0, "etcd0"), member(1, "")]);
        assert_eq!(role(&ClusterFacts { members, ..admitted() }, false), Role::Join { is_listed: true });
        let without_certificates = ClusterFacts { urls: None, ..admitted() };
        assert_waits(&without_certificates, "blocked", "needs certificates to join etcd/0");
        let related = ClusterFacts { has_certificate_provider: true, ..without_certificates.clone() };
        assert_waits(&related, "waiting", "waiting for certificates");
        let problem = Some("server.crt does not name IP:10.0.0.1".to_owned());
        let unfit = ClusterFacts { certificate_problem: problem, ..related };
        assert_waits(&unfit, "blocked", "does not name IP:10.0.0.1");
        let moved = ClusterFacts { urls: Some(urls(9)), ..admitted() };
        assert_waits(&moved, "waiting", "admit");
        assert_waits(&ClusterFacts { members: None, ..admitted() }, "waiting", "etcd/0 to answer");
        let mut unrecorded = admitted();
        unrecorded.application = ApplicationData::default();
        assert_waits(&unrecorded, "waiting", "admit");
    }

    #[test]
    fn does_not_start_without_data_as_a_member_that_has_some() {
        let mut facts = admitted();
        facts.units.insert("etcd/2".into(), GoalUnit::default());
        // etcd/2 is off, and its address was given to this unit.
        let other = KnownUnit { peer: urls(1).peer, member: Some("2".into()) };
        facts.application.known.insert("etcd/2".into(), other);
        facts.members = Some(vec![member(0, "etcd0"), Member { id: 2, ..member(1, "etcd2") }]);
        assert_waits(&facts, "blocked", "etcd/2 has a member at the address of this unit");
        facts.units.remove("etcd/2");
        assert_waits(&facts, "waiting", "the leader to remove the member of etcd/2");
        facts.application.known.remove("etcd/2");
        assert_waits(&facts, "blocked", "etcd2 is a member at the address");
        // Its own, without the record of this unit.
        let members = Some(vec![member(0, "etcd0"), member(1, "etcd1")]);
        assert_waits(&ClusterFacts { members, ..admitted() }, "blocked", "its data is not here");
    }

    #[test]
    fn does_not_join_if_its_etcd_is_older_or_much_newer() {
        for (own, oldest, joins) in [
            ("3.5.16", "3.5.1", true),
            ("3.5.16", "3.4.23", true),
            ("3.6.1", "3.4.23", false),
            ("3.4.23", "3.5.16", false),
        ] {
            let mut facts = ClusterFacts { version: Some(own.into()), ..admitted() };
            facts.others.get_mut("etcd/0").unwrap().version = Some(oldest.into());
            // In the middle of an upgrade.
            let newest = UnitData { version: Some("3.6.2".into()), ..UnitData::default() };
            facts.others.insert("etcd/9".into(), newest);
            match joins {
                true => assert_eq!(role(&facts, false), Role::Join { is_listed: false }, "{own} {oldest}"),
                false => {
                    assert_waits(&facts, "blocked", &format!("cannot join a cluster with etcd {oldest}"))
                }
            }
        }
    }

    #[test]
    fn does_not_join_if_etcd_refuses_the_user_of_its_certificate() {
        let user = Some("client".to_owned());
        let etcdctl = "/opt/etcdctl --endpoints=https://10.0.0.1:2379".to_owned();
        let facts = ClusterFacts { refuses_charm: true, certificate_user: user, etcdctl, ..admitted() };
        let next = "/opt/etcdctl --endpoints=https://10.0.0.1:2379 --user=root user grant-role client root";
        assert_waits(&ClusterFacts { members: None, ..facts }, "blocked", next);
    }

    #[test]
    fn a_founder_starts_when_all_others_have_agreed() {
        assert_eq!(role(&founder(), false), Role::Run);
        let mut silent = founder();
        silent.others.insert("etcd/1".into(), UnitData::default());
        assert_waits(&silent, "waiting", "etcd/1 before it starts");
        // It may run an older charm: its hooks of the relation have not run here yet.
        for (status, starts) in
            [("active", false), ("blocked", false), ("waiting", true), ("allocating", true)]
        {
            let units = goal(&[("etcd/0", "maintenance"), ("etcd/1", status)]);
            let unseen = ClusterFacts { units, others: BTreeMap::new(), ..founder() };
            assert_eq!(role(&unseen, false) == Role::Run, starts, "{status}");
        }
    }

    #[test]
    fn only_the_founder_starts_a_cluster() {
        let mut other = founder();
        other.application.founder = Some("etcd/1".into());
        assert_waits(&other, "waiting", "etcd/1 to start");
        other.application.founder = None;
        assert_waits(&other, "waiting", "with the next hook");
        other.is_leader = false;
        assert_waits(&other, "waiting", "the leader");
        // The founder is gone, or leaves, before it has started.
        for units in [
            goal(&[("etcd/0", "waiting"), ("etcd/2", "waiting")]),
            goal(&[("etcd/0", "waiting"), ("etcd/1", "dying"), ("etcd/2", "waiting")]),
        ] {
            let mut gone = ClusterFacts { units, ..founder() };
            gone.application.founder = Some("etcd/1".into());
            assert_waits(&gone, "waiting", "with the next hook");
        }
    }

    #[test]
    fn a_cluster_that_ended_with_its_units_can_be_founded_again() {
        let mut facts = founder();
        facts.application.cluster = Some("1a".into());
        let gone = KnownUnit { peer: "https://10.0.0.9:2380".into(), member: Some("9".into()) };
        facts.application.known.insert("etcd/9".into(), gone);
        assert_eq!(role(&facts, false), Role::Run);
    }
}
