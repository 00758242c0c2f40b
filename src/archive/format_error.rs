//! What is wrong with a file that others made, as the readers of its layers tell it.

use crate::error::Refusal;
use std::fmt;
use std::io;

/// Why a file is not taken.
#[derive(Debug)]
pub(super) enum FormatError {
    /// It is not what whoever wrote it meant: cut short, a flipped bit, a broken line.
    Altered(String),
    /// It is whole, and made in a way that no snapshot is.
    Hostile(String),
    /// It is whole, and made in a way that we do not read.
    Foreign(String),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        Self::Altered(match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl FormatError {
    /// For readers that know no other kind of error.
    pub fn into_io(self) -> io::Error {
        let (Self::Altered(what) | Self::Hostile(what) | Self::Foreign(what)) = self;
        io::Error::other(what)
    }
}

/// Marks the refusal of a file that is whole and not a snapshot archive, or not one that we read.
#[derive(Debug, Clone, Copy)]
pub struct NotASnapshot;

impl NotASnapshot {
    /// The error of such a file.
    pub(super) fn refused(refusal: Refusal) -> anyhow::Error {
        anyhow::Error::from(refusal).context(Self)
    }
}

impl fmt::Display for NotASnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a snapshot archive")
    }
}
