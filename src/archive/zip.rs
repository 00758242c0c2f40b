//! Reads a zip from front to back in one pass: each local header and its data, and then the directory, which must
//! agree.
//!
//! RKE, RKE2 and k3s pack snapshots as zips. Most readers trust the directory at the end. They need to seek, and accept
//! files that differ from their headers. A reader that trusts only the headers accepts files that the directory does
//! not name. This reader requires that both agree and that there is no byte in between, so no file can overlap, hide or
//! be read twice. This module must never use a name except in messages.

use super::format_error::FormatError;
use crc32fast::Hasher;
use flate2::bufread::DeflateDecoder;
use std::io::{self, BufRead, BufReader, Read, Take};

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;
/// The value of a 32-bit field if the number is in a 64-bit field.
const IN_64_BIT_FIELD: u32 = u32::MAX;
/// The id of the extra field with the 64-bit numbers.
const ZIP64: u16 = 1;
/// The length of the data is not in the header, but in a descriptor after the data.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The accepted flags: the compression level, the descriptor, and UTF-8 names. All others mean encryption or patches.
const FLAGS: u16 = 1 << 1 | 1 << 2 | FLAG_DESCRIPTOR | 1 << 11;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// The most files and directories of a zip.
const MAX_ENTRIES: usize = 32;
const MAX_NAME_LENGTH: u16 = 1024;
/// The bits of the file type, in the upper half of the attributes that Unix writers store.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
/// `cat db | zip - -` stores the type of its input, a pipe. The entry itself is like any other.
const PIPE: u32 = 0o010_000;
const BUFFER: usize = 64 << 10;

/// The values of an entry, which the directory must confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    deflated: u64,
    size: u64,
    offset: u64,
}

/// A zip that is being read.
#[derive(Debug)]
pub(super) struct Zip<R: Read> {
    source: Counted<BufReader<R>>,
    seen: Vec<Seen>,
}

/// A file in a zip, which must be read to its end.
pub(super) struct Entry<'a, R: Read> {
    source: Packed<'a, R>,
    seen: &'a mut Vec<Seen>,
    header: Seen,
    crc: Hasher,
    size: u64,
}

