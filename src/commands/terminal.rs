//! An action as a command that somebody types: its words, its help, its outcome.
//!
//! Must never fail an action because nobody reads what it prints.

use super::declared::{Declaration, Kind, Param, Value};
use super::environment::{PASSWORD, SETTINGS, SITE};
use super::params::{Params, nearest, shown};
use super::results::Results;
use crate::error::{ActionError, Refusal};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

const WIDTH: usize = 80;

/// What the words ask for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To print this and do nothing.
    Text(String),
    /// To do the action; only to recover, where `recover`.
    Act {
        /// The parameters.
        params: Params,
        /// Whether `--recover` was given.
        recover: bool,
    },
}

/// Whether `action` has something to recover after a crash: such a one knows `--recover`.
pub(super) fn recovers(action: &str) -> bool {
    action == "restore"
}

/// Reads the words after the program's name.
pub(super) fn read(declaration: &Declaration, words: &[OsString]) -> Result<Asked, Refusal> {
    let words: Vec<&str> =
        words.iter().map(|word| word.to_str().ok_or_else(|| no_text(word))).collect::<Result<_, _>>()?;
    let has = |options: [&str; 2]| words.iter().any(|word| options.contains(word));
    if has(["--help", "-h"]) {
        return Ok(Asked::Text(help(declaration)));
    }
    if has(["--version", "-V"]) {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Asked::Text(format!("{} {version}\n", declaration.name)));
    }
    let (options, words): (Vec<&str>, Vec<&str>) = words.into_iter().partition(|word| word.starts_with('-'));
    let recover = options.contains(&"--recover") && recovers(&declaration.name);
    let known = |option: &&str| recover && *option == "--recover";
    if let Some(unknown) = options.into_iter().find(|option| !known(option)) {
        return Err(unknown_option(declaration, unknown));
    }
    if recover && !words.is_empty() {
        return Err(Refusal::new(
            "--recover takes no parameters",
            format!("run `{} --recover` alone", declaration.name),
        ));
    }
    let params = Params::from_words(declaration, words)?;
    Ok(Asked::Act { params, recover })
}

fn no_text(word: &OsString) -> Refusal {
    Refusal::new(format!("{} is not UTF-8", shown(&word.to_string_lossy())), "type the parameters in UTF-8")
}

fn unknown_option(declaration: &Declaration, option: &str) -> Refusal {
    let name = option.trim_start_matches('-');
    let (name, value) = name.split_once('=').unwrap_or((name, ""));
    let next = match nearest(declaration, name).and_then(|name| declaration.param(name)) {
        Some(param) if value.is_empty() => format!("write {}={}", param.name, example(param)),
        Some(param) => format!("write {}={}", param.name, shown(value)),
        None => format!("run `{} --help`", declaration.name),
    };
    Refusal::new(format!("unknown option {}", shown(option)), next)
}

fn example(param: &Param) -> &str {
    match (param.kind, &param.default) {
        (Kind::Flag, _) => "true",
        (_, Value::Text(text)) if !text.is_empty() => text,
        _ => "…",
    }
}

/// The help of an action, out of its declaration.
fn help(declaration: &Declaration) -> String {
    let name = &declaration.name;
    let mut text = wrapped(&format!("{name}: {}", declaration.description), 0);
    let words = if declaration.params.is_empty() { "" } else { " [PARAMETER=VALUE]..." };
    text.push_str(&format!("\nUsage: {name}{words}\n"));
    if recovers(name) {
        text.push_str(&format!("       {name} --recover\n"));
    }
    text.push_str(&format!("       {name} --help | --version\n"));
    if !declaration.params.is_empty() {
        text.push_str("\nParameters:\n");
    }
    for param in &declaration.params {
        let default = match param.default.to_string() {
            empty if empty.is_empty() => "empty".to_owned(),
            default => default,
        };
        let head = format!("{} ({}; default: {default})", param.name, param.kind);
        text.push_str(&wrapped(&head, 2));
        text.push_str(&wrapped(&param.description, 6));
    }
    if recovers(name) {
        text.push_str("\nOptions:\n");
        text.push_str(&wrapped("--recover", 2));
        text.push_str(&wrapped("Only finish or undo what an earlier run left behind, and say which.", 6));
    }
    text.push_str("\nEnvironment:\n");
    for (variable, meaning) in [
        (
            SITE,
            "A file that says where etcd is on this machine. Without it the etcd that runs is found, or the one \
             that the Debian package or the etcd snap has installed.",
        ),
        (PASSWORD, "The password of the etcd user that the site file names, without such a file of root."),
        (
            SETTINGS,
            "A file that says where snapshots go besides this machine. Without it /etc/etcd-charm/backup.yaml, where there \
             is one.",
        ),
    ] {
        text.push_str(&wrapped(variable, 2));
        text.push_str(&wrapped(meaning, 6));
    }
    text.push_str(
        "\nResults go to standard output as YAML, progress and errors to standard error.\n\
         Exit status: 0 completed, 1 failed, 2 refused or bad parameters.\n\nExample:\n",
    );
    text.push_str(format!("  sudo {name} {}", example_words(name)).trim_end());
    text.push('\n');
    text
}

