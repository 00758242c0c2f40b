//! Installs the etcd packages of Debian and Ubuntu with apt.

use super::command::{Proxies, with_proxies};
use crate::charm::install_method::InstallMethod;
use crate::system::process::{ProcessError, Program};
use anyhow::{Context, Result};
use std::fs;

const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];

/// Installs the packages.
pub(super) fn install(proxies: Proxies<'_>) -> Result<()> {
    let install = || {
        let options = ["install", "--yes", "--no-upgrade", "--no-install-recommends"];
        apt_get(proxies, &[&options[..], &PACKAGES].concat())
    };
    if is_dpkg_interrupted() {
        let dpkg = with_proxies(noninteractive("dpkg"), proxies).args(["--configure", "-a"]);
        dpkg.run().context("dpkg --configure -a")?;
    }
    if InstallMethod::Debian.is_complete()? {
        // The packages are unpacked. The rest needs no network.
        return install().context("apt-get install");
    }
    // If the package lists cannot be downloaded, the machine may already have lists with the packages in them.
    let updated = apt_get(proxies, &["update"]);
    match (install(), updated) {
        (Ok(()), _) => Ok(()),
        (Err(_), Err(update_error)) => Err(update_error).context("apt-get update"),
        (Err(error), Ok(())) => Err(error).context("apt-get install"),
    }
}

/// Whether dpkg was interrupted, after which every apt refuses to work. Its journal is not empty then (apt, debSystem).
///
/// dpkg itself is not asked: that fails while another program installs packages, as at a machine's first boot. apt waits
/// for that program.
fn is_dpkg_interrupted() -> bool {
    fs::read_dir("/var/lib/dpkg/updates").is_ok_and(|mut journal| journal.next().is_some())
}

fn apt_get(proxies: Proxies<'_>, arguments: &[&str]) -> Result<(), ProcessError> {
    let options = [
        // unattended-upgrades holds the lock for minutes at a machine's first boot.
        "DPkg::Lock::Timeout=600",
        "Acquire::Retries=2",
        "Dpkg::Options::=--force-confdef",
        "Dpkg::Options::=--force-confold",
        // By default a failed download of the lists is only a warning.
        "APT::Update::Error-Mode=any",
    ];
    let options = options.iter().flat_map(|option| ["-o", option]);
    let program = with_proxies(noninteractive("apt-get"), proxies);
    program.args(["-qq"]).args(options).args(arguments).run().map(|_| ()).map_err(with_first_error)
}

fn noninteractive(name: &str) -> Program {
    Program::new(name).env("DEBIAN_FRONTEND", "noninteractive").env("APT_LISTCHANGES_FRONTEND", "none")
}

/// Reports apt's first error, which has the cause. Its last one only reports that something failed.
fn with_first_error(error: ProcessError) -> ProcessError {
    let cause = error.stderr.lines().find(|line| line.starts_with("E: ")).map(|line| line[3..].to_owned());
    let error = error.with_command("apt-get");
    match cause {
        Some(cause) => error.with_stderr(cause),
        None => error,
    }
}
