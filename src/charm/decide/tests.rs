//! The plan of each hook, for tables of facts.

use super::*;
use crate::charm::cluster::facts::ClusterFacts;
use crate::charm::install_method::InstallMethod;
use crate::charm::options::Options;
use crate::charm::unit_record::RecordedMember;
use crate::error::Refusal;
use crate::juju::GoalUnit;
use serde_json::json;

fn own_config(text: &str) -> String {
    etcd_config::environment_file(std::path::Path::new("/x")) + text
}

/// The facts of a unit that is serving, as the charm set it up.
fn serving() -> Facts {
    let options = json!({
        "port": 2379, "management-port": 2380, "metrics-port": 2381, "channel": "stable", "heartbeat-interval": 100,
        "election-timeout": 1000, "snapshot-count": 0, "quota-backend-bytes": 0, "auto-compaction-retention": "0",
    });
    Facts {
        hook: Hook::Update,
        restore: RestoreState::None,
        options: Options::read(options.as_object().unwrap(), 1024),
        method: InstallMethod::Debian,
        is_installed: true,
        version_check: Ok(()),
        foreign_etcd: None,
        data_dir: "/var/lib/etcd/default".into(),
        storage: None,
        data: DataState::Present,
        record: None,
        has_started: true,
        cluster: ClusterFacts::default(),
        certificate_dir: "/etc/etcd/tls".into(),
        certificates: Certificates::None,
        has_own_config: true,
        current_config: Some(own_config("a")),
        wanted_config: own_config("a"),
        is_service_set_up: true,
        has_install_guard: false,
        is_running: true,
        missed_boot: false,
        prepared_upgrade: None,
        failed_upgrade: None,
        runs_old_config: false,
    }
}

/// The facts of a new unit on an empty machine.
fn empty() -> Facts {
    Facts {
        is_installed: false,
        data: DataState::Absent,
        has_started: false,
        has_own_config: false,
        current_config: None,
        is_service_set_up: false,
        is_running: false,
        ..serving()
    }
}

#[track_caller]
fn assert_steps(facts: &Facts, steps: &[Step]) {
    let needs_restart = steps.contains(&Step::Restart);
    assert_eq!(decide(facts), Plan { steps: steps.to_vec(), status: None, again: false, needs_restart });
}

#[track_caller]
fn assert_status(facts: &Facts, kind: &str, parts: &[&str]) {
    let plan = decide(facts);
    assert_eq!(plan.steps, [], "{facts:?}");
    let status = plan.status.unwrap();
    assert_eq!(status.kind, kind, "{}", status.message);
    assert!(
        !status.is_cut() || status.shows_next_step(),
        "`juju status` would cut the next step: {}",
        status.message
    );
    assert!(parts.iter().all(|part| status.message.contains(part)), "{}", status.message);
}

#[test]
fn says_how_to_get_other_certificates() {
    let bad = Certificates::Unusable("server.crt expired".into());
    let manual = Facts { certificates: bad, ..serving() };
    assert_status(&manual, "blocked", &["server.crt expired", "next: replace them in /etc/etcd/tls"]);
    let mut related = Facts { certificate_dir: "/etc/etcd/relation-tls".into(), ..manual };
    assert_status(&related, "blocked", &["juju integrate APPLICATION:certificates PROVIDER"]);
    related.cluster.has_certificate_provider = true;
    assert_status(&related, "blocked", &["have the related application issue new ones"]);
}

#[test]
fn any_first_hook_sets_up_an_empty_machine() {
    for hook in [
        Hook::StorageAttached,
        Hook::Install,
        Hook::ConfigChanged,
        Hook::Start,
        Hook::Update,
        Hook::UpgradeCharm,
    ] {
        let facts = Facts { hook, ..empty() };
        assert_steps(
            &facts,
            &[Step::Install, Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts],
        );
    }
}

