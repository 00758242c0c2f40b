//! Mounts for tests, which need root: file systems that are too small, mount points, and a file with read
//! errors.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system. It is unmounted when the value is dropped.
pub struct Mount {
    at: PathBuf,
}

/// Mounts an empty tmpfs of this size over a directory.
pub fn small(at: &Path, size: &str) -> Mount {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(at);
    assert!(mount.status().unwrap().success(), "mount");
    Mount { at: at.to_owned() }
}

/// Mounts a directory over itself, so that it is a mount point with the same content.
pub fn over_itself(at: &Path) -> Mount {
    let mut mount = Command::new("mount");
    mount.arg("--bind").args([at, at]);
    assert!(mount.status().unwrap().success(), "mount --bind");
    Mount { at: at.to_owned() }
}

/// Mounts a directory over another one.
pub fn bind(directory: &Path, at: &Path) -> Mount {
    let mut mount = Command::new("mount");
    mount.arg("--bind").args([directory, at]);
    assert!(mount.status().unwrap().success(), "mount --bind");
    Mount { at: at.to_owned() }
}

/// Mounts an unreadable file over a file: `/proc/PID/mem`, because no memory is mapped at its beginning.
pub fn broken(at: &Path) -> Mount {
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(format!("/proc/{}/mem", std::process::id())).arg(at);
    assert!(mount.status().unwrap().success(), "mount --bind");
    assert_eq!(std::fs::read(at).unwrap_err().raw_os_error(), Some(5), "EIO");
    Mount { at: at.to_owned() }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
