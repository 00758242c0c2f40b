//! Scoped threads. If one cannot be started, that is an error and not a panic.
//!
//! [`std::thread::Scope::spawn`] panics if the kernel cannot start a thread. This module must never let a thread
//! outlive its scope.

use super::cancellation::Cancellation;
use super::sabotage::{self, Flaw};
use anyhow::{Context, Result, anyhow};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// The stack of one of many threads, in bytes: half of the usual one.
const SMALL_STACK: usize = 1 << 20;

/// Runs `work` on a thread of its own that is called `name`. It belongs to the [`Cancellation`] of the caller.
///
/// # Errors
/// Fails if the thread cannot be started.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    spawn(scope, Builder::new(), name, work)
}

/// Runs `work` as [`spawn_scoped`] does, on one of many threads that exist at the same time: its stack is smaller.
///
/// # Errors
/// Fails if the thread cannot be started.
pub fn spawn_one_of_many<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    spawn(scope, Builder::new().stack_size(SMALL_STACK), name, work)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    builder: Builder,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let cancellation = Cancellation::current();
    let work = move || cancellation.run(work);
    if sabotage::asked(Flaw::PanicForThread) {
        return Ok(scope.spawn(work));
    }
    let started = builder.name(name.to_owned()).spawn_scoped(scope, work);
    started.with_context(|| format!("starting the thread `{name}`"))
}

/// Waits for a thread and returns its result. A panic has printed its message already, and is an error here.
///
/// # Errors
/// The error of the thread, or that it panicked.
pub fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    thread.join().unwrap_or_else(|_| Err(anyhow!("the thread `{name}` panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::scope;

    #[test]
    fn returns_the_result_of_a_thread_or_that_it_panicked() {
        let result = |work: fn() -> Result<u8>| scope(|scope| join(spawn_scoped(scope, "count", work)?));
        assert_eq!(result(|| Ok(7)).unwrap(), 7);
        assert_eq!(result(|| Err(anyhow!("no"))).unwrap_err().to_string(), "no");
        let error = result(|| panic!("no luck")).unwrap_err().to_string();
        assert_eq!(error, "the thread `count` panicked");
    }
}