#[test]
fn uses_a_storage_with_the_snap_if_the_snap_can() {
    let all = [Step::Install, Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts];
    let on = |storage: &str, data_dir: &str| Facts {
        method: InstallMethod::Snap,
        storage: Some(storage.into()),
        data_dir: data_dir.into(),
        ..empty()
    };
    assert_steps(&on("/media/etcd", "/media/etcd/etcd"), &all);
    // The data stays outside a storage that was attached later.
    assert_steps(&on("/var/lib/juju/storage/data/0", "/var/snap/etcd/common/default"), &all);
    // An etcd that is serving evidently can use its storage.
    let serving_on_storage = on("/srv/data", "/srv/data/etcd");
    let (storage, data_dir) = (serving_on_storage.storage, serving_on_storage.data_dir);
    assert_steps(
        &Facts { method: InstallMethod::Snap, storage, data_dir, ..serving() },
        &[Step::UpdatePorts],
    );
}

#[test]
fn changes_nothing_if_nothing_has_changed() {
    for hook in [
        Hook::Install,
        Hook::ConfigChanged,
        Hook::Start,
        Hook::Update,
        Hook::UpgradeCharm,
        Hook::StorageAttached,
    ] {
        assert_steps(&Facts { hook, ..serving() }, &[Step::UpdatePorts]);
    }
}

#[test]
fn restarts_etcd_only_for_a_new_configuration() {
    let changed = Facts { hook: Hook::ConfigChanged, wanted_config: own_config("b"), ..serving() };
    assert_steps(&changed, &[Step::Configure, Step::Restart, Step::UpdatePorts]);
    assert_steps(&Facts { is_running: false, ..changed }, &[Step::Configure, Step::Start, Step::UpdatePorts]);
    assert_steps(
        &Facts { is_service_set_up: false, ..serving() },
        &[Step::Configure, Step::Restart, Step::UpdatePorts],
    );
}

#[test]
fn upgrades_with_the_restart_of_its_turn() {
    let prepared =
        Facts { prepared_upgrade: Some("3.6.16".into()), method: InstallMethod::Release, ..serving() };
    assert_steps(&prepared, &[Step::UpgradePrograms, Step::Restart, Step::UpdatePorts]);
    let changed = Facts { wanted_config: own_config("b"), ..prepared.clone() };
    assert_steps(&changed, &[Step::Configure, Step::UpgradePrograms, Step::Restart, Step::UpdatePorts]);
    let mut waiting = prepared.clone();
    waiting.cluster.units = [("etcd/0", "active"), ("etcd/1", "active")]
        .map(|(name, status)| (name.to_owned(), GoalUnit { status: status.to_owned() }))
        .into();
    let plan = decide(&waiting);
    assert_eq!((plan.steps.as_slice(), plan.waits_for_turn()), (&[Step::UpdatePorts][..], true));
    // An operator has stopped etcd.
    let stopped = decide(&Facts { is_running: false, hook: Hook::UpgradeCharm, ..prepared });
    assert_eq!(stopped.steps, [Step::UpgradePrograms]);
    assert!(stopped.status.unwrap().message.contains("etcd is not running"));
}

#[test]
fn keeps_its_turn_after_a_failed_upgrade() {
    let refusal = Refusal::new("the upgrade failed", "juju attach-resource");
    let plan = decide(&Facts { failed_upgrade: Some(refusal), ..serving() });
    assert_eq!((plan.steps.as_slice(), plan.needs_restart), (&[Step::UpdatePorts][..], true));
    let status = plan.status.unwrap();
    assert!(status.is_blocked() && status.message.contains("the upgrade failed; next: juju"), "{status:?}");
}

