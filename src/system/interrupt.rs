//! SIGTERM and the signals that a terminal sends, collected so that a procedure can look for them between two steps.
//!
//! Ctrl-Z is among them: a procedure must not be suspended while etcd is down. This module must never end the process:
//! an interrupted procedure rolls back its changes and returns.

use super::cancellation::{Cancellation, Cancelled};
use crate::error::Interrupted;
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static SIGNALS: OnceLock<SignalFd> = OnceLock::new();
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// The number of guards. They nest: a hook tool that must finish defers signals inside a critical region too.
static DEFERRED: AtomicUsize = AtomicUsize::new(0);
/// The interval at which a [`sleep`] checks for a signal.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Blocks the signals and collects them in a descriptor. Must be called once, before any thread is started. Children
/// start with an empty signal mask, because `std` resets it between fork and exec.
///
/// # Errors
/// Fails if the kernel refuses one of them.
pub fn install() -> Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP] {
        set.add(signal);
    }
    set.thread_block().context("blocking signals")?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("collecting signals")?;
    let _ = SIGNALS.set(fd);
    Ok(())
}

/// Returns the descriptor that becomes readable when a signal arrives, unless signals are [deferred](defer).
pub(super) fn descriptor() -> Option<BorrowedFd<'static>> {
    if deferred() {
        return None;
    }
    SIGNALS.get().map(AsFd::as_fd)
}

/// Returns the signal that asked this process to stop, if one has arrived and signals are not [deferred](defer).
pub fn requested() -> Option<Signal> {
    if deferred() {
        return None;
    }
    if let Some(Ok(Some(info))) = SIGNALS.get().map(SignalFd::read_signal) {
        RECEIVED.store(i32::try_from(info.ssi_signo).unwrap_or(0), Ordering::Relaxed);
    }
    Signal::try_from(RECEIVED.load(Ordering::Relaxed)).ok()
}

/// Checks that no signal has asked this process to stop, and that the work of this thread was not
/// [cancelled](Cancellation).
///
/// # Errors
/// [`Interrupted`] or [`Cancelled`].
pub fn check() -> Result<()> {
    match requested() {
        Some(signal) => Err(Interrupted { signal }.into()),
        None if is_cancelled() => Err(Cancelled.into()),
        None => Ok(()),
    }
}

/// Returns whether the work of this thread was [cancelled](Cancellation). As signals do, this waits until they are no
/// longer [deferred](defer).
pub(super) fn is_cancelled() -> bool {
    !deferred() && Cancellation::current().is_cancelled()
}

/// Sleeps for `duration`, or until a signal arrives.
///
/// # Errors
/// [`Interrupted`] if a signal arrives.
pub fn sleep(duration: Duration) -> Result<()> {
    let since = Instant::now();
    loop {
        check()?;
        let left = duration.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(POLL_INTERVAL.min(left));
    }
}

/// Defers signals until it is dropped, so that a critical region finishes or rolls back first.
#[derive(Debug)]
#[must_use = "signals are deferred only until this is dropped"]
pub struct Deferred(());

/// Defers signals until this guard, and every other one, is dropped.
pub fn defer() -> Deferred {
    DEFERRED.fetch_add(1, Ordering::Relaxed);
    Deferred(())
}

/// Returns whether signals are [deferred](defer). Callers then skip optional output and work.
pub fn deferred() -> bool {
    DEFERRED.load(Ordering::Relaxed) > 0
}

impl Drop for Deferred {
    fn drop(&mut self) {
        DEFERRED.fetch_sub(1, Ordering::Relaxed);
    }
}
