//! SIGTERM and what a terminal sends (Ctrl-Z included: nobody may be stopped with etcd down), turned into something a
//! walk can look at between two steps.
//!
//! Never ends the process by itself: a walk that is told to stop undoes what it did and returns.

use crate::error::Interrupted;
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

static SIGNALS: OnceLock<SignalFd> = OnceLock::new();
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// How many guards live: a hook tool that must finish defers too, inside a critical region or outside of one.
static DEFERRED: AtomicUsize = AtomicUsize::new(0);

/// Blocks the signals and collects them in a descriptor. Call once, before any thread is made.
/// Children start with an empty mask: `std` resets it between fork and exec.
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

/// The descriptor that is readable when a signal has come, unless signals are [deferred](defer).
pub(super) fn descriptor() -> Option<BorrowedFd<'static>> {
    if deferred() {
        return None;
    }
    SIGNALS.get().map(AsFd::as_fd)
}

/// The signal that asked us to stop, if one has come and signals are not [deferred](defer).
pub fn requested() -> Option<Signal> {
    if deferred() {
        return None;
    }
    if let Some(Ok(Some(info))) = SIGNALS.get().map(SignalFd::read_signal) {
        RECEIVED.store(i32::try_from(info.ssi_signo).unwrap_or(0), Ordering::Relaxed);
    }
    Signal::try_from(RECEIVED.load(Ordering::Relaxed)).ok()
}

/// Fails when a signal asked us to stop.
pub fn check() -> Result<()> {
    match requested() {
        Some(signal) => Err(Interrupted { signal }.into()),
        None => Ok(()),
    }
}

/// While this lives, signals wait: the critical region finishes or rolls back first.
#[derive(Debug)]
#[must_use = "signals are deferred only while this lives"]
pub struct Deferred(());

/// Defers signals until the guard is dropped, and every other one too.
pub fn defer() -> Deferred {
    DEFERRED.fetch_add(1, Ordering::Relaxed);
    Deferred(())
}

/// Whether signals are [deferred](defer) now: no time to print or to start what is not needed.
pub fn deferred() -> bool {
    DEFERRED.load(Ordering::Relaxed) > 0
}

impl Drop for Deferred {
    fn drop(&mut self) {
        DEFERRED.fetch_sub(1, Ordering::Relaxed);
    }
}
