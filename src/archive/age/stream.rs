//! The contents: chunks of 64 KiB. The nonce of each contains its number and whether it is the last.

use super::header::{FileKey, Header, written};
use super::keys::{Identities, Recipient};
use crate::archive::format_error::FormatError;
use crate::system::random;
use anyhow::Result;
use chacha20poly1305::aead::{AeadInOut, Buffer};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use std::io::{self, BufRead, BufReader, Read, Write};

const CHUNK: usize = 64 << 10;
const TAG: usize = 16;

/// The number of the next chunk. A nonce is the number in eleven bytes, and a byte that marks the last chunk.
#[derive(Debug, Default)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.0.to_be_bytes());
        nonce[11] = last.into();
        self.0 += 1;
        nonce.into()
    }
}

/// Encrypts the bytes written to it. Unless it is [finished](Self::finish), the file is detected as incomplete.
pub struct Encrypting<W> {
    out: W,
    cipher: ChaCha20Poly1305,
    numbers: Numbers,
    chunk: Vec<u8>,
}

impl<W: Write> Encrypting<W> {
    /// Starts a file in `out`, with `key` encrypted for `recipients`.
    ///
    /// # Errors
    /// Fails if `out` cannot be written, or a recipient is not a valid key.
    pub fn start(mut out: W, key: &FileKey, recipients: &[Recipient]) -> Result<Self> {
        let nonce = random::bytes()?;
        out.write_all(written(key, recipients)?.as_bytes())?;
        out.write_all(&nonce)?;
        let chunk = Vec::with_capacity(CHUNK + TAG);
        Ok(Self { out, cipher: key.payload(&nonce), numbers: Numbers::default(), chunk })
    }

    /// Returns how many bytes fit into the current chunk. One byte more, and the chunk is written.
    pub fn room(&self) -> usize {
        CHUNK - self.chunk.len()
    }

    /// Returns the output.
    pub fn inner(&self) -> &W {
        &self.out
    }

    /// Writes the last chunk and returns the output.
    ///
    /// # Errors
    /// Fails if the output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.out)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let nonce = self.numbers.next(last);
        let sealed = self.cipher.encrypt_in_place(&nonce, &[], &mut self.chunk as &mut dyn Buffer);
        sealed.map_err(|_| io::Error::other("a chunk cannot be encrypted"))?;
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for Encrypting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // More bytes follow, so the full chunk is not the last.
        if self.chunk.len() == CHUNK {
            self.seal(false)?;
        }
        let length = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(bytes.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Decrypts an age file while it is read, and fails if the file is incomplete.
pub struct Decrypting<R: Read> {
    source: BufReader<R>,
    cipher: ChaCha20Poly1305,
    numbers: Numbers,
    chunk: Vec<u8>,
    /// The number of bytes of the chunk that have been returned.
    at: usize,
    ended: bool,
}

/// The reason why a file cannot be decrypted.
pub(in crate::archive) enum Closed {
    /// It is not encrypted for any of the identities.
    NotForThese,
    /// It is encrypted with a passphrase.
    Passphrase,
    /// It is damaged or of another format.
    Flawed(FormatError),
}

impl From<FormatError> for Closed {
    fn from(flaw: FormatError) -> Self {
        Self::Flawed(flaw)
    }
}

impl<R: Read> Decrypting<R> {
    /// Opens a file with `identities`.
    ///
    /// # Errors
    /// Fails if the header cannot be read or decrypted.
    pub(in crate::archive) fn open(source: R, identities: &Identities) -> Result<Self, Closed> {
        let mut source = BufReader::with_capacity(CHUNK, source);
        let header = Header::read(&mut source)?;
        match header.opened_by(identities)? {
            Some(key) => Ok(Self::after_header(source, &key)?),
            None if header.wants_passphrase() => Err(Closed::Passphrase),
            None => Err(Closed::NotForThese),
        }
    }

    /// Opens a file with its own key, which only its writer knows.
    ///
    /// # Errors
    /// Fails if the header cannot be read or was not written with this key.
    pub fn with_key(source: R, key: &FileKey) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(CHUNK, source);
        let opened = Header::read(&mut source)
            .and_then(|header| header.authenticate(key))
            .and_then(|()| Self::after_header(source, key));
        opened.map_err(FormatError::into_io)
    }

    fn after_header(mut source: BufReader<R>, key: &FileKey) -> Result<Self, FormatError> {
        let mut nonce = [0; 16];
        source.read_exact(&mut nonce)?;
        let cipher = key.payload(&nonce);
        Ok(Self { source, cipher, numbers: Numbers::default(), chunk: Vec::new(), at: 0, ended: false })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.chunk.clear();
        self.at = 0;
        Read::take(&mut self.source, (CHUNK + TAG) as u64).read_to_end(&mut self.chunk)?;
        // A full chunk is decrypted before it is known whether another follows: that may take long.
        if self.chunk.len() == CHUNK + TAG && self.opens(false) {
            return Ok(());
        }
        let first = self.numbers.0 == 0;
        // The last chunk may be empty only if it is the first.
        if !self.opens(true) || (self.chunk.is_empty() && !first) || !self.source.fill_buf()?.is_empty() {
            self.chunk.clear();
            return Err(io::Error::other(
                "the encrypted data cannot be decrypted: bytes are missing or were changed",
            ));
        }
        self.ended = true;
        Ok(())
    }

    /// Decrypts the chunk, if it was encrypted as the last one or as another one.
    fn opens(&mut self, last: bool) -> bool {
        let mut chunk = self.chunk.clone();
        let nonce = Numbers(self.numbers.0).next(last);
        let opened = self.cipher.decrypt_in_place(&nonce, &[], &mut chunk as &mut dyn Buffer).is_ok();
        if opened {
            self.numbers.0 += 1;
            self.chunk = chunk;
        }
        opened
    }
}

impl<R: Read> Read for Decrypting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.ended && !buffer.is_empty() {
            self.next_chunk()?;
        }
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}
