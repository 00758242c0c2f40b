//! Words become a call: clap's parser and help, built from `actions.yaml`.
//!
//! `name=value` words, which Juju's users know, are accepted next to options. Must never run a command.

use super::command::{COMMANDS, Command, Positional};
use super::parameters::{Collector, printable};
use super::params::{Params, Value};
use super::render::{Format, Style};
use super::schema::{Action, Kind, Param};
use crate::error::{ActionError, Refusal, Subcommand, did_you_mean};
use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};
use std::ffi::{OsStr, OsString};
use std::path::{Component, PathBuf};

/// The name of the program.
pub(super) const PROGRAM: &str = "etcd-backup";
/// The longest line of a help text.
const WIDTH: usize = 80;

/// What the words ask for.
#[derive(Debug)]
pub(super) enum Request {
    /// To print this text.
    Print(String),
    /// To run a command.
    Run(Box<Invocation>),
}

/// A command with everything that it was given.
#[derive(Debug)]
pub(super) struct Invocation {
    /// The parameters.
    pub params: Params,
    /// How to print the results.
    pub format: Format,
    /// Whether progress is not printed.
    pub quiet: bool,
    /// How text is laid out.
    pub style: Style,
}

/// How a command was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CalledAs {
    /// `etcd-backup NAME`.
    Subcommand,
    /// By a link or a binary with the name of the action. It prints what the Juju action returns.
    Action,
}

impl CalledAs {
    /// Returns what to type to call `command`.
    pub fn typed(self, command: &Command) -> String {
        match self {
            Self::Subcommand => format!("{PROGRAM} {}", command.name),
            Self::Action => command.action.to_owned(),
        }
    }

    fn format(self) -> Format {
        match self {
            Self::Subcommand => Format::Text,
            Self::Action => Format::Juju,
        }
    }
}

/// Builds the parser of the whole program.
///
/// # Errors
/// Fails only on a bug in `actions.yaml`.
pub(super) fn program() -> Result<clap::Command, ActionError> {
    let mut program = clap::Command::new(PROGRAM)
        .about("Verified backups of etcd, and restores that either succeed or change nothing.")
        .version(env!("CARGO_PKG_VERSION"))
        .term_width(WIDTH)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(false)
        .after_help(
            "Parameters can also be given as NAME=VALUE, as in a Juju action.\n\
             `etcd-backup COMMAND --help` describes a command.",
        );
    for command in &COMMANDS {
        let mut subcommand = parser(command, CalledAs::Subcommand)?.about(first_sentence(command)?);
        if command.name != command.action {
            subcommand = subcommand.alias(command.action);
        }
        program = program.subcommand(subcommand);
    }
    let completions = clap::Command::new(COMPLETIONS)
        .about("Print the completions for a shell")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(SHELLS));
    let manual = clap::Command::new(MANUAL)
        .about("Print a manual page, for `man -l -`")
        .arg(Arg::new("command").value_name("COMMAND"));
    Ok(program.subcommand(completions).subcommand(manual))
}

/// The subcommand that prints the completions for a shell.
pub(super) const COMPLETIONS: &str = "completions";
/// The subcommand that prints a manual page.
pub(super) const MANUAL: &str = "man";

/// Returns the manual page of one command.
///
/// # Errors
/// Fails only on a bug in `actions.yaml`.
pub(super) fn manual(command: &Command) -> Result<clap::Command, ActionError> {
    let name = format!("{PROGRAM}-{}", command.name);
    Ok(parser(command, CalledAs::Subcommand)?.name(name))
}

/// Returns the first sentence of a command's description, for the overview.
fn first_sentence(command: &Command) -> Result<String, ActionError> {
    let description = read(command)?.description;
    let end = description.find(". ").unwrap_or(description.len());
    Ok(description[..end].trim_end_matches('.').to_owned())
}

