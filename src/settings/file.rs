//! A settings file: its keys, how it is read, and how the operator's file and the charm's are combined.

use super::line::line_of;
use super::overlap;
use super::schema::find_mistake;
use crate::archive::age::Recipient;
use crate::error::Refusal;
use crate::inventory::destinations::Destination;
use crate::inventory::retention::Policy;
use crate::schedule::{Hooks, Schedule};
use crate::system::durable::read_small_text;
use crate::system::trust;
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The operator's file, unless the environment names another one.
pub const OPERATOR_FILE: &str = "/etc/etcd-backup/config.yaml";
/// The file that the charm writes.
const CHARM_FILE: &str = "/etc/etcd-charm/juju.yaml";
/// The key of the destinations.
pub const DESTINATIONS_KEY: &str = "destinations";

/// Returns the path of the charm's file. If the environment names the operator's file, it is in the same directory.
pub fn charm_file(operator_file: Option<&Path>) -> PathBuf {
    operator_file.map_or(PathBuf::from(CHARM_FILE), |file| file.with_file_name("juju.yaml"))
}

/// The settings of all backups on this machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The archives to keep in the target.
    #[serde(default)]
    pub keep: Policy,
    /// The places that archives are copied to, by name.
    #[serde(default)]
    pub destinations: BTreeMap<String, Destination>,
    /// When scheduled backups run. Only commands that use it parse it: a mistake in it must not prevent a restore.
    pub schedule: Option<Schedule>,
    /// The directory from which Prometheus' node exporter reads text files.
    pub metrics: Option<PathBuf>,
    /// The programs to run before and after a backup.
    pub hooks: Option<Hooks>,
    /// The recipients that every archive is encrypted for. Without any, archives are not encrypted.
    #[serde(default)]
    pub encrypt_to: Vec<Recipient>,
    /// The files and directories that every archive includes, in addition to the database. Only with `encrypt_to`.
    #[serde(default)]
    pub include: Vec<PathBuf>,
}

impl Settings {
    /// Reads the file `named`, or [`OPERATOR_FILE`] if it exists, and combines it with the charm's file if that exists.
    ///
    /// # Errors
    /// Refuses a file that is invalid or not trusted, and two files that contradict each other.
    pub fn read(named: Option<&Path>) -> Result<Self, Refusal> {
        let operator = read(named.unwrap_or(Path::new(OPERATOR_FILE)), named.is_some())?;
        let all = operator.merge(read(&charm_file(named), false)?)?;
        overlap::check(&all.destinations)?;
        if let Some(target) = all.schedule.as_ref().and_then(|schedule| schedule.target.as_deref()) {
            all.check_target(target)?;
        }
        Ok(all)
    }

    /// Returns the files and directories to include in an archive. Not checked when the settings are read, so that a
    /// restore works in any case.
    ///
    /// # Errors
    /// Refuses them if archives are not encrypted: the files are private keys.
    pub fn included(&self) -> Result<&[PathBuf], Refusal> {
        if self.include.is_empty() || !self.encrypt_to.is_empty() {
            return Ok(&self.include);
        }
        Err(Refusal::new(
            "include keeps private keys in the archives, but they are not encrypted: encrypt-to is missing",
            format!(
                "on your own machine, run `age-keygen -o etcd-backup.key`, and add the recipient that it prints to \
                 {OPERATOR_FILE}: encrypt-to: [age1…]; or remove include"
            ),
        ))
    }

    /// Refuses a target that is also a destination, or that is the directory of a member in a destination.
    pub fn check_target(&self, target: &Path) -> Result<(), Refusal> {
        overlap::check_target(&self.destinations, target)
    }

    /// Returns these settings with those of `other` added.
    fn merge(mut self, other: Self) -> Result<Self, Refusal> {
        for (name, destination) in other.destinations {
            if self.destinations.insert(name.clone(), destination).is_some() {
                return Err(Refusal::new(
                    format!("{OPERATOR_FILE} and {CHARM_FILE} both have a destination {name}"),
                    format!("rename it in {OPERATOR_FILE}, or remove it from Juju's configuration"),
                ));
            }
        }
        let check_once = |is_twice: bool, what: &str| match is_twice {
            false => Ok(()),
            true => Err(Refusal::new(
                format!("{OPERATOR_FILE} and {CHARM_FILE} both have {what}"),
                format!("remove it from {OPERATOR_FILE} or from Juju's configuration"),
            )),
        };
        check_once(!self.keep.is_empty() && !other.keep.is_empty(), "rules for what to keep")?;
        check_once(self.schedule.is_some() && other.schedule.is_some(), "a schedule")?;
        check_once(self.metrics.is_some() && other.metrics.is_some(), "a directory for metrics")?;
        check_once(self.hooks.is_some() && other.hooks.is_some(), "hooks")?;
        self.keep = match self.keep.is_empty() {
            true => other.keep.with_labels_of(&self.keep),
            false => self.keep.with_labels_of(&other.keep),
        };
        self.schedule = self.schedule.or(other.schedule);
        self.metrics = self.metrics.or(other.metrics);
        self.hooks = self.hooks.or(other.hooks);
        self.encrypt_to.extend(other.encrypt_to);
        self.include.extend(other.include);
        Ok(self)
    }

