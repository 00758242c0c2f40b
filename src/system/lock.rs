//! One at a time: a lock on a directory, and who holds it. The kernel frees it when its holder dies.
//!
//! The directory itself is locked: no lock file to leave behind, and it works on a full or read-only disk.

use super::durable::{Dir, Inode, inode_of};
use crate::error::Refusal;
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a holder that is no more may take to let go: a process that was killed before its child has become another
/// program leaves the lock to that child, which dies a moment later.
const DYING: Duration = Duration::from_millis(500);

/// The right to work on a directory. Freed when dropped. It is not inherited by children: they die with us, and a
/// daemon that a start command leaves behind must not hold it.
#[derive(Debug)]
pub struct Lock {
    _dir: File,
}

impl Lock {
    /// Takes the lock on `dir`, or refuses within a moment and says who holds it.
    pub fn acquire(dir: &Dir) -> Result<Self> {
        let own = dir.read(".").context("opening the directory to lock")?;
        let since = Instant::now();
        while !try_lock(&own)? {
            let pid = holding(&own)?;
            let command = pid.and_then(command_of);
            if command.is_some() || since.elapsed() >= DYING {
                return Err(Refusal::locked(
                    format!("{} is working on {}", in_words(pid, command), dir.path().display()),
                    "wait for it to end, then run this again",
                )
                .into());
            }
            sleep(Duration::from_millis(10));
        }
        Ok(Self { _dir: own })
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
    let pid = holding(file)?;
    Ok(pid.map(|_| in_words(pid, pid.and_then(command_of))))
}

fn in_words(pid: Option<u32>, command: Option<String>) -> String {
    match (pid, command) {
        (Some(pid), Some(command)) => format!("{command} (pid {pid})"),
        (Some(pid), None) => format!("pid {pid}"),
        (None, _) => "another process".to_owned(),
    }
}

fn holding(file: &impl AsFd) -> Result<Option<u32>> {
    let inode = inode_of(file)?;
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    Ok(pid_in(&locks, inode))
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
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another process has to hold the lock")]
    fn what_a_dead_holder_left_to_a_dying_one_is_waited_for() {
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
        assert!(since.elapsed() >= DYING);
    }

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
