//! Tests of the decision, by tables and properties.

use super::revision::{HEADROOM, UNKNOWN_REVISION_BUMP};
use super::*;
use crate::archive::Contents;
use crate::archive::manifest::Manifest;
use crate::error::Subcommand;
use crate::etcd::backend::KubernetesData;
use crate::etcd::client::Status;
use crate::etcd::member::Member;
use crate::etcd::service::Service;
use crate::etcd::site::{InitialMember, Origin, ProgramSource, Sourced, tests};
use crate::etcd::trailer::DatabaseDigest;
use crate::etcd::v2_store::V2Keys;
use crate::etcd::versions::{Installed, Programs, Version};
use crate::exchange::Lineage;
use crate::restore::request::{Bump, MAX_BUMP, Source};
use crate::restore::versions::Versions;
use crate::system::owner::Owner;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn member(name: &str) -> Member {
    Member {
        id: 7,
        name: name.to_owned(),
        peer_urls: vec!["http://10.0.0.1:2380".to_owned()],
        client_urls: Vec::new(),
        is_learner: false,
    }
}

fn serving(revision: i64, members: Vec<Member>) -> ExistingData {
    let status = Status {
        cluster_id: 1,
        member_id: 7,
        revision,
        version: "3.5.16".to_owned(),
        db_size: 20480,
        db_in_use: 16384,
        has_leader: true,
        is_learner: false,
        raft_index: 9,
        raft_applied_index: 9,
        errors: Vec::new(),
    };
    ExistingData::Served { status, members }
}

fn installed(name: &str, version: &str) -> Installed {
    Installed { path: format!("/usr/bin/{name}").into(), version: Version::parse(version).unwrap() }
}

fn versions(version: &str) -> Versions {
    let programs = Programs {
        etcdctl: installed("etcdctl", version),
        etcdutl: None,
        etcd: Some(installed("etcd", version)),
    };
    Versions {
        programs,
        supply: ProgramSource::Directory("/usr/bin".into()),
        image: None,
        restart: "systemctl restart etcd".to_owned(),
        data: None,
    }
}

pub(super) fn facts(existing: ExistingData, can_bump: bool) -> Facts {
    Facts {
        data_dir: "/var/lib/etcd/default".to_owned(),
        stops_api_server: false,
        initial: None,
        dependents: Vec::new(),
        member_inode: Some(7),
        etcdctl: "etcdctl --endpoints=http://127.0.0.1:2379".to_owned(),
        stop_command: "systemctl stop etcd".to_owned(),
        start_command: "systemctl start etcd.service".to_owned(),
        existing,
        lineage: Lineage { own: ["1".to_owned()].into(), highest_is_known: true, ..Lineage::default() },
        keys: Ok(3),
        versions: versions(if can_bump { "3.4.27" } else { "3.4.23" }),
        v2_keys: V2Keys::None,
        quota: None,
        free: 1 << 40,
        database_size: 20480,
        backup_space: 1 << 20,
    }
}

fn snapshot(revision: i64, seal: Trailer) -> Snapshot {
    let db = DatabaseDigest { trailer: seal, size: 20512, sha256: "d".repeat(64) };
    let contents = Contents { sha256: "a".repeat(64), manifest: None, db, included: None };
    Snapshot { contents, revision, last_record: revision, size: 20480, kubernetes: None }
}

fn manifest(cluster: &str) -> Manifest {
    let text = format!(
        r#"{{"format": 1, "taken": "2026-11-20T20:49:17Z", "unit": null, "etcd_version": "3.5.16", "cluster_id": "{cluster}",
            "member_id": "2", "member_name": "m1", "member_count": 1, "revision": 9, "keys": 3, "total_keys": 4,
            "db_size": 5, "db_sha256": "6", "content_hash": null}}"#
    );
    Manifest::parse(text.as_bytes()).unwrap()
}