#[test]
fn a_member_of_several_restarts_only_in_its_turn() {
    let mut changed = Facts { hook: Hook::ConfigChanged, wanted_config: own_config("b"), ..serving() };
    changed.cluster = Facts { has_started: true, ..joining(true) }.cluster;
    for (turn, has_asked, steps) in [
        (None, false, &[Step::UpdatePorts][..]),
        (Some("etcd/0"), true, &[Step::UpdatePorts]),
        (Some("etcd/1"), false, &[Step::UpdatePorts]),
        (Some("etcd/1"), true, &[Step::Configure, Step::Restart, Step::UpdatePorts]),
    ] {
        changed.cluster.application.turn = turn.map(str::to_owned);
        changed.cluster.own.wants_restart = has_asked;
        let plan = decide(&changed);
        assert_eq!((plan.steps.as_slice(), plan.needs_restart), (steps, true), "{turn:?}");
        assert_eq!(plan.waits_for_turn(), steps.len() == 1);
    }
    // The old port stays open until etcd listens on the new one.
    let listens = |port: u16| format!("listen-client-urls: https://0.0.0.0:{port}\n");
    let mut moved =
        Facts { current_config: Some(listens(2379)), wanted_config: listens(7), ..changed.clone() };
    assert_steps(&moved, &[Step::Configure, Step::Restart, Step::UpdatePorts]);
    moved.cluster.application.turn = None;
    assert_eq!((decide(&moved).steps, decide(&moved).waits_for_turn()), (Vec::new(), true));
    // No member serves: an upgrade waits until the others are back.
    let mut down = changed.clone();
    (down.cluster.is_down, down.cluster.application.turn) = (true, None);
    assert_steps(&down, &[Step::Configure, Step::Restart, Step::UpdatePorts]);
    let upgrade = Facts { wanted_config: own_config("a"), prepared_upgrade: Some("3.6.16".into()), ..down };
    let plan = decide(&upgrade);
    assert_eq!((plan.steps.as_slice(), plan.waits_for_turn()), (&[Step::UpdatePorts][..], true));
    // An etcd that does not run is started at once, with its new configuration.
    changed.cluster.application.turn = None;
    assert_steps(
        &Facts { is_running: false, ..changed.clone() },
        &[Step::Configure, Step::Start, Step::UpdatePorts],
    );
    // The authority's certificate has changed.
    let authority = Facts { wanted_config: own_config("a"), runs_old_config: true, ..changed };
    assert!(decide(&authority).waits_for_turn());
}

#[test]
fn ignores_the_configuration_of_a_removed_unit() {
    let leftover =
        Facts { is_installed: true, current_config: Some(own_config("of another unit")), ..empty() };
    assert_steps(&leftover, &[Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts]);
}

#[test]
fn continues_an_interrupted_installation() {
    let installed = Facts { is_installed: true, ..empty() };
    assert_steps(&installed, &[Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts]);
    let all = [Step::Install, Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts];
    for hook in [Hook::Install, Hook::Start, Hook::Update] {
        assert_steps(&Facts { hook, has_install_guard: true, ..installed.clone() }, &all);
        assert_steps(
            &Facts { hook, has_install_guard: true, is_installed: false, ..installed.clone() },
            &all,
        );
        let configured =
            Facts { current_config: Some(own_config("a")), data: DataState::New, ..installed.clone() };
        assert_steps(&Facts { hook, has_install_guard: true, ..configured }, &all);
    }
    let recorded = Facts { data: DataState::New, ..installed };
    assert_steps(&recorded, &[Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts]);
    let configured = Facts { current_config: Some(own_config("a")), is_service_set_up: true, ..recorded };
    assert_steps(&configured, &[Step::CreateDataDir, Step::Start, Step::UpdatePorts]);
    // A hook was interrupted between the configuration and the restart.
    assert_steps(&Facts { runs_old_config: true, ..serving() }, &[Step::Restart, Step::UpdatePorts]);
    // Or between the stop and the start; or etcd did not start.
    for hook in [Hook::Update, Hook::ConfigChanged, Hook::StorageAttached, Hook::UpgradeCharm] {
        assert_steps(
            &Facts { hook, runs_old_config: true, is_running: false, ..serving() },
            &[Step::Start, Step::UpdatePorts],
        );
    }
}

