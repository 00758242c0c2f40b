//! Measures plain English. Certain words mark sentences that are hard to read, so their frequency is limited.
//!
//! The limits are what sudo-rs, rustic_core and bootc keep, per 1,000 words, measured on 2026-11-28 by the
//! same count. Comments, messages (string literals of five words or more), documents and YAML are counted
//! apart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::root;

/// Words whose frequency is limited.
struct Rule {
    /// Each entry is one word or two.
    words: &'static [&'static str],
    /// How often they may occur per 1,000 words.
    limit: f64,
    /// The advice that a failure prints.
    instead: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        words: &["who", "whoever", "whom", "whose"],
        limit: 0.8,
        instead: "name the person, program or thing",
    },
    Rule {
        words: &["nobody", "none", "nothing", "nor", "no one"],
        limit: 1.5,
        instead: "use a verb with not, or: has no Y, empty, unknown",
    },
    Rule {
        words: &["beside", "besides", "behind", "meanwhile"],
        limit: 0.3,
        instead: "use: next to, after, in addition to, during",
    },
    Rule {
        words: &["told", "tell", "tells", "telling", "said", "say", "says", "hear", "hears", "heard"],
        limit: 1.0,
        instead: "use the exact verb: report, print, return, log, refuse, receive",
    },
    Rule { words: &["where"], limit: 1.3, instead: "use if or when for a condition" },
    Rule { words: &["what", "whatever"], limit: 2.2, instead: "name the thing" },
    Rule {
        words: &["mend", "mends", "mended", "mending"],
        limit: 0.0,
        instead: "use: repair, correct, or give the command",
    },
    Rule {
        words: &["is no", "is none", "are no", "are none", "was no", "was none", "were no", "were none"],
        limit: 0.9,
        instead: "use: is not an X, has no Y",
    },
    Rule {
        words: &["of 's"],
        limit: 0.2,
        instead: "use an ordinary compound: a systemd timer, a Juju secret",
    },
    Rule {
        words: &[
            "let go",
            "let back",
            "let in",
            "be let",
            "taken back",
            "take back",
            "come back",
            "comes back",
            "gone",
            "goes",
        ],
        limit: 0.8,
        instead: "use the exact verb: release, return, remove, detach, undo",
    },
];

const KINDS: [&str; 4] = ["comments", "messages", "documents", "YAML"];
const YAML: [&str; 5] = ["actions.yaml", "commands.yaml", "config.yaml", "metadata.yaml", "charmcraft.yaml"];

/// How many of the worst lines a failure shows.
const SHOWN: usize = 25;

/// A line of text, without code.
struct Line {
    kind: usize,
    place: String,
    text: String,
}

