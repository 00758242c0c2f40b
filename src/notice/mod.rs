//! Telling of a run: numbers for Prometheus, and an operator's own programs before and after it.
//!
//! Must never fail a backup that is good.

pub mod hooks;
pub mod metrics;

pub use hooks::Hooks;
