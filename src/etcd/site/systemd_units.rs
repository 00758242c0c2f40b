//! The systemd units that start an etcd, with their drop-ins, as systemd itself has read them.
//!
//! Must never read a unit's file, only its name: only systemd knows the result of all files that contribute to a unit.

use super::candidate::Candidate;
use super::options::Options;
use super::origin::Launcher;
use super::processes::is_proxy;
use super::rooted::{file_names, read_text};
use super::systemd::{Systemd, environment_file, unquote};
use crate::error::Refusal;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SHOW: [&str; 2] =
    ["show", "--property=Id,UnitFileState,ExecStart,Environment,EnvironmentFiles,WorkingDirectory"];
const SHOW_DIRS: [&str; 2] = ["show", "--property=UnitPath"];
const LIST_LOADED: [&str; 6] =
    ["list-units", "--all", "--type=service", "--plain", "--no-legend", "--no-pager"];

/// Returns the etcds that units start, on the machine with its files under `root`.
///
/// # Errors
/// An enabled unit starts etcd with a file that cannot be read.
pub(super) fn look(root: &Path, systemd: &Systemd<'_>) -> Result<Vec<Candidate>, Refusal> {
    let names = names(root, systemd);
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let shown = (systemd.systemctl)(&[&SHOW[..], &["--"], &names].concat()).unwrap_or_default();
    let units: BTreeMap<String, Unit> = units_in(&shown).map(|unit| (unit.id.clone(), unit)).collect();
    let (mut found, mut broken) = (Vec::new(), None);
    for unit in units.values() {
        match unit.candidate(root) {
            // A package may have left its unit behind without the files. Reported only if it is the only etcd.
            Err(refusal) if unit.is_disabled => broken = Some(refusal),
            candidate => found.extend(candidate?),
        }
    }
    match broken {
        Some(refusal) if found.is_empty() => Err(refusal),
        _ => Ok(found),
    }
}

/// Returns the etcd that the unit `name` would start. Returns `None` if systemd does not know the unit, if it does not
/// start etcd, or if its files cannot be read.
pub(super) fn by_name(root: &Path, systemd: &Systemd<'_>, name: &str) -> Option<Candidate> {
    let shown = (systemd.systemctl)(&[&SHOW[..], &["--", name]].concat())?;
    units_in(&shown).next()?.candidate(root).ok()?
}

/// Returns the names of all services that can be started: those with a file, and those that are loaded, such as the instances of a
/// template.
///
/// The names of files are read from systemd's directories. `systemctl list-unit-files` would also find out which are enabled, for
/// which systemd 252 needs 0.3 s of processor time with 80 services.
fn names(root: &Path, systemd: &Systemd<'_>) -> BTreeSet<String> {
    let dirs = (systemd.systemctl)(&SHOW_DIRS).unwrap_or_default();
    let dirs = dirs.lines().find_map(|line| line.strip_prefix("UnitPath=")).unwrap_or_default();
    let files = dirs.split_whitespace().flat_map(|dir| file_names(root, Path::new(dir)));
    let loaded = (systemd.systemctl)(&LIST_LOADED).unwrap_or_default();
    let loaded = loaded.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    files.chain(loaded).filter(|name| name.ends_with(".service") && !name.ends_with("@.service")).collect()
}

/// A unit, as `systemctl show` prints it.
#[derive(Debug, Default)]
struct Unit {
    id: String,
    program: PathBuf,
    words: String,
    variables: Vec<(String, String)>,
    /// Its environment files, and whether each may be missing.
    files: Vec<(PathBuf, bool)>,
    cwd: PathBuf,
    is_disabled: bool,
}

/// Replaces each `${NAME}` in a word by its value, which is empty if the variable is not set.
fn replace_variables<'v>(word: &str, value: &dyn Fn(&str) -> &'v str) -> String {
    let mut parts = word.split("${");
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, rest)) => replaced.extend([value(name), rest]),
            None => replaced.extend(["${", part]),
        }
    }
    replaced
}

fn units_in(shown: &str) -> impl Iterator<Item = Unit> {
    shown.split("\n\n").map(Unit::parse)
}

