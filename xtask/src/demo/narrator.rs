//! The headings of the demo, and the step that an error belongs to.
//!
//! Prints bold headings only on a terminal.

use std::io::IsTerminal;

use anyhow::{Error, anyhow};

/// Prints the numbered steps.
pub struct Narrator {
    bold: bool,
    steps: usize,
    current: &'static str,
}

impl Narrator {
    pub fn new() -> Self {
        let bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { bold, steps: 0, current: "" }
    }

    /// Prints the heading of the next step.
    pub fn step(&mut self, heading: &'static str) {
        self.steps += 1;
        self.current = heading;
        self.heading(&format!("{}. {heading}", self.steps));
    }

    /// Prints a heading without a number, for the clean-up.
    pub fn unnumbered(&self, heading: &str) {
        self.heading(heading);
    }

    /// Prints the last heading.
    pub fn conclude(&self, closing: &str) {
        self.heading(closing);
    }

    /// Adds the current step to an error.
    pub fn failed_at(&self, error: Error) -> Error {
        if self.steps == 0 {
            return error;
        }
        let step = anyhow!("the demo failed at step {}, “{}”", self.steps, self.current);
        error.context(step)
    }

    fn heading(&self, text: &str) {
        if self.bold {
            println!("\n\u{1b}[1m== {text}\u{1b}[0m");
        } else {
            println!("\n== {text}");
        }
    }
}
