//! How much of the machine we take: etcd's clients come first.

use std::fs;
use std::io::Write;
use std::num::NonZero;
use std::thread::sleep;
use std::time::Duration;

/// Enough that whatever serves goes first, and a machine with nothing else to do still gives us all of it.
const LATER: i32 = 10;

/// For a thread whose work others go on with: a third of the share of those.
const LATEST: i32 = 15;

/// Lets the calling thread, and it alone, run behind what is not as patient; its disk reads and writes too, where the
/// disk's scheduler knows priorities (it derives them from this one).
pub fn lower_priority() {
    go_to(LATER);
}

/// The same, and behind those that go on with its work: what they do not keep up with, they do alone at the end.
pub fn lower_priority_further() {
    go_to(LATEST);
}

fn go_to(patience: i32) {
    // For Linux a thread is a process of its own here. Where it is not allowed, the work is done all the same. Whoever started us
    // with more patience (`nice -n 19`) has chosen it, and root's threads would come forward from there.
    if rustix::process::getpriority_process(None).is_ok_and(|now| now < patience) {
        let _ = rustix::process::setpriority_process(None, patience);
    }
}

/// Gives all threads of this process the priority of its first one again, which never [goes behind](lower_priority). It takes root to
/// raise a priority; without it, or if a thread has just ended, nothing changes.
pub fn restore_priority() {
    let Ok(normal) = rustix::process::getpriority_process(rustix::process::Pid::from_raw(process_id()))
    else {
        return;
    };
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return };
    let ids = threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for id in ids {
        let _ = rustix::process::setpriority_process(rustix::process::Pid::from_raw(id), normal);
    }
}

/// The id of this process, which is that of its first thread.
fn process_id() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// Where nothing else groups them, the kernel shares the processors among sessions before it shares them among threads
/// (`sched(7)`, "The autogroup feature"): a thread's patience is heard within its own session alone. So the session needs some
/// too.
const SESSION: &str = "/proc/self/autogroup";

/// A session that runs behind the others, until this is dropped. One whose run was killed does so until the next run has ended.
#[derive(Debug)]
#[must_use]
pub struct LoweredSession(());

/// Lets all of our session run behind the others, where sessions have priorities and nobody has chosen ours.
pub fn lower_session_priority() -> Option<LoweredSession> {
    let now = patience_of_session()?;
    // Not before it is: what is dropped is behind no longer.
    ((now == 0 || now == LATER) && set_patience_of_session(LATER)).then(|| LoweredSession(()))
}

impl Drop for LoweredSession {
    fn drop(&mut self) {
        // In a container, the kernel hears of it ten times a second at most, of all who ask.
        for _ in 0..20 {
            if set_patience_of_session(0) {
                return;
            }
            sleep(Duration::from_millis(30));
        }
    }
}

/// `/autogroup-85 nice 0`.
fn patience_of_session() -> Option<i32> {
    fs::read_to_string(SESSION).ok()?.trim().rsplit_once(' ')?.1.parse().ok()
}

fn set_patience_of_session(patience: i32) -> bool {
    let file = fs::OpenOptions::new().write(true).open(SESSION);
    file.and_then(|mut file| file.write_all(patience.to_string().as_bytes())).is_ok()
}

/// Half of the cores that we may run on, the other half being etcd's.
pub fn half_the_cores() -> usize {
    (std::thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1)
}

/// How many threads of ours may work hard at a time: [`half_the_cores`] of the cores. Two at least, for they [go
/// behind](lower_priority).
pub fn worker_threads() -> usize {
    half_the_cores().max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    /// One test gives all threads of this process another priority.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// On threads of their own, for nobody but root comes forward again.
    #[test]
    fn a_thread_never_comes_forward() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let of_thread = || rustix::process::getpriority_process(None).unwrap();
        let before = of_thread();
        for (begun, wanted, then) in
            [(0, LATER, LATER), (0, LATEST, LATEST), (12, LATER, 12), (19, LATEST, 19)]
        {
            let went = move || {
                rustix::process::setpriority_process(None, begun.max(before)).unwrap();
                go_to(wanted);
                of_thread()
            };
            assert_eq!(std::thread::spawn(went).join().unwrap(), then.max(before), "{begun} {wanted}");
        }
        assert_eq!(of_thread(), before);
    }

    #[test]
    fn threads_return_to_normal() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root raises a priority");
            return;
        }
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (patient, normal) = std::sync::mpsc::channel::<()>();
        let of_thread = || rustix::process::getpriority_process(None).unwrap();
        let before = of_thread();
        let worker = std::thread::spawn(move || {
            go_to(LATEST);
            patient.send(()).unwrap();
            std::thread::park();
            of_thread()
        });
        normal.recv().unwrap();
        restore_priority();
        worker.thread().unpark();
        assert_eq!(worker.join().unwrap(), before);
    }

    #[test]
    fn a_session_is_behind_as_long_as_is_asked() {
        let Some(before) = patience_of_session() else {
            println!("skipped: this kernel knows no priorities of sessions");
            return;
        };
        assert!(set_patience_of_session(3));
        assert!(lower_session_priority().is_none(), "somebody has chosen it");
        assert_eq!(patience_of_session(), Some(3));
        // As a run leaves it that was killed.
        for left in [0, LATER] {
            assert!(set_patience_of_session(left));
            let behind = lower_session_priority();
            assert!(behind.is_some());
            assert_eq!(patience_of_session(), Some(LATER));
            drop(behind);
            assert_eq!(patience_of_session(), Some(0));
        }
        assert!(set_patience_of_session(before));
    }
}
