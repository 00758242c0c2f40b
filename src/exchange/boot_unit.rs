//! The systemd unit that completes or rolls back an exchange at the boot after a power failure, without an operator.
//!
//! It is written before etcd is stopped, and removed at the end of the exchange; systemd reads it only at a boot. Must never
//! hinder an exchange: without the unit, the next command completes it or rolls it back.

use super::data_dir::DataDir;
use super::{journal, staging_dir};
use crate::etcd::service::Service;
use crate::etcd::site::Site;
use crate::system::durable::{Dir, PUBLIC};
use crate::system::systemd::{escape_percent, unit_word};
use crate::system::trust;
use anyhow::Result;
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The directory of an administrator's units.
const UNITS: &str = "/etc/systemd/system";
/// The unit that a boot reaches with static pods. The unit of kubelet has no certain name.
const BOOTED_TARGET: &str = "multi-user.target";
/// This directory exists if the machine was booted by systemd (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Writes the unit for the exchange in `data`. Etcds that start and stop by commands, and machines without systemd, get none.
pub(super) fn install(site: &Site, data: &DataDir) {
    let wanted_by = match &*site.service {
        // An etcd that an operator has disabled is not started by a recovery at a boot.
        Service::Systemd { systemd } if systemd.ends_with(".service") => systemd.clone(),
        Service::Systemd { systemd } => format!("{systemd}.service"),
        Service::StaticPod { .. } => BOOTED_TARGET.to_owned(),
        Service::Commands { .. } | Service::Unknown { .. } => return,
    };
    let Some(mut command) = program() else { return };
    if Path::new(BOOTED).is_dir() {
        command.extend(["--recover".to_owned(), format!("--site={}", site.lasting_choice().display())]);
        let data_dir = data.dir().path();
        let _ = write(Path::new(UNITS), data_dir, &wanted_by, &text(&command, data_dir, &wanted_by));
    }
}

/// Returns the command `restore` of this program, which some charms install under the name of the command. Only root may be able
/// to change it.
fn program() -> Option<Vec<String>> {
    let path = std::env::current_exe().ok().filter(|path| trust::check(path).is_ok())?;
    let program = path.display().to_string();
    match path.file_name()?.to_str()? {
        "etcd-backup" => Some(vec![program, "restore".to_owned()]),
        "restore" => Some(vec![program]),
        _ => None,
    }
}

/// Removes the unit for the exchange in `data`, if there is one. If this fails, it has no effect without a journal.
pub(super) fn remove(data: &DataDir) {
    let _ = remove_from(Path::new(UNITS), data.dir().path());
}

/// Returns the name of the unit for a data directory.
fn name(data_dir: &Path) -> String {
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let id: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("etcd-backup-recover-{id}.service")
}

/// Returns the text of the unit, which runs `command` after the unit `wanted_by` was started. etcd or kubelet may need minutes at a
/// boot, so it is repeated.
fn text(command: &[String], data_dir: &Path, wanted_by: &str) -> String {
    let journal = data_dir.join(staging_dir::STAGING).join(journal::NAME);
    let command: Vec<String> = command.iter().map(|word| unit_word(&word.replace('$', "$$"))).collect();
    let after = if wanted_by == BOOTED_TARGET { "kubelet.service" } else { wanted_by };
    format!(
        "# Written by etcd-backup before a restore, and removed after it.\n\
         [Unit]\nDescription=Complete or roll back an interrupted restore of etcd\nAfter={}\nRequiresMountsFor={}\n\
         ConditionPathExists={}\nStartLimitIntervalSec=1h\nStartLimitBurst=10\n\n\
         [Service]\nType=oneshot\nExecStart={}\nRestart=on-failure\nRestartSec=60\nUMask=0077\n",
        escape_percent(after),
        unit_word(&data_dir.display().to_string()),
        escape_percent(&journal.display().to_string()),
        command.join(" ")
    )
}

fn write(units: &Path, data_dir: &Path, wanted_by: &str, text: &str) -> Result<()> {
    let (units, name) = (Dir::open(units)?, name(data_dir));
    units.replace_for(&name, text.as_bytes(), PUBLIC, None)?;
    let wants = units.ensure_child(&wants_of(wanted_by), Mode::from_raw_mode(0o755), None)?;
    wants.remove_file(&name)?;
    std::os::unix::fs::symlink(format!("../{name}"), wants.handle(&name))?;
    wants.sync()
}

/// Returns the directory with links to the units that are started together with this one.
fn wants_of(unit: &str) -> String {
    format!("{unit}.wants")
}

fn remove_from(units: &Path, data_dir: &Path) -> Result<()> {
    let (units, name) = (Dir::open(units)?, name(data_dir));
    // The service may have been another one when the unit was written.
    let may_have_link = |dir: &String| dir.ends_with(".service.wants") || *dir == wants_of(BOOTED_TARGET);
    for wants in units.names()?.into_iter().filter(may_have_link) {
        units.child(&wants)?.remove_file(&name)?;
    }
    units.remove_file(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_recovers_the_etcd_of_the_exchange_at_a_boot() {
        let home = tempfile::tempdir().unwrap();
        let units = home.path().canonicalize().unwrap();
        let data_dir = Path::new("/srv/100%/etcd data");
        let command = ["/usr/bin/etcd-backup", "restore", "--recover", "--site=/srv/100%/etcd data"];
        let text = |wanted_by| text(&command.map(str::to_owned), data_dir, wanted_by);
        for line in [
            r#"ExecStart="/usr/bin/etcd-backup" "restore" "--recover" "--site=/srv/100%%/etcd data""#,
            r#"RequiresMountsFor="/srv/100%%/etcd data""#,
            "ConditionPathExists=/srv/100%%/etcd data/.etcd-restore/journal.json",
            "After=etcd.service",
        ] {
            assert!(text("etcd.service").lines().any(|found| found == line), "{}", text("etcd.service"));
        }
        assert!(text(BOOTED_TARGET).contains("\nAfter=kubelet.service\n"));
        for wanted_by in ["etcd.service", BOOTED_TARGET] {
            for _ in 0..2 {
                write(&units, data_dir, wanted_by, &text(wanted_by)).unwrap();
            }
            let link = units.join(wants_of(wanted_by)).join(name(data_dir));
            assert_eq!(crate::system::durable::read_small_text(&link).unwrap(), text(wanted_by));
            for _ in 0..2 {
                remove_from(&units, data_dir).unwrap();
            }
            assert!(!link.is_symlink() && !units.join(name(data_dir)).exists());
        }
        assert_ne!(name(data_dir), name(Path::new("/srv/etcd")));
    }
}