/// The shells that completions can be printed for.
pub(super) const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// Builds the parser of one command.
fn parser(command: &Command, called: CalledAs) -> Result<clap::Command, ActionError> {
    let action = read(command)?;
    let typed = called.typed(command);
    let name = if called == CalledAs::Subcommand { command.name } else { command.action };
    let mut parser = clap::Command::new(name)
        .bin_name(typed.clone())
        .about(action.description.clone())
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(called == CalledAs::Subcommand)
        .term_width(WIDTH)
        .after_help(after_help(command, called));
    for positional in command.positionals {
        let what = action.param(positional.param).map(|param| param.description.clone()).unwrap_or_default();
        parser = parser.arg(
            Arg::new(positional_id(positional))
                .value_name(positional.placeholder)
                .help(what)
                .action(if positional.many { ArgAction::Append } else { ArgAction::Set })
                .num_args(if positional.many { 0..=usize::MAX } else { 1..=1 }),
        );
    }
    parser = parser.args(action.params.iter().filter(|param| !is_output_format(&param.name)).map(option));
    if command.has_wide_table() {
        parser = parser.arg(
            Arg::new("wide").long("wide").action(ArgAction::SetTrue).help("Print every column of the table"),
        );
    }
    Ok(parser.args(output_options(command, called)))
}

/// Returns the name of a word in clap, which differs from the name of the option for the same parameter.
fn positional_id(positional: &Positional) -> String {
    format!("positional {}", positional.param)
}

/// The options that every command has.
fn output_options(command: &Command, called: CalledAs) -> [Arg; 3] {
    let default = match called.format() {
        Format::Juju => "juju",
        _ => "text",
    };
    let (juju, what) = match command.is_action() {
        true => (Some("juju"), "text, json, yaml, or juju (the result keys of the Juju action, as YAML)"),
        false => (None, "text, json or yaml"),
    };
    let formats = ["text", "json", "yaml"].into_iter().chain(juju).map(str::to_owned).collect();
    [
        Arg::new("format")
            .long("format")
            .value_name("FORMAT")
            .action(ArgAction::Append)
            .value_parser(Anything(formats))
            .help(format!("How to print the results: {what} [default: {default}]"))
            .hide_possible_values(true),
        Arg::new("json").long("json").action(ArgAction::SetTrue).help("The same as --format json"),
        Arg::new("quiet").long("quiet").short('q').action(ArgAction::SetTrue).help("Print no progress"),
    ]
}

/// The option for a parameter of an action. Its value is checked later, together with that of `name=value` words.
fn option(param: &Param) -> Arg {
    let mut help = param.description.clone();
    let default = param.default.to_string();
    if !default.is_empty() && param.kind != Kind::Flag {
        help.push_str(&format!(" [default: {default}]"));
    }
    let arg = Arg::new(param.name.clone()).long(param.name.clone()).help(help);
    if param.kind == Kind::Flag {
        // Repeated, so that giving it twice can be refused like any other parameter that is given twice.
        return arg.action(ArgAction::Append).num_args(0).default_missing_value("true");
    }
    let mut arg = arg.action(ArgAction::Append).value_name(placeholder(param)).hide_possible_values(true);
    if param.name == "target" {
        arg = arg.short('t');
    }
    if param.name == "keep" {
        // The name in the configuration file and in restic.
        arg = arg.alias("keep-last");
    }
    if param.name.ends_with("file") || ["target", "extract"].contains(&&*param.name) {
        return arg.value_hint(clap::ValueHint::AnyPath);
    }
    arg.value_parser(Anything(param.allowed.clone()))
}

fn placeholder(param: &Param) -> String {
    match (param.name.as_str(), param.kind) {
        ("target" | "extract", _) => "DIR".to_owned(),
        ("identity-file", _) => "FILE".to_owned(),
        ("label", _) => "KEY=VALUE".to_owned(),
        ("note", _) => "TEXT".to_owned(),
        (_, Kind::Number) => "NUMBER".to_owned(),
        (name, _) => name.to_uppercase().replace('-', "_"),
    }
}

/// Whether this parameter of `list-snapshots` is the general option `--format` in a terminal.
fn is_output_format(param: &str) -> bool {
    param == "format"
}

/// Accepts any text, and knows the values to complete.
#[derive(Clone)]
struct Anything(Vec<String>);

