//! The decisions of a hook, as tables.

use super::*;
use serde_json::json;

fn ours(text: &str) -> String {
    configuration::pointer(std::path::Path::new("/x")) + text
}

/// A unit that serves, as the charm made it.
fn serving() -> Facts {
    let options = json!({
        "port": 2379, "management-port": 2380, "channel": "stable", "heartbeat-interval": 100,
        "election-timeout": 1000, "snapshot-count": 0, "quota-backend-bytes": 0, "auto-compaction-retention": "0",
    });
    Facts {
        hook: Hook::Look,
        rest: Rest::Quiet,
        settings: Settings::read(options.as_object().unwrap(), 1024),
        home: Home::Debian,
        installed: true,
        suits: Ok(()),
        stranger: None,
        data_dir: "/var/lib/etcd/default".into(),
        storage: None,
        data: Data::There,
        certificates: Certificates::None,
        ours: true,
        configured: Some(ours("a")),
        wanted: ours("a"),
        pointed: true,
        guarded: false,
        runs: true,
        stale: false,
    }
}

/// An empty machine.
fn empty() -> Facts {
    Facts {
        installed: false,
        data: Data::Nothing,
        ours: false,
        configured: None,
        pointed: false,
        runs: false,
        ..serving()
    }
}

#[track_caller]
fn does(facts: &Facts, steps: &[Step]) {
    assert_eq!(decide(facts), Plan { steps: steps.to_vec(), say: None });
}

#[track_caller]
fn says(facts: &Facts, word: &str, parts: &[&str]) {
    let plan = decide(facts);
    assert_eq!(plan.steps, [], "{facts:?}");
    let said = plan.say.unwrap();
    assert_eq!(said.word, word, "{}", said.message);
    assert!(parts.iter().all(|part| said.message.contains(part)), "{}", said.message);
}

#[test]
fn an_empty_machine_gets_everything_by_whatever_hook_comes_first() {
    for hook in [
        Hook::StorageAttached,
        Hook::Install,
        Hook::ConfigChanged,
        Hook::Start,
        Hook::Look,
        Hook::UpgradeCharm,
    ] {
        let facts = Facts { hook, ..empty() };
        does(&facts, &[Step::Install, Step::MakeData, Step::Configure, Step::Start, Step::Ports]);
    }
}

#[test]
fn a_confined_etcd_gets_a_storage_where_snapd_lets_it() {
    let all = [Step::Install, Step::MakeData, Step::Configure, Step::Start, Step::Ports];
    let on = |storage: &str, data_dir: &str| Facts {
        home: Home::Snap,
        storage: Some(storage.into()),
        data_dir: data_dir.into(),
        ..empty()
    };
    does(&on("/media/etcd", "/media/etcd/etcd"), &all);
    // Its data is not on the storage that came later.
    does(&on("/var/lib/juju/storage/data/0", "/var/snap/etcd/common/default"), &all);
    // One that serves is evidently let to it.
    let serves = on("/srv/data", "/srv/data/etcd");
    let (storage, data_dir) = (serves.storage, serves.data_dir);
    does(&Facts { home: Home::Snap, storage, data_dir, ..serving() }, &[Step::Ports]);
}

#[test]
fn a_unit_that_is_as_it_should_be_is_left_alone() {
    for hook in [
        Hook::Install,
        Hook::ConfigChanged,
        Hook::Start,
        Hook::Look,
        Hook::UpgradeCharm,
        Hook::StorageAttached,
    ] {
        does(&Facts { hook, ..serving() }, &[Step::Ports]);
    }
}

#[test]
fn etcd_is_restarted_only_for_another_configuration() {
    let changed = Facts { hook: Hook::ConfigChanged, wanted: ours("b"), ..serving() };
    does(&changed, &[Step::Configure, Step::Restart, Step::Ports]);
    does(&Facts { runs: false, ..changed }, &[Step::Configure, Step::Start, Step::Ports]);
    does(&Facts { pointed: false, ..serving() }, &[Step::Configure, Step::Restart, Step::Ports]);
}

#[test]
fn what_a_unit_that_is_gone_has_left_is_no_data_of_this_one() {
    let left = Facts { installed: true, configured: Some(ours("of another unit")), ..empty() };
    does(&left, &[Step::MakeData, Step::Configure, Step::Start, Step::Ports]);
}

