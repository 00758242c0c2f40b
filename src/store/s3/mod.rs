//! A bucket on a server that speaks S3.
//!
//! It must never overwrite an object that it did not write, or report an object as good that it has not read back. An
//! upload in parts is safe: S3 lists an object only after all of its parts have arrived.

mod bucket;
mod client;
mod config;
mod credentials;
mod deletion;
mod early_answer;
mod encryption;
mod endpoint;
mod error;
#[cfg(feature = "fuzz")]
pub mod fuzzed;
mod http;
mod listing;
mod object;
mod parts;
mod proxy;
mod sign;
mod transport;
mod unfinished;
mod upload;

pub use bucket::Bucket;
pub use config::S3Config;
pub use credentials::{Credentials, S3Environment};
pub use encryption::Encryption;
pub use endpoint::AddressingStyle;
pub use error::S3Error;
pub use proxy::Proxies;
