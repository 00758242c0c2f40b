//! The outcome of `history`.

use super::table::{table, warnings};
use super::{Render, Style};
use crate::cli::results::Results;
use crate::commands::contents::history::{Change, ChangeKind, Outcome};

const NOTHING: &str = "-";

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        if !self.changes.is_empty() {
            let head = ["REVISION", "CHANGE", "VERSION", "BYTES", "LEASE"];
            text += &format!("{}\n", table(head, self.changes.iter().map(cells)));
        }
        let shown = self.changes.len() as u64;
        if shown < self.total {
            text += &format!("({shown} of {} changes; --limit 0 shows all)\n", self.total);
        }
        if let Some(compacted) = self.compacted_revision {
            text += &format!("(the history before revision {compacted} was compacted)\n");
        }
        text + &warnings(&self.warnings)
    }
}

fn cells(change: &Change) -> [String; 5] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let kind = match change.kind {
        ChangeKind::Put => "put",
        ChangeKind::Delete => "delete",
    };
    [
        change.revision.to_string(),
        kind.to_owned(),
        or_nothing(change.version.map(|version| version.to_string())),
        or_nothing(change.size_bytes.map(|size| size.to_string())),
        or_nothing(change.lease.clone()),
    ]
}
