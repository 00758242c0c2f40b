//! A container of Azure Blob Storage.
//!
//! It must never overwrite a blob that it did not write, or report a blob as good that it has not read back. An upload
//! in blocks is safe: Azure lists a blob only after its list of blocks was committed, and deletes blocks that were not
//! committed after a week.

mod config;
mod credentials;
mod identity;
mod listing;
mod object;
mod protocol;
mod service;
mod sign;
mod upload;

pub use config::AzureConfig;
pub use protocol::open;
