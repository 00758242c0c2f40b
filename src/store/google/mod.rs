//! A bucket of Google Cloud Storage, by its JSON interface.
//!
//! It must never overwrite an object that it did not write, or report an object as good that it has not read back. A
//! resumable upload is safe: Google lists an object only after all of its bytes have arrived. Google's interface for S3
//! programs is not: it joins the parts of an upload without a condition, and replaces an existing object.

mod config;
mod credentials;
mod instance;
mod listing;
mod object;
mod protocol;
mod service;
mod upload;

pub use config::GoogleConfig;
pub use protocol::open;
