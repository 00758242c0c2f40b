//! Juju's room against stand-ins for the hook tools.
#![expect(clippy::disallowed_methods, reason = "what the stand-ins read need not be durable")]

use super::*;
use std::os::unix::fs::symlink;

/// A directory of stand-in hook tools, and the variables that lead to it.
pub(crate) struct Agent {
    dir: tempfile::TempDir,
}

impl Agent {
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

    /// From now on `tool` prints `out`.
    pub(crate) fn prints(self, tool: &str, out: &str) -> Self {
        std::fs::write(self.dir.path().join(format!("{tool}.out")), out).unwrap();
        self
    }

    /// From now on `tool` fails with `status` and `words`.
    pub(crate) fn fails(self, tool: &str, status: i32, words: &str) -> Self {
        let file = |ending: &str| self.dir.path().join(format!("{tool}.{ending}"));
        std::fs::write(file("status"), status.to_string()).unwrap();
        std::fs::write(file("err"), words).unwrap();
        self
    }

    pub(crate) fn variables(&self) -> BTreeMap<OsString, OsString> {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        [
            ("PATH", path.as_str()),
            ("JUJU_CONTEXT_ID", "etcd/0-run-1"),
            ("JUJU_ACTION_NAME", "snapshot"),
            ("JUJU_UNIT_NAME", "etcd/0"),
            ("SOMETHING_ELSE", "1"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
    }

    pub(crate) fn juju(&self) -> Juju {
        Juju::from_environment("snapshot", &self.variables()).unwrap()
    }

    /// What was called so far, one line each.
    pub(crate) fn calls(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

#[test]
fn only_our_own_action_is_an_action() {
    let agent = Agent::new();
    let mut variables = agent.variables();
    assert!(Juju::from_environment("snapshot", &variables).is_some());
    variables.insert("JUJU_ACTION_NAME".into(), "juju-exec".into());
    assert!(Juju::from_environment("snapshot", &variables).is_none());
    variables.remove(OsStr::new("JUJU_ACTION_NAME"));
    assert!(Juju::from_environment("snapshot", &variables).is_none());
    variables.insert("JUJU_ACTION_UUID".into(), "2".into());
    assert!(Juju::from_environment("snapshot", &variables).is_some());
    variables.remove(OsStr::new("JUJU_CONTEXT_ID"));
    assert!(Juju::from_environment("snapshot", &variables).is_none());
}

#[test]
fn tools_get_single_words_and_only_jujus_variables() {
    let agent = Agent::new();
    let juju = agent.juju();
    juju.set([("copy.cmd", "juju scp etcd/0:/x ."), ("snapshot.size", "")]).unwrap();
    juju.set([]).unwrap();
    juju.log("-v is no flag here").unwrap();
    juju.fail("two\nlines").unwrap();
    assert_eq!(
        agent.calls(),
        "action-set [copy.cmd=juju scp etcd/0:/x .] [snapshot.size=]\n\
         action-log [--] [-v is no flag here]\n\
         action-fail [--] [two\nlines]\n"
    );
    let environment = std::fs::read_to_string(agent.dir.path().join("environment")).unwrap();
    assert!(environment.contains("JUJU_CONTEXT_ID=etcd/0-run-1"), "{environment}");
    assert!(!environment.contains("SOMETHING_ELSE"), "{environment}");
}

#[test]
fn parameters_are_read_as_json() {
    let agent = Agent::new().prints("action-get", r#"{"target":"/x","plan":true}"#);
    let parameters = agent.juju().parameters().unwrap();
    assert_eq!(parameters["target"], "/x");
    assert_eq!(agent.calls(), "action-get [--format=json]\n");
    let agent = Agent::new().prints("action-get", "null");
    assert!(agent.juju().parameters().is_err());
}

#[test]
fn a_resource_is_a_path_or_the_words_why_there_is_none() {
    let agent = Agent::new().prints("resource-get", "/var/lib/juju/snapshot.tar.gz");
    let path = PathBuf::from("/var/lib/juju/snapshot.tar.gz");
    assert_eq!(agent.juju().resource("snapshot").unwrap(), Resource::At(path));
    assert_eq!(agent.calls(), "resource-get [snapshot]\n");
    let agent = Agent::new().fails("resource-get", 1, "ERROR could not download resource: gone\n");
    assert_eq!(
        agent.juju().resource("snapshot").unwrap(),
        Resource::Missing("resource-get says: could not download resource: gone".to_owned())
    );
    let agent = Agent::new().fails("resource-get", 2, "ERROR missing required resource name\n");
    assert!(agent.juju().resource("snapshot").is_err());
    let agent = Agent::new();
    assert!(agent.juju().resource("snapshot").is_err());
}

#[test]
fn a_tool_that_fails_or_is_missing_is_named_with_its_last_words() {
    let agent = Agent::new().fails("action-set", 2, "ERROR key \"X\" must start\n");
    let error = agent.juju().set([("a", "b")]).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "`action-set` exited with status 2; its last words: ERROR key \"X\" must start"
    );
    let agent = Agent::with(&[]);
    let error = agent.juju().log("x").unwrap_err();
    assert!(format!("{error:#}").contains("looking for Juju's action-log on PATH"), "{error:#}");
}

#[test]
fn a_word_is_cut_to_what_the_kernel_takes() {
    assert_eq!(cut("a"), "a");
    assert_eq!(cut("a\0b"), "a\u{fffd}b");
    let long = cut(&"é".repeat(LONGEST_WORD)).into_owned();
    assert!(long.len() <= LONGEST_WORD && long.ends_with("(cut)"), "{}", long.len());
    let agent = Agent::new();
    agent.juju().log(&"é".repeat(LONGEST_WORD)).unwrap();
}
