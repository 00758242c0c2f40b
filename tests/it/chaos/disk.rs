//! A disk that loses power: a file system on a loop device is shut down while programs use it. Mounted again,
//! it contains only the data that had reached the device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::fs_util::succeed;
use crate::common::world::World;

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    /// All variants.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// Returns the name, as in `mkfs.NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// The data that reaches the disk before the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Only synced data.
    Nothing,
    /// The log of the file system as well: it has file names and sizes, but the content may be missing.
    Log,
}

impl Flush {
    /// All variants.
    pub const ALL: [Self; 2] = [Self::Nothing, Self::Log];

    fn shutdown(self) -> &'static str {
        match self {
            Self::Nothing => "shutdown",
            Self::Log => "shutdown -f",
        }
    }
}

/// The disk under a world's `data` and `target`.
pub struct Disk {
    kind: Kind,
    image: PathBuf,
    mounted: PathBuf,
    over: [PathBuf; 2],
}

impl Disk {
    /// Mounts a new disk under a world. Its etcd must not have run yet.
    pub fn under(world: &World, kind: Kind) -> Self {
        let disk = Self {
            kind,
            image: world.path("image"),
            mounted: world.path("disk"),
            over: ["data", "target"].map(|name| world.path(name)),
        };
        fs::File::create(&disk.image).unwrap().set_len(1 << 30).unwrap();
        let quiet = if kind == Kind::Ext4 { "-qF" } else { "-qf" };
        run(Command::new(format!("mkfs.{}", kind.name())).arg(quiet).arg(&disk.image));
        fs::create_dir(&disk.mounted).unwrap();
        disk.mount();
        for over in &disk.over {
            fs::create_dir(disk.mounted.join(over.file_name().unwrap())).unwrap();
        }
        disk.bind();
        world.set_mode("target", 0o700);
        disk
    }

    fn bind(&self) {
        for over in &self.over {
            let from = self.mounted.join(over.file_name().unwrap());
            run(Command::new("mount").arg("--bind").arg(from).arg(over));
        }
    }

    /// Cuts the power: no more data reaches the disk.
    pub fn cut(&self, flush: Flush) {
        run(Command::new("xfs_io").args(["-x", "-c", flush.shutdown()]).arg(&self.mounted));
    }

    /// Restores the power: mounts a copy of the disk image. The old image cannot be used again: another mount
    /// namespace on this machine may still have it mounted, in its shut-down state.
    pub fn restore_power(&self) {
        self.unmount();
        let other = self.image.with_extension("other");
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&other));
        fs::rename(&other, &self.image).unwrap();
        self.mount();
        self.bind();
    }

    fn mount(&self) {
        // The old and the new disk can exist at the same time, and have the same UUID.
        let options = if self.kind == Kind::Xfs { "loop,nouuid" } else { "loop" };
        run(Command::new("mount").args(["-o", options]).arg(&self.image).arg(&self.mounted));
    }

    fn unmount(&self) {
        for place in self.over.iter().chain([&self.mounted]) {
            let _ = Command::new("umount").arg("-l").arg(place).status();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Checks that this machine can simulate a power cut.
///
/// # Errors
///
/// Returns the missing requirement.
pub fn can_cut() -> Result<(), String> {
    if !crate::common::world::is_root() {
        return Err("only root may mount a disk".to_owned());
    }
    for (tool, package) in [("xfs_io", "xfsprogs"), ("mkfs.xfs", "xfsprogs"), ("mkfs.ext4", "e2fsprogs")] {
        if which::which_in(tool, Some("/usr/sbin:/usr/bin:/sbin:/bin"), Path::new("/")).is_err() {
            return Err(format!("{tool} is missing: install {package}"));
        }
    }
    Ok(())
}

fn run(command: &mut Command) {
    let shown = format!("{command:?}");
    succeed(command.output().unwrap(), &shown);
}
