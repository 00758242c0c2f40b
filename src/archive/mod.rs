//! The archive: a tar.gz that holds `manifest.json` and `db`, and nothing else.
//!
//! Written in one pass. Read as if an enemy had made it: one regular file `db`, an optional
//! manifest, every byte accounted for up to the end of the gzip stream. Never unpacks a name, a mode or an owner.
//! What other tools make of a snapshot is read too: a zip, a gzip of the database, the database itself.
//! Besides, a bundle of small files, which is only ever written.

pub mod age;
mod bundle;
pub mod damage;
mod encrypted;
mod entries;
mod error_tracker;
mod format_error;
mod gzip;
mod hash_thread;
mod kind;
pub mod manifest;
pub mod name;
mod pack;
pub mod tail;
mod unpack;
mod zip;

pub use bundle::bundle;
pub use encrypted::{CannotDecrypt, check_decryptable, no_identity_given};
pub use format_error::NotASnapshot;
pub use gzip::{Effort, Encryption};
pub use pack::Packer;
pub use unpack::{Contents, UnpackOptions, unpack, verify, verify_with};

/// The file that holds the snapshot.
pub const DB: &str = "db";
/// The file that says what it is.
pub const MANIFEST: &str = "manifest.json";

/// A human size as `du -h` prints it, which is what the older charm's result was: `68K`, `1.4G`.
pub fn human_size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["", "K", "M", "G"] {
        if amount < 1024.0 {
            return rounded_up(amount, unit);
        }
        amount /= 1024.0;
    }
    rounded_up(amount, "T")
}

/// One decimal below ten, none above, rounded up: a size must not look smaller than it is.
fn rounded_up(amount: f64, unit: &str) -> String {
    let tenths = (amount * 10.0).ceil() / 10.0;
    if unit.is_empty() || tenths >= 10.0 {
        format!("{}{unit}", amount.ceil())
    } else {
        format!("{tenths:.1}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::human_size;

    #[test]
    fn sizes_read_as_du_prints_them() {
        for (bytes, text) in [
            (0, "0"),
            (999, "999"),
            (1024, "1.0K"),
            (69_000, "68K"),
            (10_000, "9.8K"),
            (1_500_000_000, "1.4G"),
            (58 << 20, "58M"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
