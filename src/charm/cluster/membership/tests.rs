//! The changes and the published data of a unit, also after a crash at any step.

use super::*;
use crate::juju::GoalUnit;
use std::collections::BTreeMap;

fn url(number: u64) -> String {
    format!("https://10.0.0.{number}:2380")
}

fn member(number: u64, is_learner: bool) -> Member {
    Member {
        id: number,
        name: format!("etcd{number}"),
        peer_urls: vec![url(number)],
        client_urls: vec![format!("https://10.0.0.{number}:2379")],
        is_learner,
    }
}

fn served(number: u64, is_learner: bool) -> Served {
    let status = Status {
        cluster_id: 0x1a,
        member_id: number,
        revision: 5,
        version: "3.5.16".into(),
        db_size: 0,
        db_in_use: 0,
        has_leader: true,
        is_learner,
        raft_index: 9,
        raft_applied_index: 9,
        errors: Vec::new(),
    };
    Served { status, heir_of: BTreeSet::new() }
}

fn published(number: u64) -> UnitData {
    UnitData {
        peer: Some(url(number)),
        client: Some(format!("https://10.0.0.{number}:2379")),
        member: Some(hex(number)),
        cluster: Some("1a".into()),
        version: Some("3.5.16".into()),
        ..UnitData::default()
    }
}

fn known(number: u64) -> KnownUnit {
    KnownUnit { peer: url(number), member: Some(hex(number)) }
}

fn unit(number: u64) -> String {
    format!("etcd/{number}")
}

/// The leader etcd/1 of a cluster with the voters 1, 2 and 10, all settled.
fn settled() -> ClusterFacts {
    let numbers = [1, 2, 10];
    ClusterFacts {
        unit: unit(1),
        is_leader: true,
        units: numbers.map(|n| (unit(n), GoalUnit { status: "active".into() })).into(),
        relation: Some("cluster:0".into()),
        application: ApplicationData {
            cluster: Some("1a".into()),
            known: numbers.map(|n| (unit(n), known(n))).into(),
            ..ApplicationData::default()
        },
        own: published(1),
        others: [2, 10].map(|n| (unit(n), published(n))).into(),
        urls: Some(Urls { peer: url(1), client: "https://10.0.0.1:2379".into() }),
        members: Some(numbers.map(|n| member(n, false)).into()),
        ..ClusterFacts::default()
    }
}

#[test]
fn changes_and_tells_nothing_if_all_is_settled() {
    let facts = settled();
    let served = served(1, false);
    assert_eq!(changes(&facts, Some(&served)), []);
    assert_eq!(unit_data(&facts, Some(&served), true), facts.own);
    assert_eq!(application_data(&facts, &facts.own), facts.application);
    assert!(strangers(&facts).is_empty());
}

#[test]
fn a_learner_makes_itself_a_voter() {
    let mut facts = settled();
    facts.members = Some(vec![member(1, true), member(2, false)]);
    assert_eq!(changes(&facts, Some(&served(1, true))), [Change::PromoteSelf(1)]);
    // It publishes its peer URL. Clients cannot use it yet.
    let data = unit_data(&facts, Some(&served(1, true)), true);
    assert_eq!((data.peer, data.client, data.member), (Some(url(1)), None, Some("1".into())));
}

#[test]
fn published_addresses_stay_while_the_cluster_has_no_leader() {
    let facts = ClusterFacts { members: None, ..settled() };
    assert_eq!(unit_data(&facts, Some(&served(1, false)), true), facts.own);
    // Another member after a restore: whether it is a voter is not known yet.
    let restored = unit_data(&facts, Some(&served(7, false)), true);
    assert_eq!((restored.peer, restored.client), (facts.own.peer, None));
}

/// The options are invalid, or the certificates cannot be read at this moment. etcd serves as before.
#[test]
fn published_addresses_stay_while_the_next_ones_are_unknown() {
    let facts = ClusterFacts { urls: None, ..settled() };
    assert_eq!(unit_data(&facts, Some(&served(1, false)), true), facts.own);
    let of = |members: Vec<Member>| {
        let data = unit_data(
            &ClusterFacts { members: Some(members), ..facts.clone() },
            Some(&served(1, false)),
            true,
        );
        (data.peer, data.client)
    };
    assert_eq!(of(vec![member(1, true)]), (Some(url(1)), None));
    // Another unit has moved it.
    assert_eq!(of(vec![Member { peer_urls: vec![url(9)], ..member(1, false) }]), (None, None));
    // It is another member since a restore.
    let restored = unit_data(&facts, Some(&served(7, false)), true);
    assert_eq!((restored.peer, restored.client), (None, None));
}

