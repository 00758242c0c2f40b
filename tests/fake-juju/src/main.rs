//! The rules for simulators that are not written in Rust. Reads its input from standard input and prints JSON.
//!
//! `fake-juju parameters ACTIONS.yaml ACTION` reads a YAML map, as in `juju run --params FILE`.
//! `fake-juju resource METADATA.yaml NAME FILE` prints the name under which the agent stores the file.
//! `fake-juju results` reads NUL-terminated `KEY=VALUE` pairs.
#![allow(clippy::disallowed_methods, reason = "a program of the tests reads its own words")]

use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (text, code) = match answer(&words) {
        Ok(value) => (value.to_string(), ExitCode::SUCCESS),
        Err(error) => (format!("ERROR {error}"), ExitCode::FAILURE),
    };
    let written = match code {
        ExitCode::SUCCESS => writeln!(std::io::stdout(), "{text}"),
        _ => writeln!(std::io::stderr(), "{text}"),
    };
    if written.is_err() { ExitCode::FAILURE } else { code }
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
