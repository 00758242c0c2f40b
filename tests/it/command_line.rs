//! The commands in a terminal: parameters, help, and refused arguments.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::fs_util::copy_program;
use crate::common::world::{Setup, Version, World};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");
const BINARIES: [(&str, &str); 3] =
    [("snapshot", program!("snapshot")), ("restore", program!("restore")), ("site", program!("site"))];

/// Runs a program without a site file and without etcd, which these tests do not need.
fn run(binary: &str, args: &[&str]) -> crate::common::command::Out {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary);
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    crate::common::command::Run::start(command, dir.path()).finish()
}

fn actions() -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

#[test]
fn help_describes_every_parameter_and_its_default() {
    let actions = actions();
    for (name, binary) in BINARIES {
        for out in [run(binary, &["--help"]), run(PROGRAM, &[name, "--help"])] {
            assert_eq!(out.status.code(), Some(0), "{}", out.describe());
            let help = words(&out.stdout);
            assert!(
                help.contains(&words(actions[name]["description"].as_str().unwrap())),
                "{}",
                out.describe()
            );
            for (param, schema) in actions[name]["params"].as_object().unwrap() {
                assert!(help.contains(&format!("--{param}")), "no {param}: {}", out.describe());
                let default = &schema["default"];
                if let Some(default) = default.as_str().filter(|default| !default.is_empty()) {
                    let shown = format!("[default: {default}]");
                    assert!(
                        help.contains(&shown),
                        "the help lacks the default of {param}: {}",
                        out.describe()
                    );
                }
                let description = words(schema["description"].as_str().unwrap());
                assert!(
                    help.contains(&description),
                    "the help lacks the description of {param}: {}",
                    out.describe()
                );
            }
        }
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_action_is_a_subcommand() {
    let help = run(PROGRAM, &["--help"]);
    assert_eq!(help.status.code(), Some(0), "{}", help.describe());
    for name in ["snapshot", "restore", "list", "verify", "fetch", "check", "upload", "completions"] {
        assert!(help.stdout.contains(&format!("\n  {name} ")), "{}", help.describe());
    }
    for name in actions().as_object().unwrap().keys() {
        let out = run(PROGRAM, &[name, "--help"]);
        assert!(out.stdout.contains("Usage: etcd-backup"), "{}", out.describe());
        assert_eq!(out.status.code(), Some(0), "{}", out.describe());
    }
    let version = run(PROGRAM, &["--version"]);
    assert_eq!(version.stdout, format!("etcd-backup {}\n", env!("CARGO_PKG_VERSION")));
    run(PROGRAM, &["snapshto"]).refused(&["did you mean snapshot?"]);
    run(PROGRAM, &[]).refused(&["no command is given"]);
    let completions = run(PROGRAM, &["completions", "bash"]);
    assert!(completions.stdout.contains("verify"), "{}", completions.describe());
    run(PROGRAM, &["completions"]).refused(&["etcd-backup completions bash"]);
}

#[test]
fn refuses_a_parameter_by_name_and_suggests_the_nearest() {
    let [(_, snapshot), (_, restore), _] = BINARIES;
    for (binary, arg, named, nearest) in [
        (snapshot, "tarjet=/x", "tarjet", "target"),
        (snapshot, "--tarjet=/x", "tarjet", "--target"),
        (snapshot, "keysversion=v3", "keysversion", "keys-version"),
        (restore, "skip_backup=true", "skip_backup", "skip-backup"),
        (restore, "--skip_backup", "--skip_backup", "--skip-backup"),
        (restore, "expected-sha=00", "expected-sha", "expected-sha256"),
        (restore, "snapshoot=/x", "snapshoot", "snapshot"),
    ] {
        let out = run(binary, &[arg]);
        out.assert_stderr_contains(&[&format!("{named} ")]);
        out.refused(&[nearest]);
    }
}

#[test]
fn refuses_a_value_of_another_type() {
    for (name, value) in
        [("skip-backup", "perhaps"), ("skip-backup", ""), ("plan", "2"), ("allow-unhashed", "TRUE!")]
    {
        for word in [format!("{name}={value}"), format!("--{name}={value}")] {
            let out = run(BINARIES[1].1, &[&word]);
            out.assert_stderr_contains(&["must be true or false"]);
            out.refused(&[name]);
        }
    }
}

#[test]
fn refuses_arguments_that_are_not_parameters() {
    for (name, binary) in BINARIES {
        for word in ["target", "/some/path", "--target", "--no-such-flag", "=x", ""] {
            // `restore` accepts a name or a path.
            if name == "restore" && ["target", "/some/path", ""].contains(&word) {
                continue;
            }
            let out = run(binary, &[word]);
            assert_eq!(out.status.code(), Some(2), "{word:?}: {}", out.describe());
            assert!(!out.stderr.trim().is_empty(), "{}", out.describe());
            out.assert_no_panic();
            assert!(out.stdout.is_empty(), "{}", out.describe());
        }
    }
}

#[test]
fn survives_a_closed_output_pipe() {
    let world = World::new(Setup::plain(Version::V35));
    let mut child = world
        .action(BINARIES[0].1, &[&world.to_target()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(101), "it panicked");
    assert_eq!(world.in_target().len(), 1);
}

#[test]
fn reports_mistakes_in_the_site_file() {
    let world = World::prepare(Setup::plain(Version::V35));
    let good = fs::read_to_string(world.site()).unwrap();
    for (site, reason) in [
        ("endpoint: [", "site"),
        ("", "site"),
        ("no: such key\n", "site"),
        (&good.replace("endpoint:", "end-point:"), "endpoint"),
    ] {
        world.set_site(site);
        let out = world.snapshot(&[&world.to_target()]);
        assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
        out.assert_stderr_contains(&[reason]);
    }
    fs::remove_file(world.site()).unwrap();
    let out = world.snapshot(&[&world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
    out.assert_stderr_contains(&["site.yaml"]);
}

#[test]
fn advises_a_user_who_is_not_root_to_use_sudo() {
    if !crate::common::world::is_root() {
        return eprintln!("skipped: only root can run as another user");
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, target) = (dir.path().join("etcd-backup"), dir.path().join("target"));
    copy_program(PROGRAM, &program);
    fs::create_dir(&target).unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&target, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let target = target.display().to_string();
    let mut command = Command::new(&program);
    command.args(["list", "--target", &target]).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    command.uid(12345).gid(12345);
    let out = crate::common::command::Run::start(command, dir.path()).finish();
    assert_eq!(out.status.code(), Some(1), "{}", out.describe());
    let next = format!("Next: sudo etcd-backup list --target {target}.");
    assert!(out.stderr.contains("this needs root: ") && out.stderr.contains(&next), "{}", out.describe());
    assert!(!out.stdout.contains("no snapshots"), "{}", out.describe());
}
