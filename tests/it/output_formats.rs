//! `etcd-backup` as people and scripts use it: text, JSON that matches the documented schemas, and exit
//! statuses.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::command::{Out, Run};
use crate::common::fs_util::copy_program;
use crate::common::world::{Setup, Version, World, root_only_dir};
use crate::upkeep::lock_credentials_path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-backup");

fn run(world: &World, words: &[&str]) -> Out {
    Run::start(world.action(PROGRAM, words), &world.path("runs")).finish()
}

/// Runs a command with `--json` and validates its document against the schema in `docs/schema`.
fn document(world: &World, command: &str, words: &[&str]) -> Value {
    checked(command, run(world, &[&[command, "--json"], words].concat()))
}

/// Returns the document that a command printed, if it matches the schema.
pub fn checked(command: &str, out: Out) -> Value {
    let document: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|_| panic!("{}", out.describe()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{command}.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    if let Err(complaint) = validate(&schema, &schema, &document) {
        panic!("{command}: {complaint}: {}", out.describe());
    }
    document
}

/// Validates the features that these schemas use: types, properties, items, references and alternatives.
fn validate(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return validate(root, root.pointer(reference.trim_start_matches('#')).unwrap(), value);
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let is_one = all.iter().any(|one| validate(root, one, value).is_ok());
        return is_one.then_some(()).ok_or(format!("{value} matches no alternative"));
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => return Ok(()),
    };
    let own = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&own) {
        return Err(format!("{value} is not {types:?}"));
    }
    for item in value.as_array().into_iter().flatten() {
        validate(root, &schema["items"], item)?;
    }
    let Some(map) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        if !map.contains_key(name) {
            return Err(format!("{name} is missing"));
        }
    }
    let is_closed = schema["additionalProperties"].is_null() && schema["properties"].is_object();
    for (name, inner) in map {
        match &schema["properties"][name] {
            Value::Null if is_closed => return Err(format!("{name} is not documented")),
            Value::Null => validate(root, &schema["additionalProperties"], inner)?,
            known => validate(root, known, inner).map_err(|error| format!("{name}: {error}"))?,
        }
    }
    Ok(())
}

#[test]
fn json_documents_match_their_schemas() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    let site = document(&world, "site", &[]);
    assert_eq!(site["answers"], true);
    let saved = document(&world, "snapshot", &[&target]);
    let archive = &saved["snapshot"];
    assert!(archive["size_bytes"].as_u64().unwrap() > 1000, "{saved}");
    assert_eq!(archive["revision"].as_i64().unwrap(), world.revision());
    let listed = document(&world, "list", &[&target, "--runs"]);
    let row = &listed["snapshots"][0];
    for key in ["created", "size_bytes", "revision", "cluster_id", "member"] {
        assert_eq!(row[key], archive[key], "{key}");
    }
    assert_eq!(listed["runs"][0]["revision"], archive["revision"]);
    assert_eq!(document(&world, "backup", &[&target])["retention"], Value::Null);
    let pruned = document(&world, "prune", &[&target, "--keep", "1", "--plan"]);
    assert_eq!((&pruned["deleted"], &pruned["plan"]), (&1.into(), &true.into()));
    assert_eq!(document(&world, "check", &[&target])["status"], "OK");
    assert_eq!(document(&world, "upload", &[&target])["uploads"], Value::Array(Vec::new()));
}

