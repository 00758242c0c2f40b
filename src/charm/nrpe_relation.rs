//! The relation `nrpe-external-master`: lets Nagios run the check of backups on this machine.
//!
//! NRPE runs as the user nagios, which cannot read archives. So a sudo rule allows it one command. Must never allow an argument or
//! a pattern in it: those could be a way to become root.

use super::etcd_config::HEADER;
use super::files::{remove_if_exists, write_if_changed};
use crate::commands::now;
use crate::juju::{Databag, Juju, Scope};
use crate::system::durable::{Dir, PUBLIC};
use crate::system::secret::Secret;
use crate::system::systemd::{is_older, started_at, systemctl};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rustix::fs::Mode;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The endpoint in `metadata.yaml`.
const NRPE_ENDPOINT: &str = "nrpe-external-master";
/// The name of the check, and its command in NRPE.
const CHECK: &str = "etcd_backup";
/// The directory of the NRPE commands. It exists once the related application has installed NRPE.
const COMMANDS: &str = "/etc/nagios/nrpe.d";
const COMMAND_FILE: &str = "check_etcd_backup.cfg";
/// The directory of the sudo rules. sudo ignores files with a dot in their name.
const RULES: &str = "/etc/sudoers.d";
const RULE_FILE: &str = "etcd-charm-nrpe";
/// The mode of a rule that the sudo documentation recommends.
const RULE_MODE: Mode = Mode::from_raw_mode(0o440);
const SERVICE: &str = "nagios-nrpe-server.service";

/// Announces the check of `charm_dir` in the relation, and writes the files for it. Without the relation, apart from the one that
/// is `broken`, or without `charm_dir`, removes the files.
///
/// # Errors
/// If a hook tool or systemd fails, or a file cannot be written.
pub fn reconcile(juju: &Juju, unit: &str, charm_dir: Option<&Path>, broken: Option<&str>) -> Result<()> {
    let relations = juju.relation_ids(NRPE_ENDPOINT)?;
    let relations: Vec<_> = relations.into_iter().filter(|id| Some(id.as_str()) != broken).collect();
    let (commands, rules) = (Path::new(COMMANDS), Path::new(RULES));
    let has_changed = match charm_dir.filter(|_| !relations.is_empty()) {
        Some(charm_dir) => write(commands, rules, &charm_dir.join("actions/check"))?,
        None => remove(commands, rules)?,
    };
    // An earlier hook may have been killed after it wrote the command, or its restart may have failed.
    if has_changed || lacks_command(commands, || started_at(SERVICE), now()) {
        systemctl(&["try-restart", SERVICE])?;
    }
    for relation in &relations {
        let changes = changes(&juju.unit_data(relation, unit)?);
        if !changes.is_empty() {
            juju.set_relation_data(relation, Scope::Unit, &changes)?;
        }
    }
    Ok(())
}

/// Whether an NRPE that was started at `started`, in seconds since 1970, has not read the command. An NRPE that does not run reads it
/// when it starts. Without a command, systemd is not asked for the time.
fn lacks_command(commands: &Path, started: impl FnOnce() -> Option<i64>, now: Timestamp) -> bool {
    let written = commands.join(COMMAND_FILE).metadata().ok().map(|file| file.mtime());
    written.is_some_and(|written| started().is_some_and(|started| is_older(started, written, now)))
}

