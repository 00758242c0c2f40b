//! Restarts by turn: an etcd whose configuration has changed is restarted only while all other members serve. Pure.
//!
//! Must never let two members that serve restart at the same time. A unit publishes that it has to restart; the leader gives the turn to
//! one unit, which keeps it until its etcd serves with the new configuration. Units publish the turn that they have seen: that
//! makes Juju run a hook of a leader that has given the turn to itself.

use super::databag::UnitData;
use super::facts::ClusterFacts;
use super::membership::{describe_stranger, describe_strangers, strangers};
use crate::error::Refusal;
use crate::etcd::member::Member;
use crate::juju::{GoalUnit, Status};

/// Whether this unit may restart its etcd now: no other unit serves, or it has the turn. A turn that it has not asked for may
/// be one that the leader has already given to another unit. Without the relation, nothing is known about other units.
///
/// An etcd that has lost its peers, because its address has changed, does not serve anyway: its messages are written into
/// connections of the old address, until the kernel gives these up after minutes. It does not wait for a turn, which the leader
/// gives only while its own etcd serves.
///
/// If no member serves, a restart takes nothing away, and may be the cure: after all certificates have ended, the members accept
/// each other only when each has read the new authority. Another unit that has the turn restarts first.
pub fn may_restart(facts: &ClusterFacts) -> bool {
    if facts.relation.is_none() {
        return facts.other_units().next().is_none();
    }
    if facts.has_lost_peers {
        return true;
    }
    let has_turn = facts.application.turn.as_ref() == Some(&facts.unit);
    if facts.is_down {
        return has_turn || facts.application.turn.is_none();
    }
    facts.other_serving_unit().is_none() || (has_turn && facts.own.wants_restart)
}

/// Returns the voters that have to serve while this unit restarts its etcd. `members` are those that etcd lists: the member of a unit that
/// is gone counts until it is removed.
///
/// # Errors
/// The learner that has to become a voter before, or the voter that has to start.
pub fn voters_to_check<'m>(
    facts: &ClusterFacts,
    members: &'m [Member],
) -> Result<Vec<&'m Member>, &'m Member> {
    let voters = facts.other_voters(members);
    let own = facts.own_member(members).map(|own| own.id);
    match members.iter().filter(|member| Some(member.id) != own).find(prevents_restart) {
        // A cluster with one voter stops in any case.
        Some(member) if !voters.is_empty() => Err(member),
        _ => Ok(voters),
    }
}

/// Whether no member may restart before this one has a vote, or has started. A voter that an operator has added counts for the majority
/// before it has started.
fn prevents_restart(member: &&Member) -> bool {
    member.is_learner == member.has_started()
}

/// Returns the refusal to restart this unit's etcd because of `problem`, which `member` has, if it is known. The member of an operator
/// is not waited for in silence: no unit repairs it.
pub fn refusal_to_restart(facts: &ClusterFacts, member: Option<&Member>, problem: &str) -> Refusal {
    let all = strangers(facts);
    let Some(stranger) = member.and_then(|member| all.into_iter().find(|one| one.id == member.id)) else {
        let reason = format!("etcd is not restarted while another unit does not serve: {problem}");
        return Refusal::new(reason, "juju status; the next hook retries within 5 minutes");
    };
    let reason =
        format!("etcd is not restarted: {} belongs to no unit: {problem}", describe_stranger(stranger));
    Refusal::new(reason, next_for_stranger(facts, stranger))
}

/// Returns what an operator does with a member of their own that prevents restarts.
fn next_for_stranger(facts: &ClusterFacts, stranger: &Member) -> String {
    let cure = match (stranger.is_learner, stranger.has_started()) {
        (true, _) => "promote it",
        (false, false) => "start it",
        (false, true) => "make its client URL reachable",
    };
    format!("{cure}, or if it is not needed: {} member remove {:x}", facts.etcdctl, stranger.id)
}

/// Returns the unit that may restart from now on. `own` is the data that this unit, the leader, publishes now. `others_serve` is
/// asked only about a unit that waits for its turn: whether every member but that of the unit serves. The one of the unit may
/// not be reachable any more, because its address has changed.
pub fn next_turn(
    facts: &ClusterFacts,
    own: &UnitData,
    others_serve: &dyn Fn(&str) -> bool,
) -> Option<String> {
    let published = |unit: &str| if unit == facts.unit { Some(own) } else { facts.others.get(unit) };
    let waits = |unit: &&String| {
        let stays = facts.units.get(*unit).is_some_and(|unit: &GoalUnit| !unit.is_dying());
        stays && published(unit).is_some_and(|published| published.wants_restart)
    };
    let holder = facts.application.turn.as_ref().filter(waits);
    if holder.is_some() {
        return holder.cloned();
    }
    facts.units.keys().filter(waits).find(|unit| others_serve(unit)).cloned()
}

