//! The SHA-256 trailer at the end of a snapshot, checked while the file streams by.
//!
//! etcd appends the hash of all preceding bytes (etcd, server/etcdserver/api/v3rpc/maintenance.go: Snapshot), so a
//! snapshot is 32 bytes longer than a multiple of 512. `snapshot status` does not check the trailer: of 300 flipped
//! bits it detected one, and the trailer detected all 300.

use crate::system::digest::hex;
use crate::system::sabotage::{self, Flaw};
use sha2::{Digest, Sha256};

/// The length of the trailer in bytes.
const TRAILER_SIZE: usize = 32;

/// The result of checking the end of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trailer {
    /// The file ends in the SHA-256 of its content.
    Valid,
    /// The file has no trailer: its length is a whole number of sectors, as in a copy of a member's database.
    Missing,
    /// The last 32 bytes do not match the content, or the length fits neither form: the file was truncated or altered.
    Invalid,
}

/// The trailer, length and checksum of a database file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseDigest {
    /// Whether the file ends in a matching trailer.
    pub trailer: Trailer,
    /// The length of the file in bytes, including the trailer.
    pub size: u64,
    /// The SHA-256 of the whole file including the trailer, in lower-case hexadecimal. `sha256sum db` prints the same.
    pub sha256: String,
}

/// Hashes a database file as it streams by. It holds the last 32 bytes back until the end is known.
#[derive(Debug, Clone, Default)]
pub struct TrailerHasher {
    hash: Sha256,
    held: Vec<u8>,
    size: u64,
}

impl TrailerHasher {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let fresh = bytes.len().min(TRAILER_SIZE);
        let (body, tail) = bytes.split_at(bytes.len() - fresh);
        // The held bytes precede `body`. If `body` is not empty, then `fresh` is 32 and every held byte is hashed.
        let stale = (self.held.len() + fresh).saturating_sub(TRAILER_SIZE);
        self.hash.update(self.held.drain(..stale).as_slice());
        self.hash.update(body);
        self.held.extend_from_slice(tail);
    }

    /// Returns the digest of all bytes that were added.
    pub fn finish(self) -> DatabaseDigest {
        let mut whole = self.hash.clone();
        whole.update(&self.held);
        let trailer = match self.size % 512 {
            0 => Trailer::Missing,
            32 if sabotage::asked(Flaw::NoSeal) => Trailer::Valid,
            32 if self.held.as_slice() == self.hash.finalize().as_slice() => Trailer::Valid,
            _ => Trailer::Invalid,
        };
        DatabaseDigest { trailer, size: self.size, sha256: hex(&whole.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_trailer(body: &[u8]) -> Vec<u8> {
        [body, Sha256::digest(body).as_slice()].concat()
    }

    /// Hashes `file` in pieces that end at `cuts`.
    fn digest(file: &[u8], cuts: &[usize]) -> DatabaseDigest {
        let mut hasher = TrailerHasher::default();
        let mut rest = file;
        for cut in cuts {
            let (now, later) = rest.split_at(cut % (rest.len() + 1));
            hasher.update(now);
            rest = later;
        }
        hasher.update(rest);
        hasher.finish()
    }

    #[test]
    fn distinguishes_a_missing_trailer_from_an_invalid_one() {
        assert_eq!(digest(&[0; 1024], &[]).trailer, Trailer::Missing);
        assert_eq!(digest(&with_trailer(&[7; 1024]), &[]).trailer, Trailer::Valid);
        assert_eq!(digest(&with_trailer(&[7; 1000]), &[]).trailer, Trailer::Invalid);
        assert_eq!(digest(&[1; 31], &[]).trailer, Trailer::Invalid);
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_size_of_the_pieces(
            sectors in 1_usize..5, fill: u8, cuts in proptest::collection::vec(0_usize..200, 0..20)
        ) {
            let file = with_trailer(&vec![fill; sectors * 512]);
            let found = digest(&file, &cuts);
            prop_assert_eq!(found.trailer, Trailer::Valid);
            prop_assert_eq!(found.size, file.len() as u64);
            prop_assert_eq!(found.sha256, hex(&Sha256::digest(&file)));
        }

        #[test]
        fn every_flipped_bit_invalidates_the_trailer(at in 0_usize..(1024 + 32) * 8) {
            let mut file = with_trailer(&[42; 1024]);
            file[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(digest(&file, &[]).trailer, Trailer::Invalid);
        }
    }
}
