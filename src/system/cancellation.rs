//! Ends several threads of one piece of work together: if one part fails, the others stop as if a signal had arrived.
//!
//! The state is kept for each thread, and [`threads`](super::threads) hands it on to the threads that a part starts. So
//! it reaches every place that [checks for a signal](super::interrupt::check). Must never stop work of other threads.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// The cancellation that the work of this thread belongs to.
    static CURRENT: RefCell<Cancellation> = RefCell::default();
}

/// The switch that ends all threads which [run](Self::run) with it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Returns the cancellation that the calling thread runs with.
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Asks all threads that run with this to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs `work` on the calling thread, so that it stops after [`Self::cancel`].
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        // Dropped by a panic too.
        let _outer = Outer(CURRENT.replace(self.clone()));
        work()
    }
}

/// Puts the cancellation of the surrounding work back when it is dropped.
struct Outer(Cancellation);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(std::mem::take(&mut self.0));
    }
}

/// The error of work that stops because another part of it has failed. That error is the one to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another part of the work has failed")
    }
}

impl std::error::Error for Cancelled {}

#[cfg(test)]
mod tests {
    use super::super::interrupt;
    use super::super::process::{Ending, Program};
    use super::super::threads::{join, spawn_scoped};
    use super::*;
    use std::thread::scope;
    use std::time::{Duration, Instant};

    #[test]
    fn stops_the_threads_of_the_work_and_no_others() {
        let cancellation = Cancellation::default();
        cancellation.cancel();
        cancellation.run(|| {
            assert!(interrupt::check().unwrap_err().is::<Cancelled>());
            let inherited = scope(|scope| join(spawn_scoped(scope, "part", interrupt::check)?));
            assert!(inherited.unwrap_err().is::<Cancelled>());
            Cancellation::default().run(|| interrupt::check().unwrap());
            assert!(interrupt::check().is_err(), "the surrounding work is still cancelled");
        });
        interrupt::check().unwrap();
    }

    #[test]
    fn stops_a_running_child() {
        let cancellation = Cancellation::default();
        let began = Instant::now();
        let error = scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                cancellation.cancel();
            });
            cancellation.run(|| Program::new("sleep").args(["50"]).run().unwrap_err())
        });
        assert_eq!(error.ending, Ending::Stopped(Cancelled.to_string()));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
