//! The kind of a file by its first bytes, and the refusals of kinds that are not read.

use super::age::{ARMORED, MAGIC};
use crate::error::{Refusal, Subcommand, quoted};
use crate::etcd::backend::KeyFile;

use std::ffi::OsStr;

/// The kind of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gzip,
    Bare,
    Zip,
    Age,
    Armored,
    Tar,
    /// The keys that the command `export` has written.
    Keys,
    Empty,
    /// Compressed by another program, which `-d` makes decompress.
    Compressed(&'static str),
    Other,
}

/// The first bytes of files that other programs compressed.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

impl Kind {
    /// Returns the kind of a file that begins with the bytes `head`.
    pub fn from_head(head: &[u8]) -> Self {
        let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        match () {
            () if head.is_empty() => Self::Empty,
            () if at(0, &[0x1f, 0x8b]) => Self::Gzip,
            () if is_database(head) => Self::Bare,
            () if at(0, b"PK\x03\x04") => Self::Zip,
            () if at(0, MAGIC.as_bytes()) => Self::Age,
            () if at(0, ARMORED.as_bytes()) => Self::Armored,
            () if at(257, b"ustar") => Self::Tar,
            () if KeyFile::is_one(head) => Self::Keys,
            () => {
                let found = COMPRESSED.iter().find(|(magic, _)| at(0, magic));
                found.map_or(Self::Other, |(_, program)| Self::Compressed(program))
            }
        }
    }

    /// Returns the refusal of the file `shown`, if a file of this kind is not expected here.
    pub fn refusal(self, shown: &str) -> Refusal {
        let (what, next) = match self {
            Self::Age => ("is encrypted twice", "decrypt it once and try again: age -d -i IDENTITY-FILE"),
            Self::Armored => (
                "is an ASCII-armored age file, which is not supported",
                "decrypt it and try again: age -d -i IDENTITY-FILE",
            ),
            Self::Compressed(program) => {
                let next =
                    format!("decompress it and try again: {program} -d -k {}", quoted(OsStr::new(shown)));
                return Refusal::new(
                    format!("{shown} is compressed by {program}, which is not supported"),
                    next,
                );
            }
            Self::Gzip | Self::Zip | Self::Tar | Self::Other => (
                "is not a snapshot archive: it is not in gzip or zip format",
                "give an archive made by the snapshot action; the command `file` shows the type of this one",
            ),
            Self::Bare => {
                let next = format!("copy it to this machine: {}", Subcommand::new("restore").word("PATH"));
                return Refusal::new(format!("{shown} is a bare snapshot file, not an archive"), next);
            }
            Self::Keys => {
                let next = Subcommand::new("import").word(shown).flag("plan");
                let reason = format!("{shown} is a file of exported keys, not an archive");
                return Refusal::new(reason, format!("{next} shows what it would put into the running etcd"));
            }
            Self::Empty => {
                let next = format!("choose another archive; {} shows them", Subcommand::new("list"));
                return Refusal::new(format!("{shown} is empty"), next);
            }
        };
        Refusal::new(format!("{shown} {what}"), next)
    }
}

/// Returns whether a file is a bbolt database: its magic number follows the 16-byte header of its first page (`db.go`).
pub(super) fn is_database(head: &[u8]) -> bool {
    head.get(16..).is_some_and(|rest| rest.starts_with(&0xED0C_DAED_u32.to_le_bytes()))
}
