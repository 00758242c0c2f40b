//! Owns the question whether machines can run here at all.
//!
//! It must never answer by trying.

use std::path::Path;

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
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    match missing[..] {
        [] => None,
        _ => Some(format!("machines take programs that are not here: apt-get install {}", missing.join(" "))),
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata(Path::new("/proc/self")) {
        Ok(ourselves) => ourselves,
        Err(_) => return false,
    }) == 0
}
