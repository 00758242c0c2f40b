//! The archives that exist, in all repositories: listed, selected, verified, fetched, pinned, deleted and uploaded.
//!
//! It does not depend on Juju or on a running etcd, because etcd may be down when a restore is needed.

pub mod destinations;
mod entry;
mod extract;
mod fetch;
mod latest;
mod listing;
mod lost_manifest;
mod probe;
mod record;
mod repository;
pub mod retention;
mod selector;
pub mod sidecar;
mod unpack;
pub mod upload;
mod verdict;
mod verify;

pub use entry::{Entry, may_be_archive};
pub use extract::{Extracted, check_can_extract, extract};
pub use fetch::{Fetched, fetch};
pub use listing::{Listing, Relisting, StoredSnapshot, UnreadableRepository};
pub use record::Record;
pub use repository::{Repository, UnreliableArchives};
pub use retention::RetentionDecision;
pub use selector::{ALL, LATEST, Repositories, RepositoryId, Selection, Selector};
pub use unpack::{must_open, unpack, was_verified_as};
pub use verdict::{Intact, Missing, Verdict, Verified};
pub use verify::{VerifyOptions, VerifyOutcome, admit_programs, verify};