#[test]
fn an_installation_that_broke_off_goes_on_where_it_was() {
    let installed = Facts { installed: true, ..empty() };
    does(&installed, &[Step::MakeData, Step::Configure, Step::Start, Step::Ports]);
    let all = [Step::Install, Step::MakeData, Step::Configure, Step::Start, Step::Ports];
    for hook in [Hook::Install, Hook::Start, Hook::Look] {
        does(&Facts { hook, guarded: true, ..installed.clone() }, &all);
        does(&Facts { hook, guarded: true, installed: false, ..installed.clone() }, &all);
        let configured = Facts { configured: Some(ours("a")), data: Data::New, ..installed.clone() };
        does(&Facts { hook, guarded: true, ..configured }, &all);
    }
    let recorded = Facts { data: Data::New, ..installed };
    does(&recorded, &[Step::MakeData, Step::Configure, Step::Start, Step::Ports]);
    let configured = Facts { configured: Some(ours("a")), pointed: true, ..recorded };
    does(&configured, &[Step::MakeData, Step::Start, Step::Ports]);
    // A hook that died between the configuration and the restart.
    does(&Facts { stale: true, ..serving() }, &[Step::Restart, Step::Ports]);
    // Or between the stop and the start; and one whose etcd did not start.
    for hook in [Hook::Look, Hook::ConfigChanged, Hook::StorageAttached, Hook::UpgradeCharm] {
        does(&Facts { hook, stale: true, runs: false, ..serving() }, &[Step::Start, Step::Ports]);
    }
}

#[test]
fn a_stopped_etcd_is_started_when_the_unit_starts_and_not_whenever_time_passes() {
    let stopped = Facts { runs: false, ..serving() };
    for hook in [Hook::Start, Hook::Install, Hook::StorageAttached] {
        does(&Facts { hook, ..stopped.clone() }, &[Step::Start, Step::Ports]);
    }
    // `juju attach-resource` comes as an upgrade of the charm, which itself has no reason to start anything either.
    for hook in [Hook::Look, Hook::ConfigChanged, Hook::UpgradeCharm] {
        says(
            &Facts { hook, ..stopped.clone() },
            "blocked",
            &["does not run", "systemctl start etcd.service"],
        );
    }
}

#[test]
fn that_etcd_has_served_is_written_down_and_nothing_is_restarted_for_it() {
    let (new, existing) =
        (ours("\ninitial-cluster-state: new\n"), ours("\ninitial-cluster-state: existing\n"));
    let served = Facts { configured: Some(new.clone()), wanted: existing.clone(), ..serving() };
    does(&served, &[Step::Note, Step::Ports]);
    let stopped = decide(&Facts { runs: false, ..served.clone() });
    assert_eq!(stopped.steps, [Step::Note]);
    assert!(stopped.say.unwrap().message.contains("does not run"));
    does(&Facts { pointed: false, ..served.clone() }, &[Step::Configure, Step::Restart, Step::Ports]);
    let more = Facts { wanted: existing.clone() + "b", ..served };
    does(&more, &[Step::Configure, Step::Restart, Step::Ports]);
    let back = Facts { configured: Some(existing), wanted: new, data: Data::New, ..serving() };
    does(&back, &[Step::MakeData, Step::Configure, Step::Restart, Step::Ports]);
}

#[test]
fn a_second_unit_is_told_so() {
    assert_eq!(second(&[]), None);
    let said = second(&["etcd/0".into(), "etcd/2".into()]).unwrap();
    assert_eq!(said.word, "blocked");
    for part in ["scaling comes with the next work (certificates and peers)", "etcd/0 serves alone"] {
        assert!(said.message.contains(part), "{}", said.message);
    }
}

