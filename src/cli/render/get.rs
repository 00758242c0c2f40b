//! The outcome of `get`: as text, the bytes of the value and nothing else.

use super::{Format, Render, Style};
use crate::cli::results::Results;
use crate::commands::contents::get::Outcome;
use std::io::{self, Write};

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        String::new()
    }

    fn stream(&self, format: Format, _: Style, out: &mut dyn Write) -> Option<io::Result<()>> {
        match (format, &self.value) {
            (Format::Text, Some(value)) => Some(out.write_all(&value.0)),
            _ => None,
        }
    }
}
