//! The outcome of `check`.

use super::{Render, Style};
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::check::Outcome;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let (Some(status), Some(line)) = (self.status, self.line()) {
            results.set(key!("check.status"), status);
            results.set(key!("check.output"), line);
        }
        if let Some(last) = &self.last_good {
            results.set(key!("check.last-good"), &**last);
        }
        results
    }

    fn text(&self, _: Style) -> String {
        self.line().map(|line| line + "\n").unwrap_or_default()
    }

    fn nagios(&self) -> Option<(String, u8)> {
        self.line().map(|line| (line, self.level))
    }
}
