//! What an operator wrote down for every backup of this machine, and what the charm wrote down for Juju. Holds no secret.
//!
//! Must never be taken from somebody who is not root: it says where every Secret of a cluster goes.

mod overlap;

pub use crate::inventory::destinations::{Destination, Location};

use crate::archive::age::Recipient;
use crate::error::Refusal;
use crate::inventory::retention::Policy;
use crate::schedule::Hooks;
use crate::schedule::Schedule;
use crate::system::durable::read_small_text;
use crate::system::trust;
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The operator's file, unless the environment names another.
pub const OPERATOR_FILE: &str = "/etc/etcd-charm/backup.yaml";
/// The charm's, which stands beside the operator's.
pub const CHARM_FILE: &str = "/etc/etcd-charm/juju.yaml";

/// The key of the destinations in such a file.
pub const DESTINATIONS_KEY: &str = "destinations";

/// The charm's file beside the operator's, which the environment may name elsewhere.
pub fn charm_file(named: Option<&Path>) -> PathBuf {
    named.map_or(PathBuf::from(CHARM_FILE), |file| file.with_file_name("juju.yaml"))
}

/// All that was written down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Which archives to keep in the target.
    #[serde(default)]
    pub keep: Policy,
    /// Where archives go besides the target, by name.
    #[serde(default)]
    pub destinations: BTreeMap<String, Destination>,
    /// When backups are taken by themselves. It is understood only where it is used: on the worst day a slip in it must not
    /// stand in the way.
    pub schedule: Option<Schedule>,
    /// The directory of text files of Prometheus' node exporter.
    pub metrics: Option<PathBuf>,
    /// What is run before and after a backup.
    pub hooks: Option<Hooks>,
    /// Whom every archive is encrypted for. In clear where there is nobody.
    #[serde(default)]
    pub encrypt_to: Vec<Recipient>,
}

impl Settings {
    /// What is in `named`, or else in [`OPERATOR_FILE`], where that is there; and in the charm's file beside it, where that is.
    /// Refuses a file that cannot be used, and two that contradict each other.
    pub fn read(named: Option<&Path>) -> Result<Self, Refusal> {
        let operators = read(named.unwrap_or(Path::new(OPERATOR_FILE)), named.is_some())?;
        let all = operators.with(read(&charm_file(named), false)?)?;
        overlap::check(&all.destinations)?;
        if let Some(target) = all.schedule.as_ref().and_then(|schedule| schedule.target.as_deref()) {
            all.check_target(target)?;
        }
        Ok(all)
    }

    /// Refuses a target that is also a destination, or whose archives a destination would take for its own.
    pub fn check_target(&self, target: &Path) -> Result<(), Refusal> {
        overlap::check_target(&self.destinations, target)
    }

    /// These and `others` together.
    fn with(mut self, others: Self) -> Result<Self, Refusal> {
        for (name, destination) in others.destinations {
            if self.destinations.insert(name.clone(), destination).is_some() {
                return Err(Refusal::new(
                    format!("{OPERATOR_FILE} and {CHARM_FILE} both have a destination {name}"),
                    format!(
                        "give that of {OPERATOR_FILE} another name, or take it out of Juju's configuration"
                    ),
                ));
            }
        }
        let once = |is_twice: bool, what: &str| match is_twice {
            false => Ok(()),
            true => Err(Refusal::new(
                format!("{OPERATOR_FILE} and {CHARM_FILE} both have {what}"),
                format!("take it out of {OPERATOR_FILE}, or out of Juju's configuration"),
            )),
        };
        once(!self.keep.is_empty() && !others.keep.is_empty(), "rules of what to keep")?;
        once(self.schedule.is_some() && others.schedule.is_some(), "a schedule")?;
        once(self.metrics.is_some() && others.metrics.is_some(), "a directory for metrics")?;
        once(self.hooks.is_some() && others.hooks.is_some(), "hooks")?;
        if self.keep.is_empty() {
            self.keep = others.keep;
        }
        self.schedule = self.schedule.or(others.schedule);
        self.metrics = self.metrics.or(others.metrics);
        self.hooks = self.hooks.or(others.hooks);
        self.encrypt_to.extend(others.encrypt_to);
        Ok(self)
    }

    /// Whether anything is written down by which an archive may go.
    pub fn has_rules(&self) -> bool {
        !self.keep.is_empty() || self.destinations.values().any(|destination| !destination.keep.is_empty())
    }

    /// Reads a document; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let read: Self = serde_yaml::from_str::<Option<Self>>(text)?.unwrap_or_default();
        // They become keys of results, which Juju wants so.
        let fits = |name: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !name.is_empty() && name.chars().all(plain) && !name.starts_with('-') && !name.ends_with('-')
        };
        match read.destinations.keys().find(|name| !fits(name)) {
            None => Ok(read),
            Some(name) => bail!("destination {name:?}: a name is of small letters, digits and inner hyphens"),
        }
    }
}