#[test]
fn others_promote_a_learner_whose_unit_died_on_the_way() {
    let mut facts = settled();
    facts.is_leader = false;
    facts.members = Some(vec![member(1, false), member(2, false), member(10, true)]);
    assert_eq!(changes(&facts, Some(&served(1, false))), [Change::Promote(10)]);
    // It has not started: etcd 3.4.23 would make it a voter all the same.
    facts.members = Some(vec![member(1, false), Member { name: String::new(), ..member(10, true) }]);
    assert_eq!(changes(&facts, Some(&served(1, false))), []);
    // No unit: an operator may still be at work on it.
    facts.members = Some(vec![member(1, false), member(7, true)]);
    assert_eq!(changes(&facts, Some(&served(1, false))), []);
}

#[test]
fn a_unit_whose_etcd_does_not_serve_changes_only_its_own_url() {
    let mut facts = settled();
    facts.units.remove(&unit(10));
    assert_eq!(changes(&facts, None), []);
    facts.urls = Some(Urls { peer: url(99), client: "https://10.0.0.99:2379".into() });
    assert_eq!(changes(&facts, None), [Change::Move(1, url(99))]);
    assert_eq!(changes(&ClusterFacts { members: None, ..facts.clone() }, None), []);
    // etcd before 3.5.31 would make a learner a voter.
    let learner = ClusterFacts { members: Some(vec![member(1, true), member(2, false)]), ..facts.clone() };
    assert_eq!(changes(&learner, None), []);
    // Another unit may have its former address: only the id that it has published is certain.
    facts.own.member = None;
    assert_eq!(changes(&facts, None), []);
}

#[test]
fn a_leader_that_joins_removes_members_of_units_that_are_gone() {
    let mut facts = settled();
    facts.units.remove(&unit(10));
    facts.own = UnitData::default();
    assert_eq!(removals(&facts), [(10, unit(10))]);
    assert_eq!(removals(&ClusterFacts { is_leader: false, ..facts.clone() }), []);
    facts.units.insert(unit(1), GoalUnit { status: "dying".into() });
    assert_eq!(removals(&facts), []);
}

#[test]
fn a_unit_that_another_one_has_moved_publishes_its_new_url() {
    let mut facts = settled();
    facts.urls = Some(Urls { peer: url(99), client: "https://10.0.0.99:2379".into() });
    assert_eq!(unit_data(&facts, None, true).peer, Some(url(1)));
    facts.members = Some(vec![Member { peer_urls: vec![url(99)], ..member(1, false) }]);
    assert_eq!(unit_data(&facts, None, true).peer, Some(url(99)));
}

#[test]
fn clients_get_the_port_with_which_etcd_was_started() {
    let mut facts = settled();
    facts.urls = Some(Urls { peer: url(1), client: "https://10.0.0.1:12379".into() });
    let client = |facts: &ClusterFacts| unit_data(facts, Some(&served(1, false)), true).client;
    assert_eq!(client(&facts).as_deref(), Some("https://10.0.0.1:2379"));
    let restarted = Member { client_urls: vec!["https://10.0.0.1:12379".into()], ..member(1, false) };
    facts.members = Some(vec![restarted.clone(), member(2, false)]);
    assert_eq!(client(&facts).as_deref(), Some("https://10.0.0.1:12379"));
    // Its address has changed, where etcd listens too.
    let moved = Urls { peer: url(1), client: "https://10.0.0.99:2379".into() };
    assert_eq!(
        client(&ClusterFacts { urls: Some(moved), ..facts.clone() }).as_deref(),
        Some("https://10.0.0.99:12379")
    );
    // It still listens on loopback only.
    let loopback = Member { client_urls: vec!["http://127.0.0.1:2379".into()], ..restarted };
    assert_eq!(client(&ClusterFacts { members: Some(vec![loopback]), ..facts }), None);
}

