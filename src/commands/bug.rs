//! What becomes of our own mistakes: a panic is told as a failure, never as a backtrace.

use crate::error::{ActionError, Failure};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Where the last panic was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic prints nothing; where it was is kept for [`caught`].
pub(super) fn watch() {
    std::panic::set_hook(Box::new(|info| {
        if let (Some(place), Ok(mut kept)) = (info.location(), PLACE.lock()) {
            *kept = Some(format!("{}:{}", place.file(), place.line()));
        }
    }));
}

/// Runs an action; a panic in it becomes a failure. `recovers` tells whether the action has something to recover.
pub(super) fn caught(
    recovers: bool,
    action: impl FnOnce() -> Result<(), ActionError>,
) -> Result<(), ActionError> {
    // Nothing that the action could have left broken is used after it but the results, a list of strings.
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
        let place = PLACE.lock().ok().and_then(|mut place| place.take());
        let place = place.map(|place| format!(" at {place}"));
        let what = format!("{}{}", message(&*panic), place.unwrap_or_default());
        Err(stop(&what, recovers))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("something unnamed went wrong")
}

/// A failure that is our own fault.
pub(super) fn stop(what: &str, recovers: bool) -> ActionError {
    let next = if recovers {
        "run `restore --recover` on this machine, which finishes or undoes what was begun, and report the bug"
    } else {
        "run it again, and report the bug if it comes back"
    };
    ActionError::Failed(Failure {
        cause: anyhow::anyhow!("bug: {what}"),
        state: "the action ended where it stood".to_owned(),
        next: next.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_failure_that_says_what_to_do() {
        let outcome = caught(true, || panic!("index {} out of bounds", 7));
        let message = outcome.unwrap_err().to_string();
        assert!(message.starts_with("failed: bug: index 7 out of bounds"), "{message}");
        assert!(message.contains("restore --recover"), "{message}");
    }
}
