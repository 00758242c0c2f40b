//! Labels: `KEY=VALUE` pairs and a note that an operator gives a snapshot, stored in its manifest.
//!
//! They have the syntax of Kubernetes labels without a prefix, so that they need no quotes in a shell, in YAML or in a
//! Juju action. What an archive contains is read without these limits, because a later version may have others. This
//! module must never let a text from an archive reach a terminal with control characters.

use crate::error::Refusal;
use crate::system::text::replace_control;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The key of the label that names a snapshot: a selector accepts its value in place of the archive's file name.
pub const NAME: &str = "name";
/// The most labels of a snapshot.
const MAX_LABELS: usize = 16;
/// The most characters of a key, and of a value.
const MAX_LENGTH: usize = 63;
/// The most characters of a note.
const MAX_NOTE_LENGTH: usize = 200;
/// Names that already select archives.
const RESERVED_NAMES: [&str; 3] = ["all", "latest", "live"];
const SYNTAX: &str = "give KEY=VALUE, each of 1 to 63 letters, digits, hyphens, underscores and dots that begins and \
                      ends with a letter or a digit, such as upgrade=v3.6";

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Label {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Label {
    /// Parses `KEY=VALUE`.
    ///
    /// # Errors
    /// Refuses a text that is not a label.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text.split_once('=').filter(|(key, value)| is_word(key) && is_word(value)) {
            Some((key, value)) => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            None => {
                let shown: String = text.chars().take(2 * MAX_LENGTH + 1).collect();
                Err(Refusal::new(format!("the label {shown:?} is not KEY=VALUE"), SYNTAX))
            }
        }
    }
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|refusal| format!("{}; {}", refusal.reason, refusal.next))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// The labels of a snapshot, or those that a selected archive must have. A key has one value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Parses labels that are separated by commas.
    ///
    /// # Errors
    /// Refuses a text that is not a label, and a key with two values.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut labels = BTreeMap::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let Label { key, value } = Label::parse(word)?;
            if let Some(other) = labels.insert(key.clone(), value.clone()).filter(|other| *other != value) {
                let reason = format!("the label {key} has two values, {other} and {value}");
                return Err(Refusal::new(reason, "give one of them"));
            }
        }
        Ok(Self(labels))
    }

    /// Parses the labels of a new snapshot.
    ///
    /// # Errors
    /// As [`Self::parse`]. Also refuses too many labels, and a name that selects other archives.
    pub fn parse_new(text: &str) -> Result<Self, Refusal> {
        let labels = Self::parse(text)?;
        if labels.0.len() > MAX_LABELS {
            let reason =
                format!("{} labels are given, and a snapshot has at most {MAX_LABELS}", labels.0.len());
            return Err(Refusal::new(reason, "leave some out"));
        }
        if let Some(name) = labels.name().filter(|name| RESERVED_NAMES.contains(name)) {
            let reason = format!("a snapshot cannot be named {name}, which selects other snapshots");
            return Err(Refusal::new(reason, "choose another name, such as name=before-upgrade"));
        }
        Ok(labels)
    }

    /// Returns whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether this label is one of them.
    pub fn has(&self, label: &Label) -> bool {
        self.0.get(&label.key) == Some(&label.value)
    }

    /// Returns whether all `wanted` labels are among them.
    pub fn has_all(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Returns the value of the label [`NAME`].
    pub fn name(&self) -> Option<&str> {
        self.0.get(NAME).map(String::as_str)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&replace_control(&all.join(","), '\u{fffd}'))
    }
}

/// Checks the note of a new snapshot.
///
/// # Errors
/// Refuses a note that is too long, or has a control character.
pub fn parse_note(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(Refusal::new("the note contains a control character", "give one line of text"));
    }
    let length = text.chars().count();
    if length > MAX_NOTE_LENGTH {
        let reason = format!("the note has {length} characters");
        return Err(Refusal::new(reason, format!("give at most {MAX_NOTE_LENGTH} characters")));
    }
    Ok(text.to_owned())
}

/// Returns whether a text is a valid key or value: that of a Kubernetes label without a prefix, and not empty.
fn is_word(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= MAX_LENGTH
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_syntax_of_kubernetes() {
        let long = "a".repeat(64);
        for (text, is_label) in [
            ("upgrade=v3.6", true),
            ("a=b", true),
            ("Team_1.x=0", true),
            ("a", false),
            ("a=", false),
            ("=b", false),
            ("a=b=c", false),
            ("-a=b", false),
            ("a=b-", false),
            ("a=b c", false),
            ("a=ä", false),
            ("a=b\n", false),
            (&format!("a={long}"), false),
            (&format!("{}=b", &long[1..]), true),
        ] {
            assert_eq!(Label::parse(text).is_ok(), is_label, "{text:?}");
        }
        let labels = Labels::parse("b=2, a=1,").unwrap();
        assert_eq!(labels.to_string(), "a=1,b=2");
        assert!(Labels::parse("a=1,a=2").unwrap_err().reason.contains("two values, 1 and 2"));
        assert!(labels.has_all(&Labels::parse("a=1").unwrap()));
        assert!(labels.has_all(&Labels::default()));
        assert!(!labels.has_all(&Labels::parse("a=1,c=3").unwrap()));
    }

    #[test]
    fn a_snapshot_has_a_limited_number_of_labels_and_no_reserved_name() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(Labels::parse_new(&many(16)).is_ok());
        assert!(Labels::parse_new(&many(17)).unwrap_err().reason.contains("17 labels"));
        for name in RESERVED_NAMES {
            let refusal = Labels::parse_new(&format!("name={name}")).unwrap_err();
            assert!(refusal.reason.contains(name), "{refusal}");
        }
        assert_eq!(Labels::parse_new("name=before-upgrade").unwrap().name(), Some("before-upgrade"));
    }

    #[test]
    fn a_note_is_one_short_line() {
        assert_eq!(
            parse_note(" Before the upgrade: v3.6 → v3.7 ").unwrap(),
            "Before the upgrade: v3.6 → v3.7"
        );
        assert!(parse_note("a\u{1b}[2J").is_err());
        assert!(parse_note(&"x".repeat(201)).unwrap_err().reason.contains("201 characters"));
    }

    #[test]
    fn labels_of_another_version_are_read_and_shown_without_control_characters() {
        let labels: Labels = serde_json::from_str(r#"{"a b":"\u001b[2J"}"#).unwrap();
        assert_eq!(labels.to_string(), "a b=\u{fffd}[2J");
    }
}
