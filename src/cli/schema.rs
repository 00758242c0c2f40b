//! `actions.yaml`, compiled in: the one source of the names, parameters, types, defaults and descriptions of the actions.
//! `commands.yaml` declares the commands for a terminal that are not actions, in the same form.
//!
//! Must never know what an action does.

use super::params::Value;
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use std::fmt;
use std::sync::LazyLock;

/// A file, parsed when it is first used. The command line reads a declaration for each command.
type File = LazyLock<serde_yaml::Result<serde_yaml::Mapping>>;

static ACTIONS: File = LazyLock::new(|| serde_yaml::from_str(include_str!("../../actions.yaml")));
static COMMANDS: File = LazyLock::new(|| serde_yaml::from_str(include_str!("commands.yaml")));

/// Returns whether `actions.yaml` declares `name`.
pub(super) fn is_action(name: &str) -> bool {
    ACTIONS.as_ref().is_ok_and(|actions| actions.contains_key(name))
}

/// What `actions.yaml` says about an action.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// What the action does, for its user.
    pub description: String,
    /// The parameters, in the order of the file.
    pub params: Vec<Param>,
}

/// A parameter of an action.
#[derive(Debug, Clone)]
pub(super) struct Param {
    /// The name of the parameter.
    pub name: String,
    /// The type of its values.
    pub kind: Kind,
    /// The value if none is given.
    pub default: Value,
    /// The allowed values, if there are only a few.
    pub allowed: Vec<String>,
    /// What the parameter means, for its user.
    pub description: String,
}

/// The type of a parameter's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One line of text.
    Text,
    /// A word, declared as `[string, integer, boolean]`. Juju reads what is typed after `juju run` as YAML 1.1, which turns
    /// `1000` into a number and `off` into a boolean.
    Word,
    /// `true` or `false`.
    Flag,
    /// A whole number, zero or more.
    Number,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Word => "text or a number",
            Self::Flag => "true or false",
            Self::Number => "a whole number",
        })
    }
}

impl Action {
    /// Returns the declaration of the action `name`.
    ///
    /// # Errors
    /// Fails only on a bug: a test reads every declaration.
    pub fn read(name: &str) -> Result<Self> {
        let written = match declarations(&ACTIONS)?.get(name) {
            Some(written) => written,
            None => {
                let command = declarations(&COMMANDS)?.get(name);
                command.with_context(|| format!("{name} is missing from actions.yaml and commands.yaml"))?
            }
        };
        let written: Written = serde_yaml::from_value(written.clone())
            .with_context(|| format!("reading the declaration of {name}"))?;
        let params = written.params.into_iter().map(|(param, written)| {
            Param::read(param, written).with_context(|| format!("reading the parameters of {name}"))
        });
        Ok(Self { description: written.description, params: params.collect::<Result<_>>()? })
    }

    /// Returns the parameter `name`, if the action has it.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

impl Param {
    fn read(name: serde_yaml::Value, written: serde_yaml::Value) -> Result<Self> {
        let name: String = serde_yaml::from_value(name)?;
        let written: WrittenParam = serde_yaml::from_value(written).with_context(|| name.clone())?;
        let kind = written.kind.kind().with_context(|| name.clone())?;
        let default = match (kind, written.default) {
            (Kind::Text | Kind::Word, serde_yaml::Value::String(text)) => Value::Text(text),
            (Kind::Flag, serde_yaml::Value::Bool(flag)) => Value::Flag(flag),
            (Kind::Number, serde_yaml::Value::Number(number)) => {
                Value::Number(number.as_u64().with_context(|| name.clone())?)
            }
            _ => bail!("{name}: the default must be {kind}, and text must be quoted"),
        };
        Ok(Self { name, kind, default, allowed: written.allowed, description: written.description })
    }
}

/// Returns the declarations in one of the two files.
fn declarations(file: &'static File) -> Result<&'static serde_yaml::Mapping> {
    file.as_ref().map_err(|error| anyhow!("reading the declarations of the commands: {error}"))
}

/// An action as `actions.yaml` declares it.
#[derive(Deserialize)]
struct Written {
    description: String,
    params: serde_yaml::Mapping,
}

/// A parameter as `actions.yaml` declares it.
#[derive(Deserialize)]
struct WrittenParam {
    #[serde(rename = "type")]
    kind: WrittenKind,
    default: serde_yaml::Value,
    #[serde(rename = "enum", default)]
    allowed: Vec<String>,
    description: String,
}

/// The JSON types of a parameter.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenKind {
    One(String),
    Several(Vec<String>),
}

impl WrittenKind {
    fn kind(&self) -> Result<Kind> {
        let names: Vec<&str> = match self {
            Self::One(name) => vec![name],
            Self::Several(names) => names.iter().map(String::as_str).collect(),
        };
        Ok(match names.as_slice() {
            ["string"] => Kind::Text,
            ["string", "integer", "boolean"] => Kind::Word,
            ["boolean"] => Kind::Flag,
            ["integer"] => Kind::Number,
            other => bail!("unsupported type of a parameter: {}", other.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(file: &'static File) -> BTreeSet<String> {
        declarations(file).unwrap().keys().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// Whether `name` matches `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$` and is not reserved by Juju.
    fn juju_accepts(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        name.starts_with(plain)
            && name.ends_with(plain)
            && name.chars().all(|c| plain(c) || c == '-')
            && name != "juju"
            && !name.starts_with("juju-")
    }

    #[test]
    fn every_command_is_declared_once_and_every_declaration_is_a_command() {
        let (actions, others) = (names(&ACTIONS), names(&COMMANDS));
        assert!(actions.is_disjoint(&others));
        for command in &crate::cli::command::COMMANDS {
            assert_eq!(command.is_action(), actions.contains(command.action), "{}", command.name);
            assert!(command.is_action() || command.action == command.name, "{}", command.name);
        }
        let commands: BTreeSet<String> =
            crate::cli::command::COMMANDS.iter().map(|command| command.action.to_owned()).collect();
        assert_eq!(&actions | &others, commands);
    }

    #[test]
    fn every_declaration_is_complete_and_closed() {
        for (name, declaration) in
            [&ACTIONS, &COMMANDS].into_iter().flat_map(|file| declarations(file).unwrap())
        {
            let name = name.as_str().unwrap();
            assert!(juju_accepts(name), "{name}");
            // The default is true in Juju 2.9 and 3.x, and false in 4.0.
            assert_eq!(declaration["additionalProperties"].as_bool(), Some(false), "{name}");
            let action = Action::read(name).unwrap();
            assert!(!action.description.is_empty());
            for param in action.params {
                assert!(juju_accepts(&param.name), "{name} {}", param.name);
                assert!(!param.description.is_empty(), "{name} {}", param.name);
            }
        }
    }

    #[test]
    fn parameters_have_a_type_and_a_default() {
        let restore = Action::read("restore").unwrap();
        assert_eq!(restore.params[0].name, "target");
        assert_eq!(restore.params[1].name, "skip-backup");
        assert_eq!(restore.params[1].kind, Kind::Flag);
        assert_eq!(restore.params[1].default, Value::Flag(false));
        assert!(restore.param("nonsense").is_none());
        assert!(Action::read("nonsense").is_err());
    }
}
