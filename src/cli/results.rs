//! What an action hands back: an ordered list of dotted keys, each with a text.
//!
//! Must never hold a key that Juju would refuse: `action-set` refuses all for the sake of one.

use serde_yaml::Mapping;
use std::borrow::Cow;
use std::fmt::Write as _;

/// A dotted key that Juju takes. Made by [`key!`](super::key), which checks it when the code is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(Cow<'static, str>);

impl Key {
    /// Checks `name` by Juju's rules: segments of lowercase letters, digits and inner hyphens, none of them reserved.
    /// To be called in a `const`, where a bad key does not compile; [`key!`](super::key) does so.
    pub const fn new(name: &'static str) -> Self {
        assert!(takes(name.as_bytes()), "Juju does not take this key");
        Self(Cow::Borrowed(name))
    }

    /// A key whose last segment an operator chose; `None` where Juju does not take it.
    pub fn below(prefix: &str, segment: &str) -> Option<Self> {
        let name = format!("{prefix}.{segment}");
        takes(name.as_bytes()).then_some(Self(Cow::Owned(name)))
    }
}

/// The key of a result, checked when the code is compiled: `key!("snapshot.path")`.
#[macro_export]
#[doc(hidden)]
macro_rules! result_key {
    ($name:literal) => {
        const { $crate::cli::results::Key::new($name) }
    };
}

/// Juju refuses the first four as any segment, and writes over the last.
const RESERVED: [&[u8]; 5] = [b"stdout", b"stdout-encoding", b"stderr", b"stderr-encoding", b"return-code"];

/// Whether every segment matches `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$` and none is reserved.
const fn takes(name: &[u8]) -> bool {
    let mut start = 0;
    let mut i = 0;
    loop {
        if i == name.len() || name[i] == b'.' {
            let (_, rest) = name.split_at(start);
            let (segment, _) = rest.split_at(i - start);
            if !takes_segment(segment) {
                return false;
            }
            start = i + 1;
        }
        if i == name.len() {
            return true;
        }
        i += 1;
    }
}

const fn takes_segment(segment: &[u8]) -> bool {
    if segment.is_empty() || segment[0] == b'-' || segment[segment.len() - 1] == b'-' {
        return false;
    }
    let mut i = 0;
    while i < segment.len() {
        if !matches!(segment[i], b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        i += 1;
    }
    let mut r = 0;
    while r < RESERVED.len() {
        if same(segment, RESERVED[r]) {
            return false;
        }
        r += 1;
    }
    true
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The results of an action, in the order they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Results {
    pairs: Vec<(Key, String)>,
}

impl Results {
    /// Sets `key`; the value that it had is replaced.
    pub fn set(&mut self, key: Key, value: impl Into<String>) {
        let value = value.into();
        match self.pairs.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key, value)),
        }
    }

    /// Every key with its value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (&*name.0, &**value))
    }

    /// The results as YAML, nested as Juju nests them. Every value reads back as the same text.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        write_yaml(&mut text, 0, &self.nested());
        text
    }

    fn nested(&self) -> Vec<(&str, Node<'_>)> {
        let mut top = Vec::new();
        for (name, value) in self.pairs() {
            put(&mut top, name, value);
        }
        top
    }
}

/// A place in the nested results.
enum Node<'a> {
    Text(&'a str),
    Map(Vec<(&'a str, Node<'a>)>),
}

/// As Juju does it: the later one wins where a text and a map are in each other's way.
fn put<'a>(map: &mut Vec<(&'a str, Node<'a>)>, name: &'a str, value: &'a str) {
    let (segment, rest) = match name.split_once('.') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (name, None),
    };
    let at = match map.iter().position(|(known, _)| *known == segment) {
        Some(at) => at,
        None => {
            map.push((segment, Node::Map(Vec::new())));
            map.len() - 1
        }
    };
    let node = &mut map[at].1;
    match (rest, &mut *node) {
        (None, _) => *node = Node::Text(value),
        (Some(rest), Node::Map(inner)) => put(inner, rest, value),
        (Some(rest), Node::Text(_)) => {
            let mut inner = Vec::new();
            put(&mut inner, rest, value);
            *node = Node::Map(inner);
        }
    }
}

