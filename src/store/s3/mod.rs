//! A bucket on a server that speaks S3.
//!
//! It must never overwrite an object that it did not write, or report an object as good that it has not read back. An
//! upload in parts is safe: S3 lists an object only after all of its parts have arrived.

mod config;
mod credentials;
mod deletion;
mod encryption;
mod endpoint;
#[cfg(feature = "fuzz")]
pub mod fuzzed;
mod head;
mod listing;
mod protocol;
mod service;
mod sign;
mod unfinished;
mod upload;

pub use config::S3Config;
pub use credentials::{Credentials, S3Environment};
pub use encryption::Encryption;
pub use endpoint::AddressingStyle;
pub use protocol::open;
