//! Owns the headings, and knows which step a failure belongs to.
//!
//! It must never colour anything that is not read on a terminal.

use std::io::IsTerminal;

use anyhow::{Error, anyhow};

/// Tells the steps in order.
pub struct Narrator {
    bold: bool,
    steps: usize,
    now: &'static str,
}

impl Narrator {
    pub fn new() -> Self {
        let bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { bold, steps: 0, now: "" }
    }

    /// The next step begins.
    pub fn step(&mut self, heading: &'static str) {
        self.steps += 1;
        self.now = heading;
        self.heading(&format!("{}. {heading}", self.steps));
    }

    /// A heading for tidying up, which is no step.
    pub fn aside(&self, heading: &str) {
        self.heading(heading);
    }

    /// The last heading.
    pub fn conclude(&self, closing: &str) {
        self.heading(closing);
    }

    /// The same error, with the step that it came from.
    pub fn failed_at(&self, error: Error) -> Error {
        if self.steps == 0 {
            return error;
        }
        let step = anyhow!("the demo failed at step {}, “{}”", self.steps, self.now);
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