#[test]
fn json_documents_of_the_other_commands_match_their_schemas() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    let archive = world.saved();
    let name = archive.file_name().unwrap().to_str().unwrap();
    assert_eq!(document(&world, "verify", &[&target, "latest"])["good"][0], name);
    assert_eq!(document(&world, "pin", &[&target, name])["pinned"][0], name);
    assert_eq!(document(&world, "unpin", &[&target, name])["unpinned"][0], name);
    assert_eq!(document(&world, "delete", &[&target, name])["error"]["kind"], "refused");
    assert_eq!(document(&world, "health", &[])["cluster"], "healthy");
    assert_eq!(document(&world, "alarms", &[])["alarms"], 0);
    assert!(document(&world, "defrag", &[])["size_after_bytes"].as_u64().unwrap() > 0);
    assert_eq!(document(&world, "compact", &[])["revision"].as_i64().unwrap(), world.revision());
    let plan = document(&world, "restore", &[&target, "latest", "--plan"]);
    assert_eq!(plan["plan"]["old_revision"].as_i64().unwrap(), world.revision());
    let restored = document(&world, "restore", &[&target, "latest"]);
    assert!(restored["restored"]["downtime_seconds"].as_f64().unwrap() > 0.0, "{restored}");
}

/// The certificates are those of a client, because the site file names them.
#[test]
fn json_documents_about_copies_match_their_schemas() {
    let world = World::new(Setup { tls: true, ..Setup::plain(Version::V35) });
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let settings = world.path("config.yaml");
    fs::write(
        &settings,
        format!("destinations: {{near: {{directory: {}, mount: none}}}}\n", elsewhere.display()),
    )
    .unwrap();
    let with_settings = |command: &str, words: &[&str]| {
        let mut run = world.action(PROGRAM, &[&[command, "--json"], words].concat());
        run.env("ETCD_BACKUP", &settings);
        checked(command, Run::start(run, &world.path("runs")).finish())
    };
    let target = world.to_target();
    let saved = with_settings("backup", &[&target]);
    assert_eq!(saved["destinations"]["near"], "uploaded", "{saved}");
    let fetched_to = format!("target={}", world.path("fetched").display());
    let fetched = with_settings("fetch", &["near/latest", &fetched_to]);
    for key in ["created", "size_bytes", "sha256", "revision", "keys", "cluster_id", "member"] {
        assert_eq!(fetched["snapshot"][key], saved["snapshot"][key], "{key}");
    }
    assert_eq!(fetched["snapshot"]["verified"], true);
    let Some(_lock) = lock_credentials_path() else { return };
    let packed = document(&world, "credentials", &[]);
    let path = packed["path"].as_str().unwrap();
    assert!(path.ends_with("etcd_credentials.tar.gz") && Path::new(path).is_file(), "{packed}");
    fs::remove_file(path).unwrap();
}

/// The location of the copy does not fit in 80 columns.
#[test]
fn the_table_of_a_list_distinguishes_an_archive_from_its_copy() {
    let world = World::plain(Version::V35);
    let elsewhere = world.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let settings = world.path("config.yaml");
    let destination = format!("directory: {}, mount: none", elsewhere.display());
    fs::write(&settings, format!("destinations: {{second-data-center: {{{destination}}}}}\n")).unwrap();
    let with_settings = |words: &[&str]| {
        let mut run = world.action(PROGRAM, words);
        run.env("ETCD_BACKUP", &settings);
        Run::start(run, &world.path("runs")).finish()
    };
    let target = world.to_target();
    let saved = with_settings(&["backup", &target]);
    assert!(saved.stdout.ends_with("second-data-center: uploaded\n"), "{}", saved.describe());
    let listed = with_settings(&["list", &target]);
    let rows: Vec<&str> = listed.stdout.lines().filter(|line| line.starts_with("etcd-snapshot-")).collect();
    let copies = rows.iter().filter(|row| row.contains("  second-data-center/"));
    assert_eq!((rows.len(), copies.count()), (2, 1), "{}", listed.stdout);
}

#[test]
fn json_documents_of_changes_match_their_schemas() {
    let world = World::plain(Version::V35);
    let target = world.to_target();
    let first = world.saved();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let _ = world.snapshot(&[&target]).completed();
    let pruned = document(&world, "prune", &[&target, "--keep", "1"]);
    assert_eq!((&pruned["deleted"], &pruned["plan"]), (&1.into(), &false.into()));
    assert!(!first.exists());
    let archives = world.in_target().into_iter().filter(|name| crate::snapshot::is_archive_name(name));
    let left: Vec<String> = archives.collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let deleted = document(&world, "delete", &[&target, &left[0], "--force"]);
    assert_eq!(deleted["deleted"][0], *left[0]);
    assert_eq!(document(&world, "disarm", &[])["alarms"], 0);
}