#[test]
fn the_text_is_plain_english() {
    let mut lines = Vec::new();
    collect(root(), &mut lines);
    let mut words = [0_usize; 4];
    let mut hits = [[0_usize; 4]; RULES.len()];
    for line in &lines {
        words[line.kind] += count_words(&line.text);
        for (rule, hits) in RULES.iter().zip(&mut hits) {
            hits[line.kind] += rule.hits(&line.text);
        }
    }
    let mut report = String::new();
    for (rule, hits) in RULES.iter().zip(&hits) {
        for kind in 0..KINDS.len() {
            let rate = 1000.0 * hits[kind] as f64 / words[kind].max(1) as f64;
            if hits[kind] > 2 && rate > rule.limit {
                let _ = writeln!(
                    report,
                    "{}: {:?}: {rate:.1} per 1,000 words, at most {:.1}; {}",
                    KINDS[kind], rule.words, rule.limit, rule.instead
                );
                let worst = lines.iter().filter(|line| line.kind == kind && rule.hits(&line.text) > 0);
                for line in worst.take(SHOWN) {
                    let _ = writeln!(report, "  {}: {}", line.place, line.text.trim());
                }
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

impl Rule {
    fn hits(&self, text: &str) -> usize {
        let parts = parts(text);
        let matches = |at: usize, word: &str| match word.split_once(' ') {
            None => parts[at].1 == word,
            // The possessive of any word.
            Some((first, "'s")) => {
                parts[at].1 == first
                    && parts.get(at + 1).is_some_and(|part| part.0 == " ")
                    && parts.get(at + 2).is_some_and(|part| *part == ("'", "s".to_owned()))
            }
            Some((first, second)) => {
                parts[at].1 == first
                    && parts.get(at + 1).is_some_and(|part| part.0 == " " && part.1 == second)
            }
        };
        (0..parts.len()).filter(|at| self.words.iter().any(|word| matches(*at, word))).count()
    }
}

/// Splits a text into runs of letters, digits and underscores, in lower case, each with the characters before
/// it.
fn parts(text: &str) -> Vec<(&str, String)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |length| start + length);
        parts.push((&rest[..start], rest[start..end].to_lowercase()));
        rest = &rest[end..];
    }
    parts
}

/// Counts words of letters; an apostrophe or a hyphen inside does not end one.
fn count_words(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphabetic() || c == '\'' || c == '-';
    text.split(|c: char| !is_part(c)).filter(|word| word.contains(|c: char| c.is_ascii_alphabetic())).count()
}

/// Collects the lines of all files below a directory that people read.
fn collect(dir: &Path, lines: &mut Vec<Line>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            let is_top = dir == root() && (name == "target" || name == "fuzz");
            if !is_top && name != ".git" && name != "data" {
                collect(&path, lines);
            }
            continue;
        }
        let read: fn(&str) -> Vec<(usize, usize, String)> = match name.rsplit_once('.') {
            // The words of the rules above are not messages.
            Some(("language", "rs")) => continue,
            Some((_, "rs")) => of_rust,
            Some((_, "md")) => of_markdown,
            _ if YAML.contains(&name) => of_yaml,
            _ => continue,
        };
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let shown = path.strip_prefix(root()).unwrap().display();
        for (kind, number, text) in read(&text) {
            lines.push(Line { kind, place: format!("{shown}:{number}"), text });
        }
    }
}

fn of_rust(text: &str) -> Vec<(usize, usize, String)> {
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let trimmed = line.trim();
        if trimmed.starts_with("//") {
            lines.push((0, number, without_code(trimmed.trim_start_matches(['/', '!', ' ']))));
        } else {
            let code = line.split(" // ").next().unwrap();
            let messages = literals(code).into_iter().filter(|literal| count_words(literal) >= 5);
            lines.extend(messages.map(|message| (1, number, message)));
        }
    }
    lines
}

fn of_markdown(text: &str) -> Vec<(usize, usize, String)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push((2, number, without_code(line)));
        }
    }
    lines
}

fn of_yaml(text: &str) -> Vec<(usize, usize, String)> {
    text.lines().zip(1..).map(|(line, number)| (3, number, line.to_owned())).collect()
}

/// Removes text between backticks.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    let last = parts.len() - 1;
    let kept = parts.iter().enumerate();
    // A backtick without a partner removes nothing.
    kept.filter(|(at, _)| at % 2 == 0 || *at == last).map(|(_, part)| *part).collect::<Vec<_>>().join("")
}

/// Returns the string literals that begin and end in one line.
fn literals(line: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut open: Option<String> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (&mut open, c) {
            (None, '"') => open = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => literals.extend(open.take()),
            (Some(literal), '\\') => {
                literal.push('\\');
                literal.extend(characters.next());
            }
            (Some(literal), c) => literal.push(c),
        }
    }
    literals
}

#[test]
fn the_rules_count_whole_words() {
    let hits = |rule: usize, text: &str| RULES[rule].hits(text);
    assert_eq!(hits(0, "Who's there, and whose? The whole."), 2);
    assert_eq!(hits(1, "No one has none, not even no-one."), 2);
    assert_eq!(hits(7, "It is no archive, is  none, and was none"), 2);
    assert_eq!(hits(8, "a timer of systemd's, and of it's end's"), 2);
    assert_eq!(hits(8, "a file of etcd"), 0);
    assert_eq!(count_words("The peer's read-only file, 24 bytes"), 5);
}

#[test]
fn code_is_not_language() {
    assert_eq!(without_code("see `where` and `what`"), "see  and ");
    assert_eq!(literals(r#"call("a \"b\" c", 'x', "d")"#), [r#"a \"b\" c"#, "d"]);
}
