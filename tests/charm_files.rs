//! Checks the commands in the documents against the program and against Juju, and the charm's YAML files against charmcraft's published schema and the rules of Juju 2.9, 3.x and
//! 4.0: names, types, required and forbidden fields. `charm proof` (charm-tools 3.0.9) reports no errors or
//! warnings for the packed charm. It only notes missing hook files, which `dispatch` replaces.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "a test runs the program")]

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        "provides",
        "requires",
        "storage",
        "resources",
    ];
    has_only(&metadata, &known, &["name", "summary", "description"]);
    assert_eq!(metadata["name"], "etcd");
    assert!(metadata["summary"].as_str().unwrap().len() <= 200);
    assert_eq!(metadata["peers"]["cluster"]["interface"], "etcd");
    assert_eq!(names(&metadata["requires"]), ["certificates", "s3-parameters"].map(str::to_owned).into());
    assert_eq!(
        names(&metadata["provides"]),
        ["cos-agent", "db", "nrpe-external-master"].map(str::to_owned).into()
    );
    for (kind, endpoint, interface) in [
        ("requires", "certificates", "tls-certificates"),
        ("requires", "s3-parameters", "s3"),
        ("provides", "cos-agent", "cos_agent"),
        ("provides", "db", "etcd"),
        ("provides", "nrpe-external-master", "nrpe-external-master"),
    ] {
        let relation = metadata[kind][endpoint].as_object().unwrap();
        has_only(relation, &["interface", "limit", "optional", "scope"], &["interface"]);
        let found = (&relation["interface"], &relation["optional"]);
        assert_eq!(found, (&Value::from(interface), &Value::from(true)));
    }
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

/// Returns every Markdown file of the documentation.
fn documents() -> Vec<PathBuf> {
    fn add(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => add(&path, found),
                false if path.extension().is_some_and(|extension| extension == "md") => found.push(path),
                false => {}
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    add(&root.join("docs"), &mut found);
    found
}

/// Returns the commands of `program` in a line: in a code block, or between backticks.
fn commands_of(program: &str, line: &str, is_code: bool) -> Vec<Vec<String>> {
    let parts: Vec<&str> = match is_code {
        true => vec![line.split(" #").next().unwrap().split(" | ").next().unwrap()],
        false => line.split('`').skip(1).step_by(2).collect(),
    };
    let commands = parts.into_iter().map(|part| {
        let part = part.trim_start();
        let part = part.strip_prefix("$ ").unwrap_or(part);
        part.strip_prefix("sudo ").unwrap_or(part)
    });
    let start = format!("{program} ");
    commands.filter(|command| command.starts_with(&start)).map(shell_words).collect()
}

/// Calls `check` with every command of `program` in the documents. Returns the number for which it returned true.
fn check_documents(program: &str, check: impl Fn(&[String]) -> Result<bool, String>) -> usize {
    let mut checked = 0;
    for path in documents() {
        let mut is_code = false;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            for command in commands_of(program, line, is_code) {
                match check(&command) {
                    Ok(is_ours) => checked += usize::from(is_ours),
                    Err(error) => panic!("{}:{}: {error}: {command:?}", path.display(), number + 1),
                }
            }
        }
    }
    checked
}

/// Splits a command as a shell does.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.trim().chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Returns the application of a unit, if `word` is the name of one.
fn application(word: &str) -> Option<&str> {
    let (application, number) = word.split_once('/')?;
    let is_unit = number == "leader" || number.parse::<u32>().is_ok();
    is_unit.then_some(application)
}

