//! The systemd units that start an etcd, whoever wrote them, with their drop-ins: as systemd itself has read them.
//!
//! Must never read a unit's file: only systemd knows what became of it and of all that adds to it.

use super::discovery::Found;
use super::packages::{environment_file, unquoted};
use super::processes::below;
use super::settings::{Said, Settings, Told};
use crate::error::Refusal;
use crate::etcd::service::Service;
use crate::system::durable::read_small_text;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Asks which process is the main one of a systemd unit.
pub(super) type MainPid<'a> = &'a dyn Fn(&str) -> Option<i32>;
/// Runs systemctl with these words; `None` where that fails.
type Ask<'a> = &'a dyn Fn(&[&str]) -> Option<String>;

/// The systemd of the machine that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Systemd<'a> {
    pub main_pid: MainPid<'a>,
    pub ask: Ask<'a>,
}

impl Systemd<'_> {
    /// There is none.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { main_pid: &|_| None, ask: &|_| None }
    }
}

const SHOW: [&str; 2] =
    ["show", "--property=Id,UnitFileState,ExecStart,Environment,EnvironmentFiles,WorkingDirectory"];

/// The etcds that units start, on the machine whose files lie under `root`.
pub(super) fn look(root: &Path, systemd: &Systemd<'_>) -> Result<Vec<Found>, Refusal> {
    let lists = [
        &["list-unit-files", "--type=service", "--no-legend", "--no-pager"][..],
        &["list-units", "--all", "--type=service", "--plain", "--no-legend", "--no-pager"],
    ];
    let lists: Vec<String> = lists.into_iter().filter_map(systemd.ask).collect();
    let mut names: Vec<&str> = lists.iter().flat_map(|list| list.lines()).filter_map(unit_in).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let shown = (systemd.ask)(&[&SHOW[..], &["--"], &names].concat()).unwrap_or_default();
    let units: BTreeMap<String, Unit> = blocks(&shown).map(|unit| (unit.id.clone(), unit)).collect();
    let (mut found, mut broken) = (Vec::new(), None);
    for unit in units.values() {
        match unit.found(root) {
            // What a package left behind may lack its files; it is told of where there is nothing better.
            Err(refusal) if unit.is_disabled => broken = Some(refusal),
            of_unit => found.extend(of_unit?),
        }
    }
    match broken {
        Some(refusal) if found.is_empty() => Err(refusal),
        _ => Ok(found),
    }
}

/// What the unit `name` is meant to start; `None` where systemd cannot tell, or it starts no etcd of ours to read.
pub(super) fn one(root: &Path, systemd: &Systemd<'_>, name: &str) -> Option<Found> {
    let shown = (systemd.ask)(&[&SHOW[..], &["--", name]].concat())?;
    blocks(&shown).next()?.found(root).ok()?
}

/// A unit that can be started, in a line of a list. A template cannot; what was made of it is in the other list.
fn unit_in(line: &str) -> Option<&str> {
    line.split_whitespace().next().filter(|name| name.ends_with(".service") && !name.ends_with("@.service"))
}

/// A unit, as `systemctl show` prints it.
#[derive(Debug, Default)]
struct Unit {
    id: String,
    program: PathBuf,
    words: String,
    variables: Vec<(String, String)>,
    files: Vec<(PathBuf, bool)>,
    cwd: PathBuf,
    is_disabled: bool,
}

fn blocks(shown: &str) -> impl Iterator<Item = Unit> {
    shown.split("\n\n").map(Unit::read)
}

impl Unit {
    fn read(block: &str) -> Self {
        let mut unit = Self { cwd: PathBuf::from("/"), ..Self::default() };
        for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => value.clone_into(&mut unit.id),
                "UnitFileState" => unit.is_disabled = value == "disabled",
                "ExecStart" => unit.take_command(value),
                "Environment" => unit.variables = assignments(value),
                "EnvironmentFiles" => unit.files.extend(file(value)),
                "WorkingDirectory" if value.starts_with('/') => unit.cwd = PathBuf::from(value),
                _ => {}
            }
        }
        unit
    }

    /// `{ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd $DAEMON_ARGS ; ignore_errors=no ; … }`. The last counts: a service
    /// that is no one-shot has but one.
    fn take_command(&mut self, value: &str) {
        let part = |name: &str| {
            let rest = &value[value.find(name)? + name.len()..];
            Some(rest.split(" ; ").next().unwrap_or(rest).to_owned())
        };
        if let (Some(path), Some(words)) = (part("path="), part("argv[]=")) {
            (self.program, self.words) = (PathBuf::from(path), words);
        }
    }

    fn found(&self, root: &Path) -> Result<Option<Found>, Refusal> {
        if self.program.file_name().is_none_or(|name| name != "etcd") {
            return Ok(None);
        }
        let mut variables: BTreeMap<String, String> = self.variables.iter().cloned().collect();
        let mut files = BTreeMap::new();
        for (path, optional) in &self.files {
            match read_small_text(&below(root, path)) {
                Ok(text) => {
                    let read = environment_file(&text);
                    files.extend(read.iter().map(|(name, _)| (name.clone(), path.clone())));
                    variables.extend(read);
                }
                Err(_) if *optional => {}
                Err(error) => return Err(self.unusable(path, &error.to_string())),
            }
        }
        let words = self.told(&variables);
        if words.first().is_some_and(|word| ["gateway", "grpc-proxy"].contains(&word.as_str())) {
            return Ok(None);
        }
        let told = Told::of(
            words.iter().map(String::as_str),
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        )
        .read_in(&files);
        let config_file = told.config_file().map(|file| self.cwd.join(file));
        let settings = match &config_file {
            Some(file) => {
                let text = read_small_text(&below(root, file));
                let text = text.map_err(|error| self.unusable(file, &error.to_string()))?;
                Settings::of_file(&text).map_err(|error| self.unusable(file, &error.to_string()))?
            }
            None => told.settings(),
        };
        let said = Said::new(told, config_file, settings);
        let service = Service::Systemd { systemd: self.id.clone() };
        let description = format!("{}, stopped", self.id);
        let found = Found::of(&said, &self.cwd, description, self.program.clone(), service);
        Ok(found.map(|found| Found { is_disabled: self.is_disabled, ..found }))
    }

    /// The words after the program's name. As systemd does it, `$NAME` alone becomes the words in the variable, and
    /// `${NAME}` its value; systemctl shows no quotes, so a word with a space is two.
    fn told(&self, variables: &BTreeMap<String, String>) -> Vec<String> {
        let value = |name: &str| variables.get(name).map_or("", String::as_str);
        let expand = |word: &str| match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => value(name).split_whitespace().map(str::to_owned).collect(),
            None => {
                let mut word = word.to_owned();
                for (name, value) in variables {
                    word = word.replace(&format!("${{{name}}}"), value);
                }
                vec![word]
            }
        };
        self.words.split_whitespace().skip(1).flat_map(expand).collect()
    }

    fn unusable(&self, file: &Path, why: &str) -> Refusal {
        Refusal::new(
            format!("{} starts etcd with {}, which cannot be read: {why}", self.id, file.display()),
            "mend the file, or write a site file and name it in ETCD_SITE",
        )
    }
}