#[test]
fn starts_a_stopped_etcd_only_in_hooks_that_may_start_it() {
    let stopped = Facts { is_running: false, ..serving() };
    for hook in [Hook::Start, Hook::Install, Hook::StorageAttached] {
        assert_steps(&Facts { hook, ..stopped.clone() }, &[Step::Start, Step::UpdatePorts]);
    }
    // `juju attach-resource` runs `upgrade-charm`, which never stops etcd and so need not start it.
    for hook in [Hook::Update, Hook::ConfigChanged, Hook::UpgradeCharm] {
        assert_status(
            &Facts { hook, ..stopped.clone() },
            "blocked",
            &["etcd is not running", "systemctl start etcd.service"],
        );
    }
}

#[test]
fn a_member_that_was_removed_while_its_unit_stays_joins_again_after_its_data_was_moved() {
    let mut facts = Facts { is_running: false, ..serving() };
    facts.cluster = ClusterFacts { unit: "etcd/1".into(), ..joining(false).cluster };
    facts.cluster.own.member = Some("7".into());
    assert_blocked(&facts, &["was removed from the cluster", "mv -T /var/lib/etcd/default/member PLACE"]);
    // No other member answers, or it is still listed.
    for members in [
        None,
        joining(true).cluster.members.map(|mut all| {
            all[1].id = 7;
            all
        }),
    ] {
        facts.cluster.members = members;
        let update = Facts { hook: Hook::UpdateStatus, ..facts.clone() };
        assert_status(&update, "blocked", &["etcd is not running"]);
    }
}

#[test]
fn starts_an_etcd_whose_storage_was_mounted_after_the_boot() {
    let on_storage = Facts {
        is_running: false,
        storage: Some("/srv/data".into()),
        data_dir: "/srv/data/etcd".into(),
        hook: Hook::UpdateStatus,
        ..serving()
    };
    let missed = Facts { missed_boot: true, ..on_storage.clone() };
    assert_steps(&missed, &[Step::Start, Step::UpdatePorts]);
    // Not mounted yet: its member is not replaced.
    let absent = Facts { data: DataState::Absent, has_started: false, ..missed.clone() };
    assert_status(&absent, "blocked", &["/srv/data/etcd is missing or empty", "juju attach-storage"]);
    // An operator has stopped it, or it is not on a storage.
    assert_status(&on_storage, "blocked", &["etcd is not running"]);
    assert_status(&Facts { storage: None, ..missed }, "blocked", &["etcd is not running"]);
}

#[test]
fn marks_as_served_without_a_restart() {
    let (new, existing) =
        (own_config("\ninitial-cluster-state: new\n"), own_config("\ninitial-cluster-state: existing\n"));
    let served = Facts { current_config: Some(new.clone()), wanted_config: existing.clone(), ..serving() };
    assert_steps(&served, &[Step::MarkAsServed, Step::UpdatePorts]);
    let stopped = decide(&Facts { is_running: false, ..served.clone() });
    assert_eq!(stopped.steps, [Step::MarkAsServed]);
    assert!(stopped.status.unwrap().message.contains("is not running"));
    assert_steps(
        &Facts { is_service_set_up: false, ..served.clone() },
        &[Step::Configure, Step::Restart, Step::UpdatePorts],
    );
    let more = Facts { wanted_config: existing.clone() + "b", ..served };
    assert_steps(&more, &[Step::Configure, Step::Restart, Step::UpdatePorts]);
    let back =
        Facts { current_config: Some(existing), wanted_config: new, data: DataState::New, ..serving() };
    assert_steps(&back, &[Step::CreateDataDir, Step::Configure, Step::Restart, Step::UpdatePorts]);
}

#[test]
fn blocks_every_unit_but_the_first() {
    assert_eq!(status_of_later_unit("etcd/0", &[]), None);
    let status = status_of_later_unit("etcd/3", &["etcd/0".into(), "etcd/2".into()]).unwrap();
    assert!(status.is_blocked());
    for part in ["only one unit is supported", "etcd/0 runs etcd", "juju remove-unit etcd/3"] {
        assert!(status.message.contains(part), "{}", status.message);
    }
}

