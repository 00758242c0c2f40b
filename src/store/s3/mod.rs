//! A bucket on a server that speaks S3.
//!
//! It must never overwrite an object that it did not write, or report an object as good that it has not read back. An
//! upload in parts is safe: S3 lists an object only after all of its parts have arrived.

mod config;
mod container_role;
mod credential_source;
mod credentials;
mod credentials_file;
mod deletion;
mod encryption;
mod endpoint;
mod environment;
#[cfg(feature = "fuzz")]
pub mod fuzzed;
mod head;
mod instance_role;
mod listing;
mod protocol;
mod role_session;
mod service;
mod sign;
mod unfinished;
mod upload;
mod web_identity;

pub use config::S3Config;
pub use credentials::Credentials;
pub use encryption::Encryption;
pub use endpoint::AddressingStyle;
pub use environment::{AmazonEnvironment, ContainerVariables, WebIdentityVariables};
pub use protocol::open;