#[test]
fn a_voter_moves_from_loopback_to_the_network() {
    let mut facts = settled();
    let loopback = Member { peer_urls: vec!["http://127.0.0.1:2380".into()], ..member(1, false) };
    facts.members = Some(vec![loopback.clone()]);
    assert_eq!(changes(&facts, Some(&served(1, false))), [Change::Move(1, url(1))]);
    // Until etcd lists the URL, it is not published.
    let data = unit_data(&facts, Some(&served(1, false)), true);
    assert_eq!((data.peer, data.client, data.member), (None, None, Some("1".into())));
    // Without certificates for peers it stays where it is.
    facts.urls = None;
    assert_eq!(changes(&facts, Some(&served(1, false))), []);
    // A learner is never moved.
    let moved = Urls { peer: url(99), client: "https://10.0.0.99:2379".into() };
    let learner = ClusterFacts { urls: Some(moved), members: Some(vec![member(1, true)]), ..settled() };
    assert_eq!(changes(&learner, Some(&served(1, true))), [Change::PromoteSelf(1)]);
}

#[test]
fn the_leader_removes_only_members_of_units_that_are_gone() {
    let mut facts = settled();
    facts.units.remove("etcd/10");
    facts.others.remove("etcd/10");
    let removal = [Change::Remove(10, "etcd/10".into())];
    assert_eq!(changes(&facts, Some(&served(1, false))), removal);
    // Until it is removed, it is remembered.
    assert!(application_data(&facts, &facts.own).known.contains_key("etcd/10"));
    let mut unstarted = facts.clone();
    unstarted.members =
        Some(vec![member(1, false), Member { id: 77, name: String::new(), ..member(10, true) }]);
    unstarted.application.known.get_mut("etcd/10").unwrap().member = None;
    assert_eq!(changes(&unstarted, Some(&served(1, false))), [Change::Remove(77, "etcd/10".into())]);
    facts.members = Some(vec![member(1, false), member(2, false)]);
    assert_eq!(changes(&facts, Some(&served(1, false))), []);
    assert!(!application_data(&facts, &facts.own).known.contains_key("etcd/10"));
    for change in [
        ClusterFacts { is_leader: false, ..unstarted.clone() },
        ClusterFacts { members: None, ..unstarted.clone() },
        // Juju's list of units lacks this unit.
        ClusterFacts { units: BTreeMap::new(), ..unstarted },
    ] {
        assert_eq!(changes(&change, Some(&served(1, false))), []);
    }
}

#[test]
fn the_leader_does_not_remove_a_member_that_has_the_address_of_a_unit_that_is_gone() {
    let mut facts = settled();
    facts.units.remove("etcd/10");
    facts.others.remove("etcd/10");
    // The member of etcd/10 was removed, and etcd/11 got its address: it has joined, or only added its member.
    facts.units.insert("etcd/11".into(), GoalUnit::default());
    let at =
        |id: u64, name: &str| Member { id, name: name.into(), peer_urls: vec![url(10)], ..member(11, false) };
    let published = UnitData { peer: Some(url(10)), ..UnitData::default() };
    facts.others.insert("etcd/11".into(), published);
    for joined in [at(11, "etcd11"), Member { client_urls: Vec::new(), is_learner: true, ..at(11, "") }] {
        facts.members = Some(vec![member(1, false), member(2, false), joined]);
        assert_eq!(changes(&facts, Some(&served(1, false))), []);
        let data = application_data(&facts, &facts.own);
        assert!(!data.known.contains_key("etcd/10") && data.known.contains_key("etcd/11"));
    }
    // The member of etcd/10 is still listed: etcd/11 is admitted after it was removed.
    facts.members = Some(vec![member(1, false), member(2, false), member(10, false)]);
    assert_eq!(changes(&facts, Some(&served(1, false))), [Change::Remove(10, "etcd/10".into())]);
    assert!(!application_data(&facts, &facts.own).known.contains_key("etcd/11"));
}