/// `A=1 "B=two words"`, as systemctl quotes what has spaces.
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
    pairs.map(|(name, value)| (name.to_owned(), unquoted(value))).collect()
}

/// `/etc/default/etcd (ignore_errors=yes)`: the file, and whether it may be missing.
fn file(value: &str) -> Option<(PathBuf, bool)> {
    let (path, options) = value.rsplit_once(" (")?;
    Some((PathBuf::from(path), options.contains("ignore_errors=yes")))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_disabled_unit_with_files_that_are_gone_stands_in_nobodys_way() {
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
            let ask = |words: &[&str]| {
                Some(if words[0] == "show" {
                    shown.clone()
                } else {
                    "old.service x\nnew.service x\n".to_owned()
                })
            };
            look(root.path(), &Systemd { main_pid: &|_| None, ask: &ask })
        };
        let refusal = found("enabled").unwrap_err();
        assert!(refusal.reason.contains("old.service") && refusal.reason.contains("/gone"), "{refusal}");
        let found = found("disabled").unwrap();
        assert_eq!(
            found.iter().map(|found| &*found.description).collect::<Vec<_>>(),
            ["new.service, stopped"]
        );
    }

    /// What systemd 252 prints of Debian's unit with a drop-in, and of another service.
    const SHOWN: &str = "\
ExecStart={ path=/usr/bin/etcd ; argv[]=/usr/bin/etcd $DAEMON_ARGS --name=${ETCD_NAME}-x ; ignore_errors=no ; start_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=DAEMON_ARGS= ETCD_NAME=vm ETCD_DATA_DIR=/var/lib/etcd/default \"ETCD_LOG_OUTPUTS=a b\"
EnvironmentFiles=/etc/default/etcd (ignore_errors=yes)
WorkingDirectory=/srv
UnitFileState=disabled
Id=etcd.service

ExecStart={ path=/usr/sbin/cron ; argv[]=/usr/sbin/cron -f ; ignore_errors=no }
Id=cron.service
";

    fn on(default: Option<&str>) -> Result<Vec<Found>, Refusal> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/default")).unwrap();
        if let Some(text) = default {
            fs::write(root.path().join("etc/default/etcd"), text).unwrap();
        }
        let ask = |words: &[&str]| {
            Some(match words[0] {
                "list-unit-files" => {
                    "etcd.service enabled enabled\ncron.service enabled enabled\nx@.service static -\n".into()
                }
                "list-units" => "etcd.service loaded inactive dead etcd\n".to_owned(),
                _ if words.ends_with(&["--", "cron.service", "etcd.service"]) => SHOWN.to_owned(),
                _ => return None,
            })
        };
        look(root.path(), &Systemd { main_pid: &|_| None, ask: &ask })
    }

    #[test]
    fn a_units_words_variables_and_files_are_put_together_as_systemd_does() {
        for (default, data_dir, from) in [
            (None, "/var/lib/etcd/default", "the variable ETCD_DATA_DIR"),
            (Some("ETCD_DATA_DIR=d\n"), "/srv/d", "the variable ETCD_DATA_DIR in /etc/default/etcd"),
            (Some("DAEMON_ARGS='--data-dir /x --debug'\n"), "/x", "the flag --data-dir"),
            (Some("ETCD_DATA_DIR=\n"), "/srv/vm-x.etcd", "etcd's own default"),
        ] {
            let found = on(default).unwrap();
            let [found] = &found[..] else { panic!("{found:?}") };
            assert_eq!(found.description, "etcd.service, stopped");
            assert!(found.is_disabled);
            assert_eq!((found.data_dir.to_str().unwrap(), &*found.from.data_dir), (data_dir, from));
        }
        let refusal = on(Some("ETCD_CONFIG_FILE=/none.yml\n")).unwrap_err();
        assert!(refusal.reason.contains("etcd.service") && refusal.reason.contains("/none.yml"), "{refusal}");
    }

    #[test]
    fn assignments_are_read_as_they_are_quoted() {
        let read = assignments("A= B=1 \"C=two words\" D=a=b \"E=q\\\"q\"");
        let expected = [("A", ""), ("B", "1"), ("C", "two words"), ("D", "a=b"), ("E", "q\"q")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
