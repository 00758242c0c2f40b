//! Names that nobody can guess.

use anyhow::{Context, Result};

/// A fresh random UUID from the kernel.
pub fn uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}
