//! The JSON Schemas in `docs/schema/` are those of the outcomes.

use crate::commands::{
    backup, check, check_config, contents, credentials, restore, schedule, site, snapshot, snapshots, upkeep,
    upload,
};
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};
use std::path::Path;

/// The schema of a command's document: its outcome, and what went wrong.
fn schema<O: JsonSchema>(command: &str) -> Value {
    let mut schema = schema_for!(O).to_value();
    schema["title"] = format!("etcd-backup {command} --json").into();
    let text = json!({"type": ["string", "null"]});
    schema["properties"]["error"] = json!({
        "description": "Why the command did not complete. Missing if it did.",
        "type": "object",
        "properties": {
            "kind": {"enum": ["refused", "failed", "interrupted"]},
            "reason": {"type": "string"},
            "state": text,
            "next": text,
        },
        "required": ["kind", "reason", "state", "next"],
    });
    schema
}

/// Run with `UPDATE_SCHEMAS=1` after a change of an outcome.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test may write the documents")]
fn the_documented_schemas_are_those_of_the_outcomes() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema");
    for (name, schema) in [
        ("snapshot", schema::<snapshot::Outcome>("snapshot")),
        ("backup", schema::<backup::Outcome>("backup")),
        ("list", schema::<snapshots::list::Outcome>("list")),
        ("prune", schema::<snapshots::prune::Outcome>("prune")),
        ("site", schema::<site::Outcome>("site")),
        ("check-config", schema::<check_config::Outcome>("check-config")),
        ("check", schema::<check::Outcome>("check")),
        ("upload", schema::<upload::Outcome>("upload")),
        ("restore", schema::<restore::Outcome>("restore")),
        ("verify", schema::<snapshots::verify::Outcome>("verify")),
        ("fetch", schema::<snapshots::fetch::Outcome>("fetch")),
        ("pin", schema::<snapshots::pin::Outcome>("pin")),
        ("unpin", schema::<snapshots::pin::Outcome>("unpin")),
        ("delete", schema::<snapshots::delete::Outcome>("delete")),
        ("schedule", schema::<schedule::Outcome>("schedule")),
        ("health", schema::<upkeep::Health>("health")),
        ("alarms", schema::<upkeep::Alarms>("alarms")),
        ("disarm", schema::<upkeep::Alarms>("disarm")),
        ("compact", schema::<upkeep::Compaction>("compact")),
        ("defrag", schema::<upkeep::Defragmentation>("defrag")),
        ("credentials", schema::<credentials::Outcome>("credentials")),
        ("show", schema::<contents::show::Outcome>("show")),
        ("diff", schema::<contents::diff::Outcome>("diff")),
        ("export", schema::<contents::export::Outcome>("export")),
        ("import", schema::<contents::import::Outcome>("import")),
        ("get", schema::<contents::get::Outcome>("get")),
        ("history", schema::<contents::history::Outcome>("history")),
        ("keys", schema::<contents::keys::Outcome>("keys")),
    ] {
        let path = dir.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{name}: UPDATE_SCHEMAS=1");
    }
}
