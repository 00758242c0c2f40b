//! Rewrites the commands in a message for operators that use Juju.
//!
//! The modules below word every next step for a terminal. Must never change anything but commands.

use super::command::Command;
use super::schema::{Action, Kind};
use std::borrow::Cow;

/// The beginning of our commands in messages.
const PROGRAM: &str = "etcd-backup ";

/// Returns `text` with each `etcd-backup COMMAND --OPTION VALUE` replaced by the action of `unit` that does the same, and
/// with the names of the unit and its application in place of UNIT and APPLICATION. `is_juju_2` is whether the commands have to be
/// those of Juju 2.
pub(crate) fn for_unit(text: &str, unit: &str, is_juju_2: bool) -> String {
    let application = unit.split('/').next().unwrap_or(unit);
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(PROGRAM) {
        let (before, found) = rest.split_at(at);
        done.push_str(before);
        match action_call(found, before.ends_with('`') || before.ends_with("`sudo ")) {
            Some((call, length)) => {
                done.truncate(done.strip_suffix("sudo ").unwrap_or(&done).len());
                done.push_str(&format!("juju run {unit} {call}"));
                rest = &found[length..];
            }
            None => {
                done.push_str(PROGRAM);
                rest = &found[PROGRAM.len()..];
            }
        }
    }
    done.push_str(rest);
    let done = replace_word(&replace_word(&done, "APPLICATION", application), "UNIT", unit).into_owned();
    if is_juju_2 { for_juju_2(&done) } else { done }
}

/// Returns `text` with the names of commands in Juju 2.9. There, `juju run` is something else, and an action is not waited for.
fn for_juju_2(text: &str) -> String {
    const RUN: &str = "juju run ";
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(RUN) {
        let call = &rest[at + RUN.len()..];
        // The unit, the action, and its parameters.
        let mut length = word_length(call);
        for count in 1.. {
            let next = call[length..].strip_prefix(' ').unwrap_or_default();
            let word = &next[..word_length(next)];
            if word.is_empty() || (count > 1 && !word.contains('=')) {
                break;
            }
            length += 1 + word.len();
        }
        done.push_str(&format!("{}juju run-action {} --wait", &rest[..at], &call[..length]));
        rest = &call[length..];
    }
    done.push_str(rest);
    done.replace("juju integrate ", "juju relate ")
}

/// Returns the action with its parameters, and the length of the command at the start of `text` that it replaces. Words
/// without a name are read only inside of backticks: elsewhere the sentence goes on.
fn action_call(text: &str, is_quoted: bool) -> Option<(String, usize)> {
    let name_end = PROGRAM.len() + word_length(&text[PROGRAM.len()..]);
    let command = Command::find(&text[PROGRAM.len()..name_end]).filter(|command| command.is_action())?;
    let action = Action::read(command.action).ok()?;
    let (mut call, mut length) = (command.action.to_owned(), name_end);
    while let Some(rest) = text[length..].strip_prefix(' ') {
        let word = &rest[..word_length(rest)];
        // A word with a special character is between quotes, as a whole.
        let (quote, bare) = word.strip_prefix('\'').map_or(("", word), |bare| ("'", bare));
        let (parameter, used) = match (bare.strip_prefix("--"), command.positionals.first()) {
            (Some(option), _) => {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let param = action.param(name)?;
                match (param.kind, value) {
                    (Kind::Flag, _) => (format!("{name}=true"), word.len()),
                    (_, "") => {
                        let next = rest[word.len()..].strip_prefix(' ').unwrap_or_default();
                        let value = &next[..word_length(next)];
                        (format!("{name}={value}"), word.len() + 1 + value.len())
                    }
                    _ => (format!("{quote}{name}={value}"), word.len()),
                }
            }
            (None, Some(positional)) if is_quoted && !word.is_empty() && !word.contains('=') => {
                (format!("{quote}{}={bare}", positional.param), word.len())
            }
            _ => break,
        };
        call.push_str(&format!(" {parameter}"));
        length += 1 + used;
    }
    Some((call, length))
}

/// Returns the length of the word at the start of `text`, without the punctuation that ends it. A word can be between
/// single quotes, and then contains a quote as `'\''`.
fn word_length(text: &str) -> usize {
    if let Some(quoted) = text.strip_prefix('\'') {
        let quoted = quoted.replace(r"'\''", "____");
        return quoted.find('\'').map_or(text.len(), |end| end + 2);
    }
    let end = text.find(|c: char| c.is_whitespace() || "`;,)\"".contains(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', ':']).len()
}

/// Replaces a placeholder, except as a part of a longer word.
fn replace_word<'a>(text: &'a str, placeholder: &str, word: &str) -> Cow<'a, str> {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "-_/".contains(c));
    let found: Vec<usize> = text
        .match_indices(placeholder)
        .map(|(at, _)| at)
        .filter(|at| {
            let after = text[at + placeholder.len()..].chars().next();
            !is_letter(text[..*at].chars().next_back()) && !is_letter(after)
        })
        .collect();
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let (mut done, mut from) = (String::new(), 0);
    for at in found {
        done.push_str(&text[from..at]);
        done.push_str(word);
        from = at + placeholder.len();
    }
    Cow::Owned(done + &text[from..])
}

#[cfg(test)]
mod tests {
    use super::for_unit;
    use crate::cli::command::Command;
    use crate::cli::command_line::{CalledAs, parse};
    use crate::error::Subcommand;
    use std::ffi::OsString;

