//! Whether this computer can boot machines, and the installation of the packages that this needs.
//!
//! The check leaves no files. Packages are installed only on request.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::machine::SCRIPT;
use crate::command;

/// The programs that machines need, each with its Debian package.
const PROGRAMS: [(&str, &str); 7] = [
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("openssl", "openssl"),
];

/// Returns why machines cannot run here, as a sentence without a full stop, or `None` if they can.
pub fn unmet() -> Option<String> {
    if !is_root() {
        return Some("only root can boot them; run: sudo -E cargo xtask machines".to_owned());
    }
    match missing_packages()[..] {
        [] => boot_error().map(|error| format!("this computer cannot boot containers: {error}")),
        ref missing => Some(format!("programs are missing; run: apt-get install {}", missing.join(" "))),
    }
}

/// Installs the missing packages. If that fails, it prints the error, and running machines reports what is missing.
pub fn install() -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() || !is_root() {
        return Ok(());
    }
    println!("installing packages for machines: {}", missing.join(" "));
    let apt_get = |arguments: &[&str]| {
        let mut apt_get = Command::new("apt-get");
        apt_get.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command::run_checked(&mut apt_get)
    };
    let installed = apt_get(&["-qq", "update"])
        .and_then(|()| apt_get(&[&["-qq", "install", "--no-install-recommends"], &missing[..]].concat()));
    if let Err(error) = installed {
        eprintln!("the packages could not be installed: {error:#}");
    }
    Ok(())
}

/// Returns the missing packages, each once.
fn missing_packages() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    missing
}

/// Tries the first steps of a boot, and returns the error. They fail in a container without the needed privileges.
fn boot_error() -> Option<String> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--pid", "--fork", "sh", "-c", SCRIPT, "machine.sh", "try"]);
    let error = command::output(unshare.arg(format!("etcd-{}", std::process::id()))).err()?;
    Some(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata(Path::new("/proc/self")) {
        Ok(ourselves) => ourselves,
        Err(_) => return false,
    }) == 0
}
