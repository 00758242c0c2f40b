//! The contents: chunks of 64 KiB, each sealed with its number and whether it is the last.

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

/// Numbers the chunks. The nonce is the number in eleven bytes, and one that tells the last.
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

/// Encrypts what is written to it. What was not [finished](Self::finish) cannot be read as if it were whole.
pub struct Encrypting<W> {
    out: W,
    cipher: ChaCha20Poly1305,
    numbers: Numbers,
    chunk: Vec<u8>,
}

impl<W: Write> Encrypting<W> {
    /// Begins a file in `out`, with `key` wrapped for `recipients`.
    pub fn start(mut out: W, key: &FileKey, recipients: &[Recipient]) -> Result<Self> {
        let nonce = random::bytes()?;
        out.write_all(written(key, recipients)?.as_bytes())?;
        out.write_all(&nonce)?;
        let chunk = Vec::with_capacity(CHUNK + TAG);
        Ok(Self { out, cipher: key.payload(&nonce), numbers: Numbers::default(), chunk })
    }

    /// How much goes into the chunk that is held back. One byte more lets it out.
    pub fn room(&self) -> usize {
        CHUNK - self.chunk.len()
    }

    /// What it is written to.
    pub fn inner(&self) -> &W {
        &self.out
    }

    /// Writes the last chunk, and gives back what all was written to.
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
        // Only now is it known that the full chunk is not the last.
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

/// A file of age being opened: gives what was encrypted, to the end that its writer meant.
pub struct Decrypting<R: Read> {
    source: BufReader<R>,
    cipher: ChaCha20Poly1305,
    numbers: Numbers,
    chunk: Vec<u8>,
    /// How much of the chunk was given out.
    at: usize,
    ended: bool,
}

/// Why a file cannot be opened.
pub(in crate::archive) enum Closed {
    /// None of the identities is meant.
    NotForThese,
    /// It takes a passphrase.
    Passphrase,
    /// It is not what its writer made.
    Flawed(FormatError),
}

impl From<FormatError> for Closed {
    fn from(flaw: FormatError) -> Self {
        Self::Flawed(flaw)
    }
}

impl<R: Read> Decrypting<R> {
    /// Opens it with `identities`.
    pub(in crate::archive) fn open(source: R, identities: &Identities) -> Result<Self, Closed> {
        let mut source = BufReader::with_capacity(CHUNK, source);
        let header = Header::read(&mut source)?;
        match header.opened_by(identities)? {
            Some(key) => Ok(Self::behind(source, &key)?),
            None if header.wants_passphrase() => Err(Closed::Passphrase),
            None => Err(Closed::NotForThese),
        }
    }

    /// Opens it with its own key, which only who wrote it knows.
    pub fn with_key(source: R, key: &FileKey) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(CHUNK, source);
        let opened = Header::read(&mut source)
            .and_then(|header| header.must_be_of(key))
            .and_then(|()| Self::behind(source, key));
        opened.map_err(FormatError::into_io)
    }

    fn behind(mut source: BufReader<R>, key: &FileKey) -> Result<Self, FormatError> {
        let mut nonce = [0; 16];
        source.read_exact(&mut nonce)?;
        let cipher = key.payload(&nonce);
        Ok(Self { source, cipher, numbers: Numbers::default(), chunk: Vec::new(), at: 0, ended: false })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.chunk.clear();
        self.at = 0;
        Read::take(&mut self.source, (CHUNK + TAG) as u64).read_to_end(&mut self.chunk)?;
        // A full one is opened before it is known whether another follows, which may be long in coming.
        if self.chunk.len() == CHUNK + TAG && self.opens(false) {
            return Ok(());
        }
        let first = self.numbers.0 == 0;
        // An empty chunk ends only what is empty altogether.
        if !self.opens(true) || (self.chunk.is_empty() && !first) || !self.source.fill_buf()?.is_empty() {
            self.chunk.clear();
            return Err(io::Error::other(
                "what is encrypted does not open: bytes are missing or were changed",
            ));
        }
        self.ended = true;
        Ok(())
    }

    /// Opens the chunk as the last or as another one, if it is that.
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