#[test]
fn while_a_restore_is_at_work_or_unfinished_nothing_is_touched() {
    for hook in [Hook::Install, Hook::Start, Hook::ConfigChanged, Hook::Stop, Hook::Look] {
        for facts in [serving(), Facts { runs: false, wanted: ours("b"), ..serving() }] {
            let busy = Rest::Busy("restore (pid 7) is working on /d".into());
            says(&Facts { hook, rest: busy, ..facts.clone() }, "maintenance", &["restore (pid 7)"]);
            let stuck = Rest::Unsettled("cannot be judged".into());
            says(&Facts { hook, rest: stuck, ..facts }, "blocked", &["cannot be judged"]);
        }
    }
    does(&Facts { rest: Rest::Settled("undone".into()), ..serving() }, &[Step::Ports]);
}

#[test]
fn what_an_operator_has_to_see_to_is_named_and_nothing_is_touched() {
    let wrong = Err(Refusal::new("option port is 0", "juju config APPLICATION port=VALUE"));
    let stranger = Some("pid 7 with its data in /d".to_owned());
    for (facts, parts) in [
        (
            Facts { suits: Err(Refusal::new("etcd 3.3", "replace it")), installed: true, ..empty() },
            ["etcd 3.3", "replace it"],
        ),
        (
            Facts {
                home: Home::Snap,
                storage: Some("/var/lib/juju/storage/data/0".into()),
                data_dir: "/var/lib/juju/storage/data/0/etcd".into(),
                ..empty()
            },
            [
                "confined and cannot use the storage at /var/lib/juju/storage/data/0/etcd",
                "without the storage",
            ],
        ),
        (Facts { settings: wrong.clone(), ..empty() }, ["option port is 0", "juju config"]),
        (Facts { settings: wrong, wanted: ours("b"), ..serving() }, ["option port is 0", "juju config"]),
        (
            Facts { certificates: Certificates::Missing("client.key".into()), ..empty() },
            ["client.key", "/etc/etcd/tls"],
        ),
        (
            Facts {
                certificates: Certificates::Unusable("server.key: no".into()),
                wanted: ours("b"),
                ..serving()
            },
            ["server.key: no", "etcd was left alone"],
        ),
        (
            Facts { data: Data::Foreign("unit a/1 of model m".into()), ..empty() },
            ["belongs to unit a/1", "move"],
        ),
        (Facts { data: Data::Lost, runs: false, ..serving() }, ["is gone", "restore a snapshot"]),
        (
            Facts { data: Data::Lost, ..serving() },
            ["is gone", "rm /etc/etcd/etcd.conf.yml /var/lib/etcd/default/.etcd-charm.json"],
        ),
        (Facts { data: Data::Nothing, runs: false, ..serving() }, ["is not there", "juju attach-storage"]),
        (Facts { stranger: stranger.clone(), ..empty() }, ["pid 7", "did not set up"]),
        // The unit that wrote the configuration was torn out, and its etcd runs on.
        (Facts { stranger, configured: Some(ours("b")), ..empty() }, ["pid 7", "did not set up"]),
    ] {
        for hook in [Hook::Install, Hook::Start, Hook::ConfigChanged, Hook::Look] {
            says(&Facts { hook, ..facts.clone() }, "blocked", &parts);
        }
    }
}

#[test]
fn an_etcd_of_ours_is_stopped_when_its_unit_or_its_storage_goes() {
    let stored = Facts { storage: Some("/srv/data".into()), data_dir: "/srv/data/etcd".into(), ..serving() };
    for (hook, facts) in
        [(Hook::Stop, serving()), (Hook::Remove, serving()), (Hook::StorageDetaching, stored.clone())]
    {
        let plan = decide(&Facts { hook, ..facts });
        assert_eq!(plan.steps, [Step::Stop], "{hook:?}");
        assert!(plan.say.unwrap().message.contains("its data stays in"));
    }
    let elsewhere = Facts { hook: Hook::StorageDetaching, data_dir: "/var/lib/etcd".into(), ..stored };
    assert_eq!(decide(&elsewhere).steps, []);
    let broken = Facts { guarded: true, hook: Hook::Remove, ..empty() };
    assert_eq!(decide(&broken).steps, [Step::Unguard]);
    assert_eq!(decide(&Facts { installed: true, ..broken }).steps, [Step::Stop, Step::Unguard]);
    for facts in [empty(), Facts { ours: false, configured: Some("name: theirs\n".into()), ..serving() }] {
        assert_eq!(decide(&Facts { hook: Hook::Stop, ..facts }).steps, [], "not ours");
    }
}
