//! Tells an error of the disk from a fault of the data.

use rustix::io::Errno;
use std::io::{self, ErrorKind};

/// Whether an error comes from the disk. A truncated file is a fault of the data instead.
pub fn is_read_error(error: &anyhow::Error) -> bool {
    let is_from_disk = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof)
            || cause.is::<Errno>()
    };
    error.chain().any(is_from_disk)
}
