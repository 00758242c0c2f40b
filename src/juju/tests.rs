//! Tests of the hook tools' callers, against fake hook tools.
#![expect(clippy::disallowed_methods, reason = "files of the fake hook tools need not be durable")]

use super::*;
use std::os::unix::fs::symlink;

/// A directory of fake hook tools, and the variables that point to it.
pub(crate) struct FakeAgent {
    dir: tempfile::TempDir,
}

impl FakeAgent {
    pub(crate) fn new() -> Self {
        Self::with(&["action-get", "action-set", "action-log", "action-fail", "resource-get"])
    }

    pub(crate) fn with(tools: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/juju/testdata/hook-tool");
        for name in tools {
            symlink(&tool, dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// Makes `tool` print `out` from now on.
    pub(crate) fn prints(self, tool: &str, out: &str) -> Self {
        std::fs::write(self.dir.path().join(format!("{tool}.out")), out).unwrap();
        self
    }

    /// Makes `tool` fail from now on, with this exit status and stderr.
    pub(crate) fn fails(self, tool: &str, status: i32, stderr: &str) -> Self {
        let file = |ending: &str| self.dir.path().join(format!("{tool}.{ending}"));
        std::fs::write(file("status"), status.to_string()).unwrap();
        std::fs::write(file("err"), stderr).unwrap();
        self
    }

    /// Makes `tool` succeed again.
    pub(crate) fn works(self, tool: &str) -> Self {
        for ending in ["status", "err"] {
            let _ = std::fs::remove_file(self.dir.path().join(format!("{tool}.{ending}")));
        }
        self
    }

    pub(crate) fn variables(&self) -> BTreeMap<OsString, OsString> {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        [
            ("PATH", path.as_str()),
            ("JUJU_CONTEXT_ID", "etcd/0-run-1"),
            ("JUJU_ACTION_NAME", "snapshot"),
            ("JUJU_UNIT_NAME", "etcd/0"),
            ("JUJU_CHARM_DIR", &*self.dir.path().display().to_string()),
            ("SOMETHING_ELSE", "1"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
    }

    pub(crate) fn juju(&self) -> Juju {
        Juju::in_action("snapshot", &self.variables()).unwrap()
    }

    /// Returns the calls so far, one a line.
    pub(crate) fn calls(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

#[test]
fn knows_juju_2_by_its_version() {
    let agent = FakeAgent::new();
    let with = |version: &str| {
        let mut variables = agent.variables();
        variables.insert("JUJU_VERSION".into(), version.into());
        Juju::in_action("snapshot", &variables).unwrap().is_version_2()
    };
    assert!(with("2.9.52") && !with("3.6.26") && !with("4.0.1") && !with("20.1"));
    assert!(!agent.juju().is_version_2());
}

#[test]
fn recognizes_only_the_action_it_implements() {
    let agent = FakeAgent::new();
    let mut variables = agent.variables();
    assert!(Juju::in_action("snapshot", &variables).is_some());
    variables.insert("JUJU_ACTION_NAME".into(), "juju-exec".into());
    assert!(Juju::in_action("snapshot", &variables).is_none());
    variables.remove(OsStr::new("JUJU_ACTION_NAME"));
    assert!(Juju::in_action("snapshot", &variables).is_none());
    variables.insert("JUJU_ACTION_UUID".into(), "2".into());
    assert!(Juju::in_action("snapshot", &variables).is_some());
    variables.remove(OsStr::new("JUJU_CONTEXT_ID"));
    assert!(Juju::in_action("snapshot", &variables).is_none());
}

#[test]
fn passes_tools_one_argument_per_message_and_only_juju_variables() {
    let agent = FakeAgent::new();
    let juju = agent.juju();
    juju.set_results([("copy.cmd", "juju scp etcd/0:/x ."), ("snapshot.size", "")]).unwrap();
    juju.set_results([]).unwrap();
    juju.log_progress("-v is not a flag here").unwrap();
    juju.fail_action("two\nlines").unwrap();
    assert_eq!(
        agent.calls(),
        "action-set [copy.cmd=juju scp etcd/0:/x .] [snapshot.size=]\n\
         action-log [--] [-v is not a flag here]\n\
         action-fail [--] [two\nlines]\n"
    );
    let environment = std::fs::read_to_string(agent.dir.path().join("environment")).unwrap();
    assert!(environment.contains("JUJU_CONTEXT_ID=etcd/0-run-1"), "{environment}");
    assert!(!environment.contains("SOMETHING_ELSE"), "{environment}");
}

#[test]
fn parameters_are_read_as_json() {
    let agent = FakeAgent::new().prints("action-get", r#"{"target":"/x","plan":true}"#);
    let parameters = agent.juju().parameters().unwrap();
    assert_eq!(parameters["target"], "/x");
    assert_eq!(agent.calls(), "action-get [--format=json]\n");
    let agent = FakeAgent::new().prints("action-get", "null");
    assert!(agent.juju().parameters().is_err());
}

#[test]
fn returns_the_path_of_a_resource_or_why_it_is_missing() {
    let agent = FakeAgent::new().prints("resource-get", "/var/lib/juju/snapshot.tar.gz");
    let path = PathBuf::from("/var/lib/juju/snapshot.tar.gz");
    assert_eq!(agent.juju().resource("snapshot").unwrap(), Resource::At(path));
    assert_eq!(agent.calls(), "resource-get [snapshot]\n");
    let agent = FakeAgent::new().fails("resource-get", 1, "ERROR could not download resource: gone\n");
    assert_eq!(
        agent.juju().resource("snapshot").unwrap(),
        Resource::Missing("resource-get failed: could not download resource: gone".to_owned())
    );
    let agent = FakeAgent::new().fails("resource-get", 2, "ERROR missing required resource name\n");
    assert!(agent.juju().resource("snapshot").is_err());
    let agent = FakeAgent::new();
    assert!(agent.juju().resource("snapshot").is_err());
}

#[test]
fn names_a_tool_that_fails_or_is_missing() {
    let agent = FakeAgent::new().fails("action-set", 2, "ERROR key \"X\" must start\n");
    let error = agent.juju().set_results([("a", "b")]).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "`action-set` exited with status 2; its last output: ERROR key \"X\" must start"
    );
    let agent = FakeAgent::with(&[]);
    let error = agent.juju().log_progress("x").unwrap_err();
    assert!(format!("{error:#}").contains("looking for Juju's action-log on PATH"), "{error:#}");
}

#[test]
fn truncates_arguments_to_the_kernel_limit() {
    assert_eq!(truncate_argument("a"), "a");
    assert_eq!(truncate_argument("a\0b"), "a\u{fffd}b");
    let long = truncate_argument(&"é".repeat(MAX_ARGUMENT)).into_owned();
    assert!(long.len() <= MAX_ARGUMENT && long.ends_with("(cut)"), "{}", long.len());
    let agent = FakeAgent::new();
    agent.juju().log_progress(&"é".repeat(MAX_ARGUMENT)).unwrap();
}

#[test]
fn relation_data_is_not_passed_as_an_argument() {
    let agent = FakeAgent::with(&["relation-set"]);
    let pairs = BTreeMap::from([("key".to_owned(), "-----BEGIN\ncanary".to_owned())]);
    agent.juju().set_relation_data("cluster:0", Scope::Unit, &pairs).unwrap();
    agent.juju().set_relation_data("db:2", Scope::Application, &pairs).unwrap();
    assert_eq!(
        agent.calls(),
        "relation-set [-r] [cluster:0] [--file] [-]\nrelation-set [-r] [db:2] [--file] [-] [--app]\n"
    );
    let sent = std::fs::read_to_string(agent.dir.path().join("relation-set.stdin")).unwrap();
    assert_eq!(serde_yaml::from_str::<BTreeMap<String, String>>(&sent).unwrap(), pairs);
    let agent = agent.fails("relation-set", 1, "ERROR cannot write relation settings\n");
    let error = agent.juju().set_relation_data("db:2", Scope::Application, &pairs).unwrap_err();
    assert!(!format!("{error:#}").contains("canary"), "{error:#}");
}

#[test]
fn reads_units_networks_and_the_data_of_relations() {
    let agent = FakeAgent::with(&["goal-state", "network-get", "relation-list", "relation-get"])
        .prints("goal-state", r#"{"units":{"etcd/0":{"status":"dying","since":"x"},"etcd/1":{}}}"#)
        .prints(
            "network-get",
            r#"{"bind-addresses":[{"interface-name":"eth0","addresses":[{"hostname":"","value":"10.0.0.5","cidr":""},
                {"address":"fd00::5"},{"value":""}]}],"ingress-addresses":["192.0.2.5"]}"#,
        )
        .prints("relation-list", r#"["etcd/1","etcd/10"]"#)
        .prints("relation-get", r#"{"peer":"https://10.0.0.6:2380"}"#);
    let juju = agent.juju();
    let units = juju.units().unwrap();
    assert!(units["etcd/0"].is_dying() && !units["etcd/1"].is_dying());
    let network = juju.network("cluster").unwrap();
    assert_eq!(network.bind.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.5", "fd00::5"]);
    assert_eq!(network.ingress[0].to_string(), "192.0.2.5");
    // The network of another endpoint has one more address.
    let other = crate::juju::Network { ingress: vec!["10.1.0.5".parse().unwrap()], ..network.clone() };
    let merged = network.clone().merge(&other);
    assert_eq!((merged.bind, merged.ingress.len()), (network.bind, 2));
    assert_eq!(juju.relation_units("cluster:0").unwrap(), ["etcd/1", "etcd/10"]);
    assert_eq!(juju.unit_data("cluster:0", "etcd/1").unwrap()["peer"].reveal(), "https://10.0.0.6:2380");
    // Juju prints `null` for a relation without units, and for a unit without data.
    let agent = agent.prints("relation-list", "null").prints("relation-get", "null");
    assert!(agent.juju().relation_units("cluster:0").unwrap().is_empty());
    assert!(agent.juju().application_data("cluster:0", "etcd").unwrap().is_empty());
    let agent = agent.prints("network-get", r#"{"bind-addresses":[]}"#);
    assert!(agent.juju().network("cluster").unwrap_err().to_string().contains("no address"));
}