/// The source of an entry's bytes.
enum Packed<'a, R: Read> {
    Stored(Take<&'a mut Counted<BufReader<R>>>),
    Deflated(DeflateDecoder<Take<&'a mut Counted<BufReader<R>>>>),
}

impl<R: Read> Zip<R> {
    pub fn new(source: R) -> Self {
        Self { source: Counted { source: BufReader::with_capacity(BUFFER, source), at: 0 }, seen: Vec::new() }
    }

    /// Returns the next file. The previous one must be [finished](Entry::finish). Returns `None` after the last file,
    /// once the directory has been checked.
    ///
    /// # Errors
    /// Fails if the zip cannot be read or is not accepted.
    pub fn next(&mut self) -> Result<Option<Entry<'_, R>>, FormatError> {
        let offset = self.source.at;
        match self.source.u32()? {
            LOCAL if self.seen.len() < MAX_ENTRIES => {}
            LOCAL => return Err(FormatError::Hostile("contains too many files".to_owned())),
            CENTRAL => {
                self.directory(offset)?;
                return Ok(None);
            }
            _ => return Err(altered("a file or the directory was expected next")),
        }
        let header = self.local(offset)?;
        if header.is_directory() && (header.size != 0 || header.flags & FLAG_DESCRIPTOR != 0) {
            return Err(FormatError::Hostile(format!(
                "contains {}, a directory with content",
                header.shown()
            )));
        }
        // Without a length in the header, the data ends where the deflate stream ends.
        let length = if header.flags & FLAG_DESCRIPTOR == 0 { header.deflated } else { u64::MAX };
        let data = Read::take(&mut self.source, length);
        let source = match header.method {
            STORED => Packed::Stored(data),
            _ => Packed::Deflated(DeflateDecoder::new(data)),
        };
        Ok(Some(Entry { source, seen: &mut self.seen, header, crc: Hasher::new(), size: 0 }))
    }

    /// Reads a local header after its signature.
    fn local(&mut self, offset: u64) -> Result<Seen, FormatError> {
        let head: [u8; 26] = self.source.array()?;
        let mut fields = Fields(&head);
        let (_version, flags, method) = (fields.u16(), fields.u16(), fields.u16());
        let (_time, crc, deflated, size) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let (name, extra) = (fields.u16(), fields.u16());
        let name = self.name(name)?;
        let extra = self.source.exactly(extra)?;
        let mut wide = Wide::from_extra(&extra)?;
        let mut header = Seen { name, flags, method, crc, deflated: 0, size: 0, offset };
        let shown = header.shown();
        if flags & !FLAGS != 0 {
            return Err(FormatError::Unsupported(format!(
                "contains {shown}, which is encrypted or patched (flags {flags:#x})"
            )));
        }
        if ![STORED, DEFLATED].contains(&method) || (method == STORED && flags & FLAG_DESCRIPTOR != 0) {
            return Err(FormatError::Unsupported(format!(
                "contains {shown}, which is packed by method {method}, not by deflate"
            )));
        }
        header.size = wide.or(size)?;
        header.deflated = wide.or(deflated)?;
        Ok(header)
    }

    fn name(&mut self, length: u16) -> Result<Vec<u8>, FormatError> {
        if length == 0 || length > MAX_NAME_LENGTH {
            return Err(FormatError::Hostile(format!("contains a file with a name of {length} bytes")));
        }
        let name = self.source.exactly(length)?;
        // RKE's names are absolute. Names are not used here, but one with `..` was made to attack a tool that uses it.
        let goes_up = name.split(|byte| *byte == b'/' || *byte == b'\\').any(|part| part == b"..");
        if goes_up || name.contains(&0) {
            let shown = String::from_utf8_lossy(&name).chars().take(100).collect::<String>();
            return Err(FormatError::Hostile(format!(
                "contains {shown:?}, which no snapshot archive contains"
            )));
        }
        Ok(name)
    }

    /// Reads the directory after its first signature. It must name exactly the files that were read, and no byte may
    /// follow its end.
    fn directory(&mut self, start: u64) -> Result<(), FormatError> {
        let seen = std::mem::take(&mut self.seen);
        for (number, expected) in seen.iter().enumerate() {
            if number > 0 && self.source.u32()? != CENTRAL {
                return Err(altered("its directory names fewer files than it holds"));
            }
            let said = self.central()?;
            if said != *expected {
                let what = format!("its directory does not match the data of {}", expected.shown());
                return Err(FormatError::Altered(what));
            }
        }
        let end = self.source.at;
        let mut signature = self.source.u32()?;
        if signature == CENTRAL {
            return Err(altered("its directory names more files than it holds"));
        }
        if signature == END_64 {
            self.end_64(end, start, seen.len() as u64)?;
            signature = self.source.u32()?;
        }
        if signature != END {
            return Err(altered("its directory has no end"));
        }
        self.end(start, end - start, seen.len())
    }

    /// Reads one entry of the directory after its signature.
    fn central(&mut self) -> Result<Seen, FormatError> {
        let head: [u8; 42] = self.source.array()?;
        let mut fields = Fields(&head);
        let (_versions, flags, method, _time) = (fields.u32(), fields.u16(), fields.u16(), fields.u32());
        let (crc, deflated, size) = (fields.u32(), fields.u32(), fields.u32());
        let (name, extra, comment) = (fields.u16(), fields.u16(), fields.u16());
        let (disk, _text, attributes, offset) = (fields.u16(), fields.u16(), fields.u32(), fields.u32());
        let (name, extra) = (self.source.exactly(name)?, self.source.exactly(extra)?);
        self.source.exactly(comment)?;
        let mut wide = Wide::from_extra(&extra)?;
        let (size, deflated, offset) = (wide.or(size)?, wide.or(deflated)?, wide.or(offset)?);
        let said = Seen { name, flags, method, crc, deflated, size, offset };
        let kind = attributes >> 16 & TYPE;
        let allowed = if said.is_directory() { [0, DIRECTORY, DIRECTORY] } else { [0, REGULAR, PIPE] };
        if disk != 0 || !allowed.contains(&kind) {
            return Err(FormatError::Hostile(format!(
                "contains {}, which is not a regular file",
                said.shown()
            )));
        }
        Ok(said)
    }

    fn end_64(&mut self, at: u64, start: u64, count: u64) -> Result<(), FormatError> {
        let head: [u8; 52] = self.source.array()?;
        let mut fields = Fields(&head);
        let (rest, _versions, disks) = (fields.u64(), fields.u32(), fields.u64());
        let said = (rest, disks, fields.u64(), fields.u64(), fields.u64(), fields.u64());
        let locator: [u8; 20] = self.source.array()?;
        let mut fields = Fields(&locator);
        let located = (fields.u32(), fields.u32(), fields.u64(), fields.u32());
        if said != (44, 0, count, count, at - start, start) || located != (LOCATOR_64, 0, at, 1) {
            return Err(altered("its 64-bit end record does not match the directory"));
        }
        Ok(())
    }

    fn end(&mut self, start: u64, length: u64, count: usize) -> Result<(), FormatError> {
        let head: [u8; 18] = self.source.array()?;
        let mut fields = Fields(&head);
        let (disks, here, all) = (fields.u32(), fields.u16(), fields.u16());
        let (size, offset, comment) = (fields.u32(), fields.u32(), fields.u16());
        let is = |said: u32, found: u64| u64::from(said) == found || said == IN_64_BIT_FIELD;
        let counts = |said: u16| usize::from(said) == count || said == u16::MAX;
        if disks != 0 || !counts(here) || !counts(all) || !is(size, length) || !is(offset, start) {
            return Err(altered("its end record does not match the directory"));
        }
        self.source.exactly(comment)?;
        match self.source.fill_buf()?.is_empty() {
            true => Ok(()),
            false => Err(altered("more bytes follow its end")),
        }
    }
}

impl Seen {
    fn is_directory(&self) -> bool {
        self.name.ends_with(b"/")
    }

