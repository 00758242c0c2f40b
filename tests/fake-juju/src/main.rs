//! The rules for simulators that are not written in Rust. Reads its input from standard input and prints JSON.
//!
//! `fake-juju parameters ACTIONS.yaml ACTION` reads a YAML map, as in `juju run --params FILE`.
//! `fake-juju resource METADATA.yaml NAME FILE` prints the name under which the agent stores the file.
//! `fake-juju results` reads NUL-terminated `KEY=VALUE` pairs.
//!
//! Called by the name of a hook tool (`model::TOOLS`), it is that tool, for the hook that is described in `context.json` next
//! to the agent's socket.
#![allow(clippy::disallowed_methods, reason = "a program of the tests reads its own words")]

use fake_juju::model;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((name, words)) = words.split_first() else { return ExitCode::FAILURE };
    let name = Path::new(name).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let answer = match model::TOOLS.contains(&name) {
        true => hook_tool(name, words),
        false => answer(words).map(|value| format!("{value}\n")).map_err(|error| (1, error)),
    };
    let (written, code) = match answer {
        Ok(text) => (std::io::stdout().write_all(text.as_bytes()), 0),
        Err((code, error)) => (writeln!(std::io::stderr(), "ERROR {error}"), code),
    };
    if written.is_err() { ExitCode::FAILURE } else { ExitCode::from(code) }
}

/// Runs a hook tool, and stores what it changed.
fn hook_tool(name: &str, words: &[&str]) -> Result<String, (u8, String)> {
    let failed = |error: &dyn std::fmt::Display| (1, error.to_string());
    let socket = std::env::var_os("JUJU_AGENT_SOCKET_ADDRESS").ok_or((1, "no agent".to_owned()))?;
    let agent = Path::new(&socket).parent().unwrap_or(Path::new("/"));
    let calls = std::fs::File::options().create(true).append(true).open(agent.join("calls"));
    let logged = calls.and_then(|mut calls| writeln!(calls, "{name} {}", words.join(" ")));
    logged.map_err(|error| failed(&error))?;
    let file = agent.join("context.json");
    let text = std::fs::read_to_string(&file).map_err(|error| failed(&error))?;
    let mut context: model::Context = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let input = if words.contains(&"--file") { input().map_err(|error| (1, error))? } else { String::new() };
    let printed = model::call(&mut context, name, words, &input)?;
    let text = serde_json::to_string(&context).map_err(|error| failed(&error))?;
    std::fs::write(&file, text).map_err(|error| failed(&error))?;
    Ok(printed)
}

fn answer(words: &[&str]) -> Result<Value, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("reading {path}: {error}"));
    match words {
        ["parameters", actions, action] => {
            let given: Option<Map<String, Value>> =
                serde_yaml::from_str(&input()?).map_err(|error| error.to_string())?;
            let all = fake_juju::parameters::check(&read(actions)?, action, given.unwrap_or_default())?;
            Ok(Value::Object(all))
        }
        ["resource", metadata, name, file] => {
            fake_juju::resources::stored_name(&read(metadata)?, name, Path::new(file)).map(Value::from)
        }
        ["results"] => Ok(Value::Object(fake_juju::results::nest(input()?.split_terminator('\0')))),
        _ => Err("give parameters, resource or results".to_owned()),
    }
}

fn input() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
