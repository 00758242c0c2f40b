//! How a hook reports: to the unit's log, and as a status.

use crate::error::Refusal;
use crate::juju::Status;

/// Returns the status of a unit after an error. `context` names the failed step, as a participle clause.
pub fn status_of_error(error: &anyhow::Error, context: &str) -> Status {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) => Status::blocked(&refusal.reason, &refusal.next),
        None => Status::new(
            "blocked",
            format!("{context} failed; the next hook retries within 5 minutes: {error:#}"),
        ),
    }
}