#[test]
fn an_empty_etcd_is_not_the_cluster_that_has_ended() {
    let empty = Served { status: Status { revision: 1, ..served(1, false).status }, ..served(1, false) };
    let mut facts = settled();
    facts.units.retain(|unit, _| unit == "etcd/1");
    facts.others.clear();
    facts.application.cluster = Some("9f".into());
    facts.application.known = [(unit(0), known(0))].into();
    let ended = |facts: &ClusterFacts, own: &UnitData, served: Option<&Served>| {
        let data = application_data(facts, own);
        (ended_cluster(facts, &data, own, served), data)
    };
    // etcd/0 was removed before etcd/1 had its data.
    let (found, data) = ended(&facts, &published(1), Some(&empty));
    assert_eq!((found.as_deref(), data.cluster.as_deref()), (Some("9f"), Some("1a")));
    // Until it serves, and later.
    assert_eq!(ended(&facts, &UnitData::default(), None).0.as_deref(), Some("9f"));
    facts.application = ApplicationData { ended: found, ..data };
    assert_eq!(ended(&facts, &published(1), Some(&empty)).0.as_deref(), Some("9f"));
    assert_eq!(ended(&facts, &published(1), None).0.as_deref(), Some("9f"));
    // Restored, or used by an operator.
    let heir = UnitData { heir_of: ["9f".to_owned()].into(), ..published(1) };
    assert_eq!(ended(&facts, &heir, Some(&empty)).0, None);
    assert_eq!(ended(&facts, &published(1), Some(&served(1, false))).0, None);
    // A new application has an empty etcd too.
    facts.application = ApplicationData::default();
    assert_eq!(ended(&facts, &published(1), Some(&empty)).0, None);
    assert_eq!(ended(&settled(), &published(1), Some(&empty)).0, None);
}

#[test]
fn a_member_of_an_operator_is_reported_and_never_removed() {
    let mut facts = settled();
    let numbers = [1, 2, 10, 100];
    facts.members = Some(numbers.map(|n| member(n, false)).into());
    assert_eq!(changes(&facts, Some(&served(1, false))), []);
    // Its name begins as that of a unit does.
    let names = |facts: &ClusterFacts| describe_strangers(facts).unwrap_or_default();
    assert!(names(&facts).ends_with(", and are never removed: etcd100"));
    // One that was only added has no name. A unit that joins has published its URL, or was admitted.
    let unnamed = |n: u64| Member { name: String::new(), ..member(n, true) };
    facts.members = Some(vec![member(1, false), unnamed(11)]);
    assert!(names(&facts).ends_with(&format!(": the one at {}", url(11))));
    facts.others.insert("etcd/11".into(), UnitData { peer: Some(url(11)), ..UnitData::default() });
    assert_eq!(describe_strangers(&facts), None);
    facts.others.remove("etcd/11");
    facts.application.known.insert("etcd/11".into(), KnownUnit { peer: url(11), member: None });
    assert_eq!(describe_strangers(&facts), None);
}

#[test]
fn the_leader_admits_a_unit_when_there_is_a_cluster() {
    let mut facts = settled();
    let joiner = UnitData { peer: Some(url(11)), founder: None, ..UnitData::default() };
    facts.units.insert("etcd/11".into(), GoalUnit { status: "waiting".into() });
    facts.others.insert("etcd/11".into(), joiner);
    let admitted = application_data(&facts, &facts.own);
    assert_eq!(admitted.known["etcd/11"], KnownUnit { peer: url(11), member: None });
    // Not while it is being removed, and not without its URL.
    facts.units.insert("etcd/11".into(), GoalUnit { status: "dying".into() });
    assert!(!application_data(&facts, &facts.own).known.contains_key("etcd/11"));
    facts.units.insert("etcd/11".into(), GoalUnit { status: "waiting".into() });
    facts.others.insert("etcd/11".into(), UnitData::default());
    assert!(!application_data(&facts, &facts.own).known.contains_key("etcd/11"));
    // A unit that serves another cluster is not a member of this one.
    facts.others.insert("etcd/11".into(), UnitData { cluster: Some("2b".into()), ..published(11) });
    assert!(!application_data(&facts, &facts.own).known.contains_key("etcd/11"));
}

