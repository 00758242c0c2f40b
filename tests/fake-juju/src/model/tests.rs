//! The rules of a model.

use super::*;

/// Runs a hook whose tools are called as in `calls`: name, arguments, standard input.
fn run(model: &mut Model, unit: &str, calls: &[(&str, &[&str], &str)]) -> Result<String, String> {
    let hook = model.next_hook(unit).unwrap();
    let mut context = model.begin(unit, &hook);
    for (tool, words, input) in calls {
        call(&mut context, tool, words, input).unwrap();
    }
    model.commit(unit, &hook, &context).map(|()| hook.name)
}

/// Runs all hooks of all units, and returns them as `UNIT HOOK`.
fn settle(model: &mut Model) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(unit) = model.units("etcd").into_iter().find(|unit| model.next_hook(unit).is_some()) {
        all.push(format!("{unit} {}", run(model, &unit, &[]).unwrap()));
        assert!(all.len() < 100, "{all:?}");
    }
    all
}

fn model() -> Model {
    let mut model = Model::default();
    model.add_peers("etcd", "cluster");
    model.add_unit("etcd", "10.0.0.1");
    model
}

fn get(model: &mut Model, unit: &str, words: &[&str]) -> Result<String, (u8, String)> {
    let mut context = model.begin(unit, &Hook::update_status());
    call(&mut context, "relation-get", &[&["-r", "cluster:0", "--format=json"], words].concat(), "")
}

#[test]
fn hooks_run_in_the_order_of_juju() {
    let mut model = model();
    let first = ["install", "cluster-relation-created", "leader-elected", "config-changed", "start"];
    assert_eq!(settle(&mut model), first.map(|hook| format!("etcd/0 {hook}")));
    model.add_unit("etcd", "10.0.0.2");
    let hooks = settle(&mut model);
    // The older unit is asked first here, so it sees the new one between its first hooks.
    assert_eq!(
        hooks,
        [
            "etcd/1 install",
            "etcd/1 cluster-relation-created",
            "etcd/0 cluster-relation-joined",
            "etcd/0 cluster-relation-changed",
            "etcd/1 config-changed",
            "etcd/1 start",
            "etcd/1 cluster-relation-joined",
            "etcd/1 cluster-relation-changed",
        ]
    );
    // A relation that is added later: the unit enters it in its first hook.
    let number = model.relate(&[("etcd", "certificates"), ("easyrsa", "client")]);
    assert_eq!(model.data(number, "etcd/0"), Databag::new());
    assert_eq!(
        settle(&mut model),
        ["etcd/0 certificates-relation-created", "etcd/1 certificates-relation-created"]
    );
    assert_eq!(model.data(number, "etcd/0")["ingress-address"], "10.0.0.1");
    model.remove_unit("etcd/1");
    assert_eq!(
        settle(&mut model),
        [
            "etcd/0 cluster-relation-departed",
            "etcd/1 certificates-relation-broken",
            "etcd/1 cluster-relation-departed",
            "etcd/1 stop",
            "etcd/1 remove"
        ]
    );
    assert_eq!(model.add_unit("etcd", "10.0.0.3"), "etcd/2");
}

