//! A lock on a directory, which one process holds at a time, and the lookup of that process.
//!
//! The lock is a `flock` on the directory itself. So it needs no lock file, works on a full or read-only
//! disk, and the kernel releases it when the holder dies.

use super::durable::{Dir, Inode, inode_of};
use crate::error::Refusal;
use anyhow::{Context, Result};
use std::fs::{File, TryLockError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The wait for a holder that has just died. If a process is killed between the fork and the exec of a child,
/// the child still holds the lock, and dies a moment later.
const DYING_HOLDER: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The lock on a directory, until it is dropped. Children do not inherit it: they die with this process, and a daemon
/// that a start command leaves running must not hold it.
#[derive(Debug)]
pub struct Lock {
    _held: HeldLock,
}

impl Lock {
    /// Locks `dir`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the holder, within a second, if another process holds the lock.
    pub fn acquire(dir: &Dir) -> Result<Self> {
        let own = dir.read(".").context("opening the directory to lock")?;
        let since = Instant::now();
        loop {
            if let Some(held) = try_lock(&own)? {
                return Ok(Self { _held: held });
            }
            let pid = holder_pid(&own)?;
            let command = pid.and_then(command_of);
            if command.is_some() || since.elapsed() >= DYING_HOLDER {
                return Err(Refusal::locked(
                    format!("{} is working on {}", describe_holder(pid, command), dir.path().display()),
                    "wait for it to end, then run this again",
                )
                .into());
            }
            sleep(POLL_INTERVAL);
        }
    }
}

/// Returns the process that holds the lock on `dir`, if the kernel names one. Unlike [`Lock::acquire`], takes no lock.
///
/// # Errors
/// Fails if the directory cannot be opened.
pub fn holder(dir: &Dir) -> Result<Option<String>> {
    let pid = holder_pid(&dir.read(".")?)?;
    Ok(pid.map(|pid| describe_holder(Some(pid), command_of(pid))))
}

/// The lock of an open file or directory, until it is dropped.
///
/// Dropping it unlocks explicitly. Closing the file would not be enough: a child that another thread has just forked has
/// a copy of the descriptor until it executes its program, and the lock lives as long as any copy (flock(2)).
#[derive(Debug)]
pub struct HeldLock(File);

impl Drop for HeldLock {
    fn drop(&mut self) {
        // If this fails, closing the file releases the lock a moment later.
        let _ = self.0.unlock();
    }
}

/// Takes the exclusive lock of an open file or directory. Returns `None` if another process, or another descriptor of
/// this process, holds it.
///
/// # Errors
/// Fails if the file system has no locks.
pub fn try_lock(file: &File) -> Result<Option<HeldLock>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(HeldLock(file.try_clone().context("locking")?))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("locking"),
    }
}

fn describe_holder(pid: Option<u32>, command: Option<String>) -> String {
    match (pid, command) {
        (Some(pid), Some(command)) => format!("{command} (pid {pid})"),
        (Some(pid), None) => format!("pid {pid}"),
        (None, _) => "another process".to_owned(),
    }
}

fn holder_pid(file: &File) -> Result<Option<u32>> {
    let inode = inode_of(file)?;
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    Ok(pid_in(&locks, inode))
}

/// Returns the holder of the `flock` on an inode, from the text of `/proc/locks` (`1: FLOCK  ADVISORY  WRITE 4321
/// fe:00:131 0 EOF`; see proc_locks(5)). Processes that wait have an arrow and are skipped. The device is compared too,
/// because the root of every ext4 has the same inode number. Some file systems, such as btrfs, show another device
/// there than `stat` does; then no holder is found.
fn pid_in(locks: &str, inode: Inode) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(inode.device), rustix::fs::minor(inode.device));
    let wanted = format!("{major:02x}:{minor:02x}:{}", inode.number);
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
            return None;
        };
        (*place == wanted).then(|| pid.parse().ok())?
    })
}

fn command_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another process has to hold the lock")]
    fn waits_for_a_dying_child_of_a_dead_holder() {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::open(path.path()).unwrap();
        let hold = |seconds: &str| {
            let script = "exec 9<\"$0\"; flock 9; exec >&- 2>&-; sleep \"$1\" &";
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(script).arg(path.path()).arg(seconds);
            assert!(shell.status().unwrap().success());
        };
        hold("0.2");
        Lock::acquire(&dir).unwrap();
        hold("3");
        let since = Instant::now();
        assert!(Lock::acquire(&dir).unwrap_err().is::<Refusal>());
        assert!(since.elapsed() >= DYING_HOLDER);
    }

    #[test]
    fn dropping_a_lock_releases_it_while_a_forked_child_has_the_descriptor() {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::open(path.path()).unwrap();
        let opened = dir.read(".").unwrap();
        // A fork copies the descriptor, as this does.
        let inherited = opened.try_clone().unwrap();
        let held = try_lock(&opened).unwrap();
        assert!(held.is_some() && try_lock(&dir.read(".").unwrap()).unwrap().is_none());
        drop((held, opened));
        assert!(try_lock(&dir.read(".").unwrap()).unwrap().is_some());
        drop(inherited);
    }

    #[test]
    fn reads_the_holder_from_proc_locks() {
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