/// Returns the status of a unit that waits for its turn, after its etcd was found healthy. `upgrade` is the version of etcd that
/// it will start, if that is another one.
pub fn waiting_status(facts: &ClusterFacts, upgrade: Option<&str>) -> Status {
    let action = match upgrade {
        Some(version) => format!("waits to upgrade etcd to {version},"),
        None => "restarts with its new configuration".to_owned(),
    };
    let holder = facts.application.turn.as_ref().filter(|holder| **holder != facts.unit);
    let message = match holder {
        Some(holder) => format!("{action} after {holder}"),
        None => {
            let described = describe_strangers(facts).map(|text| format!("; {text}")).unwrap_or_default();
            let stranger = strangers(facts).into_iter().find(prevents_restart);
            let next = stranger.map(|one| format!("; {}", next_for_stranger(facts, one))).unwrap_or_default();
            format!("{action} when all members serve{described}{next}")
        }
    };
    Status::new("waiting", message)
}

#[cfg(test)]
mod tests {
    use super::super::databag::{ApplicationData, KnownUnit};
    use super::*;

    fn data(wants_restart: bool) -> UnitData {
        UnitData {
            cluster: Some("1a".into()),
            member: Some("1".into()),
            wants_restart,
            ..UnitData::default()
        }
    }

    /// The facts of etcd/1. The units are `NUMBER STATUS WANTS-RESTART`.
    fn facts(units: &[(u8, &str, bool)], turn: Option<&str>) -> ClusterFacts {
        let name = |number: u8| format!("etcd/{number}");
        let mut facts = ClusterFacts {
            unit: name(1),
            relation: Some("cluster:0".into()),
            application: ApplicationData { turn: turn.map(str::to_owned), ..ApplicationData::default() },
            ..ClusterFacts::default()
        };
        for (number, status, wants_restart) in units {
            facts.units.insert(name(*number), GoalUnit { status: (*status).into() });
            match number {
                1 => facts.own = data(*wants_restart),
                _ => drop(facts.others.insert(name(*number), data(*wants_restart))),
            }
        }
        facts
    }

    #[test]
    fn one_unit_after_the_other_restarts() {
        let all = [(0, "active", true), (1, "active", true), (2, "active", true)];
        let one_done = [(0, "active", false), all[1], all[2]];
        for (units, turn, serve, expected) in [
            (&all[..], None, true, Some("etcd/0")),
            (&all, None, false, None),
            // The holder keeps it while its etcd restarts, and also if it does not come back.
            (&all, Some("etcd/1"), true, Some("etcd/1")),
            (&all, Some("etcd/1"), false, Some("etcd/1")),
            (&one_done, Some("etcd/0"), true, Some("etcd/1")),
            (&one_done, Some("etcd/0"), false, None),
            // The holder is being removed, or is gone.
            (&[(0, "dying", true), all[1], all[2]], Some("etcd/0"), true, Some("etcd/1")),
            (&all[1..], Some("etcd/0"), true, Some("etcd/1")),
            (&[(0, "active", false), (1, "active", false)], Some("etcd/0"), true, None),
        ] {
            let facts = facts(units, turn);
            let own = facts.own.clone();
            assert_eq!(next_turn(&facts, &own, &|_| serve).as_deref(), expected, "{units:?} {turn:?}");
        }
        let settled = facts(&[(0, "active", false), (1, "active", false)], None);
        assert_eq!(next_turn(&settled, &settled.own, &|_| panic!("etcd was asked without need")), None);
        // etcd/2 does not answer, because its address has changed: it restarts first.
        let moved = facts(&all, None);
        let turn = next_turn(&moved, &moved.own, &|unit| unit == "etcd/2");
        assert_eq!(turn.as_deref(), Some("etcd/2"));
    }

    #[test]
    fn restarts_alone_or_with_the_turn_that_it_asked_for() {
        let two = |wants: bool, turn| facts(&[(0, "active", false), (1, "active", wants)], turn);
        assert!(may_restart(&two(true, Some("etcd/1"))));
        assert!(!may_restart(&two(true, Some("etcd/0"))) && !may_restart(&two(true, None)));
        // The turn is of an earlier restart: the leader may have passed it on.
        assert!(!may_restart(&two(false, Some("etcd/1"))));
        let alone = facts(&[(1, "active", false)], None);
        assert!(may_restart(&alone) && may_restart(&ClusterFacts { relation: None, ..alone }));
        // The relation could not be read.
        assert!(!may_restart(&ClusterFacts { relation: None, ..two(true, Some("etcd/1")) }));
        // Its address has changed, and it does not serve since then.
        assert!(may_restart(&ClusterFacts { has_lost_peers: true, ..two(true, Some("etcd/0")) }));
        // No member serves. A unit that has the turn already restarts first.
        let down = |turn| ClusterFacts { is_down: true, ..two(true, turn) };
        assert!(may_restart(&down(None)) && may_restart(&down(Some("etcd/1"))));
        assert!(!may_restart(&down(Some("etcd/0"))));
        // Others exist, and do not serve yet.
        let mut first = two(false, None);
        first.others.insert("etcd/0".into(), UnitData::default());
        assert!(may_restart(&first));
        let known = KnownUnit { peer: String::new(), member: Some("0".into()) };
        first.application.known.insert("etcd/0".into(), known);
        assert!(!may_restart(&first));
    }