impl Unit {
    fn parse(block: &str) -> Self {
        let mut unit = Self { cwd: PathBuf::from("/"), ..Self::default() };
        for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => value.clone_into(&mut unit.id),
                "UnitFileState" => unit.is_disabled = value == "disabled",
                "ExecStart" => unit.parse_command(value),
                "Environment" => unit.variables = assignments(value),
                "EnvironmentFiles" => unit.files.extend(parse_file(value)),
                // `!` marks a directory that may be missing.
                "WorkingDirectory" if value.trim_start_matches('!').starts_with('/') => {
                    unit.cwd = PathBuf::from(value.trim_start_matches('!'));
                }
                _ => {}
            }
        }
        unit
    }

    /// Parses `{ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd $DAEMON_ARGS ; ignore_errors=no ; … }`. The last command
    /// counts: only a unit of `Type=oneshot` has several.
    fn parse_command(&mut self, value: &str) {
        let part = |name: &str| {
            let rest = &value[value.find(name)? + name.len()..];
            Some(rest.split(" ; ").next().unwrap_or(rest).to_owned())
        };
        if let (Some(path), Some(words)) = (part("path="), part("argv[]=")) {
            (self.program, self.words) = (PathBuf::from(path), words);
        }
    }

    /// Returns the etcd that this unit starts, if it starts one.
    fn candidate(&self, root: &Path) -> Result<Option<Candidate>, Refusal> {
        if self.program.file_name().is_none_or(|name| name != "etcd") {
            return Ok(None);
        }
        let (variables, files) = self.environment(root)?;
        let words = self.expanded_words(&variables);
        if words.first().is_some_and(|word| is_proxy(word)) {
            return Ok(None);
        }
        let launcher = Launcher::Unit(self.id.clone());
        let options = Options::from_command(
            words.iter().map(String::as_str),
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            &launcher,
        );
        let options = options.with_environment_files(&files).resolve(&self.cwd, |file| read_text(root, file));
        let options = options.map_err(|bad| self.unusable(&bad.path, &bad.problem))?;
        let service = Service::Systemd { systemd: self.id.clone() };
        let description = format!("{}, stopped", self.id);
        let found =
            Candidate::new(&options, &launcher, &self.cwd, description, self.program.clone(), service);
        Ok(found.map(|candidate| Candidate { is_disabled: self.is_disabled, ..candidate }))
    }

    /// Returns the unit's variables, and from which file each of them was read.
    #[expect(clippy::type_complexity, reason = "two maps by the names of variables")]
    fn environment(
        &self,
        root: &Path,
    ) -> Result<(BTreeMap<String, String>, BTreeMap<String, PathBuf>), Refusal> {
        let mut variables: BTreeMap<String, String> = self.variables.iter().cloned().collect();
        let mut files = BTreeMap::new();
        for (path, is_optional) in &self.files {
            match read_text(root, path) {
                Ok(text) => {
                    let read = environment_file(&text);
                    files.extend(read.iter().map(|(name, _)| (name.clone(), path.clone())));
                    variables.extend(read);
                }
                Err(_) if *is_optional => {}
                Err(error) => return Err(self.unusable(path, &error.to_string())),
            }
        }
        Ok((variables, files))
    }

    /// Returns the words after the program's name. As systemd does, replaces the word `$NAME` by the words in the
    /// variable, and `${NAME}` by its value. systemctl prints no quotes, so a word with a space becomes two.
    fn expanded_words(&self, variables: &BTreeMap<String, String>) -> Vec<String> {
        let value = |name: &str| variables.get(name).map_or("", String::as_str);
        let expand = |word: &str| match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => value(name).split_whitespace().map(str::to_owned).collect(),
            None => vec![replace_variables(word, &value)],
        };
        self.words.split_whitespace().skip(1).flat_map(expand).collect()
    }

    fn unusable(&self, file: &Path, problem: &str) -> Refusal {
        let file = file.display();
        Refusal::new(
            format!("{} starts etcd with {file}, which cannot be read: {problem}", self.id),
            format!("correct {file}, or describe etcd in {SITE_FILE}"),
        )
    }
}

/// Parses `A=1 "B=two words"`: systemctl quotes assignments with spaces.
fn assignments(value: &str) -> Vec<(String, String)> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in value.chars().chain([' ']) {
        match c {
            _ if escaped => {
                escaped = false;
                word.push(c);
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            _ => word.push(c),
        }
    }
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), unquote(value))).collect()
}