fn write_yaml(text: &mut String, depth: usize, map: &[(&str, Node<'_>)]) {
    for (name, node) in map {
        match node {
            Node::Map(inner) => {
                let _ = writeln!(text, "{:depth$}{name}:", "", depth = 2 * depth);
                write_yaml(text, depth + 1, inner);
            }
            Node::Text(value) => {
                for line in pair(name, value).lines() {
                    let depth = if line.is_empty() { 0 } else { 2 * depth };
                    let _ = writeln!(text, "{:depth$}{line}", "");
                }
            }
        }
    }
}

/// One pair as YAML. `serde_yaml` quotes what YAML 1.2 would not read as text; what YAML 1.1 would not (dates, `yes`,
/// `12:30`) is quoted here, for the scripts that read us with an older parser.
fn pair(name: &str, value: &str) -> String {
    if ambiguous(value) {
        return format!("{name}: '{value}'\n");
    }
    let map = Mapping::from_iter([(name.into(), value.into())]);
    serde_yaml::to_string(&map).unwrap_or_else(|_| format!("{name}: {value:?}\n"))
}

fn ambiguous(value: &str) -> bool {
    let words = ["y", "n", "yes", "no", "on", "off", "<<", "="];
    let number = |c: char| c.is_ascii_digit() || "_:.,+-eETtZz ".contains(c);
    words.iter().any(|word| value.eq_ignore_ascii_case(word))
        || (value.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && value.chars().all(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::key;
    use proptest::prelude::*;

    #[test]
    fn keys_are_those_that_juju_takes() {
        for good in ["a", "snapshot.path", "restore.cluster-id", "a1.2b"] {
            assert!(takes(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "A",
            "a_b",
            "-a",
            "a-",
            "a.b-",
            "ä",
            "a b",
            "a.stdout",
            "stderr-encoding.a",
            "return-code",
        ] {
            assert!(!takes(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn results_are_nested_in_the_order_they_were_set() {
        let mut results = Results::default();
        results.set(key!("copy.cmd"), "juju scp etcd/0:/home/ubuntu/x .");
        results.set(key!("snapshot.path"), "/old");
        results.set(key!("snapshot.sha256"), "0123456789".repeat(6) + "0123");
        results.set(key!("snapshot.size"), "68K");
        results.set(key!("snapshot.path"), "/home/ubuntu/x");
        results.set(key!("snapshot.verified"), "yes");
        results.set(key!("plan"), "stop etcd\nstart etcd\n");
        assert_eq!(
            results.yaml(),
            "copy:\n  cmd: juju scp etcd/0:/home/ubuntu/x .\n\
             snapshot:\n  path: /home/ubuntu/x\n  \
             sha256: '0123456789012345678901234567890123456789012345678901234567890123'\n  \
             size: 68K\n  verified: 'yes'\n\
             plan: |\n  stop etcd\n  start etcd\n"
        );
    }

    #[test]
    fn nothing_set_is_nothing_printed() {
        assert_eq!(Results::default().yaml(), "");
    }

    #[test]
    fn the_later_one_wins_where_a_text_is_in_the_way_of_a_map() {
        let mut results = Results::default();
        results.set(key!("a"), "1");
        results.set(key!("a.b"), "2");
        assert_eq!(results.yaml(), "a:\n  b: '2'\n");
        results = Results::default();
        results.set(key!("a.b"), "2");
        results.set(key!("a"), "1");
        assert_eq!(results.yaml(), "a: '1'\n");
    }

    fn reads_back(value: &str) -> Result<(), TestCaseError> {
        let mut results = Results::default();
        results.set(key!("deep.down.key"), value);
        results.set(key!("deep.next"), value);
        let text = results.yaml();
        let read: serde_yaml::Value =
            serde_yaml::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert_eq!(read["deep"]["down"]["key"].as_str(), Some(value), "{}", text);
        prop_assert_eq!(read["deep"]["next"].as_str(), Some(value), "{}", text);
        Ok(())
    }

    #[test]
    fn difficult_values_read_back_as_the_same_text() {
        for value in [
            "",
            " ",
            "true",
            "null",
            "~",
            "1e3",
            "0x10",
            ".5",
            "-1",
            "12:30",
            "2026-01-31",
            "a: b",
            "# no",
            "- x",
            "'",
            "\"",
            "two\nlines",
            "two\nlines\n",
            "\n",
            "\n\n",
            " lead\nnext",
            "a\n\n  b\n \nc ",
            "tab\there",
            "off",
            "<<",
            "=",
            "é…",
            "\\",
            "{}",
            "[",
            "!x",
            "%",
            "@",
        ] {
            reads_back(value).unwrap();
        }
    }

    proptest! {
        #[test]
        fn any_value_reads_back_as_the_same_text(value in "[^\\p{Cc}]{0,30}(\n[^\\p{Cc}]{0,30}){0,3}\n{0,2}") {
            reads_back(&value)?;
        }

        #[test]
        fn what_looks_like_a_number_reads_back_as_text(value in "[-+.0-9a-fxT:_]{0,20}") {
            reads_back(&value)?;
        }
    }
}
