//! Storage backends for blobs: a directory, a tree of directories, a bucket of S3, Azure or Google. They do not depend on the format of
//! snapshots.
//!
//! A new backend is one file that implements [`BlobStore`].

pub mod azure;
mod blob;
pub mod cloud;
pub mod cloud_environment;
pub mod directory_tree;
pub mod flat_directory;
pub mod google;
pub mod s3;
pub mod trusted_path;
pub mod work_dir;

pub use blob::{Blob, BlobStore, ContentChanged, Deletion, ErrorScope, Locked, NameTaken};
