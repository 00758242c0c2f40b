//! Process and thread priorities: etcd and its clients come first.
//!
//! This module must never fail: if a priority cannot be changed, the work is done anyway.

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::io::Write;
use std::num::NonZero;
use std::thread::sleep;
use std::time::Duration;

/// The nice value of a thread that yields to servers. On an idle machine it still gets the whole processor.
const LOWER: i32 = 10;

/// The nice value of a thread with results that other threads of ours use: it gets a third of their share.
const LOWEST: i32 = 15;

/// Lowers the priority of the calling thread only. If the disk's scheduler has priorities, it derives them from this
/// one, so reads and writes of the thread yield too.
pub fn lower_priority() {
    raise_nice_to(LOWER);
}

/// Lowers the priority of the calling thread below that of the threads that use its results. If those are slower, they
/// finish alone at the end.
pub fn lower_priority_further() {
    raise_nice_to(LOWEST);
}

fn raise_nice_to(nice: i32) {
    // On Linux, this call changes one thread. A higher nice value (`nice -n 19`) was chosen by the operator and stays:
    // root's threads would otherwise get a higher priority.
    if getpriority_process(None).is_ok_and(|now| now < nice) {
        let _ = setpriority_process(None, nice);
    }
}

/// Gives all threads of this process the priority and the cores of the first thread. That thread is never
/// [lowered](lower_priority), and [leaves cores](leave_half_the_cores) only while it starts others. Only root can raise a
/// priority. Without root, or if a thread has just ended, the priority stays.
pub fn restore_priority() {
    let first = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or(0));
    let (nice, cores) = (getpriority_process(first), sched_getaffinity(first));
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return };
    for id in threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok()) {
        if let Ok(nice) = nice {
            let _ = setpriority_process(Pid::from_raw(id), nice);
        }
        if let Ok(cores) = &cores {
            let _ = sched_setaffinity(Pid::from_raw(id), cores);
        }
    }
}

/// Keeps the calling thread off half of its cores until this guard is dropped. Threads that it starts before then inherit
/// this, and keep it until [`restore_priority`].
#[derive(Debug)]
#[must_use]
pub struct HalfTheCores(CpuSet);

/// Leaves half of the cores to others. A low priority alone is not enough: the kernel lets a thread run for some milliseconds
/// before another one takes its core, and etcd's threads would wait for that long. Returns `None` on a single core.
pub fn leave_half_the_cores() -> Option<HalfTheCores> {
    let all = sched_getaffinity(None).ok().filter(|all| all.count() > 1)?;
    let mut half = all;
    // These are left to etcd, because many kernels handle the interrupts of disks and networks there.
    let first = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    first.take(all.count().div_ceil(2) as usize).for_each(|core| half.unset(core));
    sched_setaffinity(None, &half).ok().map(|()| HalfTheCores(all))
}

impl Drop for HalfTheCores {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Without cgroups, the kernel divides the processors among sessions before it divides them among threads (`sched(7)`,
/// "The autogroup feature"). A thread's nice value only counts within its session, so the session needs one too.
const SESSION: &str = "/proc/self/autogroup";

/// Lowers the priority of the session until it is dropped. If the process is killed, the priority stays low until the
/// next run has ended.
#[derive(Debug)]
#[must_use]
pub struct LoweredSession(());

/// Lowers the priority of this process's session. Returns `None` if sessions have no priorities, or if another program
/// has set this one.
pub fn lower_session_priority() -> Option<LoweredSession> {
    let now = session_nice()?;
    // The guard is only made if the priority was lowered: dropping it raises the priority.
    ((now == 0 || now == LOWER) && set_session_nice(LOWER)).then(|| LoweredSession(()))
}

impl Drop for LoweredSession {
    fn drop(&mut self) {
        // Unprivileged processes together may change it ten times a second at most.
        for _ in 0..20 {
            if set_session_nice(0) {
                return;
            }
            sleep(Duration::from_millis(30));
        }
    }
}

/// Returns the nice value in a line such as `/autogroup-85 nice 0`.
fn session_nice() -> Option<i32> {
    fs::read_to_string(SESSION).ok()?.trim().rsplit_once(' ')?.1.parse().ok()
}

fn set_session_nice(nice: i32) -> bool {
    let file = fs::OpenOptions::new().write(true).open(SESSION);
    file.and_then(|mut file| file.write_all(nice.to_string().as_bytes())).is_ok()
}

/// Returns half the number of cores that the calling thread may run on. The other half is for etcd.
pub fn half_the_cores() -> usize {
    (std::thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1)
}

/// Returns how many threads may use a core at a time: [`half_the_cores`], but at least two, because their priority is
/// [lowered](lower_priority).
pub fn worker_threads() -> usize {
    half_the_cores().max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};

    /// One test gives all threads of this process another priority.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Uses threads of its own, because only root can raise a priority again.
    #[test]
    fn never_raises_the_priority_of_a_thread() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let of_thread = || getpriority_process(None).unwrap();
        let before = of_thread();
        for (begun, wanted, then) in
            [(0, LOWER, LOWER), (0, LOWEST, LOWEST), (12, LOWER, 12), (19, LOWEST, 19)]
        {
            let went = move || {
                setpriority_process(None, begun.max(before)).unwrap();
                raise_nice_to(wanted);
                of_thread()
            };
            assert_eq!(std::thread::spawn(went).join().unwrap(), then.max(before), "{begun} {wanted}");
        }
        assert_eq!(of_thread(), before);
    }

    #[test]
    fn restores_the_priority_of_all_threads() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root raises a priority");
            return;
        }
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (patient, normal) = std::sync::mpsc::channel::<()>();
        let of_thread = || getpriority_process(None).unwrap();
        let before = of_thread();
        let worker = std::thread::spawn(move || {
            raise_nice_to(LOWEST);
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
    fn threads_stay_off_half_of_the_cores_until_they_are_restored() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let cores = || sched_getaffinity(None).unwrap();
        let (all, workers) = (cores(), worker_threads());
        let Some(left) = leave_half_the_cores() else {
            println!("skipped: there is one core");
            return;
        };
        assert_eq!(cores().count(), all.count() / 2);
        let (begun, started) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            begun.send(cores().count()).unwrap();
            std::thread::park();
            (cores().count(), worker_threads())
        });
        assert_eq!(started.recv().unwrap(), all.count() / 2);
        drop(left);
        assert_eq!(cores(), all);
        restore_priority();
        worker.thread().unpark();
        assert_eq!(worker.join().unwrap(), (all.count(), workers));
    }

    #[test]
    fn lowers_the_priority_of_a_session_until_dropped() {
        let Some(before) = session_nice() else {
            println!("skipped: this kernel has no priorities of sessions");
            return;
        };
        assert!(set_session_nice(3));
        assert!(lower_session_priority().is_none(), "another program has set it");
        assert_eq!(session_nice(), Some(3));
        // LOWER is the value that a killed run leaves.
        for left in [0, LOWER] {
            assert!(set_session_nice(left));
            let behind = lower_session_priority();
            assert!(behind.is_some());
            assert_eq!(session_nice(), Some(LOWER));
            drop(behind);
            assert_eq!(session_nice(), Some(0));
        }
        assert!(set_session_nice(before));
    }
}
