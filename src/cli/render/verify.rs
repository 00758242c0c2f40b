//! The outcome of `verify`.

use super::table::{fields, warnings};
use super::{Render, Style, add_destinations, destinations_text};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::snapshots::verify::Outcome;

impl Outcome {
    fn is_empty(&self) -> bool {
        [&self.good, &self.damaged, &self.not_fully_verified, &self.not_verified]
            .iter()
            .all(|all| all.is_empty())
    }
}

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(first) = &self.first {
            results.set(key!("verify.sha256"), &*first.sha256);
            results.set(key!("verify.size"), human_size(first.size_bytes));
            let numbers = [
                (key!("verify.revision"), first.revision.map(|revision| revision.to_string())),
                (key!("verify.drill-revision"), first.drill_revision.map(|revision| revision.to_string())),
                (key!("verify.drill-keys"), first.drill_keys.map(|keys| keys.to_string())),
            ];
            for (key, value) in numbers {
                if let Some(value) = value {
                    results.set(key, value);
                }
            }
        }
        if !self.is_empty() {
            results.set(key!("verify.good"), self.good.len().to_string());
            results.set(key!("verify.failed"), self.damaged.len().to_string());
            results.set(key!("verify.not-fully-verified"), self.not_fully_verified.len().to_string());
            results.set(key!("verify.not-verified"), self.not_verified.len().to_string());
            results.set(key!("verify.snapshots"), self.good.join(", "));
        }
        if !self.warnings.is_empty() {
            results.set(key!("verify.warning"), self.warnings.join("; "));
        }
        add_destinations(&self.destinations, &mut results);
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        for (verdict, all) in [
            ("verified", &self.good),
            ("not fully verifiable", &self.not_fully_verified),
            ("DAMAGED", &self.damaged),
            ("not verified", &self.not_verified),
        ] {
            text.extend(all.iter().map(|name| format!("{name}: {verdict}\n")));
        }
        if let Some(first) = &self.first {
            let drilled = first.drill_revision.map(|revision| {
                let keys = first.drill_keys.map(|keys| format!(", {keys} keys")).unwrap_or_default();
                format!("an etcd booted from it with revision {revision}{keys}")
            });
            text += &fields(&[
                ("  size", Some(human_size(first.size_bytes))),
                ("  sha256", Some(first.sha256.clone())),
                ("  revision", first.revision.map(|revision| revision.to_string())),
                ("  drill", drilled),
            ]);
        }
        text += &destinations_text(&self.destinations);
        text + &warnings(&self.warnings)
    }
}