    #[test]
    fn commands_become_actions() {
        for (terminal, juju) in [
            (
                "correct that, then etcd-backup restore --recover",
                "correct that, then juju run etcd/0 restore recover=true",
            ),
            ("Next: etcd-backup restore --recover.", "Next: juju run etcd/0 restore recover=true."),
            ("run `sudo etcd-backup list --runs`", "run `juju run etcd/0 list-snapshots runs=true`"),
            ("sudo etcd-backup list; or wait", "juju run etcd/0 list-snapshots; or wait"),
            (
                "run `etcd-backup fetch offsite/latest`",
                "run `juju run etcd/0 fetch-snapshot from=offsite/latest`",
            ),
            ("etcd-backup restore snapshot=/a b", "juju run etcd/0 restore snapshot=/a b"),
            ("etcd-backup prune --keep 7 --plan", "juju run etcd/0 prune-snapshots keep=7 plan=true"),
            ("etcd-backup prune --keep=7, or not", "juju run etcd/0 prune-snapshots keep=7, or not"),
            (
                r"`sudo etcd-backup restore '/it'\''s a/b' '--target=/a b' --plan`",
                r"`juju run etcd/0 restore 'from=/it'\''s a/b' 'target=/a b' plan=true`",
            ),
            ("juju config APPLICATION port=VALUE", "juju config etcd port=VALUE"),
            ("juju run UNIT alarm-list", "juju run etcd/0 alarm-list"),
            ("/etc/etcd-backup/config.yaml", "/etc/etcd-backup/config.yaml"),
            ("the etcd-backup program", "the etcd-backup program"),
            ("UNITS and MY_UNIT", "UNITS and MY_UNIT"),
        ] {
            assert_eq!(for_unit(terminal, "etcd/0", false), juju);
        }
    }

    #[test]
    fn commands_have_their_names_of_juju_2() {
        for (terminal, juju) in [
            (
                "correct that, then etcd-backup restore --recover.",
                "correct that, then juju run-action etcd/0 restore recover=true --wait.",
            ),
            ("run `sudo etcd-backup list`", "run `juju run-action etcd/0 list-snapshots --wait`"),
            (
                r"`sudo etcd-backup restore '/it'\''s a/b' '--target=/a b' --plan`",
                r"`juju run-action etcd/0 restore 'from=/it'\''s a/b' 'target=/a b' plan=true --wait`",
            ),
            (
                "juju run UNIT restore snapshot=FILE; or, to go on, juju run UNIT alarm-list",
                "juju run-action etcd/0 restore snapshot=FILE --wait; or, to go on, \
                 juju run-action etcd/0 alarm-list --wait",
            ),
            ("(juju run UNIT restore); or wait", "(juju run-action etcd/0 restore --wait); or wait"),
            ("juju integrate APPLICATION:certificates PROVIDER", "juju relate etcd:certificates PROVIDER"),
            ("juju config APPLICATION port=VALUE", "juju config etcd port=VALUE"),
        ] {
            assert_eq!(for_unit(terminal, "etcd/0", true), juju);
        }
    }

    #[test]
    fn a_subcommand_becomes_an_action() {
        let of = |command: Subcommand| for_unit(&command.to_string(), "etcd/0", false);
        assert_eq!(of(Subcommand::new("list")), "`juju run etcd/0 list-snapshots`");
        let upload = Subcommand::new("upload").option("target", "/a b").flag("plan");
        assert_eq!(of(upload), "`juju run etcd/0 upload 'target=/a b' plan=true`");
        let verify = Subcommand::new("verify").word("a,offsite/latest");
        assert_eq!(of(verify), "`juju run etcd/0 verify-snapshot snapshot=a,offsite/latest`");
    }

    /// Returns the chains `Subcommand::new("x").option("y", …)` in the source of a file, without the values.
    fn chains(code: &str) -> Vec<Vec<String>> {
        let after = |text: &str, start: &str| Some(text.strip_prefix(start)?.split_once('"')?.0.to_owned());
        let mut all = Vec::new();
        for (at, _) in code.match_indices("Subcommand::new(\"") {
            let text = &code[at..];
            let mut words = vec![after(text, "Subcommand::new(\"").unwrap()];
            let end = text.find(['\n', ';']).unwrap_or(text.len());
            // A chain that is broken over lines begins each with a dot.
            let lines = text[end..].lines().skip(1).take_while(|line| line.trim_start().starts_with('.'));
            let chain = std::iter::once(&text[..end]).chain(lines).collect::<Vec<_>>().join("");
            for method in [".option(\"", ".option_if_some(\"", ".flag(\""] {
                words.extend(chain.match_indices(method).map(|(at, _)| {
                    let name = after(&chain[at..], method).unwrap();
                    match (method, &*name) {
                        (".flag(\"", _) => format!("--{name}"),
                        (_, "format") => "--format=yaml".to_owned(),
                        _ => format!("--{name}=1"),
                    }
                }));
            }
            all.push(words);
        }
        all
    }

    fn sources(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_command_in_a_message_exists_with_its_options() {
        let mut files = Vec::new();
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let mut count = 0;
        for file in files {
            let code = std::fs::read_to_string(&file).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap();
            for words in chains(code) {
                let command = Command::find(&words[0]).unwrap_or_else(|| panic!("{words:?} in {file:?}"));
                assert_eq!(command.name, words[0], "the name of an action in {file:?}");
                let options: Vec<OsString> = words[1..].iter().map(OsString::from).collect();
                let parsed = parse(command, CalledAs::Subcommand, options);
                assert!(parsed.is_ok(), "{words:?} in {file:?}: {parsed:?}");
                count += 1;
            }
        }
        assert!(count > 30, "only {count} commands were found");
    }
}
