//! The outcome of `schedule`.

use super::table::fields;
use super::{Render, Style};
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::schedule::Outcome;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        let next = self.when.as_ref().map(|_| self.next.join(", "));
        for (key, value) in [
            (key!("schedule.removed"), self.removed.map(|removed| removed.to_string())),
            (key!("schedule.when"), self.when.clone()),
            (key!("schedule.next"), next),
            (key!("schedule.timer"), self.timer.clone()),
            (key!("schedule.service"), self.service.clone()),
            (key!("schedule.changed"), self.changed.map(|changed| changed.to_string())),
            (key!("schedule.active"), self.active.map(|active| active.to_string())),
            (key!("schedule.last"), self.last.clone()),
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
            None => String::new(),
        };
        let state = self.active.map(|active| if active { "active" } else { "not active" }.to_owned());
        text += &fields(&[
            ("backups", self.when.clone()),
            ("timer", state),
            ("last run", self.last.clone()),
            ("next runs", Some(self.next.join(", ")).filter(|all| !all.is_empty())),
        ]);
        for (name, unit) in [("timer", &self.timer), ("service", &self.service)] {
            if let Some(unit) = unit {
                text += &format!("\nThe {name} unit:\n{unit}");
            }
        }
        text
    }
}
