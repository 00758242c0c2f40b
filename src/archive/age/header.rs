//! The header: the file's key, encrypted for each recipient, and a MAC that protects the header.

use super::keys::{Identities, Recipient};
use crate::archive::format_error::FormatError;
use crate::system::random;
use anyhow::Result;
use base64ct::{Base64Unpadded, Encoding};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt::{self, Write as _};
use std::io::{BufRead, Read};
use x25519_dalek::{PublicKey, StaticSecret};

/// The first line of a binary age file.
pub(in crate::archive) const MAGIC: &str = "age-encryption.org/v1\n";
/// The first line of an ASCII-armored age file.
pub(in crate::archive) const ARMORED: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const X25519: &str = "X25519";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
/// The longest header in bytes. A stanza for one recipient takes about a hundred.
const MAX_HEADER: u64 = 64 << 10;
/// The length of every line of a stanza's body except the last.
const COLUMNS: usize = 64;

/// The key of one file. Its `Debug` does not show the key.
#[derive(Clone)]
pub struct FileKey([u8; 16]);

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(…)")
    }
}

impl FileKey {
    /// Returns a new random key.
    ///
    /// # Errors
    /// Fails if the kernel has no random bytes.
    pub fn fresh() -> Result<Self> {
        random::bytes().map(Self)
    }

    /// Returns the cipher of the contents, which follow `nonce`.
    pub(super) fn payload(&self, nonce: &[u8; 16]) -> ChaCha20Poly1305 {
        cipher(derived(nonce, &self.0, b"payload"))
    }

    fn mac(&self, header: &[u8]) -> Hmac<Sha256> {
        let key = derived(&[], &self.0, b"header");
        // HMAC pads a key that is shorter than a block with zeros (RFC 2104).
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(&key);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(header);
        mac
    }
}

/// Returns the header of a file with this `key`, for all of `recipients`.
pub(super) fn written(key: &FileKey, recipients: &[Recipient]) -> Result<String> {
    let mut text = MAGIC.to_owned();
    for recipient in recipients {
        let ephemeral = StaticSecret::from(random::bytes()?);
        let share = PublicKey::from(&ephemeral).to_bytes();
        let wrapping = wrapping(&ephemeral, &share, &recipient.0, &recipient.0)
            .ok_or_else(|| anyhow::anyhow!("{recipient} is not a valid public key"))?;
        let wrapped = wrapping
            .encrypt(&Nonce::default(), key.0.as_slice())
            .map_err(|_| anyhow::anyhow!("the file's key cannot be encrypted"))?;
        let (share, wrapped) =
            (Base64Unpadded::encode_string(&share), Base64Unpadded::encode_string(&wrapped));
        writeln!(text, "-> {X25519} {share}\n{wrapped}")?;
    }
    text.push_str("---");
    let mac = key.mac(text.as_bytes()).finalize().into_bytes();
    writeln!(text, " {}", Base64Unpadded::encode_string(&mac))?;
    Ok(text)
}

/// Returns the cipher that encrypts a file's key between `secret` and `other`. `share` is the writer's public key and
/// `recipient` the reader's.
fn wrapping(
    secret: &StaticSecret,
    share: &[u8; 32],
    recipient: &[u8; 32],
    other: &[u8; 32],
) -> Option<ChaCha20Poly1305> {
    let shared = secret.diffie_hellman(&PublicKey::from(*other));
    let salt = [share.as_slice(), recipient].concat();
    shared.was_contributory().then(|| cipher(derived(&salt, shared.as_bytes(), X25519_INFO)))
}

/// A header that has been read, but not authenticated.
#[derive(Debug)]
pub(super) struct Header {
    /// The writer's public key and the encrypted file key, for each X25519 recipient.
    wrapped: Vec<([u8; 32], Vec<u8>)>,
    /// The kinds of the other recipients.
    others: Vec<String>,
    authenticated: Vec<u8>,
    mac: [u8; 32],
}

impl Header {
    /// Reads a header, up to the nonce of the contents.
    ///
    /// # Errors
    /// Fails if it cannot be read or is not a header of version 1.
    pub fn read(source: &mut impl BufRead) -> Result<Self, FormatError> {
        let mut lines = Lines { source: source.take(MAX_HEADER), all: Vec::new() };
        if lines.next()? != MAGIC.trim_end() {
            return Err(FormatError::Unsupported("is of another version of age".to_owned()));
        }
        let (mut wrapped, mut others) = (Vec::new(), Vec::new());
        loop {
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = decode_32(mac)?;
                lines.all.truncate(lines.all.len() - line.len() - 1 + "---".len());
                return Ok(Self { wrapped, others, authenticated: lines.all, mac });
            }
            let words: Vec<&str> = line.strip_prefix("-> ").ok_or_else(bad)?.split(' ').collect();
            let body = lines.body()?;
            match words.as_slice() {
                [X25519, share] if body.len() == 32 => wrapped.push((decode_32(share)?, body)),
                [X25519, ..] => return Err(bad()),
                [kind, ..] => others.push((*kind).to_owned()),
                [] => return Err(bad()),
            }
        }
    }

    /// Returns the file's key, if one of `identities` decrypts it.
    ///
    /// # Errors
    /// Fails if the header was changed.
    pub fn opened_by(&self, identities: &Identities) -> Result<Option<FileKey>, FormatError> {
        for secret in identities.keys() {
            let own = PublicKey::from(secret).to_bytes();
            for (share, body) in &self.wrapped {
                let wrapping = wrapping(secret, share, &own, share).ok_or_else(bad)?;
                let opened = wrapping.decrypt(&Nonce::default(), body.as_slice());
                if let Some(key) = opened.ok().and_then(|key| key.try_into().ok()) {
                    let key = FileKey(key);
                    self.authenticate(&key)?;
                    return Ok(Some(key));
                }
            }
        }
        Ok(None)
    }

    /// Authenticates the header.
    ///
    /// # Errors
    /// Fails unless it was written with this `key`.
    pub fn authenticate(&self, key: &FileKey) -> Result<(), FormatError> {
        key.mac(&self.authenticated).verify_slice(&self.mac).map_err(|_| bad())
    }

    /// Returns whether the file is encrypted with a passphrase, which is not supported.
    pub fn wants_passphrase(&self) -> bool {
        self.others.iter().any(|kind| kind == "scrypt")
    }
}

struct Lines<R> {
    source: R,
    all: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<String, FormatError> {
        let start = self.all.len();
        self.source.read_until(b'\n', &mut self.all)?;
        let line = self.all.get(start..).and_then(|line| line.strip_suffix(b"\n"));
        let text = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or_else(bad)?;
        Ok(text.to_owned())
    }

    /// Reads the body of a stanza: full lines, and then a shorter one.
    fn body(&mut self) -> Result<Vec<u8>, FormatError> {
        let mut body = String::new();
        loop {
            let line = self.next()?;
            body.push_str(&line);
            match line.len() {
                COLUMNS => {}
                length if length < COLUMNS => return Base64Unpadded::decode_vec(&body).map_err(|_| bad()),
                _ => return Err(bad()),
            }
        }
    }
}

/// Decodes 32 bytes in base64.
fn decode_32(text: &str) -> Result<[u8; 32], FormatError> {
    let bytes = Base64Unpadded::decode_vec(text).map_err(|_| bad())?;
    bytes.try_into().map_err(|_| bad())
}

fn bad() -> FormatError {
    FormatError::Altered("its age header is damaged".to_owned())
}

fn derived(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    // HKDF fails only above 8160 bytes.
    let _ = Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key);
    key
}

fn cipher(key: [u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&key.into())
}
