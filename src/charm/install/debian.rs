//! Debian's and Ubuntu's packages, by apt.

use super::{Proxies, with};
use crate::charm::home::Home;
use crate::system::process::{ProcessError, Program};
use anyhow::{Context, Result};
use std::fs;

const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];

/// Installs them.
pub(super) fn install(proxies: Proxies<'_>) -> Result<()> {
    let install = || {
        apt(
            proxies,
            &[&["install", "--yes", "--no-upgrade", "--no-install-recommends"][..], &PACKAGES].concat(),
        )
    };
    if is_interrupted() {
        with(program("dpkg"), proxies).args(["--configure", "-a"]).run().context("dpkg --configure -a")?;
    }
    if Home::Debian.is_complete()? {
        // Unpacked they are; what is left to do needs no network.
        return install().context("apt-get install");
    }
    // A machine that cannot fetch the lists may still have the packages in them.
    let updated = apt(proxies, &["update"]);
    match (install(), updated) {
        (Ok(()), _) => Ok(()),
        (Err(_), Err(lists)) => Err(lists).context("apt-get update"),
        (Err(error), Ok(())) => Err(error).context("apt-get install"),
    }
}

/// Whether a dpkg died at work, which keeps every apt from its own: then its journal is not empty (apt, debSystem). To ask
/// dpkg itself would fail where another program installs something, as at a machine's first boot; apt waits for that.
fn is_interrupted() -> bool {
    fs::read_dir("/var/lib/dpkg/updates").is_ok_and(|mut journal| journal.next().is_some())
}

fn apt(proxies: Proxies<'_>, words: &[&str]) -> Result<(), ProcessError> {
    let options = [
        // Of the other programs that install at the first boot, unattended-upgrades takes minutes.
        "DPkg::Lock::Timeout=600",
        "Acquire::Retries=2",
        "Dpkg::Options::=--force-confdef",
        "Dpkg::Options::=--force-confold",
        // Without it a failed download of the lists is a warning.
        "APT::Update::Error-Mode=any",
    ];
    let options = options.iter().flat_map(|option| ["-o", option]);
    with(program("apt-get"), proxies).args(["-qq"]).args(options).args(words).run().map(|_| ()).map_err(told)
}

fn program(name: &str) -> Program {
    Program::new(name).env("DEBIAN_FRONTEND", "noninteractive").env("APT_LISTCHANGES_FRONTEND", "none")
}

/// apt's first error says what is wrong; the last says that something was.
fn told(error: ProcessError) -> ProcessError {
    let cause = error.stderr.lines().find(|line| line.starts_with("E: ")).map(|line| line[3..].to_owned());
    let error = error.called("apt-get");
    match cause {
        Some(cause) => error.saying(cause),
        None => error,
    }
}
