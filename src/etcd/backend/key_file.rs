//! A file of keys with their values: one JSON document per line, with keys and values in base64 as `etcdctl -w json`
//! prints them.
//!
//! The first line describes the origin. The last line has the number of keys and the SHA-256 of all lines before it, so a
//! file that was cut or changed is detected. The keys are sorted. Must never quote a line in an error: it holds values.

use super::key_sorter::{KeySorter, KeyVersion, LiveKeys};
use super::keys::value_digest;
use crate::system::digest::hex;
use crate::system::durable::Dir;
use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;

/// The name of the format in the first line.
const FORMAT: &str = "etcd-backup keys";
/// The version of the format.
const VERSION: u32 = 1;
/// The longest line that is read, in bytes. etcd accepts 1.5 MiB for a key and its value by default.
const MAX_LINE: u64 = 256 << 20;

/// The first line: the origin of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFileHeader {
    format: String,
    version: u32,
    /// The id of the cluster in hexadecimal digits, if it is known.
    pub cluster_id: Option<String>,
    /// The revision of the state.
    pub revision: i64,
    /// The bytes that the keys begin with, in base64.
    prefix: String,
}

/// The line of a key.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    /// The id of the lease in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct End {
    keys: u64,
    sha256: String,
}

impl KeyFileHeader {
    /// Describes keys of a state.
    #[must_use]
    pub fn new(cluster_id: Option<String>, revision: i64, prefix: &[u8]) -> Self {
        let prefix = Base64::encode_string(prefix);
        Self { format: FORMAT.to_owned(), version: VERSION, cluster_id, revision, prefix }
    }
}

/// Writes a file of keys.
pub struct KeyFileWriter<W> {
    out: W,
    hash: Sha256,
    keys: u64,
}

impl<W: Write> KeyFileWriter<W> {
    /// Writes the first line.
    ///
    /// # Errors
    /// Fails if `out` cannot be written.
    pub fn new(out: W, header: &KeyFileHeader) -> Result<Self> {
        let mut writer = Self { out, hash: Sha256::new(), keys: 0 };
        writer.line(header)?;
        Ok(writer)
    }

    /// Writes the line of a key.
    ///
    /// # Errors
    /// Fails if the output cannot be written.
    pub fn add(&mut self, version: &KeyVersion, value: &[u8]) -> Result<()> {
        self.keys += 1;
        self.line(&Line {
            key: Base64::encode_string(&version.key),
            value: Base64::encode_string(value),
            create_revision: version.create_revision,
            mod_revision: version.mod_revision,
            version: version.version,
            lease: (version.lease != 0).then(|| format!("{:x}", version.lease)),
        })
    }

    /// Writes the last line, and returns the number of keys.
    ///
    /// # Errors
    /// Fails if the output cannot be written.
    pub fn finish(mut self) -> Result<u64> {
        let end = End { keys: self.keys, sha256: hex(&self.hash.clone().finalize()) };
        self.line(&end)?;
        self.out.flush().context("writing the keys")?;
        Ok(self.keys)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).context("writing the keys")?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.out.write_all(&bytes).context("writing the keys")
    }
}

/// A complete file of keys.
pub struct KeyFile {
    /// The origin of the keys.
    pub header: KeyFileHeader,
    /// The keys. The number of the change in a revision is the position of the line here.
    pub keys: LiveKeys,
    file: File,
}

impl KeyFile {
    /// Returns whether `head`, the beginning of a file, is that of a file of keys.
    #[must_use]
    pub fn is_one(head: &[u8]) -> bool {
        head.starts_with(format!("{{\"format\":\"{FORMAT}\"").as_bytes())
    }

    /// Reads a whole file, and keeps an index of the keys that begin with `prefix`. The index uses memory and `dir` as
    /// [`Backend::live_keys`](super::Backend::live_keys) does. An error from `go_on` cancels it.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is not complete and unchanged.
    pub fn read(mut file: File, prefix: &[u8], dir: &Dir, go_on: &dyn Fn() -> Result<()>) -> Result<Self> {
        file.rewind().context("reading the keys")?;
        let mut lines = Lines { source: BufReader::with_capacity(1 << 20, file), at: 0, number: 0 };
        let (mut hash, mut sorter) = (Sha256::new(), KeySorter::new(dir));
        let (_, first) = lines.next()?.context("the file is empty")?;
        let header: Option<KeyFileHeader> = serde_json::from_slice(&first).ok();
        let header = header
            .filter(|header| header.format == FORMAT)
            .context("line 1 is not that of a file of keys")?;
        ensure!(header.version <= VERSION, "only a newer version of this program reads it");
        hash.update(&first);
        let (mut last, mut keys) = (Vec::new(), 0_u64);
        while let Some((at, line)) = lines.next()? {
            if let Ok(end) = serde_json::from_slice::<End>(&line) {
                let is_whole = end.sha256 == hex(&hash.finalize()) && end.keys == keys;
                ensure!(is_whole, "its lines do not match the SHA-256 in its last line");
                ensure!(lines.next()?.is_none(), "more lines follow its end");
                let file = lines.source.into_inner();
                return Ok(Self { header, keys: sorter.finish(), file });
            }
            if keys.is_multiple_of(1024) {
                go_on()?;
            }
            hash.update(&line);
            let (key, value, line) = decode(&line).with_context(|| lines.describe())?;
            ensure!(keys == 0 || last < key, "{}: its keys are not sorted", lines.describe());
            keys += 1;
            if key.starts_with(prefix) {
                sorter.add(KeyVersion {
                    key: key.as_slice().into(),
                    mod_revision: line.mod_revision,
                    sub: i64::try_from(at)?,
                    create_revision: line.create_revision,
                    version: line.version,
                    lease: line.lease.and_then(|id| i64::from_str_radix(&id, 16).ok()).unwrap_or(0),
                    value_size: value.len() as u64,
                    digest: value_digest(&value),
                    deletion: false,
                })?;
            }
            last = key;
        }
        bail!("its last line is missing")
    }

