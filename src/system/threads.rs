//! Threads that work beside the caller for a while: one that cannot be made is an error, not a panic.
//!
//! Where the kernel has no thread to give, [`std::thread::Scope::spawn`] panics. Must never let one outlive its scope.

use super::sabotage::{self, Flaw};
use anyhow::{Context, Result, anyhow};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts `work` on a thread of its own, which is called `name`.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    if sabotage::asked(Flaw::PanicForThread) {
        return Ok(scope.spawn(work));
    }
    let made = Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
    made.with_context(|| format!("starting the thread `{name}`"))
}

/// What a thread came to; one that panicked has told its story already.
pub fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    thread.join().unwrap_or_else(|_| Err(anyhow!("the thread `{name}` failed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::scope;

    #[test]
    fn what_a_thread_came_to_is_told_and_so_is_that_it_panicked() {
        let came_to = |work: fn() -> Result<u8>| scope(|scope| join(spawn_scoped(scope, "count", work)?));
        assert_eq!(came_to(|| Ok(7)).unwrap(), 7);
        assert_eq!(came_to(|| Err(anyhow!("no"))).unwrap_err().to_string(), "no");
        let told = came_to(|| panic!("out of fingers")).unwrap_err().to_string();
        assert_eq!(told, "the thread `count` failed");
    }
}
