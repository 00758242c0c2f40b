//! The outcome of `diff`. The keys are written one by one.

use super::table::{fields, table, warnings};
use super::{Format, REPLACEMENT, Render, Style, stream_lines};
use crate::cli::results::Results;
use crate::commands::contents::diff::{ChangedKey, Kind, Outcome, State};
use crate::system::text::replace_control;
use std::io::{self, Write};

/// The most prefixes and the most keys that text shows without `--all`.
const SHOWN: usize = 40;

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        warnings(&self.warnings)
    }

    fn stream(&self, format: Format, _: Style, out: &mut dyn Write) -> Option<io::Result<()>> {
        Some(stream_lines(self, format, out, Self::lines))
    }
}

impl Outcome {
    fn lines(&self, out: &mut dyn Write) -> io::Result<()> {
        let total = &self.total;
        write!(out, "{}", fields(&[("old", Some(state(&self.old))), ("new", Some(state(&self.new)))]))?;
        writeln!(
            out,
            "{} added, {} removed, {} changed, {} unchanged",
            total.added, total.removed, total.changed, total.unchanged
        )?;
        if self.prefixes.is_empty() {
            return write!(out, "{}", warnings(&self.warnings));
        }
        let limit = if self.all { usize::MAX } else { SHOWN };
        let rows = self.prefixes.iter().take(limit).map(|one| {
            let name = if one.prefix.is_empty() { "(no slash)".to_owned() } else { one.prefix.clone() };
            [name, one.added.to_string(), one.removed.to_string(), one.changed.to_string()]
        });
        writeln!(out, "\n{}\n", table(["PREFIX", "ADDED", "REMOVED", "CHANGED"], rows))?;
        self.keys(limit, out)?;
        write!(out, "{}", warnings(&self.warnings))
    }

    fn keys(&self, limit: usize, out: &mut dyn Write) -> io::Result<()> {
        let mut changes = self.changes.iter().map_err(io::Error::other)?;
        let mut shown = 0;
        while shown < limit
            && let Some(change) = changes.next().map_err(io::Error::other)?
        {
            let ChangedKey { change, key } = ChangedKey::new(&change);
            let mark = match change {
                Kind::Added => '+',
                Kind::Removed => '-',
                Kind::Changed => '~',
            };
            writeln!(out, "{mark} {key}")?;
            shown += 1;
        }
        let all = self.total.added + self.total.removed + self.total.changed;
        if (shown as u64) < all {
            writeln!(out, "({shown} of {all} keys; --all lists every key)")?;
        }
        Ok(())
    }
}

fn state(state: &State) -> String {
    let cluster = state.cluster_id.as_ref().map(|id| format!(", cluster {id}")).unwrap_or_default();
    let text = format!("{}, revision {}{cluster}", state.location, state.revision);
    replace_control(&text, REPLACEMENT)
}
