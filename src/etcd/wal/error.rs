//! Why a write-ahead log cannot be read: damage in its content, or a failure of the machine.

use std::fmt;

/// An error while reading a log.
#[derive(Debug)]
pub enum WalError {
    /// Its content is damaged.
    Damaged(WalDamage),
    /// Reading it failed. Its content may still be intact.
    Failed(anyhow::Error),
}

/// The first damage in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalDamage {
    /// The name of the file; empty if the files themselves are incomplete.
    pub file: String,
    /// The position in the file, in bytes, of the record that cannot be read.
    pub offset: u64,
    /// The fault, in etcd's words if etcd has a message for it.
    pub what: &'static str,
}

impl fmt::Display for WalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            "" => write!(f, "the write-ahead log is damaged: {}", self.what),
            file => {
                write!(f, "the write-ahead log is damaged: {} in {file} at byte {}", self.what, self.offset)
            }
        }
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(damage) => damage.fmt(f),
            Self::Failed(error) => write!(f, "the write-ahead log could not be read: {error:#}"),
        }
    }
}

impl std::error::Error for WalError {}

/// Returns the error of a log with missing files or entries.
pub(super) fn incomplete(what: &'static str) -> WalError {
    WalError::Damaged(WalDamage { file: String::new(), offset: 0, what })
}