    /// Returns the value of a key of this file.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or was changed.
    pub fn value_of(&self, version: &KeyVersion) -> Result<Vec<u8>> {
        let at = u64::try_from(version.sub)?;
        let mut lines = Lines { source: BufReader::new(Positioned { file: &self.file, at }), at, number: 0 };
        let (_, line) = lines.next()?.context("the file was changed while it was read")?;
        let (key, value, _) = decode(&line).context("the file was changed while it was read")?;
        let is_same = *key == *version.key && value_digest(&value) == version.digest;
        ensure!(is_same, "the file was changed while it was read");
        Ok(value)
    }
}

/// Decodes the line of a key.
fn decode(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Line)> {
    let decode = |text: &str| Base64::decode_vec(text).ok();
    let parsed: Option<Line> = serde_json::from_slice(line).ok();
    let line = parsed.context("it is not a key with its value")?;
    let key = decode(&line.key).filter(|key| !key.is_empty()).context("its key is not in base64")?;
    let value = decode(&line.value).context("its value is not in base64")?;
    Ok((key, value, line))
}

/// The lines of a file.
struct Lines<R> {
    source: R,
    at: u64,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Returns the next line with its end, and its position.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let (at, mut line) = (self.at, Vec::new());
        self.number += 1;
        let read = Read::by_ref(&mut self.source).take(MAX_LINE).read_until(b'\n', &mut line);
        let length = read.context("reading the keys")? as u64;
        ensure!(length < MAX_LINE, "{} is too long", self.describe());
        self.at += length;
        Ok((length > 0).then_some((at, line)))
    }

    fn describe(&self) -> String {
        format!("line {}", self.number)
    }
}

/// Reads a file from a position, without moving its own.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(keys: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = KeyFileHeader::new(Some("abc".to_owned()), 9, b"/");
        let mut writer = KeyFileWriter::new(&mut bytes, &header).unwrap();
        for (key, value) in keys {
            let version = KeyVersion { key: (*key).into(), lease: 0x1f, ..KeyVersion::default() };
            writer.add(&version, value).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), keys.len() as u64);
        bytes
    }

    fn read(bytes: &[u8], prefix: &[u8]) -> Result<KeyFile> {
        let dir = tempfile::tempdir().unwrap();
        let dir = Dir::open(dir.path()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        KeyFile::read(file, prefix, &dir, &|| Ok(()))
    }

    const KEYS: [(&[u8], &[u8]); 3] = [(b"/a", b"canary\0\xff"), (b"/b", b""), (b"\xff\n", b"x")];

    #[test]
    fn any_keys_and_values_are_read_back() {
        let file = read(&written(&KEYS), b"").unwrap();
        assert_eq!((file.header.cluster_id.as_deref(), file.header.revision), (Some("abc"), 9));
        let mut all = file.keys.iter().unwrap();
        for (key, value) in KEYS {
            let version = all.next().unwrap().unwrap();
            assert_eq!((&*version.key, version.lease), (key, 0x1f));
            assert_eq!(file.value_of(&version).unwrap(), value);
        }
        assert!(all.next().unwrap().is_none());
        let some = read(&written(&KEYS), b"/b").unwrap();
        assert_eq!(&*some.keys.iter().unwrap().next().unwrap().unwrap().key, b"/b");
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_refused_without_its_content() {
        let whole = written(&KEYS);
        let mut changed = whole.clone();
        let at = whole.windows(4).position(|part| part == b"\"Y2F").unwrap();
        changed[at + 1] = b'Z';
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let swapped = [lines[0], lines[2], lines[1], lines[3], lines[4]].concat();
        for (bytes, reason) in [
            (whole[..whole.len() - 90].to_vec(), "is not a key"),
            (lines[..4].concat(), "its last line is missing"),
            (changed, "do not match the SHA-256"),
            (swapped, "its keys are not sorted"),
            ([&whole[..], b"\n"].concat(), "more lines follow"),
            (Vec::new(), "the file is empty"),
            (b"{}\n".to_vec(), "line 1"),
            (vec![b'x'; 1 << 16], "line 1"),
        ] {
            let error = read(&bytes, b"").err().unwrap();
            let text = format!("{error:#}");
            assert!(text.contains(reason), "{reason}: {text}");
            assert!(!text.contains("Y2Fu") && !text.contains("canary"), "{text}");
        }
        assert!(KeyFile::is_one(&whole) && !KeyFile::is_one(b"{}"));
    }
}
