//! Tests of the fake Juju unit: it is as strict as a real one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::json;

use crate::common::unit::{Status, Unit};
use crate::common::world::{Setup, Version, World};

/// A world in which a shell runs hook tools, with the environment of an action.
struct Fixture {
    world: World,
}

impl Fixture {
    fn new() -> Self {
        let world = World::prepare(Setup::plain(Version::V34));
        Self { world }
    }

    fn unit(&self) -> Unit<'_> {
        Unit::new(&self.world)
    }
}

/// Runs a shell command with the hook tools. Returns its exit status, stdout and stderr.
fn shell(unit: &Unit<'_>, line: &str) -> (Option<i32>, String, String) {
    let action = unit.command("snapshot");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).env_clear();
    for (key, value) in action.get_envs() {
        command.env(key, value.unwrap());
    }
    let out = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn unit_gives_the_documented_environment_and_no_more() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    let (_, names, _) = shell(&unit, "env | cut -d= -f1 | sort");
    for absent in ["HOME", "USER", "LOGNAME", "SHELL"] {
        assert!(!names.lines().any(|name| name == absent), "{absent}");
    }
    // The shell itself sets PWD; some shells also set `_`.
    let ours = |name: &&str| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name);
    // Two name files of the tests: ETCD_SITE and ETCD_BACKUP.
    assert_eq!(names.lines().filter(ours).count(), 29 + 2);
    let command = unit.command("snapshot");
    assert!(command.get_current_dir().unwrap().join("metadata.yaml").exists());
    assert!(command.get_current_dir().unwrap().join("actions/snapshot").exists());
}

#[test]
fn unit_has_every_action_of_the_charm() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    let charm = unit.command("snapshot").get_current_dir().unwrap().to_owned();
    let text = fs::read_to_string(charm.join("actions.yaml")).unwrap();
    let actions: serde_json::Map<String, serde_json::Value> = serde_yaml::from_str(&text).unwrap();
    for action in actions.keys() {
        assert!(charm.join("actions").join(action).exists(), "the fake unit has no {action}");
    }
}

#[test]
fn unit_checks_parameters_and_fills_in_defaults() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    let params = unit.enqueue("restore", &["skip-backup=true"]).unwrap();
    assert_eq!(params["skip-backup"], json!(true));
    assert_eq!(params["target"], json!(""));
    assert_eq!(params["bump-revision"], json!("auto"));
    assert_eq!(params["plan"], json!(false));
    assert!(unit.enqueue("restore", &["skip-backup=maybe"]).unwrap_err().contains("boolean"));
    assert!(unit.enqueue("restore", &["identity-file=7"]).unwrap_err().contains("string"));
    assert!(unit.enqueue("snapshot", &["tarjet=/x"]).unwrap_err().contains("tarjet"));
    assert!(unit.enqueue("defragment", &[]).is_err());
}

#[test]
fn unit_tools_print_as_in_juju() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    let _ = unit.start("restore", &["skip-backup=true"]).finish();
    let cases = [
        ("action-get --format=json skip-backup", 0, "true\n", ""),
        ("action-get skip-backup", 0, "True\n", ""),
        ("action-get bump-revision", 0, "auto\n", ""),
        ("action-get --format json nothing", 0, "null\n", ""),
        ("action-get nothing", 0, "", ""),
        ("action-get a b", 2, "", "ERROR unrecognized args: [\"b\"]\n"),
        ("action-get --frmt json", 2, "", "ERROR option provided but not defined: --frmt\n"),
        ("action-fail -x", 2, "", "ERROR option provided but not defined: -x\n"),
        ("action-fail -- -x", 0, "", ""),
        ("action-log", 2, "", "ERROR no message specified\n"),
        ("juju-log -l", 2, "", "ERROR option needs an argument: -l\n"),
        ("resource-get", 2, "", "ERROR missing required resource name\n"),
        ("action-set novalue", 2, "", "ERROR argument \"novalue\" must be of the form key...=value\n"),
        ("action-set a.stderr=1", 2, "", "ERROR cannot set reserved action key \"stderr\"\n"),
        (
            "status-set error",
            2,
            "",
            "ERROR invalid status \"error\", expected one of [maintenance blocked waiting active]\n",
        ),
        ("opened-ports --format=json", 0, "null\n", ""),
        ("open-port 2379/tcp && open-port 2379/tcp && opened-ports --format=json", 0, "[\"2379/tcp\"]\n", ""),
        ("close-port 2379/tcp && opened-ports --format=json", 0, "null\n", ""),
        ("storage-list data --format=json", 0, "[]\n", ""),
        ("storage-get --format=json", 2, "", "ERROR no storage instance specified\n"),
        ("network-get", 2, "", "ERROR no arguments specified\n"),
        ("application-version-set", 2, "", "ERROR no version specified\n"),
        ("status-set -- blocked -x && status-get", 0, "blocked\n", ""),
        ("status-get --format=json", 0, "{\"status\":\"blocked\"}\n", ""),
        (
            "status-get --format=json --include-data",
            0,
            "{\"message\":\"-x\",\"status\":\"blocked\",\"status-data\":{}}\n",
            "",
        ),
        ("env -u JUJU_CONTEXT_ID action-get", 1, "", "ERROR JUJU_CONTEXT_ID not set\n"),
    ];
    for (line, status, stdout, stderr) in cases {
        assert_eq!(shell(&unit, line), (Some(status), stdout.to_owned(), stderr.to_owned()), "{line}");
    }
    for key in ["Big", "under_score", "-a", "a-", "a..b", ""] {
        let (status, _, stderr) = shell(&unit, &format!("action-set -- {key}=1"));
        assert_eq!(status, Some(2), "{key}");
        assert!(stderr.contains("must start and end with lowercase alphanumeric"), "{stderr}");
    }
    let (status, stdout, _) = shell(&unit, "action-get --format=json");
    assert_eq!(status, Some(0));
    let all: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(all["bump-revision"], "auto");
}