fn example_words(action: &str) -> &'static str {
    match action {
        "restore" => "snapshot=/root/etcd-snapshot-2026-01-31-12.00.00.tar.gz",
        "snapshot" => "target=/root/etcd-snapshots",
        "compact" => "physical=true",
        "fetch-snapshot" => "from=offsite/latest target=/root/etcd-snapshots",
        _ => "",
    }
}

/// `text` in lines of at most 80 columns, each indented by `indent`. A word that is too long has its own line.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            column = 0;
        }
        if column == 0 {
            lines.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines.push('\n');
    lines
}

/// Tells how the action ended: results on standard output, the reason why it stopped on standard error.
pub(super) fn tell(results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
    print(&results.yaml());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            complain(&stop.to_string());
            status(stop)
        }
    }
}

fn status(stop: &ActionError) -> ExitCode {
    match stop {
        ActionError::Failed(_) | ActionError::Interrupted { .. } => ExitCode::from(1),
        ActionError::Refused(_) => ExitCode::from(2),
    }
}

/// Prints to standard output. Where that is full or closed, the text goes to standard error: what was done was done.
pub(super) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("standard output: {error}; it should have said:\n{text}"));
        }
        _ => {}
    }
}

/// Says something on standard error, if anybody listens.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn asked(action: &str, words: &[&str]) -> Result<Asked, Refusal> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        read(&Declaration::of(action).unwrap(), &words)
    }

    #[test]
    fn words_become_parameters() {
        let asked = asked("restore", &["plan=true", "target=/x"]).unwrap();
        let Asked::Act { params, recover } = asked else { panic!("{asked:?}") };
        assert!(!recover);
        assert!(params.flag("plan").unwrap());
        assert_eq!(params.text("target").unwrap(), "/x");
    }

    #[test]
    fn only_restore_recovers_and_only_alone() {
        let recover = asked("restore", &["--recover"]).unwrap();
        assert!(matches!(recover, Asked::Act { recover: true, .. }));
        assert_eq!(asked("snapshot", &["--recover"]).unwrap_err().reason, "unknown option --recover");
        assert_eq!(
            asked("restore", &["--recover", "plan=true"]).unwrap_err().reason,
            "--recover takes no parameters"
        );
    }

    #[test]
    fn an_unknown_option_is_refused_with_what_to_write() {
        for (option, next) in [
            ("--skip-backup", "write skip-backup=true"),
            ("--skip_backup=true", "write skip-backup=true"),
            ("--target=/x", "write target=/x"),
            ("-t", "run `restore --help`"),
            ("--", "run `restore --help`"),
        ] {
            let refusal = asked("restore", &[option]).unwrap_err();
            assert_eq!(refusal.reason, format!("unknown option {option}"));
            assert_eq!(refusal.next, next);
        }
    }

    #[test]
    fn a_word_that_is_no_text_is_refused() {
        let word = OsString::from_vec(vec![b'a', 0xff]);
        let refusal = read(&Declaration::of("restore").unwrap(), &[word]).unwrap_err();
        assert_eq!(refusal.reason, "a\u{fffd} is not UTF-8");
    }

    #[test]
    fn help_tells_everything_within_80_columns() {
        for action in ["snapshot", "restore", "compact", "defrag"] {
            let Asked::Text(text) = asked(action, &["nonsense", "--help"]).unwrap() else {
                panic!("no help")
            };
            let declaration = Declaration::of(action).unwrap();
            for param in &declaration.params {
                assert!(text.contains(&format!("\n  {} (", param.name)), "{text}");
                assert!(text.contains(&param.default.to_string()), "{text}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            for needed in [SITE, SETTINGS, PASSWORD, "0 completed, 1 failed, 2 refused"] {
                assert!(text.contains(needed), "{text}");
            }
            assert_eq!(text.contains("--recover"), recovers(action));
            let words: Vec<&str> = example_words(action).split_whitespace().collect();
            assert!(asked(action, &words).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn version_is_the_packages() {
        let Asked::Text(text) = asked("restore", &["--version"]).unwrap() else { panic!("no version") };
        assert_eq!(text, format!("restore {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn long_words_get_their_own_line() {
        let long = "x".repeat(90);
        assert_eq!(wrapped(&format!("a {long} b"), 2), format!("  a\n  {long}\n  b\n"));
    }
}
