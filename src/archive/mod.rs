//! The archive: a tar.gz that contains `db` and `manifest.json`. An encrypted one may also have `include.tar`, and then
//! its manifest is called `manifest-2.json`.
//!
//! It is written in one pass. It is read as untrusted input: one database, an optional manifest, and every byte is
//! checked up to the end of the gzip stream. The archives of other tools are read too: what holds exactly one database
//! in a tar, a zip or a gzip, and the bare database. This module must never use a name, a mode or an owner from an archive.

pub mod age;
mod bundle;
pub mod damage;
mod encrypted;
mod entries;
mod error_tracker;
mod extensions;
mod files;
mod format_error;
mod gunzip;
mod gzip;
mod hash_thread;
pub mod included;
mod kind;
pub mod labels;
pub mod manifest;
pub mod name;
mod pack;
pub mod tail;
mod unpack;
pub mod xz;
mod zip;

pub use bundle::bundle;
pub use encrypted::{CannotDecrypt, check_decryptable, no_identity_given};
pub use format_error::NotASnapshot;
pub use gzip::{Effort, Encryption};
pub use pack::Packer;
pub use unpack::{Contents, UnpackOptions, unpack, verify, verify_with};

/// The file in the archive that contains the snapshot.
pub const DB: &str = "db";
/// The file in the archive that describes the snapshot.
pub const MANIFEST: &str = "manifest.json";
/// The name of that file if the archive also has included files, which is format 2. A reader of format 1 takes any file
/// next to `manifest.json` for damage. To it, an archive with this name is one of another tool: it reads `db`, and
/// checks etcd's own hash.
pub const MANIFEST_2: &str = "manifest-2.json";

/// Returns a size as `du -h` prints it, such as `68K` or `1.4G`. The older charm's results had this form.
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

/// Rounds up to one decimal below ten, and to a whole number above: a size must not look smaller than it is.
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