/// Parses `/etc/default/etcd (ignore_errors=yes)`: the file, and whether it may be missing.
fn parse_file(value: &str) -> Option<(PathBuf, bool)> {
    let (path, options) = value.rsplit_once(" (")?;
    Some((PathBuf::from(path), options.contains("ignore_errors=yes")))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_broken_unit_is_ignored_if_it_is_disabled() {
        let unit = |state: &str| {
            format!(
                "ExecStart={{ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd ; }}\nUnitFileState={state}\n\
                 EnvironmentFiles=/gone (ignore_errors=no)\nId=old.service\n\n\
                 ExecStart={{ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd --data-dir=/d ; }}\nId=new.service\n"
            )
        };
        let root = tempfile::tempdir().unwrap();
        let found = |state: &str| {
            let shown = unit(state);
            let systemctl = |words: &[&str]| {
                Some(if words[0] == "show" {
                    shown.clone()
                } else {
                    "old.service x\nnew.service x\n".to_owned()
                })
            };
            look(root.path(), &Systemd { main_pid: &|_| None, systemctl: &systemctl })
        };
        let refusal = found("enabled").unwrap_err();
        assert!(refusal.reason.contains("old.service") && refusal.reason.contains("/gone"), "{refusal}");
        let found = found("disabled").unwrap();
        let found: Vec<_> = found.iter().map(|found| &*found.site.description).collect();
        assert_eq!(found, ["new.service, stopped"]);
    }

    /// The output of systemd 252 for Debian's unit with a drop-in, and for another service.
    const SHOWN: &str = "\
ExecStart={ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd $DAEMON_ARGS --name=${ETCD_NAME}-x${UNSET} ; ignore_errors=no ; start_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=DAEMON_ARGS= ETCD_NAME=vm ETCD_DATA_DIR=/var/lib/etcd/default \"ETCD_LOG_OUTPUTS=a b\"
EnvironmentFiles=/etc/default/etcd (ignore_errors=yes)
WorkingDirectory=!/srv
UnitFileState=disabled
Id=etcd.service

ExecStart={ path=/usr/sbin/cron ; argv[]=/usr/sbin/cron -f ; ignore_errors=no }
Id=cron.service
";

    fn on(default: Option<&str>) -> Result<Vec<Candidate>, Refusal> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/default")).unwrap();
        if let Some(text) = default {
            fs::write(root.path().join("etc/default/etcd"), text).unwrap();
        }
        for name in ["cron.service", "cron.timer", "x@.service"] {
            fs::create_dir_all(root.path().join("lib/systemd")).unwrap();
            fs::write(root.path().join("lib/systemd").join(name), "").unwrap();
        }
        let systemctl = |words: &[&str]| {
            Some(match words[0] {
                "list-units" => "etcd.service loaded inactive dead etcd\n".to_owned(),
                _ if words == SHOW_DIRS => "UnitPath=/etc/systemd /lib/systemd\n".to_owned(),
                _ if words.ends_with(&["--", "cron.service", "etcd.service"]) => SHOWN.to_owned(),
                _ => return None,
            })
        };
        look(root.path(), &Systemd { main_pid: &|_| None, systemctl: &systemctl })
    }

    #[test]
    fn reads_the_directory_of_a_unit() {
        for (shown, expected) in [("/srv", "/srv"), ("!/srv", "/srv"), ("", "/"), ("~", "/")] {
            assert_eq!(Unit::parse(&format!("WorkingDirectory={shown}")).cwd, Path::new(expected), "{shown}");
        }
    }

    #[test]
    fn combines_words_variables_and_files_as_systemd_does() {
        for (default, data_dir, origin) in [
            (None, "/var/lib/etcd/default", "the variable ETCD_DATA_DIR in etcd.service"),
            (Some("ETCD_DATA_DIR=d\n"), "/srv/d", "the variable ETCD_DATA_DIR in /etc/default/etcd"),
            (Some("DAEMON_ARGS='--data-dir /x --debug'\n"), "/x", "the flag --data-dir in etcd.service"),
            (Some("ETCD_DATA_DIR=\n"), "/srv/vm-x.etcd", "etcd's default"),
        ] {
            let found = on(default).unwrap();
            let [found] = &found[..] else { panic!("{found:?}") };
            assert_eq!(found.site.description, "etcd.service, stopped");
            assert!(found.is_disabled);
            let found = &found.site.data_dir;
            assert_eq!((found.to_str().unwrap(), &*found.origin.to_string()), (data_dir, origin));
        }
        let refusal = on(Some("ETCD_CONFIG_FILE=/none.yml\n")).unwrap_err();
        assert!(refusal.reason.contains("etcd.service") && refusal.reason.contains("/none.yml"), "{refusal}");
    }

    #[test]
    fn reads_assignments_with_their_quotes() {
        let read = assignments("A= B=1 \"C=two words\" D=a=b \"E=q\\\"q\"");
        let expected = [("A", ""), ("B", "1"), ("C", "two words"), ("D", "a=b"), ("E", "q\"q")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