/// Checks one command of the documents by the rules of Juju. Returns whether it is one of ours.
fn check_juju_command(words: &[String]) -> Result<bool, String> {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let is_ours = |application: &str| application.ends_with("etcd");
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let resource = |word: &str| match word.split_once('=') {
        Some((name, file)) if file != "ARCHIVE" && file != "FILE" => {
            fake_juju::resources::stored_name(&read("metadata.yaml"), name, Path::new(file)).map(|_| true)
        }
        _ => Ok(true),
    };
    match words.as_slice() {
        ["run" | "run-action", rest @ ..] => {
            let units: Vec<&str> =
                rest.iter().copied().take_while(|word| application(word).is_some()).collect();
            if units.is_empty() || !units.iter().all(|unit| is_ours(application(unit).unwrap())) {
                return Ok(false);
            }
            let [action, given @ ..] = &rest[units.len()..] else { return Err("no action".to_owned()) };
            let given = given.iter().copied().filter(|word| !word.starts_with("--"));
            let given = fake_juju::parameters::from_words(given)?;
            fake_juju::parameters::check(&read("actions.yaml"), action, given).map(|_| true)
        }
        ["attach-resource", application, word, ..] if is_ours(application) => resource(word),
        ["deploy", .., "--resource", word] => resource(word),
        ["config", application, options @ ..] if is_ours(application) => {
            let known = names(&serde_yaml::from_str::<Value>(&read("config.yaml")).unwrap()["options"]);
            let given = options.iter().filter_map(|word| word.split_once('='));
            let unknown = given.map(|(name, _)| name).find(|name| !known.contains(*name));
            unknown.map_or(Ok(true), |name| Err(format!("unknown option {name:?}")))
        }
        _ => Ok(false),
    }
}

#[test]
fn juju_accepts_the_commands_in_the_documents() {
    let checked = check_documents("juju", check_juju_command);
    assert!(checked >= 8, "only {checked} commands were found");
}

/// With `--help`, the program checks the names of the command and its options, and does nothing.
#[test]
fn the_program_accepts_the_commands_in_the_documents() {
    let accepted = |words: &[String]| {
        let words = words[1..].iter().map(String::as_str).filter(|word| !word.starts_with('>'));
        // A word in capitals stands for the name of a command.
        let words = words.map(|word| if word == "COMMAND" { "list" } else { word });
        let program = env!("CARGO_BIN_EXE_etcd-backup");
        let out = Command::new(program).args(words).arg("--help").output().unwrap();
        match out.status.success() {
            true => Ok(true),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    };
    let checked = check_documents("etcd-backup", accepted);
    assert!(checked >= 80, "only {checked} commands were found");
}

#[test]
fn juju_accepts_numbers_as_words() {
    let actions = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml")).unwrap();
    for (action, word) in [
        ("site", "site=1234"),
        ("snapshot", "site=1234"),
        ("snapshot", "target=1"),
        ("restore", "bump-revision=1000"),
        ("restore", "bump-revision=off"),
        ("restore", "snapshot=2026"),
        ("restore", "from=2026"),
        ("check", "warn=26"),
        ("check", "crit=50"),
        ("compact", "revision=12"),
        ("prune-snapshots", "max-size=50000000000"),
        ("prune-snapshots", "keep-within=30"),
        ("prune-snapshots", "cluster=1234567890123456"),
        ("prune-snapshots", "keep=7"),
        ("list-snapshots", "limit=10"),
        ("upload", "give-up=1"),
        ("delete-snapshot", "snapshot=1"),
        ("snapshot", "keys-version=2"),
    ] {
        let given = fake_juju::parameters::from_words([word]).unwrap();
        fake_juju::parameters::check(&actions, action, given)
            .unwrap_or_else(|error| panic!("{action}: {error}"));
    }
    // Every free text is declared like that, unless a number cannot be meant.
    for (name, action) in read("actions.yaml") {
        for (param, schema) in action["params"].as_object().unwrap() {
            let is_exempt = ["identity-file", "expected-sha256"].contains(&param.as_str());
            let is_free_text = schema["type"] == "string" && schema.get("enum").is_none();
            assert!(!is_free_text || is_exempt, "{name} {param}: Juju refuses a number as text");
        }
    }
}