impl TypedValueParser for Anything {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        clap::builder::StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.0.is_empty() {
            return None;
        }
        Some(Box::new(self.0.iter().map(|value| PossibleValue::new(value.clone()))))
    }
}

fn after_help(command: &Command, called: CalledAs) -> String {
    let mut text = String::from("Examples:\n");
    for example in command.examples {
        let words = example.strip_prefix(command.name).unwrap_or(example);
        text.push_str(&format!("  sudo {}{words}\n", called.typed(command)));
    }
    text.push_str("\nEnvironment:\n");
    for (name, meaning) in command.reads.iter().copied().flatten() {
        text.push_str(&format!("  {name}\n{}", wrapped(meaning, 10)));
    }
    text.push_str(match command.action {
        "check" => "\nExit status: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
        "check-config" => "\nExit status: 0 no problem, 1 a warning, 2 an error, or wrong usage;\n130 or 143 interrupted.",
        _ => "\nExit status: 0 done, 1 failed, 2 wrong usage or refused,\n3 locked by another run, 130 or 143 interrupted.",
    });
    text
}

/// Breaks `text` into lines of at most [`WIDTH`] columns, each indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            column = 0;
        }
        let space = if column == 0 { indent } else { 1 };
        lines.push_str(&" ".repeat(space));
        lines.push_str(word);
        column += space + length;
    }
    lines.push('\n');
    lines
}

fn read(command: &Command) -> Result<Action, ActionError> {
    Action::read(command.action).map_err(|error| ActionError::bug(format_args!("{error:#}")))
}

/// Returns the command that repeats a call with these parameters.
///
/// # Errors
/// Fails only on a bug.
pub(super) fn subcommand(command: &Command, params: &Params) -> Result<Subcommand, ActionError> {
    let action = read(command)?;
    let mut typed = Subcommand::new(command.name);
    for param in &action.params {
        let value = params.get(&param.name).unwrap_or(&param.default);
        // A person who repeats a scheduled backup wants it now.
        if *value == param.default || param.name == "scheduled" {
            continue;
        }
        let is_positional = command.positionals.iter().any(|word| word.param == param.name);
        typed = match value {
            Value::Flag(true) => typed.flag(&param.name),
            Value::Text(text) if is_positional && !text.starts_with('-') => typed.word(text),
            other => typed.option(&param.name, other.to_string()),
        };
    }
    Ok(typed)
}

/// Reads the words after the name of a command.
///
/// # Errors
/// Refuses words that do not fit the command.
pub(super) fn parse(
    command: &Command,
    called: CalledAs,
    words: Vec<OsString>,
) -> Result<Request, ActionError> {
    let action = read(command)?;
    let help = format!("{} --help", called.typed(command));
    let mut collector = Collector::new(&action, &help);
    let (assignments, words) = split(&action, words)?;
    let words = std::iter::once(OsString::from(called.typed(command))).chain(words);
    let matches = match parser(command, called)?.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Request::Print(error.render().to_string()));
        }
        Err(error) => return Err(refusal(&error, &action, &help).into()),
    };
    let mut format = None;
    for (name, value) in &assignments {
        // Called as `etcd-backup`, a list is formatted like everything else.
        if is_output_format(name) && called == CalledAs::Subcommand {
            format = Some(value.clone());
        } else {
            collector.add_text(name, &resolved(name, value))?;
        }
    }
    options(&matches, &action, &mut collector)?;
    for positional in command.positionals {
        if let Some(values) = matches.get_many::<String>(&positional_id(positional)) {
            let words = values.map(String::as_str).collect::<Vec<_>>().join(",");
            collector.add_text(positional.param, &resolved(positional.param, &words))?;
        }
    }
    Ok(Request::Run(Box::new(Invocation {
        params: collector.finish()?,
        format: output_format(&matches, format, command, called)?,
        quiet: matches.get_flag("quiet"),
        style: Style { wide: command.has_wide_table() && matches.get_flag("wide") },
    })))
}

