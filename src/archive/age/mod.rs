//! age, version 1 (<https://age-encryption.org/v1>): a file has recipients `age1…`, and only the identity
//! `AGE-SECRET-KEY-1…` of one of them decrypts it.
//!
//! Implements the format: a header and a stream of encrypted chunks. The cryptography is RustCrypto's and dalek's. The
//! only supported kind of recipient is X25519, which `age-keygen` makes. This module must never return a byte that was
//! not authenticated, or accept a stream without its end.

mod header;
mod keys;
mod stream;

pub use header::FileKey;
pub use keys::{Identities, Recipient};
pub use stream::{Decrypting, Encrypting};

pub(super) use header::{ARMORED, MAGIC};
pub(super) use stream::Closed;

#[cfg(test)]
mod tests;
