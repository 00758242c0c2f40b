//! The outcome of `keys`, which is written line by line.

use super::table::warnings;
use super::{Format, Render, Style, stream_lines};
use crate::cli::results::Results;
use crate::commands::contents::keys::{Key, Outcome};
use crate::etcd::key_text::printable;
use std::io::{self, Write};

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        warnings(&self.warnings)
    }

    fn stream(&self, format: Format, style: Style, out: &mut dyn Write) -> Option<io::Result<()>> {
        Some(stream_lines(self, format, out, |outcome, out| outcome.lines(style, out)))
    }
}

impl Outcome {
    fn lines(&self, style: Style, out: &mut dyn Write) -> io::Result<()> {
        let mut keys = self.keys.0.iter().map_err(io::Error::other)?;
        if style.wide {
            writeln!(
                out,
                "{:>12}  {:>12}  {:>8}  {:>10}  {:16}  KEY",
                "REVISION", "CREATED", "VERSION", "BYTES", "LEASE"
            )?;
        }
        while let Some(version) = keys.next().map_err(io::Error::other)? {
            if !style.wide {
                writeln!(out, "{}", printable(&version.key))?;
                continue;
            }
            let Key { key, size_bytes, create_revision, mod_revision, version, lease } = Key::new(&version);
            let lease = lease.as_deref().unwrap_or("-");
            writeln!(
                out,
                "{mod_revision:>12}  {create_revision:>12}  {version:>8}  {size_bytes:>10}  {lease:16}  {key}"
            )?;
        }
        Ok(())
    }
}