fn options(matches: &ArgMatches, action: &Action, collector: &mut Collector<'_>) -> Result<(), Refusal> {
    for param in action.params.iter().filter(|param| !is_output_format(&param.name)) {
        if param.kind == Kind::Flag {
            for _ in matches.get_many::<String>(&param.name).into_iter().flatten() {
                collector.add_text(&param.name, "true")?;
            }
        } else {
            for value in matches.get_many::<String>(&param.name).into_iter().flatten() {
                collector.add_text(&param.name, &resolved(&param.name, value))?;
            }
        }
    }
    Ok(())
}

/// Makes a relative path absolute, if the value of this parameter is one.
fn resolved(name: &str, value: &str) -> String {
    let is_relative =
        |word: &str| word.starts_with("./") || word.starts_with("../") || word == "." || word == "..";
    match name {
        "target" | "identity-file" | "extract" if !value.is_empty() => absolute(value),
        "site" if value.contains('/') => absolute(value),
        "output" if !value.is_empty() => absolute(value),
        "snapshot" | "from" | "archive" | "old" | "new" => {
            let word = |word: &str| {
                if is_relative(word) || word.starts_with('/') { absolute(word) } else { word.to_owned() }
            };
            value.split(',').map(word).collect::<Vec<_>>().join(",")
        }
        _ => value.to_owned(),
    }
}

/// Returns the path from the root, without `.` and `..`. What is before `..` may be a symlink, and is followed then.
fn absolute(path: &str) -> String {
    let Ok(from_root) = std::path::absolute(path) else { return path.to_owned() };
    let mut all = PathBuf::new();
    for component in from_root.components() {
        if component == Component::ParentDir {
            all = all.canonicalize().unwrap_or(all);
            all.pop();
        } else {
            all.push(component);
        }
    }
    all.to_str().map_or_else(|| path.to_owned(), str::to_owned)
}

fn output_format(
    matches: &ArgMatches,
    named: Option<String>,
    command: &Command,
    called: CalledAs,
) -> Result<Format, Refusal> {
    let last = matches.get_many::<String>("format").and_then(|all| all.cloned().next_back()).or(named);
    match last.as_deref() {
        _ if matches.get_flag("json") => Ok(Format::Json),
        None => Ok(called.format()),
        Some("text" | "table") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        Some("yaml") => Ok(Format::Yaml),
        Some("juju") if command.is_action() => Ok(Format::Juju),
        Some("juju") => Err(Refusal::new(
            format!("{} is not an action of the charm, so it has no format juju", command.name),
            "give one of --format text, --format json and --format yaml",
        )),
        Some(other) => Err(Refusal::new(
            format!("format is {other:?}, not text, json, yaml or juju"),
            "give one of --format text, --format json, --format yaml and --format juju",
        )),
    }
}

/// A parameter given as `name=value`.
type NamedValue = (String, String);

/// Takes the `name=value` words out, up to `--`. A flag with a value, `--plan=no`, is one of them.
fn split(action: &Action, words: Vec<OsString>) -> Result<(Vec<NamedValue>, Vec<OsString>), Refusal> {
    let (mut assignments, mut rest) = (Vec::new(), Vec::new());
    let mut words = words.into_iter();
    let mut is_value = false;
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            let shown = printable(&word.to_string_lossy());
            return Err(Refusal::new(format!("{shown} is not UTF-8"), "type the parameters in UTF-8"));
        };
        if text == "--" {
            rest.push(word);
            rest.extend(words);
            break;
        }
        match assignment(action, text).filter(|_| !is_value) {
            Some((name, value)) => assignments.push((name.to_owned(), value.to_owned())),
            None => {
                is_value = !is_value && takes_value(action, text);
                rest.push(word);
            }
        }
    }
    Ok((assignments, rest))
}

/// Whether the next word is the value of this option.
fn takes_value(action: &Action, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some("format") => true,
        Some(name) => action.param(name).is_some_and(|param| param.kind != Kind::Flag),
        None => word == "-t",
    }
}

fn assignment<'w>(action: &Action, word: &'w str) -> Option<(&'w str, &'w str)> {
    let (name, value) = word.split_once('=')?;
    if let Some(option) = name.strip_prefix("--") {
        return action.param(option).filter(|param| param.kind == Kind::Flag).map(|_| (option, value));
    }
    // A path may contain an equals sign after a slash.
    let is_name = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    (!name.starts_with('-') && name.chars().all(is_name)).then_some((name, value))
}

