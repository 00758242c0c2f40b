//! Random numbers and names from the kernel.

use anyhow::{Context, Result};
use rustix::rand::GetRandomFlags;

/// Returns a new random UUID.
///
/// # Errors
/// Fails if /proc is not mounted.
pub fn uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}

/// Returns a random number below `end`, or 0 if `end` is 0. It is good enough to spread requests over time, not for
/// keys.
///
/// # Errors
/// Fails if /proc is not mounted.
pub fn below(end: u64) -> Result<u64> {
    let text = uuid()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let number = u64::from_str_radix(&digits, 16).with_context(|| format!("reading {text}"))?;
    Ok(number.checked_rem(end).unwrap_or(0))
}

/// Returns `N` random bytes that are good enough for keys.
///
/// # Errors
/// Fails if the kernel has no random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut *rest, GetRandomFlags::empty()))
            .context("asking the kernel for random bytes")?;
    }
    Ok(bytes)
}
