//! The header: the file's key, wrapped for each recipient, and a code that shows that nobody changed it.

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

/// What a file begins with.
pub(in crate::archive) const MAGIC: &str = "age-encryption.org/v1\n";
/// And one that was made fit for mail.
pub(in crate::archive) const ARMORED: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const X25519: &str = "X25519";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
/// A stanza of ours takes a hundred bytes.
const LONGEST: u64 = 64 << 10;
/// A line of a stanza's body that is not its last.
const COLUMNS: usize = 64;

/// What the contents of one file are encrypted with. Its `Debug` says nothing.
#[derive(Clone)]
pub struct FileKey([u8; 16]);

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(…)")
    }
}

impl FileKey {
    /// A new one, by chance.
    pub fn fresh() -> Result<Self> {
        random::bytes().map(Self)
    }

    /// The key of the contents behind `nonce`.
    pub(super) fn payload(&self, nonce: &[u8; 16]) -> ChaCha20Poly1305 {
        cipher(derived(nonce, &self.0, b"payload"))
    }

    fn mac(&self, header: &[u8]) -> Hmac<Sha256> {
        let key = derived(&[], &self.0, b"header");
        // HMAC's own key has the length of a block; a shorter one is filled up with zeros (RFC 2104).
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(&key);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(header);
        mac
    }
}

/// The header of a file whose key is `key`, for all of `recipients`.
pub(super) fn written(key: &FileKey, recipients: &[Recipient]) -> Result<String> {
    let mut text = MAGIC.to_owned();
    for recipient in recipients {
        let ephemeral = StaticSecret::from(random::bytes()?);
        let share = PublicKey::from(&ephemeral).to_bytes();
        let wrapping = wrapping(&ephemeral, &share, &recipient.0, &recipient.0)
            .ok_or_else(|| anyhow::anyhow!("{recipient} is no point that can be encrypted for"))?;
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

/// The key that wraps a file's key between `secret` and `other`: `share` is the writer's part, `recipient` the reader's.
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

/// A header that was read, and not yet believed.
#[derive(Debug)]
pub(super) struct Header {
    /// The writer's part and the wrapped key, for each recipient of our kind.
    wrapped: Vec<([u8; 32], Vec<u8>)>,
    /// The kinds of the others.
    others: Vec<String>,
    authenticated: Vec<u8>,
    mac: [u8; 32],
}

impl Header {
    /// Reads one, up to the nonce of the contents.
    pub fn read(source: &mut impl BufRead) -> Result<Self, FormatError> {
        let mut lines = Lines { source: source.take(LONGEST), all: Vec::new() };
        if lines.next()? != MAGIC.trim_end() {
            return Err(FormatError::Foreign("is of another version of age".to_owned()));
        }
        let (mut wrapped, mut others) = (Vec::new(), Vec::new());
        loop {
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = number(mac)?;
                lines.all.truncate(lines.all.len() - line.len() - 1 + "---".len());
                return Ok(Self { wrapped, others, authenticated: lines.all, mac });
            }
            let words: Vec<&str> = line.strip_prefix("-> ").ok_or_else(bad)?.split(' ').collect();
            let body = lines.body()?;
            match words.as_slice() {
                [X25519, share] if body.len() == 32 => wrapped.push((number(share)?, body)),
                [X25519, ..] => return Err(bad()),
                [kind, ..] => others.push((*kind).to_owned()),
                [] => return Err(bad()),
            }
        }
    }

    /// The file's key, if one of `identities` opens it.
    pub fn opened_by(&self, identities: &Identities) -> Result<Option<FileKey>, FormatError> {
        for secret in identities.keys() {
            let own = PublicKey::from(secret).to_bytes();
            for (share, body) in &self.wrapped {
                let wrapping = wrapping(secret, share, &own, share).ok_or_else(bad)?;
                let opened = wrapping.decrypt(&Nonce::default(), body.as_slice());
                if let Some(key) = opened.ok().and_then(|key| key.try_into().ok()) {
                    let key = FileKey(key);
                    self.must_be_of(&key)?;
                    return Ok(Some(key));
                }
            }
        }
        Ok(None)
    }

    /// Fails unless whoever knew `key` wrote this header.
    pub fn must_be_of(&self, key: &FileKey) -> Result<(), FormatError> {
        key.mac(&self.authenticated).verify_slice(&self.mac).map_err(|_| bad())
    }

    /// Whether it is encrypted by a passphrase, which we do not ask for.
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

    /// What stands below a stanza's first line: full lines, and one that is not.
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

/// 32 bytes in base64.
fn number(text: &str) -> Result<[u8; 32], FormatError> {
    let bytes = Base64Unpadded::decode_vec(text).map_err(|_| bad())?;
    bytes.try_into().map_err(|_| bad())
}

fn bad() -> FormatError {
    FormatError::Altered("its age header is damaged".to_owned())
}

fn derived(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are far less than HKDF can give.
    let _ = Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key);
    key
}

fn cipher(key: [u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&key.into())
}
