//! The front door in a terminal: parameters, `--help`, and words that are none.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::world::{Setup, Version, World};

const BINARIES: [(&str, &str); 3] = [
    ("snapshot", env!("CARGO_BIN_EXE_snapshot")),
    ("restore", env!("CARGO_BIN_EXE_restore")),
    ("site", env!("CARGO_BIN_EXE_site")),
];

/// No site, no etcd: nothing that these tests ask needs one.
fn run(binary: &str, args: &[&str]) -> crate::common::command::Out {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary);
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    crate::common::command::Run::start(command, dir.path()).finish()
}

#[test]
fn help_tells_every_parameter_its_default_and_its_use() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml")).unwrap();
    let actions: Value = serde_yaml::from_str(&text).unwrap();
    for (name, binary) in BINARIES {
        let out = run(binary, &["--help"]);
        assert_eq!(out.status.code(), Some(0), "{}", out.told());
        let said = words(&out.stdout);
        assert!(said.contains(&words(actions[name]["description"].as_str().unwrap())), "{}", out.told());
        for (param, schema) in actions[name]["params"].as_object().unwrap() {
            assert!(said.contains(param), "no {param}: {}", out.told());
            let default = &schema["default"];
            let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
            assert!(said.contains(&default), "no default of {param}: {}", out.told());
            let description = words(schema["description"].as_str().unwrap());
            assert!(said.contains(&description), "no description of {param}: {}", out.told());
        }
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn refuses_a_parameter_by_name_and_tells_the_nearest() {
    let [(_, snapshot), (_, restore), _] = BINARIES;
    for (binary, arg, named, nearest) in [
        (snapshot, "tarjet=/x", "tarjet", "target"),
        (snapshot, "keysversion=v3", "keysversion", "keys-version"),
        (restore, "skip_backup=true", "skip_backup", "skip-backup"),
        (restore, "expected-sha=00", "expected-sha", "expected-sha256"),
        (restore, "snapshoot=/x", "snapshoot", "snapshot"),
    ] {
        let out = run(binary, &[arg]);
        out.says_one_of(&[
            &format!("{named} "),
            &format!("{named}\""),
            &format!("{named}'"),
            &format!("{named},"),
            &format!("{named}`"),
            &format!("{named};"),
        ]);
        out.refused(&[nearest]);
    }
}

#[test]
fn refuses_a_value_of_another_type() {
    for (name, value) in
        [("skip-backup", "perhaps"), ("skip-backup", ""), ("plan", "2"), ("allow-unhashed", "TRUE!")]
    {
        let out = run(BINARIES[1].1, &[&format!("{name}={value}")]);
        out.says_one_of(&["boolean", "true"]);
        out.refused(&[name]);
    }
}

#[test]
fn refuses_words_that_are_no_parameters() {
    for (_, binary) in BINARIES {
        for word in ["target", "/some/path", "--target", "--no-such-flag", "=x", ""] {
            let out = run(binary, &[word]);
            assert_eq!(out.status.code(), Some(2), "{word:?}: {}", out.told());
            assert!(!out.stderr.trim().is_empty(), "{}", out.told());
            out.is_in_good_order();
            assert!(out.stdout.is_empty(), "{}", out.told());
        }
    }
}

#[test]
fn survives_a_reader_that_went_away() {
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
fn tells_what_is_wrong_with_the_site() {
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
        assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.told());
        out.says_one_of(&[reason]);
    }
    fs::remove_file(world.site()).unwrap();
    let out = world.snapshot(&[&world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.told());
    out.says_one_of(&["site.yaml"]);
}