    fn shown(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.name).chars().take(100).collect::<String>())
    }
}

impl<R: Read> Entry<'_, R> {
    /// Returns the name, which must not be used as a path.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.header.name).into_owned()
    }

    /// Returns whether it is a directory, which has no content.
    pub fn is_directory(&self) -> bool {
        self.header.is_directory()
    }

    /// Returns the size in bytes that the header announces, if it does.
    pub fn announced_size(&self) -> Option<u64> {
        (self.header.flags & FLAG_DESCRIPTOR == 0).then_some(self.header.size)
    }

    /// Compares the data, which must be read to its end, with the header or the descriptor.
    ///
    /// # Errors
    /// Fails if they differ.
    pub fn finish(mut self) -> Result<(), FormatError> {
        if self.read(&mut [0])? != 0 {
            return Err(altered("a file in it is longer than the bytes that were read"));
        }
        let (crc, size) = (self.crc.finalize(), self.size);
        let (source, deflated) = match self.source {
            Packed::Stored(data) => (data, size),
            Packed::Deflated(decoder) => {
                let deflated = decoder.total_in();
                (decoder.into_inner(), deflated)
            }
        };
        let found = Seen { crc, deflated, size, ..self.header.clone() };
        if self.header.flags & FLAG_DESCRIPTOR == 0 {
            if found != self.header {
                return Err(FormatError::Altered(format!(
                    "its header does not match the data of {}",
                    found.shown()
                )));
            }
        } else {
            descriptor(source.into_inner(), &self.header, &found)?;
        }
        self.seen.push(found);
        Ok(())
    }
}

/// Checks the descriptor after the data. It has a signature or not, and 32-bit or 64-bit numbers.
fn descriptor(source: &mut impl Source, header: &Seen, found: &Seen) -> Result<(), FormatError> {
    let unknown = |said: u64, found: u64| said == 0 || said == found;
    let blank = header.crc == 0 || header.crc == found.crc;
    let mut crc = source.u32()?;
    if crc == DESCRIPTOR {
        crc = source.u32()?;
    }
    let (first, second) = (source.u32()?, source.u32()?);
    let narrow = u64::from(first) == found.deflated && u64::from(second) == found.size;
    let same = narrow || {
        let deflated = u64::from(first) | u64::from(second) << 32;
        let size = u64::from(source.u32()?) | u64::from(source.u32()?) << 32;
        (deflated, size) == (found.deflated, found.size)
    };
    let agrees = blank && unknown(header.deflated, found.deflated) && unknown(header.size, found.size);
    match same && agrees && crc == found.crc {
        true => Ok(()),
        false => {
            Err(FormatError::Altered(format!("the descriptor of {} does not match its data", found.shown())))
        }
    }
}

impl<R: Read> Read for Entry<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match &mut self.source {
            Packed::Stored(data) => data.read(buffer)?,
            Packed::Deflated(decoder) => decoder.read(buffer)?,
        };
        self.crc.update(buffer.get(..length).unwrap_or_default());
        self.size += length as u64;
        if self.announced_size().is_some_and(|announced| self.size > announced) {
            return Err(io::Error::other("a file in it is longer than its header announces"));
        }
        Ok(length)
    }
}

fn altered(how: &str) -> FormatError {
    FormatError::Altered(how.to_owned())
}

/// The numbers in a header of a fixed length, in order.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (number, rest) =
            self.0.split_first_chunk().map_or(([0; N], &[][..]), |(number, rest)| (*number, rest));
        self.0 = rest;
        number
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The 64-bit numbers of an extra field, in the order in which 32-bit fields refer to them.
struct Wide<'a>(&'a [u8]);

impl<'a> Wide<'a> {
    fn from_extra(mut extra: &'a [u8]) -> Result<Self, FormatError> {
        while let Some((head, rest)) = extra.split_first_chunk::<4>() {
            let mut fields = Fields(head);
            let (kind, length) = (fields.u16(), usize::from(fields.u16()));
            let (body, rest) =
                rest.split_at_checked(length).ok_or_else(|| altered("an extra field is cut short"))?;
            if kind == ZIP64 {
                return Ok(Self(body));
            }
            extra = rest;
        }
        Ok(Self(&[]))
    }

    /// Returns the 32-bit number, or the next 64-bit number if the 32-bit field refers to it.
    fn or(&mut self, narrow: u32) -> Result<u64, FormatError> {
        if narrow != IN_64_BIT_FIELD {
            return Ok(narrow.into());
        }
        match self.0.split_first_chunk::<8>() {
            Some((number, rest)) => {
                self.0 = rest;
                Ok(u64::from_le_bytes(*number))
            }
            None => Err(altered("a 64-bit number is missing")),
        }
    }
}

/// Counts the bytes that have been read.
#[derive(Debug)]
struct Counted<R> {
    source: R,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.source.consume(length);
        self.at += length as u64;
    }
}

/// A reader of headers.
trait Source: BufRead {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn exactly(&mut self, length: u16) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length.into()];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: BufRead> Source for R {}
