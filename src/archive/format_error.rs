//! The reasons why a file of another program is not accepted, as the readers of its layers report them.

use crate::error::Refusal;
use std::fmt;
use std::io;

/// The reason why a file is not accepted.
#[derive(Debug)]
pub(super) enum FormatError {
    /// The file changed after it was written: it is cut short, or bytes differ.
    Altered(String),
    /// The file is intact, but has a structure that no snapshot archive has.
    Hostile(String),
    /// The file is intact, but in a form that this program does not read.
    Unsupported(String),
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
    /// Converts the error for readers that can only return an [`io::Error`].
    pub fn into_io(self) -> io::Error {
        let (Self::Altered(detail) | Self::Hostile(detail) | Self::Unsupported(detail)) = self;
        io::Error::other(detail)
    }
}

/// Marks the refusal of a file that is intact, but is not a snapshot archive that this program reads.
#[derive(Debug, Clone, Copy)]
pub struct NotASnapshot;

impl NotASnapshot {
    /// Returns the error that refuses such a file.
    pub(super) fn refused(refusal: Refusal) -> anyhow::Error {
        anyhow::Error::from(refusal).context(Self)
    }
}

impl fmt::Display for NotASnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a snapshot archive")
    }
}
