//! The parameters of a command by their names, with defaults: the words of a command line, or Juju's JSON, after their
//! types were checked. `requests` makes the request of a command from them.

use crate::error::ActionError;
use std::collections::BTreeMap;
use std::fmt;

/// The parameters of a command, including defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Params {
    values: BTreeMap<String, Value>,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// One line of text, or a word.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
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

impl FromIterator<(String, Value)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

impl Params {
    /// Returns the value of a parameter, whatever its type is.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Returns the value of a text parameter.
    ///
    /// # Errors
    /// Fails only on a bug.
    pub fn text(&self, name: &str) -> Result<&str, ActionError> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(undeclared("text", name)),
        }
    }

    /// Returns the value of a boolean parameter.
    ///
    /// # Errors
    /// Fails only on a bug.
    pub fn flag(&self, name: &str) -> Result<bool, ActionError> {
        match self.values.get(name) {
            Some(Value::Flag(flag)) => Ok(*flag),
            _ => Err(undeclared("boolean", name)),
        }
    }

    /// Returns the value of a numeric parameter.
    ///
    /// # Errors
    /// Fails only on a bug.
    pub fn number(&self, name: &str) -> Result<u64, ActionError> {
        match self.values.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(undeclared("integer", name)),
        }
    }
}

fn undeclared(kind: &str, name: &str) -> ActionError {
    ActionError::bug(format_args!("actions.yaml declares no {kind} parameter {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_in_our_code_is_a_failure_and_not_a_panic() {
        let params = Params::from_iter([("target".to_owned(), Value::Text("/x".to_owned()))]);
        assert_eq!(params.text("target").unwrap(), "/x");
        let error = params.text("tarqet").unwrap_err();
        assert!(error.to_string().starts_with("failed: bug: "), "{error}");
        assert!(params.flag("target").is_err());
        assert!(params.number("target").is_err());
    }
}
