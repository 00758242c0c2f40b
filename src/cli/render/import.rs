//! The outcome of `import`. The keys of a plan are written one by one.

use super::table::warnings;
use super::{Format, Render, Style, stream_lines};
use crate::cli::results::Results;
use crate::commands::contents::import::{Action, Outcome};
use std::io::{self, Write};

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        warnings(&self.warnings)
    }

    fn stream(&self, format: Format, _: Style, out: &mut dyn Write) -> Option<io::Result<()>> {
        Some(stream_lines(self, format, out, Self::lines))
    }
}

impl Outcome {
    fn lines(&self, out: &mut dyn Write) -> io::Result<()> {
        let planned = &self.planned;
        if self.applied {
            writeln!(
                out,
                "keys put: {}; kept with another value: {}; with the same value: {}",
                self.put, planned.keep, planned.unchanged
            )?;
        } else {
            let listed = self.keys.for_each(&mut |key| {
                let mark = match key.action {
                    Action::Create => "create    ",
                    Action::Overwrite => "overwrite ",
                    Action::Keep => "keep      ",
                };
                Ok(writeln!(out, "{mark} {}", key.key)?)
            });
            listed.map_err(|error| error.downcast::<io::Error>().unwrap_or_else(io::Error::other))?;
            writeln!(
                out,
                "Nothing was changed. Keys to create: {}; to overwrite: {}; to keep with another value: {}; with the same value: {}",
                planned.create, planned.overwrite, planned.keep, planned.unchanged
            )?;
        }
        if planned.with_lease > 0 {
            writeln!(out, "keys with a lease, which is not carried over: {}", planned.with_lease)?;
        }
        write!(out, "{}", warnings(&self.warnings))
    }
}
