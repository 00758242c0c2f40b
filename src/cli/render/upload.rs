//! The outcome of `upload`.

use super::table::{table, warnings};
use super::{Render, Style, add_destinations, destinations_text};
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::upload::Outcome;

const HEAD: [&str; 4] = ["NAME", "DESTINATION", "SINCE", "WHY"];

fn queue(outcome: &Outcome) -> String {
    let rows = outcome
        .uploads
        .iter()
        .map(|one| [one.name.clone(), one.destination.clone(), one.since.clone(), one.reason.clone()]);
    table(HEAD, rows)
}

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if !self.is_known {
            return results;
        }
        if let Some(all) = &self.would_give_up {
            results.set(key!("would-give-up"), all.join(", "));
        }
        if let Some(all) = &self.given_up {
            results.set(key!("given-up"), all.join(", "));
        }
        for (key, all) in [(key!("would-move"), &self.would_move), (key!("moved"), &self.moved)] {
            if let Some(all) = all {
                results.set(key, all.join(", "));
            }
        }
        add_destinations(&self.destinations, &mut results);
        if !self.run_warnings.is_empty() {
            results.set(key!("run.warning"), self.run_warnings.join("; "));
        }
        let text = if self.uploads.is_empty() { "none".to_owned() } else { queue(self) };
        results.set(key!("uploads"), text);
        results.set(key!("count"), self.uploads.len().to_string());
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        if !self.is_known {
            return text;
        }
        for (what, all) in [
            ("would be given up", &self.would_give_up),
            ("given up", &self.given_up),
            ("would be moved", &self.would_move),
            ("moved", &self.moved),
        ] {
            if let Some(all) = all {
                text += &format!("{what}: {}\n", all.join(", "));
            }
        }
        text += &destinations_text(&self.destinations);
        text += &match self.uploads.is_empty() {
            true => "No upload is waiting.\n".to_owned(),
            false => format!("{}\n", queue(self)),
        };
        text + &warnings(&self.run_warnings)
    }
}
