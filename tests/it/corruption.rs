//! Altered archives: a flipped bit or a truncation never makes the program restore another database than the
//! saved one.
//!
//! The tests call the library's reader in this process, because a hundred thousand processes would take a
//! day. `hostile.rs` tests the messages of the action. etcd's own `snapshot status` detects one in three
//! hundred flipped bits.

use std::fs;
use std::sync::mpsc::channel;
use std::thread;

use etcd_backup::archive::{Contents, UnpackOptions, unpack};
use etcd_backup::etcd::trailer::Trailer;

use crate::chaos::table::{Row, Table};
use crate::common::world::{Version, World};

/// The number of flips in a large archive that `cargo xtask chaos` makes in total.
pub const ALL_FLIPS: usize = 10_000;
const SERIES: &str = "archive corruption";

/// An intact archive and its content.
struct Good {
    bytes: Vec<u8>,
    contents: Contents,
    db: Vec<u8>,
}

impl Good {
    fn new(bytes: Vec<u8>) -> Self {
        let (contents, db) = read(&bytes).unwrap();
        Self { bytes, contents, db }
    }

    fn small(version: Version) -> Self {
        let world = World::plain(version);
        world.put(0..20, "of a small archive");
        let good = Self::new(fs::read(world.saved()).unwrap());
        assert!(good.bytes.len() <= 20 << 10, "{} bytes", good.bytes.len());
        good
    }

    /// Creates an archive of values that do not compress.
    fn large() -> Self {
        let world = World::plain(Version::V35);
        let mut dice = Random(7);
        for number in 0..54 {
            let value: Vec<u8> = (0..150_000).flat_map(|_| dice.next().to_le_bytes()).collect();
            world.put_bytes(&format!("/registry/configmaps/large-{number}"), &value);
        }
        let good = Self::new(fs::read(world.saved()).unwrap());
        assert!(good.bytes.len() >= 64_000_000, "{} bytes", good.bytes.len());
        good
    }

    /// Returns whether the reader accepts these bytes. It may accept only bytes with the same database and
    /// manifest.
    fn accepts(&self, bytes: &[u8]) -> Result<bool, String> {
        let Some((contents, db)) = read(bytes) else { return Ok(false) };
        if (&contents.db, &contents.manifest) != (&self.contents.db, &self.contents.manifest) {
            return Err(format!("different content was accepted: {contents:?}"));
        }
        if db != self.db {
            return Err("different bytes would be restored".to_owned());
        }
        // The hash that `expected-sha256` compares differs in any case.
        if contents.sha256 == self.contents.sha256 {
            Err("the hash is unchanged".to_owned())
        } else {
            Ok(true)
        }
    }

    /// Returns whether the reader accepts the archive with this bit flipped.
    fn flip(&self, bytes: &mut [u8], bit: usize) -> Result<bool, String> {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let taken = self.accepts(bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
        taken
    }

    /// Returns how many of these flips are accepted. Panics if one of them changes the content.
    fn accepted_flips(&self, bits: impl Iterator<Item = usize>) -> usize {
        let mut bytes = self.bytes.clone();
        let taken =
            |bit: &usize| self.flip(&mut bytes, *bit).unwrap_or_else(|broken| panic!("bit {bit}: {broken}"));
        bits.filter(taken).count()
    }
}

/// Reads these bytes as a restore does. Returns the contents and every byte of the database.
fn read(bytes: &[u8]) -> Option<(Contents, Vec<u8>)> {
    let limits = UnpackOptions {
        check_space: &|_| Ok(()),
        allow_bare: false,
        identities: None,
        encrypted_for: &[],
        on_database: &|_| (),
    };
    let mut db = Vec::new();
    let contents = unpack(bytes, bytes.len() as u64, "the archive", &mut db, &limits, &mut |_| ()).ok()?;
    // A wrong or missing trailer is left to the structure check.
    (contents.db.trailer == Trailer::Valid).then_some((contents, db))
}

#[test]
fn no_flipped_bit_changes_the_restored_data() {
    let good = Good::small(Version::V35);
    let halves = [0, 1].map(|half| (half..good.bytes.len() * 8).step_by(2));
    // Some bits have no effect, such as gzip's timestamp, or the distance of a copy within a run of zeros. How many
    // there are depends on how etcd has laid out its database, so the number has no limit.
    let taken: usize = thread::scope(|scope| {
        let threads = halves.map(|bits| scope.spawn(|| good.accepted_flips(bits)));
        threads.map(|thread| thread.join().unwrap()).into_iter().sum()
    });
    eprintln!("{} bits flipped, {taken} accepted with the same content", good.bytes.len() * 8);
}

#[test]
fn refuses_truncated_archives_of_any_length() {
    let good = Good::small(Version::V35);
    for length in 0..good.bytes.len() {
        assert_eq!(good.accepts(&good.bytes[..length]), Ok(false), "truncated to {length} bytes");
    }
}

#[test]
fn refuses_bytes_after_the_archive() {
    let good = Good::small(Version::V35);
    for byte in 1..=u8::MAX {
        let longer = [good.bytes.as_slice(), &[byte]].concat();
        assert_eq!(good.accepts(&longer), Ok(false), "byte {byte} after the archive");
    }
    // Zeros pad a file to a whole number of blocks. gzip(1) ignores them too.
    let padded = [good.bytes.as_slice(), &[0; 512]].concat();
    assert_eq!(good.accepts(&padded), Ok(true), "zeros after the archive");
    let twice = good.bytes.repeat(2);
    assert_eq!(good.accepts(&twice), Ok(false), "the archive repeated after itself");
}

/// Flips `count` bits of an archive of 64 MB, chosen by a fixed seed. Used by `cargo xtask chaos --mode
/// corruption`.
pub fn flips_of_a_large_archive(count: usize) -> Table {
    let good = Good::large();
    let mut dice = Random(42);
    let chosen: Vec<usize> =
        std::iter::repeat_with(|| dice.up_to(good.bytes.len() * 8)).take(count).collect();
    let mut table = Table::new();
    thread::scope(|scope| {
        let good = &good;
        let (sender, rows) = channel();
        for part in chosen.chunks(count.div_ceil(2)) {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut bytes = good.bytes.clone();
                for bit in part {
                    sender.send(row(*bit, good.flip(&mut bytes, *bit))).unwrap();
                }
            });
        }
        drop(sender);
        rows.into_iter().for_each(|row| table.add(row));
    });
    table.set_total(SERIES, ALL_FLIPS);
    table
}

fn row(bit: usize, taken: Result<bool, String>) -> Row {
    Row {
        series: SERIES.to_owned(),
        point: format!("bit {} of byte {}", bit % 8, bit / 8),
        outcome: match taken {
            Ok(false) => Ok(("REFUSED", "")),
            Ok(true) => Ok(("SAME", "the same content")),
            Err(broken) => Err(broken),
        },
    }
}

/// A SplitMix64 random number generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn up_to(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
