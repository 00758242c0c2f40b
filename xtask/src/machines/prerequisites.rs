//! Owns the question whether machines can run here at all, and the answer to a plain want of packages.
//!
//! It must never leave anything behind of what it tries, nor install anything that nobody asked for.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::machine::SCRIPT;
use crate::command;

/// Each program that machines take, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 7] = [
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("openssl", "openssl"),
];

/// Why machines cannot run here, in one sentence and without a full stop; `None` where they can.
pub fn why_not() -> Option<String> {
    if !is_root() {
        return Some("only root can boot machines: sudo -E cargo xtask machines".to_owned());
    }
    match missing()[..] {
        [] => refused().map(|why| format!("this machine lets nobody boot another in it: {why}")),
        ref missing => {
            Some(format!("machines take programs that are not here: apt-get install {}", missing.join(" ")))
        }
    }
}

/// Installs the packages that are missing, and says so first. Where that cannot be, whoever takes machines says why.
pub fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() || !is_root() {
        return Ok(());
    }
    println!("installing what machines take: {}", missing.join(" "));
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(words);
        command::run_well(&mut apt)
    };
    let installed = apt(&["-qq", "update"])
        .and_then(|()| apt(&[&["-qq", "install", "--no-install-recommends"], &missing[..]].concat()));
    if let Err(error) = installed {
        eprintln!("they could not be installed: {error:#}");
    }
    Ok(())
}

/// The packages that are missing, each once.
fn missing() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    missing
}

/// What a container that only looks like a machine says to the first steps of a boot.
fn refused() -> Option<String> {
    let mut first = Command::new("unshare");
    first.args(["--mount", "--net", "--pid", "--fork", "sh", "-c", SCRIPT, "machine.sh", "try"]);
    let error = command::output(first.arg(format!("etcd-{}", std::process::id()))).err()?;
    Some(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata(Path::new("/proc/self")) {
        Ok(ourselves) => ourselves,
        Err(_) => return false,
    }) == 0
}
