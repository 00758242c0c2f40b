//! Retention: which archives of a repository to keep, and why.

mod decisions;
mod policy;
mod units;

pub use decisions::{Applied, RetentionDecision, apply};
pub use policy::{Decision, Policy, Scope};
pub use units::{parse_age, parse_size};