#[test]
fn a_hook_stores_all_its_changes_or_none() {
    let mut model = model();
    settle(&mut model);
    model.add_unit("etcd", "10.0.0.2");
    settle(&mut model);
    let set: (&str, &[&str], &str) =
        ("relation-set", &["-r", "cluster:0", "--file", "-", "--app"], r#"{"cluster": "1a"}"#);
    model.change_config("etcd");
    let hook = model.next_hook("etcd/0").unwrap();
    let mut context = model.begin("etcd/0", &hook);
    assert!(call(&mut context, set.0, set.1, set.2).is_ok());
    // Killed: nothing was stored, and the hook is the next one again.
    assert!(model.data(0, "etcd").is_empty() && model.next_hook("etcd/0") == Some(hook.clone()));
    // Deposed in the meantime.
    model.lead("etcd/1");
    assert!(model.commit("etcd/0", &hook, &context).unwrap_err().contains("leadership lost"));
    assert!(model.data(0, "etcd").is_empty() && model.next_hook("etcd/0") == Some(hook));
    model.lead("etcd/0");
    run(&mut model, "etcd/0", &[set]).unwrap();
    assert_eq!(model.data(0, "etcd")["cluster"], "1a");
    // The other unit gets a hook, the leader none.
    assert_eq!(
        settle(&mut model).iter().filter(|hook| hook.contains("relation")).collect::<Vec<_>>(),
        ["etcd/1 cluster-relation-changed"]
    );
    // Unchanged data is no change, and can be set by a unit that is deposed.
    model.change_config("etcd");
    let hook = model.next_hook("etcd/0").unwrap();
    let mut context = model.begin("etcd/0", &hook);
    assert!(call(&mut context, set.0, set.1, set.2).is_ok());
    model.lead("etcd/1");
    assert_eq!(model.commit("etcd/0", &hook, &context), Ok(()));
}

#[test]
fn an_interrupted_hook_is_the_next_one_again() {
    let mut model = model();
    settle(&mut model);
    model.add_unit("etcd", "10.0.0.2");
    settle(&mut model);
    model.add_unit("etcd", "10.0.0.3");
    for unit in ["etcd/2", "etcd/2"] {
        run(&mut model, unit, &[]).unwrap();
    }
    model.remove_unit("etcd/1");
    for event in ["departed", "joined"] {
        let hook = model.next_hook("etcd/0").unwrap();
        assert_eq!(hook.name, format!("cluster-relation-{event}"));
        model.begin("etcd/0", &hook);
        model.interrupt("etcd/0", &hook);
        assert_eq!(model.next_hook("etcd/0").as_ref(), Some(&hook));
        let context = model.begin("etcd/0", &hook);
        model.commit("etcd/0", &hook, &context).unwrap();
        assert_ne!(model.next_hook("etcd/0"), Some(hook));
    }
    settle(&mut model);
    model.boot("etcd/0");
    assert_eq!(settle(&mut model), ["etcd/0 start"]);
}

#[test]
fn a_hook_sees_the_data_as_it_began_and_its_own_changes() {
    let mut model = model();
    settle(&mut model);
    let mut context = model.begin("etcd/0", &Hook::update_status());
    model.set_data(0, "etcd", &[("cluster", "later")]);
    let words = ["-r", "cluster:0", "--format=json", "-", "etcd/0"];
    let before = call(&mut context, "relation-get", &words, "").unwrap();
    assert!(before.contains("ingress-address") && !before.contains("peer"), "{before}");
    call(&mut context, "relation-set", &["-r", "cluster:0", "peer=x"], "").unwrap();
    assert!(call(&mut context, "relation-get", &words, "").unwrap().contains("\"peer\":\"x\""));
    let app = ["-r", "cluster:0", "--app", "--format=json", "-", "etcd"];
    assert_eq!(call(&mut context, "relation-get", &app, "").unwrap(), "{}\n");
    model.set_network("etcd/0", "db", "10.1.0.1");
    let mut context = model.begin("etcd/0", &Hook::update_status());
    for (endpoint, address) in [("db", "10.1.0.1"), ("cluster", "10.0.0.1")] {
        let network = call(&mut context, "network-get", &[endpoint, "--format=json"], "").unwrap();
        assert!(network.contains(address), "{endpoint}: {network}");
    }
}

#[test]
fn tools_refuse_what_juju_refuses() {
    let mut model = model();
    let certificates = model.relate(&[("etcd", "certificates"), ("easyrsa", "client")]);
    settle(&mut model);
    model.add_unit("etcd", "10.0.0.2");
    settle(&mut model);
    assert!(
        get(&mut model, "etcd/1", &["--app", "-", "etcd"]).is_ok(),
        "peers read their application's data"
    );
    assert_eq!(get(&mut model, "etcd/1", &["-"]).unwrap_err().0, 2);
    model.set_data(certificates, "easyrsa/0", &[("ca", "PEM")]);
    let mut context = model.begin("etcd/1", &Hook::update_status());
    let mut call =
        |tool: &str, words: &[&str]| super::call(&mut context, tool, words, "").map_err(|(code, _)| code);
    assert_eq!(call("relation-set", &["-r", "cluster:0", "--app", "a=b"]), Err(1));
    assert_eq!(call("relation-set", &["-r", "cluster:7", "a=b"]), Err(2));
    assert_eq!(call("relation-set", &["a=b"]), Err(2), "an update-status has no relation");
    assert_eq!(call("relation-get", &["-r", "certificates:1", "--format=json", "-", "etcd/0"]), Err(1));
    assert_eq!(
        call("relation-get", &["-r", "certificates:1", "--app", "--format=json", "-", "etcd"]),
        Err(1)
    );
    assert!(call("relation-get", &["-r", "certificates:1", "--format=json", "-", "easyrsa/0"]).is_ok());
    assert_eq!(call("goal-state", &["--frmt=json"]), Err(2));
    assert_eq!(
        call("relation-list", &["-r", "certificates:1", "--app", "--format=json"]),
        Ok("\"easyrsa\"\n".into())
    );
    assert_eq!(call("relation-ids", &["certificates", "--format=json"]), Ok("[\"certificates:1\"]\n".into()));
}

#[test]
fn a_unit_that_is_gone_departs_and_another_one_leads() {
    let mut model = model();
    settle(&mut model);
    model.add_unit("etcd", "10.0.0.2");
    settle(&mut model);
    model.remove_unit_by_force("etcd/0");
    assert_eq!(model.leader("etcd"), Some("etcd/1"));
    assert_eq!(settle(&mut model), ["etcd/1 leader-elected", "etcd/1 cluster-relation-departed"]);
}
