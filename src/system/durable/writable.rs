//! Whether files can be created in a directory, found out without creating one.

use super::Dir;
use anyhow::{Context, Result};
use rustix::fs::{Access, AtFlags, accessat, fstatfs};
use rustix::io::Errno;

/// The file systems that show objects of the kernel, with the magic numbers of statfs(2).
const KERNEL: [(u64, &str); 5] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x0027_e0eb, "cgroup"),
    (0x6462_6720, "debugfs"),
];

impl Dir {
    /// Checks that files can be created in the directory.
    ///
    /// # Errors
    /// Returns the error that creating one would have: EROFS, EPERM for an immutable directory, EACCES.
    pub fn check_writable(&self) -> Result<(), Errno> {
        accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
    }

    /// Returns the name of the file system that the directory is on if it shows objects of the kernel.
    ///
    /// # Errors
    /// Fails if the file system does.
    pub fn kernel_file_system(&self) -> Result<Option<&'static str>> {
        let found = fstatfs(&self.fd).with_context(|| format!("looking at {}", self.path.display()))?;
        let magic = u64::try_from(found.f_type).unwrap_or_default();
        Ok(KERNEL.into_iter().find(|(known, _)| *known == magic).map(|(_, name)| name))
    }
}
