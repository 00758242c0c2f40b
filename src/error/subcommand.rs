//! A command of this program in a message, as it can be typed.
//!
//! Must never know Juju: a front that Juju started translates the commands in a message.

use std::ffi::OsStr;
use std::fmt;

/// How a command of this program begins in a terminal.
pub const PROGRAM: &str = "sudo etcd-backup";

/// A command of this program with its parameters. It is displayed between backticks, quoted for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subcommand {
    words: String,
}

impl Subcommand {
    /// Returns the command `name` without parameters.
    pub fn new(name: &str) -> Self {
        Self { words: name.to_owned() }
    }

    /// Adds a word for the parameter that needs no name.
    pub fn word(self, word: impl AsRef<OsStr>) -> Self {
        self.with(word.as_ref())
    }

    /// Adds the parameter `name` with a value.
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut word = OsStr::new("--").to_owned();
        word.push(name);
        word.push("=");
        word.push(value);
        self.with(&word)
    }

    /// Adds the parameter `name`, if it has a value.
    pub fn option_if_some(self, name: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    /// Adds the flag `name`.
    pub fn flag(self, name: &str) -> Self {
        self.with(OsStr::new(&format!("--{name}")))
    }

    fn with(mut self, word: &OsStr) -> Self {
        self.words.push(' ');
        self.words.push_str(&quoted(word));
        self
    }
}

impl fmt::Display for Subcommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{PROGRAM} {}`", self.words)
    }
}

/// Returns a word as it would be typed in a shell.
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_as_it_is_shown() {
        let command = Subcommand::new("restore").word("offsite/latest").option("target", "/it's a/b");
        let shown = r"`sudo etcd-backup restore offsite/latest '--target=/it'\''s a/b' --plan`";
        assert_eq!(command.flag("plan").to_string(), shown);
        let none: Option<&str> = None;
        assert_eq!(Subcommand::new("list").option_if_some("target", none), Subcommand::new("list"));
    }
}
