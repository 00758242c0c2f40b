//! A running child: waits for it, stops it and keeps its output. This module must never leave a child running without
//! its handle.

use super::outcome::Withheld;
use super::{Ending, Output, ProcessError};
use crate::error::Interrupted;
use crate::system::cancellation::Cancelled;
use crate::system::interrupt;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// The interval at which a running child is examined.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The time that a child has to end after SIGTERM. Then it is killed.
pub const GRACE: Duration = Duration::from_secs(5);
/// The most output that is accepted, in bytes. A program that prints more is broken.
const MAX_OUTPUT: u64 = 16 << 20;
/// The bytes that an error keeps from the end of a failed program's output. A Go panic prints its reason before it
/// lists dozens of goroutines.
const OUTPUT_TAIL: u64 = 64 << 10;

/// A running child.
#[derive(Debug)]
pub struct Running {
    pub(super) shown: String,
    pub(super) child: std::process::Child,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) stdout: File,
    pub(super) stderr: File,
    pub(super) status: Option<ExitStatus>,
    pub(super) withheld: Option<Withheld>,
}

impl Running {
    /// Waits for the child to end, and calls `watch` regularly with the time since the start.
    ///
    /// # Errors
    /// Fails if the child does. Also stops the child and fails if the deadline passes, `watch` fails, a signal arrives,
    /// the work of this thread is cancelled, or the child prints more than 16 MiB.
    pub fn finish(
        mut self,
        deadline: Duration,
        watch: &mut dyn FnMut(Duration) -> Result<(), String>,
    ) -> Result<Output, ProcessError> {
        let began = Instant::now();
        loop {
            let passed = began.elapsed();
            let ended = self.wait(POLL_INTERVAL.min(deadline.saturating_sub(passed)), true);
            match ended.map_err(|error| self.ended(Ending::Lost(error.to_string())))? {
                Some(status) if status.success() => return self.output(),
                Some(status) => return Err(self.ended(status.into())),
                None => {}
            }
            let reason = if let Some(signal) = interrupt::requested() {
                Some(Ending::Interrupted(Interrupted { signal }))
            } else if interrupt::is_cancelled() {
                Some(Ending::Stopped(Cancelled.to_string()))
            } else if began.elapsed() >= deadline {
                Some(Ending::TimedOut(deadline))
            } else if self.output_size() > MAX_OUTPUT {
                Some(Ending::Stopped(format!("printed more than {MAX_OUTPUT} bytes")))
            } else {
                watch(began.elapsed()).err().map(Ending::Stopped)
            };
            if let Some(ending) = reason {
                self.end();
                return Err(self.ended(ending));
            }
        }
    }

    /// Checks that the child is still running.
    ///
    /// # Errors
    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        match self.wait(Duration::ZERO, false) {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status.into())),
            Err(error) => Err(self.ended(Ending::Lost(error.to_string()))),
        }
    }

    /// Sends SIGTERM, and SIGKILL if the child does not end within [`GRACE`].
    pub fn end(&mut self) {
        for (signal, patience) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, GRACE)] {
            if !matches!(self.wait(Duration::ZERO, false), Ok(None)) {
                break;
            }
            let _ = killpg(self.pid, signal);
            let until = Instant::now() + patience;
            while matches!(self.wait(until.saturating_duration_since(Instant::now()), false), Ok(None))
                && Instant::now() < until
            {}
        }
        // Other processes of its group must not outlive it.
        let _ = killpg(self.pid, Signal::SIGKILL);
    }

    /// Sends SIGTERM and waits for the child to end.
    ///
    /// # Errors
    /// Fails if the child does not end in time (it is killed then), or ends with a failure other than by SIGTERM.
    pub fn terminate(&mut self, patience: Duration) -> Result<(), ProcessError> {
        if self.wait(Duration::ZERO, false).is_ok_and(|status| status.is_none()) {
            let _ = killpg(self.pid, Signal::SIGTERM);
        }
        let until = Instant::now() + patience;
        let ended = loop {
            match self.wait(until.saturating_duration_since(Instant::now()), false) {
                Ok(None) if Instant::now() < until => {}
                ended => break ended,
            }
        };
        match ended {
            Ok(Some(status)) if status.success() || status.signal() == Some(Signal::SIGTERM as i32) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status.into())),
            Ok(None) => {
                self.end();
                Err(self.ended(Ending::TimedOut(patience)))
            }
            Err(error) => Err(self.ended(Ending::Lost(error.to_string()))),
        }
    }

    /// Returns the end of standard error. It may contain secrets: search it, but never print it.
    pub fn stderr_tail(&self) -> String {
        tail(&self.stderr)
    }

    fn wait(&mut self, patience: Duration, interruptible: bool) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = vec![PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        if interruptible {
            fds.extend(interrupt::descriptor().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        match poll(&mut fds, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.status = self.child.try_wait()?;
        Ok(self.status)
    }

    fn output_size(&self) -> u64 {
        [&self.stdout, &self.stderr]
            .into_iter()
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    fn output(&self) -> Result<Output, ProcessError> {
        let lost = |error: io::Error| self.ended(Ending::Lost(error.to_string()));
        let length = self.stdout.metadata().map_err(lost)?.len().min(MAX_OUTPUT);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other).map_err(lost)?];
        self.stdout.read_exact_at(&mut bytes, 0).map_err(lost)?;
        Ok(Output { stdout: bytes, shown: self.shown.clone(), withheld: self.withheld.clone() })
    }

    fn ended(&self, ending: Ending) -> ProcessError {
        let (stdout, stderr) = (tail(&self.stdout), tail(&self.stderr));
        ProcessError { shown: self.shown.clone(), ending, stdout, stderr, by_hand: None }
            .without_secrets(self.withheld.as_ref())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.end();
        }
    }
}

fn tail(file: &File) -> String {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let kept = length.min(OUTPUT_TAIL);
    let mut bytes = vec![0; usize::try_from(kept).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, length - kept) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}
