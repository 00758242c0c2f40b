//! Checks whether a program is static, by reading its ELF headers.
//!
//! A file that it does not understand never counts as static.

use anyhow::{Context, Result, bail, ensure};

/// The kind of a program header that names a dynamic linker (elf(5), `PT_INTERP`).
const INTERPRETER: u32 = 3;

/// Checks that `program` runs without a dynamic linker.
pub fn is_static(program: &[u8]) -> Result<()> {
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is not a 64-bit little-endian ELF file");
    let table = number(program, 32, 8)?;
    let (size, count) = (number(program, 54, 2)?, number(program, 56, 2)?);
    ensure!(count > 0, "it has no program headers");
    for header in 0..count {
        if number(program, table + header * size, 4)? == u64::from(INTERPRETER) {
            bail!("it is linked dynamically");
        }
    }
    Ok(())
}

fn number(bytes: &[u8], at: u64, length: usize) -> Result<u64> {
    let at = usize::try_from(at)?;
    let bytes = bytes.get(at..at.saturating_add(length)).context("it is cut short")?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn this_test_itself_is_dynamic_and_half_of_it_is_nothing() {
        let ourselves = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&ourselves).unwrap_err().to_string(), "it is linked dynamically");
        assert_eq!(is_static(&ourselves[..60]).unwrap_err().to_string(), "it is cut short");
        assert!(is_static(b"#!/bin/sh\n").is_err());
    }
}
