//! The outcome of `schedule`.

use super::table::fields;
use super::{Render, Style};
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::schedule::Outcome;
use std::path::PathBuf;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        let next = self.when.as_ref().map(|_| self.next.join(", "));
        for (key, value) in [
            (key!("schedule.removed"), self.removed.map(|removed| removed.to_string())),
            (key!("schedule.would-remove"), self.would_remove.as_deref().map(unit_files)),
            (key!("schedule.when"), self.when.clone()),
            (key!("schedule.next"), next),
            (key!("schedule.timer"), self.timer.clone()),
            (key!("schedule.service"), self.service.clone()),
            (key!("schedule.changed"), self.changed.map(|changed| changed.to_string())),
            (key!("schedule.active"), self.active.map(|active| active.to_string())),
            (key!("schedule.last"), self.last.clone()),
            (key!("schedule.warning"), Some(self.warnings.join("; ")).filter(|all| !all.is_empty())),
        ] {
            if let Some(value) = value {
                results.set(key, value);
            }
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text = match self.removed {
            Some(true) => "The timer was removed.\n".to_owned(),
            Some(false) => "There is no timer to remove.\n".to_owned(),
            None => match &self.would_remove {
                Some(units) if units.is_empty() => "There is no timer to remove.\n".to_owned(),
                Some(units) => format!("These unit files would be removed: {}\n", unit_files(units)),
                None => String::new(),
            },
        };
        let state = self.active.map(|active| if active { "active" } else { "not active" }.to_owned());
        text += &fields(&[
            ("backups", self.when.clone()),
            ("timer", state),
            ("last run", self.last.clone()),
            ("next runs", Some(self.next.join(", ")).filter(|all| !all.is_empty())),
        ]);
        for warning in &self.warnings {
            text += &format!("warning: {warning}\n");
        }
        for (name, unit) in [("timer", &self.timer), ("service", &self.service)] {
            if let Some(unit) = unit {
                text += &format!("\nThe {name} unit:\n{unit}");
            }
        }
        text
    }
}

/// Lists the unit files that would be removed.
fn unit_files(units: &[PathBuf]) -> String {
    match units {
        [] => "none".to_owned(),
        units => units.iter().map(|unit| unit.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}