/// Returns the pairs to set in our data.
fn changes(ours: &Databag) -> BTreeMap<String, String> {
    let monitors =
        format!("monitors:\n  remote:\n    nrpe:\n      {CHECK}:\n        command: check_{CHECK}\n");
    let wanted = [("monitors", monitors), ("primary", "True".to_owned())];
    let is_new = |(key, value): &(&str, String)| ours.get(*key).map(Secret::reveal) != Some(value);
    wanted.into_iter().filter(is_new).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes the rule, and then the command that needs it. Does nothing until NRPE is installed. Returns whether the command has
/// changed.
fn write(commands: &Path, rules: &Path, program: &Path) -> Result<bool> {
    if !commands.exists() {
        return Ok(false);
    }
    let program = program.to_str().context("the charm directory is not UTF-8")?;
    // Other characters have a meaning in sudo rules or in the shell.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_".contains(c);
    ensure!(program.chars().all(is_plain), "the path {program} cannot be in a rule of sudo");
    let rules = Dir::open(rules).context("sudo is needed to run the check as root")?;
    let rule = format!("{HEADER}nagios ALL=(root) NOPASSWD: {program} \"\"\n");
    write_if_changed(&rules, RULE_FILE, &rule, RULE_MODE)?;
    let command = format!("{HEADER}command[check_{CHECK}]=/usr/bin/sudo -n {program}\n");
    write_if_changed(&Dir::open(commands)?, COMMAND_FILE, &command, PUBLIC)
}

/// Removes the command and the rule. Returns whether there was a command.
fn remove(commands: &Path, rules: &Path) -> Result<bool> {
    let remove = |dir: &Path, name: &str| match dir.exists() {
        true => remove_if_exists(&Dir::open(dir)?, name),
        false => Ok(false),
    };
    let had_command = remove(commands, COMMAND_FILE)?;
    remove(rules, RULE_FILE)?;
    Ok(had_command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_an_nrpe_that_has_not_read_the_command() {
        let home = tempfile::tempdir().unwrap();
        let now: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
        assert!(!lacks_command(home.path(), || panic!("systemd was asked without a command"), now));
        Dir::open(home.path()).unwrap().replace(COMMAND_FILE, b"command").unwrap();
        let written = home.path().join(COMMAND_FILE).metadata().unwrap().mtime();
        assert!(lacks_command(home.path(), || Some(written - 1), now));
        assert!(!lacks_command(home.path(), || Some(written), now));
        assert!(!lacks_command(home.path(), || None, now), "NRPE does not run");
    }

    #[test]
    fn writes_one_command_without_arguments_and_removes_it() {
        let home = tempfile::tempdir().unwrap();
        let root = Dir::open(home.path()).unwrap();
        let (commands, rules) = (home.path().join("nrpe.d"), home.path().join("sudoers.d"));
        let program = Path::new("/var/lib/juju/agents/unit-etcd-0/charm/actions/check");
        let read = |file: &Path| std::fs::read_to_string(file).unwrap();
        assert!(!write(&commands, &rules, program).unwrap(), "NRPE is not installed yet");
        assert!(!remove(&commands, &rules).unwrap());
        root.make_child("nrpe.d", None).unwrap();
        assert!(format!("{:#}", write(&commands, &rules, program).unwrap_err()).contains("sudo is needed"));
        root.make_child("sudoers.d", None).unwrap();
        assert!(write(&commands, &rules, program).unwrap());
        assert!(!write(&commands, &rules, program).unwrap(), "NRPE would be restarted by every hook");
        let rule = rules.join(RULE_FILE);
        assert!(read(&rule).ends_with(&format!("NOPASSWD: {} \"\"\n", program.display())));
        assert_eq!(rule.metadata().unwrap().mode() & 0o777, 0o440);
        let command = read(&commands.join(COMMAND_FILE));
        assert!(
            command
                .contains(&format!("\ncommand[check_etcd_backup]=/usr/bin/sudo -n {}\n", program.display()))
        );
        assert!(write(&commands, &rules, Path::new("/charm, ALL")).is_err());
        assert!(remove(&commands, &rules).unwrap() && !rule.exists());
    }

    #[test]
    fn announces_the_check_once() {
        let all = changes(&Databag::new());
        let monitors: serde_json::Value = serde_yaml::from_str(&all["monitors"]).unwrap();
        assert_eq!(monitors["monitors"]["remote"]["nrpe"]["etcd_backup"]["command"], "check_etcd_backup");
        let ours: Databag = all.into_iter().map(|(key, value)| (key, Secret::new(value))).collect();
        assert!(changes(&ours).is_empty());
    }
}
