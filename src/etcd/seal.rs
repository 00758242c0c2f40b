//! The SHA-256 trailer that ends a snapshot, checked as the bytes flow by.
//!
//! etcd appends the hash of all that came before (etcd, server/etcdserver/api/v3rpc/maintenance.go: Snapshot), so a
//! snapshot is 32 bytes longer than a multiple of 512. `snapshot status` does not check it: of 300 flipped bits it
//! noticed one; the trailer notices all.

use crate::system::digest::hex;
use crate::system::sabotage::{self, Flaw};
use sha2::{Digest, Sha256};

const TRAILER: usize = 32;

/// What the end of a backend file says of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// The trailer is there and right.
    Sound,
    /// There is no trailer: the file is a whole number of sectors, as a copy of a member's own file is.
    Absent,
    /// A trailer may be there and does not match, or the length fits neither: cut short or altered.
    Broken,
}

/// What was learned from a file that flowed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The verdict.
    pub seal: Seal,
    /// The length of the file in bytes, trailer included.
    pub size: u64,
    /// The SHA-256 of the whole file, trailer included, in lower-case hex: what `sha256sum db` prints.
    pub sha256: String,
}

/// Hashes a backend file as it flows by, holding back the last 32 bytes.
#[derive(Debug, Clone, Default)]
pub struct SealCheck {
    hash: Sha256,
    held: Vec<u8>,
    size: u64,
}

impl SealCheck {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let fresh = bytes.len().min(TRAILER);
        let (body, tail) = bytes.split_at(bytes.len() - fresh);
        // What is held comes before `body`: where `body` is not empty, `fresh` is 32 and all that is held goes.
        let stale = (self.held.len() + fresh).saturating_sub(TRAILER);
        self.hash.update(self.held.drain(..stale).as_slice());
        self.hash.update(body);
        self.held.extend_from_slice(tail);
    }

    /// The verdict on all that came by.
    pub fn finish(self) -> Sealed {
        let mut whole = self.hash.clone();
        whole.update(&self.held);
        let seal = match self.size % 512 {
            0 => Seal::Absent,
            32 if sabotage::asked(Flaw::NoSeal) => Seal::Sound,
            32 if self.held.as_slice() == self.hash.finalize().as_slice() => Seal::Sound,
            _ => Seal::Broken,
        };
        Sealed { seal, size: self.size, sha256: hex(&whole.finalize()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(body: &[u8]) -> Vec<u8> {
        [body, Sha256::digest(body).as_slice()].concat()
    }

    fn check(file: &[u8], cuts: &[usize]) -> Sealed {
        let mut check = SealCheck::default();
        let mut rest = file;
        for cut in cuts {
            let (now, later) = rest.split_at(cut % (rest.len() + 1));
            check.update(now);
            rest = later;
        }
        check.update(rest);
        check.finish()
    }

    #[test]
    fn a_file_without_trailer_is_told_from_a_broken_one() {
        assert_eq!(check(&[0; 1024], &[]).seal, Seal::Absent);
        assert_eq!(check(&sealed(&[7; 1024]), &[]).seal, Seal::Sound);
        assert_eq!(check(&sealed(&[7; 1000]), &[]).seal, Seal::Broken);
        assert_eq!(check(&[1; 31], &[]).seal, Seal::Broken);
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
            sectors in 1_usize..5, fill: u8, cuts in proptest::collection::vec(0_usize..200, 0..20)
        ) {
            let file = sealed(&vec![fill; sectors * 512]);
            let told = check(&file, &cuts);
            prop_assert_eq!(told.seal, Seal::Sound);
            prop_assert_eq!(told.size, file.len() as u64);
            prop_assert_eq!(told.sha256, hex(&Sha256::digest(&file)));
        }

        #[test]
        fn every_flipped_bit_breaks_the_seal(at in 0_usize..(1024 + 32) * 8) {
            let mut file = sealed(&[42; 1024]);
            file[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(check(&file, &[]).seal, Seal::Broken);
        }
    }
}