fn read(file: &Path, must_be: bool) -> Result<Settings, Refusal> {
    let no = |why: &str, next: &str| {
        Refusal::new(format!("the settings in {} cannot be used: {why}", file.display()), next.to_owned())
    };
    let path = std::path::absolute(file).map_err(|error| no(&error.to_string(), "give its absolute path"))?;
    match trust::check(&path) {
        Ok(_) => {}
        Err(distrust) if distrust.is_missing() && !must_be => return Ok(Settings::default()),
        Err(distrust) if distrust.is_missing() => {
            return Err(no(&distrust.to_string(), "put it there, or name another"));
        }
        Err(distrust) => return Err(distrust.refusal("the settings file")),
    }
    let text = read_small_text(file).map_err(|error| no(&error.to_string(), "mend it"))?;
    Settings::parse(&text).map_err(|error| no(&format!("{error:#}"), "correct it"))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn of(text: &str, mode: u32) -> Result<Settings, Refusal> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        Settings::read(Some(file.path()))
    }

    #[test]
    fn a_file_names_destinations_and_nothing_that_is_not_known() {
        let good = "destinations:\n  offsite:\n    s3: {bucket: backups, region: eu-central-1}\n  b2: {s3: {bucket: b}}\n";
        let names = of(good, 0o644).unwrap().destinations.into_keys().collect::<Vec<_>>();
        assert_eq!(names, ["b2", "offsite"]);
        assert!(of("# nothing yet\n", 0o644).unwrap().destinations.is_empty());
        for (text, mode, why) in [
            (good, 0o666, "users other than root can change it"),
            ("destinations: {Off: {s3: {bucket: b}}}", 0o600, "small letters"),
            ("destinations: {a: {s3: {bucket: b, secret-key: canary}}}", 0o600, "unknown field `secret-key`"),
            ("destinations: {a: {s3: {}}}", 0o600, "missing field `bucket`"),
            ("destinations: [", 0o600, "cannot be used"),
            ("destination: {}", 0o600, "unknown field `destination`"),
            ("destinations: {a: {}}", 0o600, "either s3 or directory"),
            ("destinations: {a: {directory: /d, s3: {bucket: b}}}", 0o600, "either s3 or directory"),
            ("destinations: {a: {s3: {bucket: b}, mount: /m}}", 0o600, "mount is only used with directory"),
            ("destinations: {a: {directory: /d, keep: {latest: 7}}}", 0o600, "unknown field `latest`"),
            ("keep: {within: 30}", 0o600, "within is \"30\""),
            ("keep: {max-size: 50GB}", 0o600, "such as 50G"),
        ] {
            let refusal = of(text, mode).unwrap_err().to_string();
            assert!(refusal.contains(why) && !refusal.contains("canary"), "{refusal}");
        }
        assert!(Settings::read(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn what_to_keep_is_written_for_the_target_and_for_each_destination() {
        let text = "keep: {last: 7, within: 30d}\ndestinations:\n  a: {directory: /d, mount: none, keep: {max-size: 50G}}\n  \
                    b: {s3: {bucket: b}, keep: {hourly: 1, daily: 2, weekly: 3, monthly: 4, max-size: 1024}}\n";
        let read = of(text, 0o600).unwrap();
        let within = Some(jiff::SignedDuration::from_hours(720));
        assert_eq!(read.keep, Policy { last: 7, within, ..Policy::default() });
        assert_eq!(read.destinations["a"].keep, Policy { max_size: Some(50 << 30), ..Policy::default() });
        let b =
            Policy { hourly: 1, daily: 2, weekly: 3, monthly: 4, max_size: Some(1024), ..Policy::default() };
        assert_eq!(read.destinations["b"].keep, b);
        assert!(
            matches!(&read.destinations["a"].location, Location::Directory(at) if at.directory == Path::new("/d"))
        );
    }

    #[test]
    fn a_schedule_hooks_and_metrics_are_in_it_once() {
        let text = "schedule: {when: every 12h, retries: 0}\nhooks: {before: /b, timeout: 5m}\nmetrics: /m\n";
        let all = Settings::parse(text).unwrap();
        assert_eq!(all.schedule.as_ref().unwrap().when, "every 12h");
        assert_eq!(all.hooks.as_ref().unwrap().before.as_deref(), Some(Path::new("/b")));
        let refusal = all.clone().with(all.clone()).unwrap_err().to_string();
        assert!(refusal.contains("both have a schedule"), "{refusal}");
        assert_eq!(Settings::default().with(all).unwrap().metrics.as_deref(), Some(Path::new("/m")));
        for wrong in ["schedule: {every: 12h}", "hooks: {afterwards: /b}", "schedule: {}"] {
            assert!(Settings::parse(wrong).is_err(), "{wrong}");
        }
        // Only whoever needs the schedule learns what is wrong with it.
        assert!(Settings::parse("schedule: {when: nonsense!}").is_ok());
    }

    #[test]
    fn two_files_are_one_unless_they_contradict_each_other() {
        let of = |name: &str| {
            Settings::parse(&format!("destinations: {{{name}: {{s3: {{bucket: b}}}}}}")).unwrap()
        };
        assert_eq!(of("a").with(of("b")).unwrap().destinations.len(), 2);
        let refusal = of("a").with(of("a")).unwrap_err().to_string();
        assert!(refusal.contains("both have a destination a"), "{refusal}");
    }
}
