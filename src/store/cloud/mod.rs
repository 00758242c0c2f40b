//! What the storage services in a cloud share: connections, requests that are repeated, lists, parts, and reading back.
//!
//! It must never follow a redirect, wait without an end, or hold more of an object in memory than some parts.

pub(in crate::store) mod access_token;
pub(in crate::store) mod bucket;
pub(in crate::store) mod client;
pub(in crate::store) mod connection;
mod early_answer;
pub(in crate::store) mod error;
pub(in crate::store) mod http;
pub(in crate::store) mod metadata;
pub(in crate::store) mod object;
pub(in crate::store) mod pages;
pub(in crate::store) mod parts;
pub(in crate::store) mod protocol;
pub(in crate::store) mod proxy;
pub(in crate::store) mod secret_file;
pub(in crate::store) mod server;
pub(in crate::store) mod service;
pub(in crate::store) mod token_answer;
mod token_error;
pub(in crate::store) mod token_request;
pub(in crate::store) mod transport;
pub(in crate::store) mod upload;

pub use bucket::Bucket;
pub use error::RequestError;
pub use metadata::MetadataServices;
pub use proxy::Proxies;
