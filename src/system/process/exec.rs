//! Replaces this process by another program, which keeps the process id and the parent.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Replaces this process by `program`, without arguments and with the same environment.
///
/// # Errors
/// Returns only if that fails.
pub fn exec(program: &Path) -> io::Result<Infallible> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    Ok(nix::unistd::execv(&path, &[&path])?)
}
