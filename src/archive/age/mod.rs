//! age, version 1 (<https://age-encryption.org/v1>): what is encrypted for recipients `age1…` can be opened by none but who
//! has the identity `AGE-SECRET-KEY-1…` to one of them.
//!
//! Only the format is ours, a header and a stream of sealed chunks; its arithmetic is RustCrypto's and dalek's. Of the kinds
//! of recipients only X25519, which `age-keygen` makes. Must never give out a byte that was not authenticated, nor take a
//! stream for whole that lacks its end.

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
