//! SHA-256 of a stream, and hashes in hexadecimal.

use super::interrupt;
use anyhow::Result;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io::Read;

/// Returns bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads `source` to its end and returns the SHA-256 in lower-case hex.
///
/// # Errors
/// Fails if `source` cannot be read, or on a signal.
pub fn sha256_of(source: &mut impl Read) -> Result<String> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        interrupt::check()?;
        match source.read(&mut chunk)? {
            0 => return Ok(hex(&hash.finalize())),
            length => hash.update(&chunk[..length]),
        }
    }
}
