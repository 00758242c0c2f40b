//! Renders the outcome of `restore`, for Juju and as text.

use super::table::{fields, warnings};
use super::{Render, Style, site};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::restore::{KeyChanges, Outcome, Planned, Restored};
use crate::error::Subcommand;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(recovered) = &self.recovered {
            results.set(key!("restore.recovered"), &**recovered);
        }
        if let Some(site) = &self.site {
            site::add(site, &mut results);
        }
        if let Some(plan) = &self.plan {
            add_plan(plan, &mut results);
        }
        if let Some(restored) = &self.restored {
            add_restored(restored, &mut results);
        }
        if let Some(backup) = &self.backup {
            results.set(key!("backup.path"), backup.path.display().to_string());
            results.set(key!("backup.sha256"), &*backup.sha256);
            results.set(key!("backup.size"), human_size(backup.size_bytes));
        }
        if let Some(old) = &self.old_data {
            results.set(key!("backup.old-data"), old.display().to_string());
        }
        if let Some(command) = &self.remove_command {
            results.set(key!("remove.cmd"), &**command);
        }
        if self.old_data_ahead_by > 0 {
            results.set(key!("backup.old-data-ahead-by"), self.old_data_ahead_by.to_string());
        }
        if self.lost_revisions > 0 {
            results.set(key!("restore.lost-revisions"), self.lost_revisions.to_string());
        }
        if !self.notes.is_empty() {
            results.set(key!("restore.note"), self.notes.join("; "));
        }
        if !self.warnings.is_empty() {
            results.set(key!("restore.warning"), self.warnings.join("; "));
        }
        results
    }

    fn text(&self, style: Style) -> String {
        let mut text = String::new();
        if let Some(recovered) = &self.recovered {
            text += &format!("{recovered}\n");
        }
        if let Some(plan) = &self.plan {
            text += "Nothing was changed. The plan of the restore:\n";
            text += &fields(&[
                ("  snapshot", Some(plan.snapshot.clone())),
                ("  created", plan.created.clone()),
                ("  sha256", Some(plan.sha256.clone())),
                ("  member", Some(format!("{} at {}", plan.member, plan.peer_urls))),
                ("  revision now", plan.old_revision.map(|revision| revision.to_string())),
                ("  revision after", Some(plan.revision.to_string())),
                ("  keys", plan.keys.as_ref().map(describe_keys)),
                ("  keys", plan.keys_unknown.as_ref().map(|why| format!("could not be compared: {why}"))),
                ("  backup", Some(plan.backup.clone())),
                ("  backup in", plan.backup_target.as_ref().map(|target| target.display().to_string())),
            ]);
        }
        if let Some(site) = &self.site {
            text += &site.text(style);
        }
        if let Some(restored) = &self.restored {
            let keys = restored.keys.map(|keys| format!(" and {keys} keys")).unwrap_or_default();
            text += &format!(
                "etcd serves revision {}{keys}. etcd was down for {:.2} s.\n",
                restored.revision, restored.downtime_seconds
            );
            if let Some(left_over) = &restored.left_over {
                text += &format!("not cleaned up: {}\n", with_cleanup(left_over));
            }
        }
        text += &fields(&[
            ("backup of the old data", self.backup.as_ref().map(|backup| backup.path.display().to_string())),
            ("old data", self.old_data.as_ref().map(|old| old.display().to_string())),
            ("  remove it with", self.remove_command.clone()),
        ]);
        if self.lost_revisions > 0 {
            let lost = match self.lost_revisions {
                1 => "revision".to_owned(),
                many => format!("{many} revisions"),
            };
            text += &format!("Not in the snapshot: the last {lost} of the data that it replaces.\n");
        }
        text.extend(self.notes.iter().map(|note| format!("note: {note}\n")));
        text + &warnings(&self.warnings)
    }
}

fn add_plan(plan: &Planned, results: &mut Results) {
    results.set(key!("plan.snapshot"), &*plan.snapshot);
    results.set(key!("plan.sha256"), &*plan.sha256);
    results.set(key!("plan.revision"), plan.revision.to_string());
    if let Some(created) = &plan.created {
        results.set(key!("plan.taken"), &**created);
    }
    results.set(key!("plan.member"), format!("{} at {}", plan.member, plan.peer_urls));
    if let Some(revision) = plan.old_revision {
        results.set(key!("plan.old-revision"), revision.to_string());
    }
    results.set(key!("plan.backup"), &*plan.backup);
    if let Some(target) = &plan.backup_target {
        results.set(key!("plan.backup-target"), target.display().to_string());
    }
    results.set(key!("plan.bump"), plan.bump.to_string());
    if let Some(keys) = &plan.keys {
        results.set(key!("plan.removed-keys"), keys.removed.to_string());
        results.set(key!("plan.brought-back-keys"), keys.brought_back.to_string());
        results.set(key!("plan.replaced-keys"), keys.replaced.to_string());
    }
    if let Some(why) = &plan.keys_unknown {
        results.set(key!("plan.keys-unknown"), &**why);
    }
}

/// Describes the changes of a restore.
fn describe_keys(keys: &KeyChanges) -> String {
    format!(
        "removes {} that were created since, brings back {}, replaces {} values; {} stay as they are",
        keys.removed, keys.brought_back, keys.replaced, keys.unchanged
    )
}

fn add_restored(restored: &Restored, results: &mut Results) {
    results.set(key!("restore.revision"), restored.revision.to_string());
    if let Some(keys) = restored.keys {
        results.set(key!("restore.keys"), keys.to_string());
    }
    results.set(key!("restore.cluster-id"), &*restored.cluster_id);
    results.set(key!("restore.downtime"), format!("{:.2}s", restored.downtime_seconds));
    if restored.bumped_by > 0 {
        results.set(key!("restore.bumped-by"), restored.bumped_by.to_string());
    }
    if restored.disarmed {
        results.set(key!("restore.disarmed"), "NOSPACE");
    }
    if let Some(left_over) = &restored.left_over {
        results.set(key!("restore.left-over"), with_cleanup(left_over));
    }
}

/// Adds the command that removes what is left over.
fn with_cleanup(left_over: &str) -> String {
    let recover = Subcommand::new("restore").flag("recover");
    format!("{left_over}; the next command removes it, or {recover}")
}
