//! This process turned into another program, in place of a child: whoever started us now has that program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Becomes `program`, without arguments and with our own environment. Comes back only where that fails.
pub fn exec(program: &Path) -> io::Result<Infallible> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    Ok(nix::unistd::execv(&path, &[&path])?)
}
