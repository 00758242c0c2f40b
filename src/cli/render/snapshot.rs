//! The outcome of `snapshot`.

use super::table::{fields, warnings};
use super::{Render, Style, add_destinations, destinations_text, included};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::archive::Archive;
use crate::commands::snapshot::Outcome;
use crate::etcd::backend::KubernetesData;

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(recovered) = &self.recovered {
            results.set(key!("restore.recovered"), &**recovered);
        }
        if let Some(command) = &self.copy_command {
            results.set(key!("copy.cmd"), &**command);
        }
        if let Some(archive) = &self.snapshot {
            results.set(key!("snapshot.path"), archive.path.display().to_string());
            results.set(key!("snapshot.size"), human_size(archive.size_bytes));
            results.set(key!("snapshot.sha256"), &*archive.sha256);
            results.set(key!("snapshot.revision"), archive.contents.revision.to_string());
            if let Some(keys) = archive.contents.keys {
                results.set(key!("snapshot.keys"), keys.to_string());
            }
            results.set(key!("snapshot.version"), &*archive.contents.etcd_version);
            results.set(key!("snapshot.verified"), archive.verified.to_string());
            if !archive.encrypted_for.is_empty() {
                results.set(key!("snapshot.encrypted-for"), archive.encrypted_for.join(", "));
            }
            if !archive.contents.labels.is_empty() {
                results.set(key!("snapshot.labels"), archive.contents.labels.to_string());
            }
            if let Some(note) = &archive.contents.note {
                results.set(key!("snapshot.note"), &**note);
            }
            if let Some(files) = &archive.contents.included {
                results.set(key!("snapshot.included"), included(files));
            }
            if let Some(keys) = archive.contents.kubernetes.as_ref().and_then(KubernetesData::describe_keys) {
                results.set(key!("snapshot.kubernetes-keys"), keys);
            }
        }
        add_destinations(&self.destinations, &mut results);
        for (key, all) in [
            (key!("snapshot.warning"), &self.warnings),
            (key!("upload.warning"), &self.upload_warnings),
            (key!("run.warning"), &self.run_warnings),
        ] {
            if !all.is_empty() {
                results.set(key, all.join("; "));
            }
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        if let Some(recovered) = &self.recovered {
            text += &format!("{recovered}\n");
        }
        if let Some(archive) = &self.snapshot {
            let keys = archive.contents.keys.map(|keys| format!(", {keys} keys")).unwrap_or_default();
            let recipients = archive.encrypted_for.join(", ");
            text += &format!("{}\n", archive.path.display());
            text += &fields(&[
                ("  size", Some(human_size(archive.size_bytes))),
                ("  sha256", Some(archive.sha256.clone())),
                (
                    "  data",
                    Some(format!(
                        "etcd {}, revision {}{keys}",
                        archive.contents.etcd_version, archive.contents.revision
                    )),
                ),
                ("  labels", Some(archive.contents.labels.to_string()).filter(|all| !all.is_empty())),
                ("  note", archive.contents.note.clone()),
                ("  includes", archive.contents.included.as_ref().map(included)),
                ("  encrypted for", Some(recipients).filter(|all| !all.is_empty())),
                ("  keys to keep", keys_to_keep(archive)),
                ("  verified", Some(if archive.verified { "yes" } else { "no" }.to_owned())),
                ("  copy it with", self.copy_command.clone()),
            ]);
        }
        text += &destinations_text(&self.destinations);
        text + &warnings(self.warnings.iter().chain(&self.upload_warnings).chain(&self.run_warnings))
    }
}

/// Names the encryption keys of the API server that the snapshot's values need.
fn keys_to_keep(archive: &Archive) -> Option<String> {
    let keys = archive.contents.kubernetes.as_ref()?.describe_keys()?;
    Some(format!("{keys} (encryption keys of kube-apiserver)"))
}
