//! `actions.yaml`, compiled in: the one source of every action's name, parameters, types, defaults and descriptions.
//!
//! Must never know what an action does.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fmt;

const ACTIONS: &str = include_str!("../../actions.yaml");

/// What `actions.yaml` says of one action.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// The name of the action.
    pub name: String,
    /// What it does, for its user.
    pub description: String,
    /// Its parameters, in the order of the file.
    pub params: Vec<Param>,
}

/// One parameter of an action.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Its value when none is given.
    pub default: Value,
    /// What it means, for its user.
    pub description: String,
}

/// What the values of a parameter are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One line of text.
    Text,
    /// One word, declared as `[string, integer, boolean]`: what is typed after `juju run` is read as YAML 1.1 first,
    /// which makes a number of `1000` and a boolean of `off`.
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
            Self::Word => "a word or a number",
            Self::Flag => "true or false",
            Self::Number => "a whole number",
        })
    }
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of a [`Kind::Text`] or a [`Kind::Word`].
    Text(String),
    /// Of a [`Kind::Flag`].
    Flag(bool),
    /// Of a [`Kind::Number`].
    Number(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl Declaration {
    /// What `actions.yaml` says of `action`. Fails only on a bug: a test reads every declaration.
    pub fn of(action: &str) -> Result<Self> {
        let written =
            all()?.remove(action).with_context(|| format!("actions.yaml has no action {action}"))?;
        let written: Written = serde_yaml::from_value(written)
            .with_context(|| format!("reading action {action} of actions.yaml"))?;
        let params = written.params.into_iter().map(|(name, param)| {
            Param::of(name, param).with_context(|| format!("reading the parameters of {action}"))
        });
        Ok(Self {
            name: action.to_owned(),
            description: written.description,
            params: params.collect::<Result<_>>()?,
        })
    }

    /// The parameter `name`.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }
}

impl Param {
    fn of(name: serde_yaml::Value, written: serde_yaml::Value) -> Result<Self> {
        let name: String = serde_yaml::from_value(name)?;
        let written: WrittenParam = serde_yaml::from_value(written).with_context(|| name.clone())?;
        let kind = written.kind.kind().with_context(|| name.clone())?;
        let default = match (kind, written.default) {
            (Kind::Text | Kind::Word, serde_yaml::Value::String(text)) => Value::Text(text),
            (Kind::Flag, serde_yaml::Value::Bool(flag)) => Value::Flag(flag),
            (Kind::Number, serde_yaml::Value::Number(number)) => {
                Value::Number(number.as_u64().with_context(|| name.clone())?)
            }
            _ => bail!("{name}: the default is not {kind}"),
        };
        Ok(Self { name, kind, default, description: written.description })
    }
}

fn all() -> Result<serde_yaml::Mapping> {
    serde_yaml::from_str(ACTIONS).context("reading actions.yaml")
}

#[derive(Deserialize)]
struct Written {
    description: String,
    params: serde_yaml::Mapping,
}

#[derive(Deserialize)]
struct WrittenParam {
    #[serde(rename = "type")]
    kind: WrittenKind,
    default: serde_yaml::Value,
    description: String,
}

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
            other => bail!("there is no kind of parameter for type {other:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn names() -> BTreeSet<String> {
        let names = all().unwrap().into_iter();
        names.map(|(name, _)| name.as_str().unwrap().to_owned()).collect()
    }

    /// `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`, and not one of Juju's own.
    fn juju_takes(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        name.starts_with(plain)
            && name.ends_with(plain)
            && name.chars().all(|c| plain(c) || c == '-')
            && name != "juju"
            && !name.starts_with("juju-")
    }

    #[test]
    fn every_action_has_its_source_and_every_source_its_action() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("actions");
        let sources: BTreeSet<String> = std::fs::read_dir(sources)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names(), sources);
    }

    #[test]
    fn every_declaration_is_complete_and_takes_no_other_parameter() {
        let all = all().unwrap();
        for name in names() {
            assert!(juju_takes(&name), "{name}");
            // The default of Juju 2.9 and 3.x is true; 4.0 turned it round.
            assert_eq!(all[&*name]["additionalProperties"].as_bool(), Some(false), "{name}");
            let declaration = Declaration::of(&name).unwrap();
            assert!(!declaration.description.is_empty());
            for param in declaration.params {
                assert!(juju_takes(&param.name), "{name} {}", param.name);
                assert!(!param.description.is_empty(), "{name} {}", param.name);
            }
        }
    }

    #[test]
    fn the_parameters_come_with_type_and_default_in_the_order_of_the_file() {
        let restore = Declaration::of("restore").unwrap();
        assert_eq!(restore.params[0].name, "target");
        assert_eq!(restore.params[1].name, "skip-backup");
        assert_eq!(restore.params[1].kind, Kind::Flag);
        assert_eq!(restore.params[1].default, Value::Flag(false));
        assert!(restore.param("nonsense").is_none());
        assert!(Declaration::of("nonsense").is_err());
    }
}