#[test]
fn changes_nothing_during_or_after_an_interrupted_restore() {
    for hook in [Hook::Install, Hook::Start, Hook::ConfigChanged, Hook::Stop, Hook::Update] {
        for facts in [serving(), Facts { is_running: false, wanted_config: own_config("b"), ..serving() }] {
            let busy = RestoreState::Busy("restore (pid 7) is working on /d".into());
            assert_status(
                &Facts { hook, restore: busy, ..facts.clone() },
                "maintenance",
                &["restore (pid 7)"],
            );
            let stuck = RestoreState::Stuck(Refusal::new("cannot be read", "wait"));
            assert_status(
                &Facts { hook, restore: stuck, ..facts },
                "blocked",
                &["cannot be read; next: wait"],
            );
        }
    }
    assert_steps(
        &Facts { restore: RestoreState::Recovered("rolled back".into()), ..serving() },
        &[Step::UpdatePorts],
    );
}

#[test]
fn names_what_an_operator_must_correct_and_changes_nothing() {
    let invalid = Err(Refusal::new("option port is 0", "juju config APPLICATION port=VALUE"));
    for (facts, parts) in [
        (
            Facts {
                version_check: Err(Refusal::new("etcd 3.3", "replace it")),
                is_installed: true,
                ..empty()
            },
            ["etcd 3.3", "replace it"],
        ),
        (
            Facts {
                method: InstallMethod::Snap,
                storage: Some("/var/lib/juju/storage/data/0".into()),
                data_dir: "/var/lib/juju/storage/data/0/etcd".into(),
                ..empty()
            },
            [
                "the etcd snap cannot use the storage at /var/lib/juju/storage/data/0/etcd",
                "without the storage",
            ],
        ),
        (Facts { options: invalid.clone(), ..empty() }, ["option port is 0", "juju config"]),
        (
            Facts { options: invalid, wanted_config: own_config("b"), ..serving() },
            ["option port is 0", "juju config"],
        ),
        (
            Facts { certificates: Certificates::Missing("client.key".into()), ..empty() },
            ["client.key", "/etc/etcd/tls"],
        ),
        (
            Facts {
                certificates: Certificates::Unusable("server.key: no".into()),
                wanted_config: own_config("b"),
                ..serving()
            },
            ["server.key: no", "etcd keeps running"],
        ),
    ] {
        assert_blocked(&facts, &parts);
    }
}

#[test]
fn does_not_advise_to_move_data_whose_record_others_can_write() {
    let status = decide(&Facts { data: DataState::Untrusted, ..serving() }).status.unwrap();
    assert!(!status.message.contains("move"), "{}", status.message);
}

/// Asserts that every hook changes nothing and reports these `parts`.
fn assert_blocked(facts: &Facts, parts: &[&str]) {
    for hook in [Hook::Install, Hook::Start, Hook::ConfigChanged, Hook::Update] {
        assert_status(&Facts { hook, ..facts.clone() }, "blocked", parts);
    }
}

#[test]
fn names_data_and_etcds_that_it_must_not_touch_and_changes_nothing() {
    let foreign_etcd = Some("pid 7 with its data in /d".to_owned());
    for (facts, parts) in [
        (
            Facts { data: DataState::Foreign("unit a/1 of model m".into()), ..empty() },
            ["belongs to unit a/1", "move"],
        ),
        (
            Facts { data: DataState::Untrusted, ..serving() },
            ["next: chown root:root /var/lib/etcd/default/.etcd-charm.json && chmod go-w", "other than root"],
        ),
        (Facts { data: DataState::Lost, is_running: false, ..serving() }, ["is gone", "restore a snapshot"]),
        (
            Facts { data: DataState::Lost, ..serving() },
            ["is gone", "rm /etc/etcd/etcd.conf.yml /var/lib/etcd/default/.etcd-charm.json"],
        ),
        (
            Facts { data: DataState::Absent, is_running: false, ..serving() },
            ["is missing or empty", "juju attach-storage"],
        ),
        (Facts { foreign_etcd: foreign_etcd.clone(), ..empty() }, ["pid 7", "did not set up"]),
        // The unit that wrote the configuration was removed by force, and its etcd is still running.
        (
            Facts { foreign_etcd, current_config: Some(own_config("b")), ..empty() },
            ["pid 7", "did not set up"],
        ),
    ] {
        assert_blocked(&facts, &parts);
    }
}

