//! One at a time: a lock on a directory, and who holds it. The kernel frees it when its holder dies.
//!
//! The directory itself is locked: no lock file to leave behind, and it works on a full or read-only disk.

use super::durable::{Dir, Inode, inode_of};
use crate::stop::Refusal;
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;

/// The right to work on a directory. Freed when dropped. It is not inherited by children: they die with us, and a
/// daemon that a start command leaves behind must not hold it.
#[derive(Debug)]
pub struct Lock {
    _dir: File,
}

impl Lock {
    /// Takes the lock on `dir`, or refuses at once and says who holds it.
    pub fn take(dir: &Dir) -> Result<Self> {
        let own = dir.read(".").context("opening the directory to lock")?;
        if try_lock(&own)? {
            return Ok(Self { _dir: own });
        }
        let holder = holder(&own)?.unwrap_or_else(|| "another process".to_owned());
        Err(Refusal::new(
            format!("{holder} is working on {}", dir.path().display()),
            "wait for it to end, then run this again",
        )
        .into())
    }
}

/// Takes the exclusive lock of an open file if nobody else has it. It is freed when the file is closed.
pub fn try_lock(file: &impl AsFd) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).context("locking"),
    }
}

/// Who holds the lock of an open file, in words: `restore (pid 4321)`.
pub fn holder(file: &impl AsFd) -> Result<Option<String>> {
    let inode = inode_of(file)?;
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    Ok(pid_in(&locks, inode).map(|pid| match command_of(pid) {
        Some(command) => format!("{command} (pid {pid})"),
        None => format!("pid {pid}"),
    }))
}

/// The holder of the `flock` on an inode in the text of `/proc/locks`
/// (`1: FLOCK  ADVISORY  WRITE 4321 fe:00:131 0 EOF`; see proc_locks(5)). Waiters carry an arrow and do not count.
/// The device counts: every ext4 has its root at the same number. Where it is not shown as `stat` shows it, as on
/// btrfs, nobody is named.
fn pid_in(locks: &str, inode: Inode) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(inode.device), rustix::fs::minor(inode.device));
    let place_of = format!("{major:02x}:{minor:02x}:{}", inode.number);
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
            return None;
        };
        (*place == place_of).then(|| pid.parse().ok())?
    })
}

fn command_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{Inode, pid_in};

    #[test]
    fn the_holder_is_read_from_proc_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4321 fe:00:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 fe:00:132 0 EOF\n";
        let inode = |number| Inode { device: rustix::fs::makedev(0xfe, 0), number };
        assert_eq!(pid_in(locks, inode(131)), Some(4321));
        assert_eq!(pid_in(locks, inode(132)), None);
        assert_eq!(pid_in(locks, Inode { device: rustix::fs::makedev(0xfe, 1), number: 131 }), None);
        assert_eq!(pid_in("garbage\n\n1: FLOCK\n", inode(1)), None);
    }
}
