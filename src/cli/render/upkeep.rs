//! The outcomes of `health`, `alarms`, `disarm`, `compact` and `defrag`.

use super::{Render, Style};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::upkeep::{Alarms, Compaction, Defragmentation, Health};

fn start(recovered: Option<&String>) -> Results {
    let mut results = Results::default();
    if let Some(recovered) = recovered {
        results.set(key!("restore.recovered"), &**recovered);
    }
    results
}

/// Returns results that begin with an unfinished restore, which the command only reports.
fn start_of_report(unfinished: Option<&String>) -> Results {
    let mut results = Results::default();
    if let Some(unfinished) = unfinished {
        results.set(key!("restore.unfinished"), &**unfinished);
    }
    results
}

/// Returns text that begins with what was done about an interrupted restore, and ends with a newline.
fn text(recovered: Option<&String>, lines: &str) -> String {
    let recovered = recovered.map(|recovered| format!("{recovered}\n")).unwrap_or_default();
    let newline = if lines.is_empty() || lines.ends_with('\n') { "" } else { "\n" };
    format!("{recovered}{lines}{newline}")
}

impl Health {
    fn output(&self) -> Option<String> {
        self.cluster.map(|cluster| format!("{}\ncluster is {cluster}", self.answers.join("\n")))
    }
}

impl Render for Health {
    fn juju(&self) -> Results {
        let mut results = start_of_report(self.unfinished_restore.as_ref());
        if let Some(output) = self.output() {
            results.set(key!("output"), output);
            results.set(key!("health.members"), self.members.to_string());
            results.set(key!("health.alarms"), self.alarms.to_string());
        }
        results
    }

    fn text(&self, _: Style) -> String {
        text(self.unfinished_restore.as_ref(), &self.output().unwrap_or_default())
    }
}

impl Render for Alarms {
    fn juju(&self) -> Results {
        let mut results = start(self.recovered.as_ref());
        if let Some(unfinished) = &self.unfinished_restore {
            results.set(key!("restore.unfinished"), &**unfinished);
        }
        if let Some(output) = &self.output {
            results.set(key!("output"), &**output);
        }
        if let Some(alarms) = self.alarms {
            results.set(key!("alarms"), alarms.to_string());
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let output = self.output.as_deref().unwrap_or_default();
        let lines = if output.is_empty() && self.alarms == Some(0) { "etcd has no alarms." } else { output };
        text(self.unfinished_restore.as_ref().or(self.recovered.as_ref()), lines)
    }
}

impl Render for Compaction {
    fn juju(&self) -> Results {
        let mut results = start(self.recovered.as_ref());
        if let (Some(output), Some(revision)) = (&self.output, self.revision) {
            results.set(key!("output"), &**output);
            results.set(key!("compact.revision"), revision.to_string());
        }
        results
    }

    fn text(&self, _: Style) -> String {
        text(self.recovered.as_ref(), self.output.as_deref().unwrap_or_default())
    }
}

impl Render for Defragmentation {
    fn juju(&self) -> Results {
        let mut results = start(self.recovered.as_ref());
        if let Some(output) = &self.output {
            results.set(key!("output"), &**output);
        }
        for (key, size) in [
            (key!("defrag.size-before"), self.size_before_bytes),
            (key!("defrag.size-after"), self.size_after_bytes),
        ] {
            if let Some(size) = size {
                results.set(key, human_size(size));
            }
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let sizes = match (self.size_before_bytes, self.size_after_bytes) {
            (Some(before), Some(after)) => {
                format!("the database had {}, and has {} now", human_size(before), human_size(after))
            }
            _ => String::new(),
        };
        let output = self.output.as_ref().map(|output| format!("{output}\n")).unwrap_or_default();
        text(self.recovered.as_ref(), &format!("{output}{sizes}"))
    }
}