/// Turns an error of clap into a refusal.
fn refusal(error: &clap::Error, action: &Action, help: &str) -> Refusal {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(all)) => all.first().cloned(),
        _ => None,
    };
    let arg = text(ContextKind::InvalidArg).unwrap_or_default();
    let shown = printable(&arg);
    let next = format!("run `{help}`");
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            let typed = arg.trim_start_matches('-');
            let names = action.params.iter().map(|param| param.name.as_str());
            let near = did_you_mean(typed, names).map(|name| format!(" (did you mean --{name}?)"));
            Refusal::new(format!("unknown option {shown}{}", near.unwrap_or_default()), next)
        }
        ErrorKind::UnknownArgument => match action.param(&arg) {
            Some(param) => Refusal::new(
                format!("parameter {arg} has no value; it must be {}", param.kind),
                format!("write {arg}={}", example(param)),
            ),
            None => {
                Refusal::new(format!("{shown} is not expected here; it is not of the form name=value"), next)
            }
        },
        ErrorKind::InvalidValue => Refusal::new(format!("{shown} has no value"), next),
        _ => {
            let words = error.render().to_string();
            let first = words.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Refusal::new(first.trim_end_matches('.').to_owned(), next)
        }
    }
}

fn example(param: &Param) -> String {
    match (param.kind, &param.default) {
        (Kind::Flag, _) => "true".to_owned(),
        (_, Value::Text(text)) if !text.is_empty() => text.clone(),
        _ => placeholder(param),
    }
}

