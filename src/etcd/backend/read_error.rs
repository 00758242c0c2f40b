//! Tells an error of the disk from a fault of the data, and both from errors that are not about a database.

use rustix::io::Errno;
use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The context of every error of reading a database: the path of its file.
#[derive(Debug)]
pub(super) struct ReadingBackend(PathBuf);

impl ReadingBackend {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Display for ReadingBackend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "reading etcd's backend {}", self.0.display())
    }
}

/// Whether an error comes from reading a database.
pub fn is_backend_error(error: &anyhow::Error) -> bool {
    error.is::<ReadingBackend>()
}

/// Whether an error comes from the disk. A truncated file is a fault of the data instead.
pub fn is_read_error(error: &anyhow::Error) -> bool {
    let is_from_disk = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof)
            || cause.is::<Errno>()
    };
    error.chain().any(is_from_disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn an_error_of_a_database_is_recognized_below_other_contexts() {
        let context = || ReadingBackend::new(Path::new("/d/db"));
        let error = anyhow!("a page is missing").context(context()).context("listing the keys");
        assert!(is_backend_error(&error) && !is_read_error(&error));
        assert_eq!(format!("{error:#}"), "listing the keys: reading etcd's backend /d/db: a page is missing");
        let of_disk = anyhow::Error::new(io::Error::from_raw_os_error(5)).context(context());
        assert!(is_backend_error(&of_disk) && is_read_error(&of_disk));
        assert!(!is_backend_error(&anyhow!("reading etcd's backend, but only in words")));
    }
}
