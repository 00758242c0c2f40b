//! The systemd unit that completes or rolls back an exchange after a power failure, when no operator may be there.
//!
//! It is written before etcd is stopped, and removed at the end of the exchange; systemd reads it only at a boot. Must never
//! hinder an exchange: without the unit, the next command completes it or rolls it back.

use super::data_dir::DataDir;
use super::{journal, staging_dir};
use crate::etcd::service::Service;
use crate::etcd::site::Site;
use crate::system::durable::Dir;
use crate::system::systemd::{escape_percent, unit_word};
use crate::system::trust;
use anyhow::Result;
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The directory of an administrator's units.
const UNITS: &str = "/etc/systemd/system";
/// The directory in it with links to the units that a boot starts.
const STARTED_AT_BOOT: &str = "multi-user.target.wants";
/// This directory exists if the machine was booted by systemd (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Writes the unit for the exchange in `data`. Etcds that start and stop by commands, and machines without systemd, get none.
pub(super) fn install(site: &Site, data: &DataDir) {
    let after = match &*site.service {
        Service::Systemd { systemd } => systemd,
        Service::StaticPod { .. } => "kubelet.service",
        Service::Commands { .. } | Service::Unknown { .. } => return,
    };
    let Some(mut command) = program() else { return };
    if Path::new(BOOTED).is_dir() {
        let named = site.site_file().unwrap_or(&site.data_dir);
        command.extend(["--recover".to_owned(), format!("--site={}", named.display())]);
        let _ = write(Path::new(UNITS), data.dir().path(), &text(&command, data.dir().path(), after));
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

/// Returns the text of the unit, which runs `command`, and starts after the unit `after`.
fn text(command: &[String], data_dir: &Path, after: &str) -> String {
    let journal = data_dir.join(staging_dir::STAGING).join(journal::NAME);
    let command: Vec<String> = command.iter().map(|word| unit_word(&word.replace('$', "$$"))).collect();
    format!(
        "# Written by etcd-backup before a restore, and removed after it.\n\
         [Unit]\nDescription=Complete or roll back an interrupted restore of etcd\nAfter={}\nConditionPathExists={}\n\n\
         [Service]\nType=oneshot\nExecStart={}\nUMask=0077\n",
        escape_percent(after),
        escape_percent(&journal.display().to_string()),
        command.join(" ")
    )
}

fn write(units: &Path, data_dir: &Path, text: &str) -> Result<()> {
    let (units, name) = (Dir::open(units)?, name(data_dir));
    units.replace_for(&name, text.as_bytes(), Mode::from_raw_mode(0o644), None)?;
    let started = units.ensure_child(STARTED_AT_BOOT, Mode::from_raw_mode(0o755), None)?;
    started.remove_file(&name)?;
    std::os::unix::fs::symlink(format!("../{name}"), started.handle(&name))?;
    started.sync()
}

fn remove_from(units: &Path, data_dir: &Path) -> Result<()> {
    let (units, name) = (Dir::open(units)?, name(data_dir));
    if units.inode(&name)?.is_some() {
        units.child(STARTED_AT_BOOT)?.remove_file(&name)?;
        units.remove_file(&name)?;
    }
    Ok(())
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
        let text = text(&command.map(str::to_owned), data_dir, "kubelet.service");
        for line in [
            r#"ExecStart="/usr/bin/etcd-backup" "restore" "--recover" "--site=/srv/100%%/etcd data""#,
            "ConditionPathExists=/srv/100%%/etcd data/.etcd-restore/journal.json",
            "After=kubelet.service",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        for _ in 0..2 {
            write(&units, data_dir, &text).unwrap();
        }
        let link = units.join(STARTED_AT_BOOT).join(name(data_dir));
        assert_eq!(crate::system::durable::read_small_text(&link).unwrap(), text);
        for _ in 0..2 {
            remove_from(&units, data_dir).unwrap();
        }
        assert!(!link.is_symlink() && !units.join(name(data_dir)).exists());
        assert_ne!(name(data_dir), name(Path::new("/srv/etcd")));
    }
}