#[test]
fn unit_creates_resources_with_the_modes_of_juju() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    let (status, _, stderr) = shell(&unit, "resource-get snapshot");
    assert_eq!(status, Some(1));
    assert!(stderr.starts_with("ERROR could not download resource: "), "{stderr}");
    unit.attach_empty();
    let mode = || fs::metadata(unit.resource()).unwrap().mode() & 0o7777;
    for before in [0o644, 0o600] {
        assert_eq!(shell(&unit, "resource-get snapshot").1, unit.resource().to_str().unwrap());
        assert_eq!(mode(), before);
        // Juju does not change a file that has the attached content.
        fs::set_permissions(unit.resource(), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Replaces the action's binary by a shell script, and runs it as the action.
fn run_script(unit: &Unit<'_>, script: &str) -> crate::common::unit::Ended {
    let place = unit.command("snapshot").get_current_dir().unwrap().join("actions/snapshot");
    fs::remove_file(&place).unwrap();
    // /bin/sh runs the script: a test never writes an executable.
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/common/scripted"), &place)
        .unwrap();
    fs::write(place.with_file_name("script"), script).unwrap();
    unit.run("snapshot", &[])
}

#[test]
fn unit_reports_the_outcome_as_juju_does() {
    let fixture = Fixture::new();
    let cases = [
        ("true", Status::Completed, ""),
        ("action-fail -- 'no, because'", Status::Failed, "no, because"),
        ("action-fail", Status::Failed, "action failed without reason given, check action for errors"),
        ("action-fail -- lost; exit 3", Status::Failed, "exit status 3"),
        ("kill -TERM $$", Status::Failed, "terminated"),
    ];
    let unit = fixture.unit();
    for (script, status, message) in cases {
        let ended = run_script(&unit, script);
        assert_eq!((ended.status, ended.message.as_str()), (status, message), "{script}");
    }
    let ended = run_script(
        &unit,
        "action-set a=1; action-set a.b=2 a.c='x = y'; action-set z.y=1 z=2; action-log -- -one two; echo out; exit 1",
    );
    assert_eq!(
        ended.results,
        json!({"a": {"b": "2", "c": "x = y"}, "z": "2", "return-code": 1, "stdout": "out\n"})
    );
    assert_eq!(ended.progress, ["-one two"]);
    assert_eq!(unit.calls().len(), 4);

    fs::write(unit.command("snapshot").get_current_dir().unwrap().join("actions/script"), "sleep 100")
        .unwrap();
    let ended = unit.start("snapshot", &[]).cancel();
    assert_eq!(ended.status, Status::Aborted);
}

#[test]
fn unit_can_remove_and_break_its_tools() {
    let fixture = Fixture::new();
    let unit = fixture.unit();
    unit.break_tools(&["action-set"]);
    let ended = run_script(&unit, "action-set a=1; action-log -- on");
    assert_eq!(ended.progress, ["on"]);
    assert!(ended.out.stderr.contains("connection refused"));
    unit.remove_tools_after(2);
    let ended = run_script(&unit, "action-log -- one; action-log -- two; action-log -- three");
    assert_eq!(ended.progress, ["one", "two"]);
    assert_eq!(ended.message, "exit status 127");
}