#[test]
fn the_json_document_of_a_planned_schedule_matches_its_schema() {
    if !["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].iter().any(|path| Path::new(path).exists()) {
        return eprintln!("skipped: systemd-analyze is not installed");
    }
    let Some(dir) = root_only_dir() else { return };
    let world = World::plain(Version::V35);
    let settings = world.path("config.yaml");
    fs::write(&settings, "schedule: {when: every 12h}\n").unwrap();
    // The timer runs the program as root, so only root may be able to change it.
    let program = dir.path().join("etcd-backup");
    copy_program(PROGRAM, &program);
    let mut run = world.action(program.to_str().unwrap(), &["schedule", "--plan", "--json"]);
    run.env("ETCD_BACKUP", &settings);
    let planned = checked("schedule", Run::start(run, &world.path("runs")).finish());
    assert_eq!(planned["when"], "every 12h");
    assert_eq!(planned["next"].as_array().unwrap().len(), 5, "{planned}");
    assert!(planned["timer"].as_str().unwrap().contains("OnCalendar="), "{planned}");
}

#[test]
fn the_json_document_of_a_failure_contains_the_reason() {
    let world = World::plain(Version::V35);
    let document = document(&world, "list", &["--target", "/no/such/directory"]);
    assert_eq!(document["error"]["kind"], "refused");
    assert!(document["error"]["reason"].as_str().unwrap().contains("does not exist"), "{document}");
}

#[test]
fn text_output_has_at_most_80_columns() {
    let world = World::plain(Version::V35);
    let target = world.target().display().to_string();
    let out = run(&world, &["snapshot", "-t", &target, "--quiet"]);
    assert_eq!((out.status.code(), &*out.stderr), (Some(0), ""), "{}", out.describe());
    assert!(out.stdout.starts_with(&format!("{target}/etcd-snapshot-")), "{}", out.describe());
    let list = run(&world, &["list", "--target", &target]);
    assert_eq!(list.status.code(), Some(0), "{}", list.describe());
    let table: Vec<&str> = list.stdout.lines().take(2).collect();
    assert!(
        table[0].starts_with("NAME") && table.iter().all(|line| line.chars().count() <= 80),
        "{}",
        list.describe()
    );
    assert!(run(&world, &["list", "--wide", "-t", &target]).stdout.contains("KEPT BECAUSE"));
    let plan = run(&world, &["restore", "latest", "--plan", "-t", &target]);
    assert_eq!(plan.status.code(), Some(0), "{}", plan.describe());
}

#[test]
fn latest_is_not_a_file_in_the_current_directory() {
    let world = World::plain(Version::V35);
    let _ = world.saved();
    std::fs::write(world.target().join("latest"), "not an archive").unwrap();
    for (word, status) in [("latest", 0), ("./latest", 2)] {
        let mut command = world.action(PROGRAM, &["restore", word, "--plan", "-t"]);
        command.arg(world.target()).current_dir(world.target());
        let out = Run::start(command, &world.path("runs")).finish();
        assert_eq!(out.status.code(), Some(status), "{word}: {}", out.describe());
    }
}

#[test]
fn restores_a_file_in_the_current_directory_by_its_name() {
    let world = World::plain(Version::V35);
    let archive = world.saved();
    let name = archive.file_name().unwrap().to_str().unwrap();
    for word in [name.to_owned(), format!("./{name}")] {
        let mut command =
            world.action(PROGRAM, &["restore", &word, "--plan", "-t", "elsewhere", "--skip-backup"]);
        command.current_dir(world.target());
        let out = Run::start(command, &world.path("runs")).finish();
        assert_eq!(out.status.code(), Some(0), "{}", out.describe());
    }
}