#[test]
fn stops_its_etcd_if_the_unit_is_removed_or_the_storage_detached() {
    let on_storage =
        Facts { storage: Some("/srv/data".into()), data_dir: "/srv/data/etcd".into(), ..serving() };
    for (hook, facts) in
        [(Hook::Stop, serving()), (Hook::Remove, serving()), (Hook::StorageDetaching, on_storage.clone())]
    {
        let plan = decide(&Facts { hook, ..facts });
        assert_eq!(plan.steps, [Step::Stop], "{hook:?}");
        assert!(plan.status.unwrap().message.contains("its data stays in"));
    }
    let elsewhere = Facts { hook: Hook::StorageDetaching, data_dir: "/var/lib/etcd".into(), ..on_storage };
    assert_eq!(decide(&elsewhere).steps, []);
    let interrupted = Facts { has_install_guard: true, hook: Hook::Remove, ..empty() };
    assert_eq!(decide(&interrupted).steps, [Step::RemoveGuard]);
    assert_eq!(decide(&Facts { is_installed: true, ..interrupted }).steps, [Step::Stop, Step::RemoveGuard]);
    for facts in
        [empty(), Facts { has_own_config: false, current_config: Some("name: theirs\n".into()), ..serving() }]
    {
        assert_eq!(decide(&Facts { hook: Hook::Stop, ..facts }).steps, [], "stopped a foreign etcd");
    }
}

/// The facts of etcd/1, which the leader has admitted to the cluster of etcd/0.
fn joining(is_listed: bool) -> Facts {
    use crate::charm::cluster::databag::{KnownUnit, UnitData};
    use crate::charm::cluster::facts::Urls;
    use crate::etcd::member::Member;
    let peer = |number: u8| format!("https://10.0.0.{number}:2380");
    let member = |number: u8, name: &str| Member {
        id: number.into(),
        name: name.into(),
        peer_urls: vec![peer(number)],
        client_urls: if name.is_empty() { Vec::new() } else { vec![format!("https://10.0.0.{number}:2379")] },
        is_learner: number == 1,
    };
    let members = if is_listed { vec![member(0, "etcd0"), member(1, "")] } else { vec![member(0, "etcd0")] };
    let mut cluster = ClusterFacts {
        unit: "etcd/1".into(),
        units: ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), GoalUnit::default())).into(),
        relation: Some("cluster:0".into()),
        urls: Some(Urls { peer: peer(1), client: "https://10.0.0.1:2379".into() }),
        members: Some(members),
        ..ClusterFacts::default()
    };
    let serving = UnitData { member: Some("0".into()), cluster: Some("1a".into()), ..UnitData::default() };
    cluster.others.insert("etcd/0".into(), serving);
    cluster.application.known.insert("etcd/1".into(), KnownUnit { peer: peer(1), member: None });
    Facts { cluster, certificates: Certificates::All, ..empty() }
}

