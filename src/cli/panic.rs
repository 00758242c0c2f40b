//! Reports our own bugs: a panic becomes a failure with a place in the source, never a backtrace.

use crate::error::{ActionError, Failure};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Where the last panic was raised.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Installs a panic hook that prints nothing and remembers the place for [`catch`].
pub(super) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        if let (Some(place), Ok(mut kept)) = (info.location(), PLACE.lock()) {
            *kept = Some(format!("{}:{}", place.file(), place.line()));
        }
    }));
}

/// Runs a command and turns a panic in it into a failure that advises `next`.
///
/// # Errors
/// Returns the error of the command, or the failure made from its panic.
pub(super) fn catch(
    next: &str,
    command: impl FnOnce() -> Result<(), ActionError>,
) -> Result<(), ActionError> {
    // Only the results are used afterwards, and a panic cannot leave those half set.
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|panic| {
        let place = PLACE.lock().ok().and_then(|mut place| place.take());
        let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
        Err(ActionError::Failed(Failure {
            cause: anyhow::anyhow!("bug: {}{place}", message(&*panic)),
            state: "the command ended at that point".to_owned(),
            next: next.to_owned(),
        }))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failure_with_a_next_step() {
        let outcome = catch("run it again", || panic!("index {} out of bounds", 7));
        let message = outcome.unwrap_err().to_string();
        assert!(message.starts_with("failed: bug: index 7 out of bounds"), "{message}");
        assert!(message.ends_with("Next: run it again."), "{message}");
    }
}
