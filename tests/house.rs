//! The house rules that a reader can rely on: a floor calls only downwards, files stay short, docs name what exists.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Bottom to top. A room may use what stands in a line before its own.
const FLOORS: [&[&str]; 13] = [
    &["error", "progress"],
    &["system"],
    &["etcd", "juju"],
    &["archive", "schedule"],
    &["exchange"],
    &["store"],
    &["inventory"],
    &["settings"],
    &["snapshot"],
    &["restore"],
    &["commands"],
    &["cli"],
    &["charm", "fuzz"],
];
/// A longer file wants splitting by subject.
const LONGEST: usize = 420;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The room of a source file: the first name below `src`.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn a_floor_calls_only_downwards() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let from = room(&path);
        if from == "lib" {
            continue;
        }
        let own = floor(&from).unwrap_or_else(|| panic!("{from} stands on no floor"));
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let to: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let upwards = floor(&to).is_some_and(|other| other >= own && to != from);
                if upwards {
                    wrong.push(format!("{}:{}: {from} calls {to}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_owns_and_can_be_seen_whole() {
    for dir in ["src", "actions", "deflate/src", "xtask/src"] {
        for path in sources(&root().join(dir)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} does not say what it owns", path.display());
            let lines = text.lines().count();
            assert!(lines <= LONGEST, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in FLOORS.iter().flat_map(|rooms| rooms.iter()) {
        assert!(map.contains(&format!("`{room}`")), "ARCHITECTURE.md does not name {room}");
    }
}

#[test]
fn the_reference_names_every_parameter_and_the_changelog_this_version() {
    let reference = fs::read_to_string(root().join("docs/reference/commands.md")).unwrap();
    let actions: serde_yaml::Value =
        serde_yaml::from_str(&fs::read_to_string(root().join("actions.yaml")).unwrap()).unwrap();
    for (action, declared) in actions.as_mapping().unwrap() {
        assert!(reference.contains(action.as_str().unwrap()));
        for (param, _) in declared["params"].as_mapping().unwrap() {
            let param = param.as_str().unwrap();
            assert!(
                reference.contains(&format!("`{param}")),
                "docs/reference/commands.md does not name {param}"
            );
        }
    }
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(changelog.contains(env!("CARGO_PKG_VERSION")));
}