#[test]
fn joins_from_every_point_at_which_a_hook_can_be_killed() {
    let starts = [Step::CreateDataDir, Step::Configure, Step::Start, Step::UpdatePorts];
    let first = decide(&joining(false));
    assert_eq!((first.steps.as_slice(), first.again), (&[Step::Install][..], true));
    let installed = Facts { is_installed: true, has_install_guard: true, ..joining(false) };
    assert_eq!(decide(&installed).steps, [Step::AddMember]);
    // Added, but not started.
    let listed = Facts { is_installed: true, has_install_guard: true, ..joining(true) };
    assert_steps(&listed, &[&[Step::Install], &starts[..]].concat());
    // Configured, but not started.
    let configured = Facts {
        data: DataState::New,
        has_own_config: true,
        current_config: Some(own_config("a")),
        is_service_set_up: true,
        is_installed: true,
        ..joining(true)
    };
    assert_steps(&configured, &[Step::CreateDataDir, Step::Start, Step::UpdatePorts]);
    // etcd was refused as a member and may be starting again and again. A restart of it needs no turn.
    let refused = Facts { is_running: true, wanted_config: own_config("b"), ..configured.clone() };
    assert_steps(&refused, &[Step::CreateDataDir, Step::Configure, Step::Restart, Step::UpdatePorts]);
    // Started: from then on it is a member like any other.
    let started = Facts { is_running: true, has_started: true, ..configured };
    assert_steps(&started, &[Step::CreateDataDir, Step::UpdatePorts]);
}

#[test]
fn a_member_that_lost_its_data_is_replaced_if_the_others_are_a_majority() {
    let member = Some(RecordedMember { cluster: "1a".into(), id: "1".into() });
    let record = UnitRecord { unit: "etcd/1".into(), model: "m".into(), served: true, member };
    let mut lost = Facts {
        data: DataState::Lost,
        record: Some(record.clone()),
        is_installed: true,
        has_own_config: true,
        current_config: Some(own_config("a")),
        ..joining(true)
    };
    lost.cluster.application.cluster = Some("1a".into());
    // An etcd that runs has its files open. With two members, its vote is needed to remove its member.
    for (is_running, first) in
        [(true, [Step::DiscardMember, Step::Stop]), (false, [Step::Stop, Step::DiscardMember])]
    {
        let plan = decide(&Facts { is_running, ..lost.clone() });
        assert_eq!(plan.steps, [first[0], first[1], Step::ForgetMember]);
        assert!(plan.again);
    }
    // Killed after the removal of its member.
    lost.cluster.members.as_mut().unwrap().pop();
    let steps = [Step::Stop, Step::DiscardMember, Step::ForgetMember];
    assert_eq!(decide(&Facts { is_running: false, ..lost.clone() }).steps, steps);
    // The other members are no majority, or it is not known that the data was this cluster's.
    let silent = Facts { cluster: ClusterFacts { members: None, ..lost.cluster.clone() }, ..lost.clone() };
    assert_blocked(&silent, &["is gone", "too few other members", "juju remove-unit", "restore"]);
    // They answer, and refuse the charm.
    let mut refused = silent;
    refused.cluster.refuses_charm = true;
    assert_blocked(&refused, &["grant-role"]);
    assert!(!decide(&refused).status.unwrap().message.contains("remove-unit"));
    let mut other = lost.clone();
    other.cluster.application.cluster = Some("2b".into());
    assert_blocked(&other, &["is gone", "restore a snapshot"]);
    let earlier = Facts { record: Some(UnitRecord { member: None, ..record }), ..lost.clone() };
    assert_blocked(&earlier, &["is gone", "restore a snapshot"]);
    // A storage that is not mounted has no record either.
    let unmounted = Facts { data: DataState::Absent, record: None, ..lost };
    assert_blocked(&unmounted, &["is missing or empty", "attach"]);
}

#[test]
fn a_unit_that_has_to_wait_is_only_installed() {
    let mut waiting = joining(false);
    waiting.cluster.application.known.clear();
    assert_eq!(decide(&waiting).steps, [Step::Install]);
    assert_eq!(decide(&waiting).status.unwrap().kind, "waiting");
    let installed = Facts { is_installed: true, has_install_guard: true, ..waiting };
    assert_eq!(decide(&installed).steps, []);
    let mut without_certificates = joining(false);
    without_certificates.cluster.urls = None;
    assert_status(&without_certificates, "blocked", &["needs certificates", "juju integrate"]);
}

