//! The first error of several threads that pass data to each other.
//!
//! If one stage of a pipeline fails, its neighbours fail soon after: their input ends, or their output is closed. Only
//! the first error names the cause. So a stage stores its error in a slot that all stages share, and drops its ends
//! (files, channels, [`GrowthSender`](super::growing_file::GrowthSender)s) only after that. Every later error finds the
//! slot taken and is discarded. This module must never drop an end of a failed stage before its error is stored.

use super::threads;
use anyhow::{Context, Error, Result, anyhow};
use std::fmt;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// The slot for the first error. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FirstError(Arc<Mutex<Option<Error>>>);

/// The error of a stage that ends because a stage has failed. The cause is in the [`FirstError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another thread has failed")
    }
}

impl std::error::Error for Stopped {}

impl FirstError {
    /// Runs a stage on the calling thread. `ends` are the ends that other stages see closed. If `work` fails or
    /// panics, its error is stored, and then `ends` are dropped.
    ///
    /// # Errors
    /// [`Stopped`] if `work` failed.
    pub fn run<E, T>(
        &self,
        name: &str,
        mut ends: E,
        work: impl FnOnce(&mut E) -> Result<T>,
    ) -> Result<T, Stopped> {
        // Declared after `ends`, so a panic drops it first.
        let on_panic = StoreOnPanic { slot: self, name };
        let outcome = work(&mut ends).map_err(|error| self.store(error));
        drop(on_panic);
        outcome
    }

    /// Runs a stage as [`Self::run`] does, on a thread of its own that is called `name`.
    ///
    /// # Errors
    /// [`Stopped`] if the thread cannot be started. That error is stored too.
    pub fn spawn_scoped<'scope, E: Send + 'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        name: &'scope str,
        ends: E,
        work: impl FnOnce(&mut E) -> Result<T> + Send + 'scope,
    ) -> Result<ScopedJoinHandle<'scope, Result<T, Stopped>>, Stopped> {
        let slot = self.clone();
        // The thread gets the ends once it exists. If it cannot be started, they are dropped here, after the error is
        // stored.
        let (hand_over, handed_over) = sync_channel(1);
        let stage = move || slot.run(name, handed_over.recv().map_err(|_| Stopped)?, work);
        let thread = threads::spawn_scoped(scope, name, stage).map_err(|error| self.store(error))?;
        let _ = hand_over.send(ends);
        Ok(thread)
    }

    /// Runs a stage as [`Self::spawn_scoped`] does, on a thread that may outlive the caller.
    ///
    /// # Errors
    /// [`Stopped`] if the thread cannot be started. That error is stored too.
    pub fn spawn<E: Send + 'static, T: Send + 'static>(
        &self,
        name: &'static str,
        ends: E,
        work: impl FnOnce(&mut E) -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Stopped>>, Stopped> {
        let slot = self.clone();
        let (hand_over, handed_over) = sync_channel(1);
        let stage = move || slot.run(name, handed_over.recv().map_err(|_| Stopped)?, work);
        let thread = Builder::new().name(name.to_owned()).spawn(stage);
        let thread = thread.with_context(|| format!("starting the thread `{name}`"));
        let thread = thread.map_err(|error| self.store(error))?;
        let _ = hand_over.send(ends);
        Ok(thread)
    }

    /// Stores an error, unless one is stored already.
    pub fn store(&self, error: impl Into<Error>) -> Stopped {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.into());
        Stopped
    }

    /// Fails if a stage has failed.
    ///
    /// # Errors
    /// [`Stopped`] if an error is stored.
    pub fn check(&self) -> Result<(), Stopped> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Err(Stopped),
            None => Ok(()),
        }
    }

    /// Returns the result of the whole pipeline: if it was stopped, the first error. Call it once all stages have
    /// ended.
    ///
    /// # Errors
    /// The first error, if `outcome` is [`Stopped`].
    pub fn resolve<T>(&self, outcome: Result<T, Stopped>) -> Result<T> {
        outcome.map_err(|stopped| {
            let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            first.unwrap_or_else(|| stopped.into())
        })
    }
}

/// Waits for the thread of a stage. A panic has been stored as its error.
///
/// # Errors
/// [`Stopped`] if the stage failed.
pub fn join_scoped<T>(stage: ScopedJoinHandle<'_, Result<T, Stopped>>) -> Result<T, Stopped> {
    stage.join().unwrap_or(Err(Stopped))
}

/// Stores an error if it is dropped by a panic.
struct StoreOnPanic<'a> {
    slot: &'a FirstError,
    name: &'a str,
}

impl Drop for StoreOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.slot.store(anyhow!("the thread `{}` panicked", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::scope;

    /// Runs `first` as a stage that holds the only sender, and another stage that fails as soon as the sender is
    /// dropped.
    fn first_error_of(first: fn() -> Result<()>) -> String {
        for _ in 0..100 {
            let slot = FirstError::default();
            let (sender, receiver) = channel::<()>();
            let outcome = scope(|scope| {
                let failing = slot.spawn_scoped(scope, "first", sender, move |_: &mut Sender<()>| first())?;
                let waiting = slot.spawn_scoped(scope, "second", (), move |()| Ok(receiver.recv()?))?;
                assert_eq!(join_scoped(waiting), Err(Stopped));
                assert_eq!(slot.check(), Err(Stopped));
                join_scoped(failing)
            });
            let error = slot.resolve(outcome).unwrap_err().to_string();
            if !error.contains("first") {
                return error;
            }
        }
        "first".to_owned()
    }

    #[test]
    fn reports_the_cause_and_not_its_consequence() {
        assert_eq!(first_error_of(|| Err(anyhow!("the first one"))), "first");
        assert_eq!(first_error_of(|| panic!("no luck")), "first");
    }

    #[test]
    fn reports_no_error_if_no_stage_fails() {
        let slot = FirstError::default();
        let outcome = slot.run("only", (), |()| Ok(7));
        assert_eq!(slot.check(), Ok(()));
        assert_eq!(slot.resolve(outcome).unwrap(), 7);
    }

    #[test]
    fn drops_the_ends_after_the_error_is_stored() {
        struct End<'a>(&'a FirstError);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                assert_eq!(self.0.check(), Err(Stopped));
            }
        }
        let slot = FirstError::default();
        assert_eq!(slot.run("only", End(&slot), |_| Err::<(), _>(anyhow!("no"))), Err(Stopped));
    }
}
