//! The outcome of `prune`.

use super::table::table;
use super::{Render, Style, add_destinations, destinations_text};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::snapshots::prune::Outcome;

const HEAD: [&str; 7] = ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERDICT", "WHY"];

fn verdicts(outcome: &Outcome) -> String {
    let rows = outcome.snapshots.iter().map(|one| {
        [
            one.name.clone(),
            one.created.clone(),
            one.revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string()),
            human_size(one.size_bytes),
            one.location.clone(),
            one.verdict.clone(),
            one.reason.clone(),
        ]
    });
    table(HEAD, rows)
}

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if !self.is_judged {
            return results;
        }
        let text = if self.snapshots.is_empty() { "none".to_owned() } else { verdicts(self) };
        results.set(key!("snapshots"), text);
        let (deleted, freed) = match self.plan {
            true => (key!("would-delete"), key!("would-free")),
            false => (key!("deleted"), key!("freed")),
        };
        results.set(deleted, self.deleted.to_string());
        results.set(freed, human_size(self.freed_bytes));
        if let Some(hidden) = &self.hidden {
            results.set(key!("hidden"), &**hidden);
        }
        add_destinations(&self.destinations, &mut results);
        results
    }

    fn text(&self, style: Style) -> String {
        let mut text = String::new();
        if !self.is_judged {
            return text;
        }
        if style.wide && !self.snapshots.is_empty() {
            text += &format!("{}\n", verdicts(self));
        } else {
            for one in &self.snapshots {
                text += &format!("{}  {}: {}\n", one.name, one.verdict, one.reason);
            }
        }
        let (deleted, freed) =
            if self.plan { ("would be deleted", "would be freed") } else { ("deleted", "freed") };
        text += &format!("{} {deleted}, {} {freed}\n", self.deleted, human_size(self.freed_bytes));
        if let Some(hidden) = &self.hidden {
            text += &format!("hidden: {hidden}\n");
        }
        text += &destinations_text(&self.destinations);
        text
    }
}
