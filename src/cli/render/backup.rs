//! The outcome of `backup`.

use super::{Render, Style};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::backup::Outcome;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = self.backup.juju();
        if let Some(why) = &self.not_due {
            results.set(key!("run.not-due"), &**why);
        }
        if let Some(name) = &self.unchanged {
            results.set(key!("run.unchanged"), &**name);
        }
        if self.tries > 1 {
            results.set(key!("run.tries"), self.tries.to_string());
        }
        if let Some(retention) = &self.retention {
            results.set(key!("retention.deleted"), retention.deleted.to_string());
            results.set(key!("retention.freed"), human_size(retention.freed_bytes));
            if let Some(hidden) = &retention.hidden {
                results.set(key!("retention.hidden"), &**hidden);
            }
        }
        results
    }

    fn text(&self, style: Style) -> String {
        let mut text = self.backup.text(style);
        if let Some(why) = &self.not_due {
            text += &format!("No backup is due: {why}.\n");
        }
        if let Some(name) = &self.unchanged {
            text += &format!("etcd has not changed since {name}, so no snapshot was taken.\n");
        }
        if let Some(retention) = &self.retention {
            let freed = human_size(retention.freed_bytes);
            text += &format!("retention: {} deleted, {freed} freed\n", retention.deleted);
            if let Some(hidden) = &retention.hidden {
                text += &format!("hidden: {hidden}\n");
            }
        }
        text
    }
}
