//! Mounts: small file systems, for want of room, directories that are mount points, and disks that fail. Only root may.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; goes with the value.
pub struct Mount {
    at: PathBuf,
}

/// Mounts an empty file system of this size over the directory.
pub fn small(at: &Path, size: &str) -> Mount {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(at);
    assert!(mount.status().unwrap().success(), "mount");
    Mount { at: at.to_owned() }
}

/// Mounts a directory over itself: all as before, but a mount point.
pub fn over_itself(at: &Path) -> Mount {
    let mut mount = Command::new("mount");
    mount.arg("--bind").args([at, at]);
    assert!(mount.status().unwrap().success(), "mount --bind");
    Mount { at: at.to_owned() }
}

/// Mounts a directory at another one.
pub fn bind(directory: &Path, at: &Path) -> Mount {
    let mut mount = Command::new("mount");
    mount.arg("--bind").args([directory, at]);
    assert!(mount.status().unwrap().success(), "mount --bind");
    Mount { at: at.to_owned() }
}

/// Mounts over the file one of which no byte can be read: our own memory has none where it begins.
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
