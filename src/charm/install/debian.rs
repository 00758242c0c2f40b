//! Debian's and Ubuntu's packages, by apt.

use super::{Proxies, with};
use crate::charm::home::Home;
use crate::charm::systemd;
use crate::system::process::{ProcessError, Program};
use anyhow::{Context, Result};

const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];

/// Installs them. The package starts its etcd at once, with a configuration and in a place that are not ours: while it is
/// installed its unit is masked, until the next boot at the longest.
pub(super) fn install(proxies: Proxies<'_>) -> Result<()> {
    systemd::mask(Home::Debian.unit())?;
    // What an interrupted dpkg left keeps every apt from its work.
    with(program("dpkg"), proxies).args(["--configure", "-a"]).run().context("dpkg --configure -a")?;
    // A machine that cannot fetch the lists may still have the packages in them.
    let updated = apt(proxies, &["update"]);
    let installed = apt(proxies, &[&["install", "--yes", "--no-install-recommends"][..], &PACKAGES].concat());
    match (installed, updated) {
        (Ok(()), _) => Ok(()),
        (Err(_), Err(lists)) => Err(lists).context("apt-get update"),
        (Err(error), Ok(())) => Err(error).context("apt-get install"),
    }
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