    /// Whether any rule can make retention delete an archive.
    pub fn has_rules(&self) -> bool {
        !self.keep.is_empty() || self.destinations.values().any(|destination| !destination.keep.is_empty())
    }

    /// Parses a document.
    ///
    /// # Errors
    /// Returns the first mistake with its line and the path of its key. It quotes no value that may be a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let document =
            serde_yaml::from_str::<serde_yaml::Value>(text).map_err(|error| syntax_error(&error))?;
        if let Some(mistake) = find_mistake(&document) {
            match line_of(text, &mistake.path) {
                Some(line) => bail!("line {line}: {}", mistake.message),
                None => bail!("{}", mistake.message),
            }
        }
        let read: Self = serde_yaml::from_str::<Option<Self>>(text)
            .map_err(|error| value_error(&error))?
            .unwrap_or_default();
        if let Some(name) = read.destinations.keys().find(|name| !is_key(name)) {
            bail!("destination {name:?}: a name may only have lower-case letters, digits and inner hyphens");
        }
        for (name, destination) in &read.destinations {
            let Destination { location, .. } = destination;
            location.check().map_err(|refusal| value_refused(text, [name, location.key()], &refusal))?;
        }
        Ok(read)
    }
}

/// Whether Juju accepts a name as a part of a result's key.
fn is_key(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

/// The error of a bucket that cannot be used: its destination's name, and the key of its settings.
fn value_refused(
    text: &str,
    [name, key]: [&str; 2],
    Refusal { reason, next, .. }: &Refusal,
) -> anyhow::Error {
    let path = [DESTINATIONS_KEY, name, key].map(str::to_owned);
    let line = line_of(text, &path).map(|line| format!("line {line}: ")).unwrap_or_default();
    anyhow::anyhow!("{line}{}: {reason}; {next}", path.join("."))
}

/// The error of a document that is not YAML. The parser names tokens and keys, and no values.
fn syntax_error(error: &serde_yaml::Error) -> anyhow::Error {
    anyhow::anyhow!("it is not valid YAML: {error}")
}

/// The error of a value that has the right kind and cannot be used. serde's own words name Rust types and may quote a value.
fn value_error(error: &serde_yaml::Error) -> anyhow::Error {
    const SERDES: [&str; 7] = [
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
        "unknown field",
        "missing field",
        "data did not match",
    ];
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
    let own = SERDES
        .iter()
        .find_map(|words| message.split_once(words))
        .map(|(path, _)| path.trim_end_matches(": "));
    let message = match own {
        Some("") => "a value has the wrong kind".to_owned(),
        Some(path) => format!("{path} has the wrong kind of value"),
        None => message.to_owned(),
    };
    match error.location() {
        Some(location) => anyhow::anyhow!("line {}: {message}", location.line()),
        None => anyhow::anyhow!("{message}"),
    }
}

fn read(file: &Path, must_exist: bool) -> Result<Settings, Refusal> {
    let refuse = |why: &str, next: &str| {
        Refusal::new(format!("the settings file {} cannot be used: {why}", file.display()), next.to_owned())
    };
    let path =
        std::path::absolute(file).map_err(|error| refuse(&error.to_string(), "give its absolute path"))?;
    match trust::check(&path) {
        Ok(_) => {}
        Err(distrust) if distrust.is_missing() && !must_exist => return Ok(Settings::default()),
        Err(distrust) if distrust.is_missing() => {
            return Err(refuse(&distrust.to_string(), "create it, or name another file in ETCD_BACKUP"));
        }
        Err(distrust) => return Err(distrust.refusal("the settings file")),
    }
    let next = format!("correct {}", file.display());
    let text = read_small_text(file).map_err(|error| refuse(&error.to_string(), &next))?;
    Settings::parse(&text).map_err(|error| refuse(&format!("{error:#}"), &next))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