#[test]
fn a_leader_without_a_cluster_names_itself_as_the_founder() {
    let new = ClusterFacts {
        application: ApplicationData::default(),
        own: UnitData::default(),
        others: BTreeMap::new(),
        members: None,
        ..settled()
    };
    let own = unit_data(&new, None, false);
    assert_eq!(application_data(&new, &own).founder.as_deref(), Some("etcd/1"));
    let mut named = new.clone();
    named.application.founder = Some("etcd/2".into());
    // A unit without data agrees, also a leader that was elected later.
    let own = unit_data(&named, None, false);
    assert_eq!(own.founder.as_deref(), Some("etcd/2"));
    assert_eq!(application_data(&named, &own).founder.as_deref(), Some("etcd/2"));
    // A unit with data never agrees.
    assert_eq!(unit_data(&named, None, true).founder, None);
    named.units.remove("etcd/2");
    assert_eq!(application_data(&named, &own).founder.as_deref(), Some("etcd/1"));
    // It has started: its cluster is recorded.
    let started = application_data(&named, &published(1));
    assert_eq!((started.founder, started.cluster), (None, Some("1a".into())));
}

#[test]
fn records_the_cluster_that_serves_and_its_heir_after_a_restore() {
    let mut facts = settled();
    facts.others.clear();
    facts.application.known = [("etcd/1".to_owned(), known(1))].into();
    // Deployed by an older charm, or killed before it could publish.
    facts.application.cluster = None;
    assert_eq!(application_data(&facts, &published(1)).cluster.as_deref(), Some("1a"));
    // Restored.
    facts.application.cluster = Some("9f".into());
    let heir = UnitData { heir_of: ["9f".to_owned()].into(), ..published(1) };
    assert_eq!(application_data(&facts, &heir).cluster.as_deref(), Some("1a"));
    // Two clusters: the recorded one stays.
    let mut two = settled();
    two.others.insert("etcd/2".into(), UnitData { cluster: Some("2b".into()), ..published(2) });
    let data = application_data(&two, &published(1));
    assert_eq!(data.cluster.as_deref(), Some("1a"));
    assert_eq!(data.known["etcd/2"].member, Some("2".into()), "a member is forgotten only if etcd forgot it");
}

/// The leader etcd/2 without data, next to etcd/1, which has published `other` and was the only member of the cluster.
fn leader_without_data(other: UnitData) -> ClusterFacts {
    let mut leader = ClusterFacts { members: None, ..settled() };
    leader.unit = unit(2);
    leader.units = [1, 2].map(|n| (unit(n), GoalUnit { status: "active".into() })).into();
    leader.application.known = [(unit(1), known(1))].into();
    leader.own = UnitData { peer: Some(url(2)), ..UnitData::default() };
    leader.others = [(unit(1), other)].into();
    leader
}

/// The only unit with data waits for its storage, and a new unit is the leader. It must not start an empty cluster.
#[test]
fn a_unit_without_its_storage_is_still_the_member_that_it_was() {
    let waiting = ClusterFacts { is_leader: false, members: None, ..settled() };
    let published = unit_data(&waiting, None, true);
    assert_eq!(published, waiting.own);

    let mut leader = leader_without_data(published);
    for _ in 0..3 {
        let own = unit_data(&leader, None, false);
        leader.application = application_data(&leader, &own);
        leader.own = own;
        assert_eq!(leader.application.cluster.as_deref(), Some("1a"));
        assert_eq!(leader.application.known[&unit(1)], known(1));
        assert_eq!(leader.application.founder, None);
    }
}

/// The only unit with data lost it, and was restored. The leader has no data.
#[test]
fn a_leader_without_data_takes_over_the_cluster_of_a_restored_unit() {
    let restored = UnitData { cluster: Some("2b".into()), member: Some("7".into()), ..published(1) };
    let mut leader = leader_without_data(restored);
    let data = application_data(&leader, &leader.own);
    assert_eq!(data.cluster.as_deref(), Some("2b"));
    assert_eq!(data.known[&unit(1)].member.as_deref(), Some("7"));
    // Another unit has the data of the old cluster, and its etcd is stopped: that cluster has not ended.
    leader.units.insert(unit(10), GoalUnit { status: "active".into() });
    leader.application.known.insert(unit(10), known(10));
    leader.others.insert(unit(10), published(10));
    assert_eq!(application_data(&leader, &leader.own).cluster.as_deref(), Some("1a"));
}