/// Refuses a subcommand that does not exist.
pub(super) fn unknown_command(word: &OsStr) -> Refusal {
    let word = word.to_string_lossy();
    let names = COMMANDS.iter().flat_map(|command| [command.name, command.action]);
    let near = did_you_mean(&word, names).map(|name| format!(" (did you mean {name}?)"));
    Refusal::new(
        format!("unknown command {}{}", printable(&word), near.unwrap_or_default()),
        format!("run `{PROGRAM} --help`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn asked(name: &str, words: &[&str]) -> Result<Request, ActionError> {
        parse(Command::find(name).unwrap(), CalledAs::Subcommand, words.iter().map(OsString::from).collect())
    }

    fn invocation(name: &str, words: &[&str]) -> Invocation {
        match asked(name, words).unwrap() {
            Request::Run(invocation) => *invocation,
            Request::Print(text) => panic!("{text}"),
        }
    }

    fn refused(name: &str, words: &[&str]) -> Refusal {
        match asked(name, words).unwrap_err() {
            ActionError::Refused(refusal) => refusal,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_parameter_can_be_given_in_every_usual_way() {
        for words in [&["target=/x"][..], &["--target=/x"], &["--target", "/x"], &["-t", "/x"], &["-t/x"]] {
            assert_eq!(invocation("restore", words).params.text("target").unwrap(), "/x", "{words:?}");
        }
        for words in [&["plan=true"][..], &["--plan"], &["--plan=yes"], &["plan=1"]] {
            assert!(invocation("restore", words).params.flag("plan").unwrap(), "{words:?}");
        }
        assert!(!invocation("restore", &["--plan=no"]).params.flag("plan").unwrap());
        assert_eq!(invocation("restore", &["--target", "/a=b"]).params.text("target").unwrap(), "/a=b");
    }

    #[test]
    fn words_without_a_name_are_for_the_positional_parameter() {
        assert_eq!(invocation("restore", &["latest"]).params.text("from").unwrap(), "latest");
        assert_eq!(invocation("restore", &["--", "-x"]).params.text("from").unwrap(), "-x");
        assert_eq!(invocation("restore", &["/a=b"]).params.text("from").unwrap(), "/a=b");
        assert_eq!(invocation("delete-snapshot", &["a", "b"]).params.text("snapshot").unwrap(), "a,b");
        assert_eq!(refused("restore", &["a", "from=b"]).reason, "parameter from is given twice");
        assert!(refused("restore", &["a", "b"]).reason.starts_with("b is not expected here"));
        assert!(refused("snapshot", &["/tmp/x"]).reason.starts_with("/tmp/x is not expected here"));
        assert_eq!(
            refused("snapshot", &["target"]).reason,
            "parameter target has no value; it must be text or a number"
        );
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        assert_eq!(absolute("/a/./b/../c"), "/a/c");
        let here = std::path::absolute("x").unwrap().display().to_string();
        assert_eq!(invocation("snapshot", &["-t", "x"]).params.text("target").unwrap(), here);
        assert_eq!(invocation("restore", &["./x"]).params.text("from").unwrap(), here);
        assert_eq!(invocation("restore", &["x"]).params.text("from").unwrap(), "x");
        assert_eq!(
            invocation("snapshot", &["site=etcd.service"]).params.text("site").unwrap(),
            "etcd.service"
        );
    }

    #[test]
    fn the_output_has_a_format() {
        assert_eq!(invocation("snapshot", &[]).format, Format::Text);
        assert_eq!(invocation("list", &["--json"]).format, Format::Json);
        assert_eq!(invocation("list", &["format=yaml"]).format, Format::Yaml);
        assert_eq!(invocation("site", &["--format", "juju"]).format, Format::Juju);
        assert!(refused("site", &["--format=xml"]).reason.contains("xml"));
        assert!(invocation("backup", &["-q"]).quiet);
    }

    #[test]
    fn only_restore_recovers_and_only_alone() {
        assert!(invocation("restore", &["--recover"]).params.flag("recover").unwrap());
        assert_eq!(refused("snapshot", &["--recover"]).reason, "unknown option --recover");
        let refusal = refused("restore", &["--recover", "plan=true"]);
        assert_eq!(refusal.reason, "recover takes no other parameter except site");
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest() {
        for (option, reason) in [
            ("--skip_backup", "unknown option --skip_backup (did you mean --skip-backup?)"),
            ("--tarqet=/x", "unknown option --tarqet (did you mean --target?)"),
            ("-x", "unknown option -x"),
        ] {
            let refusal = refused("restore", &[option]);
            assert_eq!((&*refusal.reason, &*refusal.next), (reason, "run `etcd-backup restore --help`"));
        }
        assert_eq!(refused("restore", &["--target"]).reason, "--target <DIR> has no value");
        assert!(unknown_command("snapshto".as_ref()).reason.contains("did you mean snapshot?"));
    }

    #[test]
    fn a_word_that_is_not_text_is_refused() {
        let word = OsString::from_vec(vec![b'a', 0xff]);
        let command = Command::find("restore").unwrap();
        let error = parse(command, CalledAs::Subcommand, vec![word]).unwrap_err();
        assert!(error.to_string().starts_with("refused: a\u{fffd} is not UTF-8"), "{error}");
    }

    #[test]
    fn help_is_complete_and_its_examples_work() {
        for command in &COMMANDS {
            let Request::Print(text) = asked(command.name, &["--help"]).unwrap() else { panic!("no help") };
            for param in &read(command).unwrap().params {
                assert!(text.contains(&format!("--{}", param.name)), "{text}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert_eq!(text.contains("--recover"), command.recovers());
            for example in command.examples {
                // The shell reads a redirection.
                let typed = example.split(" >").next().unwrap();
                let words: Vec<&str> = typed.split_whitespace().collect();
                assert_eq!(words[0], command.name);
                assert!(matches!(asked(command.name, &words[1..]), Ok(Request::Run(_))), "{example}");
            }
        }
    }

    #[test]
    fn the_whole_parser_is_consistent() {
        program().unwrap().debug_assert();
        for command in &COMMANDS {
            parser(command, CalledAs::Action).unwrap().debug_assert();
        }
    }

    #[test]
    fn long_words_get_their_own_line() {
        let long = "x".repeat(90);
        assert_eq!(wrapped(&format!("a {long} b"), 2), format!("  a\n  {long}\n  b\n"));
    }
}