    #[test]
    fn a_member_counts_before_a_restart_until_it_is_removed() {
        let member = |number: u8, is_learner: bool| Member {
            id: number.into(),
            name: format!("etcd{number}"),
            peer_urls: Vec::new(),
            client_urls: vec![format!("https://10.0.0.{number}:2379")],
            is_learner,
        };
        // The unit etcd/0 was removed by force, and etcd/3 has published nothing.
        let facts = facts(&[(1, "active", true), (2, "active", false), (3, "active", false)], Some("etcd/1"));
        let all = [0, 1, 2, 3].map(|number| member(number, false));
        let ids = |members: &[Member]| {
            let found = voters_to_check(&facts, members).map_err(|learner| learner.id)?;
            Ok::<Vec<u64>, u64>(found.iter().map(|voter| voter.id).collect())
        };
        assert_eq!(ids(&all), Ok(vec![0, 2, 3]));
        // One that has never started does not count, and a learner may become a voter at any time.
        let unstarted = Member { name: String::new(), client_urls: Vec::new(), ..member(3, true) };
        assert_eq!(ids(&[member(1, false), member(2, false), unstarted.clone()]), Ok(vec![2]));
        // A voter that an operator has added, and that has not started, would be missing for the majority.
        let added = Member { is_learner: false, ..unstarted };
        assert_eq!(ids(&[member(1, false), member(2, false), added.clone()]), Err(3));
        assert_eq!(ids(&[member(1, false), added]), Ok(Vec::new()));
        assert_eq!(ids(&[member(1, false), member(2, false), member(3, true)]), Err(3));
        // Without another voter, the cluster stops in any case. The learner may be this unit itself.
        assert_eq!(ids(&[member(1, false), member(3, true)]), Ok(Vec::new()));
        assert_eq!(ids(&[member(1, true), member(2, false)]), Ok(vec![2]));
    }

    #[test]
    fn a_member_of_an_operator_is_named_before_a_restart() {
        let member = |number: u8, is_learner: bool| Member {
            id: number.into(),
            name: format!("etcd{number}"),
            peer_urls: vec![format!("https://10.0.0.{number}:2380")],
            client_urls: Vec::new(),
            is_learner,
        };
        let all = [member(1, false), member(2, false), member(26, false), member(27, true)];
        let members = Some(all.to_vec());
        let units = facts(&[(1, "active", true), (2, "active", false)], Some("etcd/1"));
        let facts = ClusterFacts { members, etcdctl: "etcdctl --endpoints=U".into(), ..units };
        let refusal = |member: Option<&Member>| refusal_to_restart(&facts, member, "timed out");
        for unit in [None, Some(&all[1])] {
            let found = refusal(unit);
            assert!(found.reason.contains("while another unit does not serve: timed out"), "{found:?}");
            assert!(found.next.starts_with("juju status"), "{found:?}");
        }
        let voter = refusal(Some(&all[2]));
        assert!(voter.reason.ends_with("etcd26 belongs to no unit: timed out"), "{voter:?}");
        let command = "if it is not needed: etcdctl --endpoints=U member remove 1a";
        assert_eq!(voter.next, format!("make its client URL reachable, or {command}"));
        assert!(refusal(Some(&all[3])).next.starts_with("promote it, or"));
        let added = Member { name: String::new(), ..member(28, false) };
        let with_added = ClusterFacts { members: Some(vec![added.clone()]), ..facts.clone() };
        let found = refusal_to_restart(&with_added, Some(&added), "it has not started");
        assert!(found.next.starts_with("start it, or"), "{found:?}");
        // Without the turn, the unit does not ask them itself.
        let waiting =
            waiting_status(&ClusterFacts { application: ApplicationData::default(), ..facts }, None);
        let next =
            format!("promote it, or if it is not needed: {} member remove 1b", "etcdctl --endpoints=U");
        assert!(waiting.message.ends_with(&format!("never removed: etcd26, etcd27; {next}")), "{waiting:?}");
    }

    #[test]
    fn names_the_unit_that_restarts_first_and_the_version_of_an_upgrade() {
        let message = |turn, upgrade| waiting_status(&facts(&[], turn), upgrade).message;
        assert!(message(Some("etcd/0"), None).ends_with("configuration after etcd/0"));
        let upgrade = message(Some("etcd/0"), Some("3.6.16"));
        assert_eq!(upgrade, "waits to upgrade etcd to 3.6.16, after etcd/0");
        for turn in [None, Some("etcd/1")] {
            assert!(message(turn, None).ends_with("configuration when all members serve"));
            assert!(message(turn, Some("3.6.16")).ends_with("to 3.6.16, when all members serve"));
        }
    }
}
