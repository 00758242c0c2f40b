//! The outcomes of `fetch`, `delete`, `pin`, `unpin` and `credentials`.

use super::table::fields;
use super::{Render, Style, add_destinations, destinations_text, included};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::credentials;
use crate::commands::snapshots::{delete, fetch, hidden, pin};

impl Render for fetch::Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(command) = &self.copy_command {
            results.set(key!("copy.cmd"), &**command);
        }
        let Some(archive) = &self.snapshot else { return results };
        results.set(key!("snapshot.path"), archive.path.display().to_string());
        results.set(key!("snapshot.size"), human_size(archive.size_bytes));
        results.set(key!("snapshot.sha256"), &*archive.sha256);
        results.set(key!("snapshot.revision"), archive.contents.revision.to_string());
        results.set(key!("snapshot.taken"), &*archive.created);
        results.set(key!("snapshot.cluster-id"), &*archive.contents.cluster_id);
        results.set(
            key!("snapshot.taken-on"),
            archive.contents.unit.as_ref().unwrap_or(&archive.contents.member),
        );
        if !archive.encrypted_for.is_empty() {
            results.set(key!("snapshot.encrypted-for"), archive.encrypted_for.join(", "));
        }
        results.set(key!("snapshot.verified"), if archive.verified { "true" } else { COMPARED });
        if let Some(files) = &archive.contents.included {
            results.set(key!("snapshot.included"), included(files));
        }
        if let Some(dir) = &self.extracted_to {
            results.set(key!("extract.path"), dir.display().to_string());
            results.set(key!("extract.files"), self.extracted_files.to_string());
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let Some(archive) = &self.snapshot else { return String::new() };
        let recipients = Some(archive.encrypted_for.join(", ")).filter(|all| !all.is_empty());
        let details = fields(&[
            ("  size", Some(human_size(archive.size_bytes))),
            ("  sha256", Some(archive.sha256.clone())),
            ("  created", Some(archive.created.clone())),
            (
                "  data",
                Some(format!(
                    "cluster {}, revision {}",
                    archive.contents.cluster_id, archive.contents.revision
                )),
            ),
            ("  includes", archive.contents.included.as_ref().map(included)),
            ("  encrypted for", recipients),
            ("  verified", Some(if archive.verified { "yes" } else { COMPARED }.to_owned())),
            ("  copy it with", self.copy_command.clone()),
        ]);
        let extracted = self.extracted_to.as_ref().map(|dir| {
            format!(
                "{} files are unpacked in {}, and stay there until you copy them\n",
                self.extracted_files,
                dir.display()
            )
        });
        format!("{}\n{details}{}", archive.path.display(), extracted.unwrap_or_default())
    }
}

/// How an archive was verified that could not be decrypted.
const COMPARED: &str = "its sha256 alone; identity-file=PATH lets its contents be read";

impl Render for delete::Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        let Some(deleted) = &self.deleted else { return results };
        results.set(key!("deleted"), deleted.join(", "));
        results.set(key!("freed"), human_size(self.freed_bytes));
        if !self.hidden.is_empty() {
            results.set(key!("hidden"), hidden(&self.hidden.join(", ")));
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let Some(deleted) = &self.deleted else { return String::new() };
        let mut text: String = deleted.iter().map(|name| format!("deleted {name}\n")).collect();
        text += &format!("{} freed\n", human_size(self.freed_bytes));
        if !self.hidden.is_empty() {
            text += &format!("hidden: {}\n", hidden(&self.hidden.join(", ")));
        }
        text
    }
}

impl Render for pin::Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(all) = &self.pinned {
            results.set(key!("pinned"), all.join(", "));
        }
        if let Some(all) = &self.unpinned {
            results.set(key!("unpinned"), all.join(", "));
        }
        add_destinations(&self.destinations, &mut results);
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        for (word, all) in [("pinned", &self.pinned), ("unpinned", &self.unpinned)] {
            text.extend(all.iter().flatten().map(|name| format!("{word} {name}\n")));
        }
        text + &destinations_text(&self.destinations)
    }
}

impl Render for credentials::Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let (Some(command), Some(path)) = (&self.copy_command, &self.path) {
            results.set(key!("copy.cmd"), &**command);
            results.set(key!("credentials.path"), path.display().to_string());
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let Some(path) = &self.path else { return String::new() };
        format!("{}\n{}", path.display(), fields(&[("  copy it with", self.copy_command.clone())]))
    }
}