#[test]
fn a_dying_unit_leaves_before_its_etcd_stops() {
    let mut facts = Facts { is_running: true, has_started: true, ..joining(true) };
    let members = facts.cluster.members.as_mut().unwrap();
    (members[1].name, members[1].is_learner) = ("etcd1".into(), false);
    let dying = Facts { data: DataState::Present, is_installed: true, has_own_config: true, ..facts };
    let with_goal = |hook: Hook, own: &str, other: &str| {
        let mut facts = Facts { hook, ..dying.clone() };
        for (unit, status) in [("etcd/1", own), ("etcd/0", other)] {
            facts.cluster.units.insert(unit.into(), GoalUnit { status: status.into() });
        }
        decide(&facts).steps
    };
    for hook in [Hook::Update, Hook::StorageDetaching, Hook::Stop, Hook::Remove] {
        assert_eq!(with_goal(hook, "dying", "active"), [Step::Leave, Step::Stop], "{hook:?}");
    }
    // The whole application is removed: the data stays, with all members.
    assert_eq!(with_goal(Hook::Stop, "dying", "dying"), [Step::Stop]);
    assert!(!with_goal(Hook::Update, "dying", "dying").contains(&Step::Stop));
    // The agent is told to end, or a storage is detached from a unit that stays.
    assert_eq!(with_goal(Hook::Stop, "active", "active"), [Step::Stop]);
    assert_eq!(with_goal(Hook::StorageDetaching, "active", "active"), []);
    // It has left already.
    let mut left = Facts { is_running: false, ..dying };
    left.cluster.units.insert("etcd/1".into(), GoalUnit { status: "dying".into() });
    left.cluster.members.as_mut().unwrap().pop();
    let plan = decide(&left);
    assert_eq!(
        (plan.steps.as_slice(), plan.status.unwrap().kind.as_str()),
        (&[Step::Stop][..], "maintenance")
    );
}

#[test]
fn a_member_on_the_network_keeps_running_until_it_has_a_certificate_for_its_new_address() {
    let listens = |port: u16| format!("{}listen-peer-urls: https://0.0.0.0:{port}\n", etcd_config::HEADER);
    let member = Facts {
        data: DataState::Present,
        has_started: true,
        is_installed: true,
        is_running: true,
        is_service_set_up: true,
        has_own_config: true,
        current_config: Some(listens(2380)),
        wanted_config: own_config("b"),
        ..joining(true)
    };
    let mut without = member.clone();
    without.cluster.urls = None;
    without.cluster.certificate_problem = Some("server.crt does not name IP:10.0.0.9".into());
    assert_status(&without, "blocked", &["etcd/0 could not reach this unit", "does not name IP:10.0.0.9"]);
    without.cluster.has_certificate_provider = true;
    assert_status(&without, "waiting", &["waiting for a certificate"]);
    without.is_running = true;
    assert!(!decide(&without).status.unwrap().message.contains("restart"));
    without.runs_old_config = true;
    assert_status(&without, "waiting", &["next, if its CA is new: systemctl restart etcd.service"]);
    assert!(decide(&member).waits_for_turn());
    assert!(member.listens_at_its_url());
    let moved = Facts { current_config: Some(listens(7)), ..member };
    assert!(!moved.listens_at_its_url());
    assert_status(&moved, "blocked", &["management-port cannot be changed", "management-port=7"]);
}

/// Such a unit is still the member that it was, and no other unit may start a cluster in its place.
#[test]
fn a_unit_had_data_if_its_storage_is_missing_or_its_data_is_lost() {
    for (data, has_own_config, expected) in [
        (DataState::Absent, true, true),
        (DataState::Lost, true, true),
        (DataState::Absent, false, false),
        (DataState::New, true, false),
    ] {
        let facts = Facts { data: data.clone(), has_own_config, has_started: false, ..serving() };
        assert_eq!(facts.has_or_had_data(), expected, "{data:?} {has_own_config}");
    }
    assert!(serving().has_or_had_data());
}