pub(super) fn request(bump: Bump) -> Request {
    Request {
        source: Source::File { path: "/a".into(), may_be_bare: true },
        identities: None,
        encrypt_to: Vec::new(),
        expected_sha256: None,
        allow_unhashed: false,
        allow_foreign: false,
        allow_v2_loss: false,
        bump,
        backup: Some("/b".into()),
        plan_only: false,
        owner: Owner { uid: 0, gid: 0 },
        unit: None,
        command: Subcommand::new("restore").word("/a"),
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn plan(request: &Request, facts: &Facts, snapshot: &Snapshot) -> Result<Plan, Refusal> {
    Ok(decide(request, facts, check_membership(facts, request)?, snapshot)?)
}

#[test]
fn accepts_only_a_single_started_voting_member() {
    let learner = Member { is_learner: true, ..member("m1") };
    let cases: [(ExistingData, &str); 11] = [
        (serving(9, vec![member("m1"), member("m2"), member("")]), "3 members: m1, m2, 7 (not started)"),
        (serving(9, vec![member("m1"), learner.clone()]), "2 members: m1, m1 (a learner)"),
        (serving(9, vec![learner]), "is a learner"),
        (serving(9, vec![member("")]), "has not started"),
        (serving(9, Vec::new()), "lists no members"),
        (ExistingData::Stopped { revision: 9, members: vec![member("m1"), member("m2")] }, "2 members"),
        (ExistingData::NotAnswering("permission denied".into()), "permission denied"),
        (ExistingData::Damaged("page 7 is torn".into()), "member.broken"),
        (ExistingData::WithoutLog, "the write-ahead log is missing"),
        (ExistingData::OfAnotherEtcd { is_open: false }, "no process has /var/lib/etcd/default open"),
        (ExistingData::OfAnotherEtcd { is_open: true }, "another etcd has it open"),
    ];
    for (existing, fragment) in cases {
        let refusal =
            Refusal::from(check_membership(&facts(existing, true), &request(Bump::Auto)).unwrap_err())
                .to_string();
        assert!(refusal.contains(fragment), "{refusal}");
    }
    assert_eq!(
        check_membership(&facts(serving(9, vec![member("m1")]), true), &request(Bump::Auto)).unwrap().name,
        "m1"
    );
}

#[test]
fn a_member_without_data_gets_its_configured_identity() {
    let some = |text: &str| Some(text.to_owned());
    for (name, peer_urls, expected) in [
        (None, None, ("default", "http://localhost:2380")),
        (some("cp1"), None, ("cp1", "http://localhost:2380")),
        (some("cp1"), some("https://10.0.0.4:2380"), ("cp1", "https://10.0.0.4:2380")),
    ] {
        let is_configured = peer_urls.is_some();
        let facts = Facts {
            initial: Some(InitialMember { name, peer_urls, ..InitialMember::default() }),
            ..facts(ExistingData::Empty, true)
        };
        let plan = plan(&request(Bump::Auto), &facts, &snapshot(9, Trailer::Valid)).unwrap();
        assert_eq!((plan.member.name.as_str(), plan.member.peer_urls.as_str()), expected);
        let warns = plan.warnings(plan.ahead).iter().any(|warning| warning.contains("etcdctl member update"));
        assert_eq!(warns, !is_configured, "{:?}", plan.warnings(plan.ahead));
    }
}

#[test]
fn an_empty_member_of_several_is_refused() {
    let others = vec!["cp2".to_owned(), "cp3".to_owned()];
    let initial = InitialMember { others, source: "etcd.service".to_owned(), ..InitialMember::default() };
    let facts = Facts { initial: Some(initial), ..facts(ExistingData::Empty, true) };
    let refusal = Refusal::from(check_membership(&facts, &request(Bump::Auto)).unwrap_err()).to_string();
    assert!(
        refusal.contains("etcd's configuration (etcd.service) names other members: cp2, cp3"),
        "{refusal}"
    );
}

#[test]
fn a_member_without_data_and_without_a_known_configuration_gets_a_warning() {
    let facts = facts(ExistingData::Empty, true);
    let plan = plan(&request(Bump::Auto), &facts, &snapshot(9, Trailer::Valid)).unwrap();
    let warnings = plan.warnings(plan.ahead).join("\n");
    assert!(warnings.contains("unknown whether this etcd was one of several members"), "{warnings}");
}

/// A supervisor may start etcd at any moment. Without its data, it would create and serve a new cluster.
#[test]
fn etcd_is_stopped_before_its_data_is_moved_away() {
    let others = vec!["cp2".to_owned()];
    let initial = Some(InitialMember { others, ..InitialMember::default() });
    for (existing, change) in [
        (ExistingData::Damaged("page 7 is torn".to_owned()), "mv -T /var/lib/etcd/default/member"),
        (ExistingData::WithoutLog, "move /var/lib/etcd/default/member"),
        (ExistingData::Empty, "leave only this member"),
    ] {
        let dependents = vec!["api.service".to_owned(), "web.service".to_owned()];
        let facts = Facts { initial: initial.clone(), dependents, ..facts(existing, true) };
        let refusal = Refusal::from(check_membership(&facts, &request(Bump::Auto)).unwrap_err()).to_string();
        let stop = refusal.find("systemctl stop etcd").expect(&refusal);
        assert!(refusal.find(change).expect(&refusal) > stop, "{refusal}");
        assert!(
            refusal.contains("; after the restore: systemctl start api.service web.service"),
            "{refusal}"
        );
    }
}

#[test]
fn a_bump_exceeds_the_old_revision_or_there_is_a_warning() {
    let cases = [
        // asked, old, snapshot, can bump -> bump, warns
        (Bump::Auto, 100, 100, true, Some(0), false),
        // An etcd that came up empty after its disk was lost: its clients may have seen more than both.
        (Bump::Auto, 100, 200, true, Some(0), true),
        (Bump::Auto, 1, 200, false, Some(0), true),
        (Bump::Off, 1, 200, true, Some(0), true),
        (Bump::By(5), 1, 200, true, Some(5), false),
        (Bump::Off, 100, 100, true, Some(0), false),
        (Bump::Auto, 1100, 100, true, Some(1_001_200), false),
        (Bump::Auto, 1100, 100, false, Some(0), true),
        (Bump::Off, 1100, 100, true, Some(0), true),
        (Bump::By(5000), 1100, 100, true, Some(5000), false),
        (Bump::By(5), 1100, 100, true, Some(5), true),
        (Bump::By(5), 1100, 100, false, None, false),
    ];
    for (asked, old, revision, can_bump, bump, warns) in cases {
        let facts = facts(serving(old, vec![member("m1")]), can_bump);
        let decided = plan(&request(asked), &facts, &snapshot(revision, Trailer::Valid));
        let found = decided.as_ref().ok().map(|plan| (plan.bump, !plan.warnings(plan.ahead).is_empty()));
        assert_eq!(found, bump.map(|bump| (bump, warns)), "{asked:?} {old} {revision}");
    }
}

#[test]
fn a_bump_exceeds_every_revision_ever_served() {
    const FAR: i64 = UNKNOWN_REVISION_BUMP;
    let cases = [
        // asked, highest, is known, old, snapshot -> bump, warns, the next one knows
        // The last restore went back from 7 to 2.
        (Bump::Auto, 7, true, 2, 2, 1_000_006, false, true),
        (Bump::Off, 7, true, 2, 2, 0, true, true),
        (Bump::By(4), 7, true, 2, 2, 4, true, true),
        (Bump::By(6), 7, true, 2, 2, 6, false, true),
        (Bump::Auto, 7, true, 9, 2, 1_000_008, false, true),
        (Bump::Auto, 7, true, 2, 7, 0, false, true),
        (Bump::Auto, 7, true, 2, 8, 0, true, false),
        // An earlier version did not record it.
        (Bump::Auto, 0, false, 2, 2, 0, true, false),
        (Bump::Auto, 0, false, 5, 2, FAR + 3, false, true),
        (Bump::Off, 0, false, 5, 2, 0, true, false),
        (Bump::By(9), 0, false, 5, 2, 9, false, true),
        (Bump::By(3), 0, false, 5, 2, 3, true, false),
    ];
    for (asked, highest, is_known, old, revision, bump, warns, knows) in cases {
        let case = format!("{asked:?} {highest} {is_known} {old} {revision}");
        let mut facts = facts(serving(old, vec![member("m1")]), true);
        (facts.lineage.highest_revision, facts.lineage.highest_is_known) = (highest, is_known);
        let plan = plan(&request(asked), &facts, &snapshot(revision, Trailer::Valid)).unwrap();
        assert_eq!(
            (plan.bump, !plan.warnings(plan.ahead).is_empty()),
            (bump, warns),
            "{case}: {:?}",
            plan.warnings(plan.ahead)
        );
        assert_eq!(plan.lineage.highest_revision, highest.max(old), "{case}");
        assert_eq!(plan.lineage.highest_is_known, knows, "{case}");
        assert_eq!(plan.loses, (old - revision).max(0), "{case}");
    }
    for can_bump in [true, false] {
        let mut facts = facts(serving(2, vec![member("m1")]), can_bump);
        facts.lineage.highest_revision = 7;
        let plan = plan(&request(Bump::Auto), &facts, &snapshot(2, Trailer::Valid)).unwrap();
        assert_eq!(plan.warnings(plan.ahead).is_empty(), can_bump);
        // Clients may write until etcd is stopped, but not past the raised revision.
        assert_eq!(plan.revision_limit(9), can_bump.then_some(9));
    }
}

#[test]
fn revisions_go_back_only_after_a_warning() {
    let limit = |asked, old: i64, revision| {
        let facts = facts(serving(old, vec![member("m1")]), true);
        let plan = plan(&request(asked), &facts, &snapshot(revision, Trailer::Valid)).unwrap();
        plan.revision_limit(revision + plan.bump)
    };
    // Level with the snapshot, and older than it: clients may pass it while the restore is prepared.
    assert_eq!((limit(Bump::Auto, 100, 100), limit(Bump::Off, 100, 200)), (Some(101), Some(201)));
    assert_eq!(limit(Bump::By(7), 100, 100), Some(107));
    assert!(limit(Bump::Auto, 200, 100).is_some_and(|limit| limit > 200));
    // The plan warns of these already.
    assert_eq!((limit(Bump::Off, 200, 100), limit(Bump::By(5), 200, 100)), (None, None));
    let unknown =
        plan(&request(Bump::Auto), &facts(ExistingData::Empty, true), &snapshot(5, Trailer::Valid)).unwrap();
    assert_eq!(unknown.revision_limit(5), None);
}

#[test]
fn warns_if_the_last_revision_that_clients_saw_is_unknown() {
    let warned = |old, can_bump, stops_api_server| {
        let facts = Facts { stops_api_server, ..facts(old, can_bump) };
        let plan = plan(&request(Bump::Auto), &facts, &snapshot(200, Trailer::Valid)).unwrap();
        assert_eq!((plan.bump, plan.loses), (0, 0));
        plan.warnings(plan.ahead).join("\n")
    };
    let stopped = ExistingData::Stopped { revision: 1, members: vec![member("m1")] };
    for (old, words) in [
        (ExistingData::Empty, "the data directory was empty"),
        (stopped, "at revision 1"),
        (serving(150, vec![member("m1")]), "revision 150"),
    ] {
        let warnings = warned(old.clone(), true, false);
        assert!(
            warnings.contains(words) && warnings.contains("restart every client that watches"),
            "{warnings}"
        );
        assert!(warnings.contains("bump-revision=1000000000"), "{warnings}");
        let warnings = warned(old.clone(), false, false);
        assert!(
            warnings.contains("restart every client")
                && warnings.contains(
                    "install etcdctl 3.4.27 or later and restore again with bump-revision=1000000000"
                ),
            "{warnings}"
        );
        assert!(warned(old, true, true).contains("kube-apiserver is restarted with etcd"));
    }
}

/// The API server and every client of it keep objects in memory. A client that acts before it has new ones destroys
/// data.
#[test]
fn warns_which_kubernetes_clients_to_stop_and_restart_if_the_revision_goes_back() {
    let warned = |bump, can_bump, stops_api_server, kubernetes| {
        let facts = Facts { stops_api_server, ..facts(serving(1100, vec![member("m1")]), can_bump) };
        let snapshot = Snapshot { kubernetes, ..snapshot(100, Trailer::Valid) };
        let plan = plan(&request(bump), &facts, &snapshot).unwrap();
        plan.warnings(plan.ahead).join("\n")
    };
    let kubernetes = || Some(KubernetesData::default());
    for stops_api_server in [false, true] {
        let warning = warned(Bump::Off, true, stops_api_server, kubernetes());
        let programs = [
            "kube-controller-manager",
            "kube-scheduler",
            "operators",
            "network plugins",
            "kube-proxy",
            "kubelets",
        ];
        for words in
            programs.into_iter().chain(["`kubectl get` shows deleted objects and controllers act on them"])
        {
            assert!(warning.contains(words), "{words}: {warning}");
        }
        // The order: the clients stop before the API server starts.
        let order = ["stop ", "kube-apiserver", "then start "].map(|word| warning.find(word));
        assert!(stops_api_server || order.is_sorted(), "{warning}");
        assert!(warning.contains("restore again with bump-revision=auto"), "{warning}");
    }
    let warning = warned(Bump::Auto, false, false, kubernetes());
    assert!(warning.contains("install etcdctl 3.4.27 or later and restore again"), "{warning}");
    assert!(warned(Bump::Auto, true, false, kubernetes()).is_empty());
    // Other data is not of Kubernetes.
    let warning = warned(Bump::Off, true, false, None);
    assert!(warning.contains("restart every client that watches") && !warning.contains("kube"), "{warning}");
}

#[test]
fn refuses_a_snapshot_without_a_trailer_unless_allowed() {
    let facts = facts(ExistingData::Empty, true);
    let trusting = Request { allow_unhashed: true, ..request(Bump::Auto) };
    let check =
        |request: &Request, seal| plan(request, &facts, &snapshot(5, seal)).map(|plan| plan.hash_check);
    assert_eq!(check(&request(Bump::Auto), Trailer::Valid), Ok(true));
    assert!(check(&request(Bump::Auto), Trailer::Missing).unwrap_err().next.contains("--allow-unhashed"));
    assert_eq!(check(&trusting, Trailer::Missing), Ok(false));
    assert_eq!(check(&trusting, Trailer::Valid), Ok(true));
    assert!(check(&trusting, Trailer::Invalid).is_err());
}

#[test]
fn refuses_a_snapshot_of_another_cluster_unless_allowed() {
    let of = |cluster: &str| {
        let mut snapshot = snapshot(9, Trailer::Valid);
        snapshot.contents.manifest = Some(manifest(cluster));
        snapshot
    };
    let held = |old, keys| Facts { keys, ..facts(old, true) };
    let one = || vec![member("m1")];
    let stopped = || ExistingData::Stopped { revision: 9, members: one() };
    let check = |facts: &Facts, cluster: &str| plan(&request(Bump::Off), facts, &of(cluster)).map(drop);
    for (old, keys) in
        [(serving(9, one()), Ok(3)), (serving(9, one()), Err("no password".to_owned())), (stopped(), Ok(1))]
    {
        let facts = held(old, keys);
        assert!(check(&facts, "1").is_ok());
        let refusal = check(&facts, "2").unwrap_err();
        assert!(refusal.next.contains("--allow-foreign"), "{refusal}");
        let allowing = Request { allow_foreign: true, ..request(Bump::Off) };
        assert!(plan(&allowing, &facts, &of("2")).is_ok());
        assert!(
            plan(&request(Bump::Off), &facts, &snapshot(9, Trailer::Valid)).is_ok(),
            "its cluster is unknown"
        );
    }
    for (old, keys) in [(serving(9, one()), Ok(0)), (stopped(), Ok(0)), (ExistingData::Empty, Ok(0))] {
        assert!(check(&held(old, keys), "2").is_ok(), "the existing data holds no keys");
    }
}

#[test]
fn an_expected_hash_must_match() {
    let expecting = |sha: &str| Request { expected_sha256: Some(sha.to_owned()), ..request(Bump::Auto) };
    let facts = facts(ExistingData::Empty, true);
    assert!(plan(&expecting(&"a".repeat(64)), &facts, &snapshot(5, Trailer::Valid)).is_ok());
    let refusal = plan(&expecting(&"b".repeat(64)), &facts, &snapshot(5, Trailer::Valid)).unwrap_err();
    assert!(refusal.reason.contains(&"b".repeat(64)) && refusal.reason.contains(&"a".repeat(64)));
}

#[test]
fn saves_existing_data_if_there_is_any_and_a_backup_is_wanted() {
    let stopped = || ExistingData::Stopped { revision: 9, members: vec![member("m1")] };
    let none = Request { backup: None, ..request(Bump::Auto) };
    for (old, asked, backup) in [
        (serving(9, vec![member("m1")]), request(Bump::Auto), BackupMethod::Online),
        (stopped(), request(Bump::Auto), BackupMethod::FromCopy),
        (ExistingData::Empty, request(Bump::Auto), BackupMethod::None),
        (stopped(), none, BackupMethod::None),
    ] {
        let facts = facts(old, true);
        assert_eq!(plan(&asked, &facts, &snapshot(9, Trailer::Valid)).unwrap().backup, backup);
    }
}

#[test]
fn bump_revision_is_auto_off_or_a_number() {
    assert_eq!(Bump::parse("auto"), Ok(Bump::Auto));
    assert_eq!(Bump::parse("off"), Ok(Bump::Off));
    assert_eq!(Bump::parse("1000"), Ok(Bump::By(1000)));
    for text in ["", "0", "-1", "1e9", "on", "9223372036854775807"] {
        assert!(Bump::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_thousand_restores_of_one_snapshot_leave_revisions_for_as_many_more() {
    let mut old = 1100;
    for _ in 0..1000 {
        let facts = facts(serving(old, vec![member("m1")]), true);
        let plan = plan(&request(Bump::Auto), &facts, &snapshot(100, Trailer::Valid)).unwrap();
        // A client writes once.
        old = 100 + plan.bump + 1;
    }
    assert!(old < i64::MAX / 1_000_000, "{old}");
}

#[test]
fn a_revision_is_not_raised_past_what_etcd_can_count() {
    let far = i64::MAX / 2;
    for (asked, old, revision, refused) in [
        (Bump::Auto, far + 1, 100, true),
        (Bump::By(MAX_BUMP), 100, far, true),
        (Bump::By(MAX_BUMP), 100, far / 2, false),
        (Bump::Off, far + 1, 100, false),
        (Bump::Auto, far + 1, far + 1, false),
    ] {
        let facts = facts(serving(old, vec![member("m1")]), true);
        match plan(&request(asked), &facts, &snapshot(revision, Trailer::Valid)) {
            Ok(_) => assert!(!refused, "{asked:?} {old} {revision}"),
            Err(refusal) => {
                assert!(refused && refusal.next.contains("--bump-revision=off"), "{refusal}");
            }
        }
    }
}

#[test]
fn a_snapshot_without_room_for_writes_is_refused() {
    for asked in [Bump::Auto, Bump::Off, Bump::By(5)] {
        let facts = facts(serving(100, vec![member("m1")]), true);
        let refusal = plan(&request(asked), &facts, &snapshot(i64::MAX, Trailer::Valid)).unwrap_err();
        assert!(refusal.reason.contains("leaves too few for further writes"), "{refusal}");
        assert!(refusal.next.starts_with("choose another snapshot"), "{refusal}");
    }
}

proptest! {
    #[test]
    fn an_automatic_bump_always_ends_past_the_old_revision(
        old in 1_i64..i64::MAX / 4, revision in 1_i64..i64::MAX / 4
    ) {
        let facts = facts(serving(old, vec![member("m1")]), true);
        let plan = plan(&request(Bump::Auto), &facts, &snapshot(revision, Trailer::Valid)).unwrap();
        // A revision that is raised, or is the one that clients saw, needs no warning.
        prop_assert_eq!(plan.warnings(plan.ahead).is_empty(), old >= revision);
        prop_assert!(revision + plan.bump >= old);
        prop_assert_eq!(plan.bump > 0, old > revision);
        if old > revision {
            // The bump also exceeds the revisions that clients write until the stop.
            prop_assert!(revision + plan.bump >= old + HEADROOM);
        }
    }
}

#[test]
fn accepts_a_site_with_one_data_tree_and_a_known_supervisor() {
    let unit = Service::Systemd { systemd: "etcd.service".to_owned() };
    let drift = Some("it now says /b");
    for (wal_dir, drift, etcd, service, refused) in [
        (None, None, "/bin/sh", unit.clone(), None),
        (Some("/wal"), None, "/bin/sh", unit.clone(), Some("outside of its data directory, in /wal")),
        (None, drift, "/bin/sh", unit.clone(), Some("it now says /b")),
        (None, None, "/none/etcd", unit, Some("the program /none/etcd is missing")),
        (
            None,
            None,
            "/bin/sh",
            Service::Unknown { pid: 42 },
            Some("no supervisor of the running etcd (pid 42)"),
        ),
    ] {
        let mut site = tests::site(Path::new("/data"), service);
        site.drift = drift.map(str::to_owned);
        site.wal_dir = wal_dir.map(|dir| Sourced::new(PathBuf::from(dir), Origin::Default));
        site.tools.etcd = etcd.into();
        let refusal = check_site(&site).err().map(|obstacle| Refusal::from(obstacle).reason);
        assert_eq!(refusal.is_some(), refused.is_some(), "{refusal:?}");
        assert!(refused.is_none_or(|part| refusal.is_some_and(|reason| reason.contains(part))));
    }
}
