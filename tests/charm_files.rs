//! Checks the charm's YAML files against charmcraft's published schema and the rules of Juju 2.9, 3.x and
//! 4.0: names, types, required and forbidden fields. `charm proof` (charm-tools 3.0.9) reports no errors or
//! warnings for the packed charm. It only notes missing hook files, which `dispatch` replaces.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(name: &str) -> Map<String, Value> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn names(map: &Value) -> BTreeSet<String> {
    map.as_object().unwrap().keys().cloned().collect()
}

/// Checks that every field is known, and that no required one is missing (charmcraft, schema/charmcraft.json,
/// `additionalProperties: false`).
#[track_caller]
fn has_only(map: &Map<String, Value>, known: &[&str], required: &[&str]) {
    for name in map.keys() {
        assert!(known.contains(&name.as_str()), "unknown field {name}");
    }
    for name in required {
        assert!(map.contains_key(*name), "{name} is missing");
    }
}

/// Returns whether a name matches `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`. charmcraft warns about other names of
/// options and actions.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(plain) && name.ends_with(plain) && name.chars().all(|c| plain(c) || c == '-')
}

#[test]
fn metadata_has_the_second_format() {
    let metadata = read("metadata.yaml");
    // The field `series` would make it the first format, which Juju 4 no longer reads. In the second format,
    // `min-juju-version` is an error.
    let known = [
        "name",
        "display-name",
        "maintainers",
        "tags",
        "summary",
        "description",
        "subordinate",
        "peers",
        "requires",
        "storage",
        "resources",
    ];
    has_only(&metadata, &known, &["name", "summary", "description"]);
    assert_eq!(metadata["name"], "etcd");
    assert!(metadata["summary"].as_str().unwrap().len() <= 200);
    assert_eq!(metadata["peers"]["cluster"]["interface"], "etcd");
    let s3 = metadata["requires"]["s3-parameters"].as_object().unwrap();
    has_only(s3, &["interface", "limit", "optional", "scope"], &["interface"]);
    assert_eq!((&s3["interface"], &s3["optional"]), (&Value::from("s3"), &Value::from(true)));
}

#[test]
fn resources_are_files_with_the_extension_that_juju_requires() {
    let metadata = read("metadata.yaml");
    assert_eq!(names(&metadata["resources"]), ["etcd", "snapshot"].map(str::to_owned).into());
    for (name, resource) in metadata["resources"].as_object().unwrap() {
        has_only(resource.as_object().unwrap(), &["type", "filename", "description"], &["type", "filename"]);
        assert_eq!(resource["type"], "file");
        let filename = resource["filename"].as_str().unwrap();
        assert!(!filename.contains('/') && filename.ends_with(".tar.gz"), "{name}: {filename}");
    }
    assert_eq!(metadata["resources"]["snapshot"]["filename"], "snapshot.tar.gz");
}

#[test]
fn the_storage_is_an_optional_file_system() {
    let data = read("metadata.yaml")["storage"]["data"].clone();
    let known =
        ["type", "description", "location", "multiple", "minimum-size", "read-only", "shared", "properties"];
    has_only(data.as_object().unwrap(), &known, &["type"]);
    assert_eq!(data["type"], "filesystem");
    // With at most one storage, it is mounted at the location itself. The snap could not use it in
    // /var/lib/juju.
    assert_eq!(data["multiple"]["range"], "0-1");
    assert_eq!(data["location"], "/media/etcd");
}

#[test]
fn defaults_of_options_have_the_type_of_the_option() {
    let config = read("config.yaml");
    has_only(&config, &["options"], &["options"]);
    for (name, option) in config["options"].as_object().unwrap() {
        assert!(is_plain(name), "{name}");
        has_only(
            option.as_object().unwrap(),
            &["type", "default", "description"],
            &["type", "default", "description"],
        );
        let fits = match option["type"].as_str().unwrap() {
            "int" => option["default"].is_i64(),
            "string" => option["default"].is_string(),
            "boolean" => option["default"].is_boolean(),
            other => panic!("{name}: Juju 2.9 has no options of type {other}"),
        };
        assert!(fits, "{name}: {}", option["default"]);
    }
}

#[test]
fn options_have_the_names_of_the_older_charm_with_hyphens() {
    let options = names(&read("config.yaml")["options"]);
    for name in [
        "port",
        "management-port",
        "channel",
        "heartbeat-interval",
        "election-timeout",
        "snapshot-count",
        "quota-backend-bytes",
        "auto-compaction-retention",
    ] {
        assert!(options.contains(name), "{name}");
    }
}

#[test]
fn actions_have_json_schemas_that_every_juju_accepts() {
    for (name, action) in read("actions.yaml") {
        assert!(is_plain(&name) && name != "juju" && !name.starts_with("juju-"), "{name}");
        let action = action.as_object().unwrap();
        has_only(action, &["description", "params", "additionalProperties"], &["description", "params"]);
        // The default of this field is true in Juju 2.9 and 3.x, and false in 4.0.
        assert_eq!(action["additionalProperties"], Value::Bool(false), "{name}");
        for (param, schema) in action["params"].as_object().unwrap() {
            let schema = schema.as_object().unwrap();
            assert!(is_plain(param), "{name} {param}");
            // Juju rejects `$ref` and `$schema`. An action whose default violates its schema cannot be run.
            has_only(
                schema,
                &["type", "default", "enum", "description"],
                &["type", "default", "description"],
            );
            let kinds = match &schema["type"] {
                Value::Array(kinds) => kinds.clone(),
                kind => vec![kind.clone()],
            };
            let fits = |kind: &Value| match kind.as_str().unwrap() {
                "string" => schema["default"].is_string(),
                "boolean" => schema["default"].is_boolean(),
                "integer" => schema["default"].is_u64(),
                other => panic!("{name} {param}: {other}"),
            };
            assert!(kinds.iter().any(fits), "{name} {param}");
        }
    }
}

#[test]
fn maintenance_actions_of_the_older_charm_have_their_parameters() {
    let actions = read("actions.yaml");
    for name in ["health", "alarm-list", "alarm-disarm", "defrag", "package-client-credentials"] {
        // The additional parameter `site` selects the etcd.
        assert!(names(&actions[name]["params"]).into_iter().eq(["site"]), "{name}");
    }
    assert_eq!(actions["compact"]["params"]["revision"]["default"], "");
    assert_eq!(actions["compact"]["params"]["physical"]["default"], Value::Bool(false));
}

#[test]
fn charmcraft_yaml_does_not_repeat_the_other_files() {
    let project = read("charmcraft.yaml");
    // charmcraft.yaml must not repeat a field of metadata.yaml.
    has_only(&project, &["type", "platforms", "parts"], &["type", "platforms", "parts"]);
    assert_eq!(project["type"], "charm");
    for processor in ["amd64", "arm64"] {
        for base in ["ubuntu@22.04", "ubuntu@24.04"] {
            assert!(names(&project["platforms"]).contains(&format!("{base}:{processor}")));
        }
    }
    // Juju finds an action only if it has a link to the program.
    let script = project["parts"]["programs"]["override-build"].as_str().unwrap();
    let listed = script.split("for name in ").nth(1).unwrap().split(';').next().unwrap();
    let linked: BTreeSet<&str> = listed.split_whitespace().filter(|word| *word != "\\").collect();
    assert_eq!(linked, read("actions.yaml").keys().map(String::as_str).collect());
}

#[test]
fn the_icon_is_a_square_of_100_pixels() {
    let icon = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("icon.svg")).unwrap();
    assert!(icon.starts_with("<svg") && icon.contains("width=\"100\" height=\"100\""));
}
