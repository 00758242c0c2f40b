//! The outcome of `site`.

use super::table::{fields, warnings};
use super::{Render, Style};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::site::Outcome;
use std::path::{Path, PathBuf};

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        // Nothing was found.
        if !self.endpoint.is_empty() {
            add(self, &mut results);
        }
        results
    }

    fn text(&self, _: Style) -> String {
        if self.endpoint.is_empty() {
            return String::new();
        }
        let path = |path: &Path| path.display().to_string();
        let of = |file: &Option<PathBuf>| file.as_deref().map(path);
        let until = |file: &Option<PathBuf>, date: &Option<String>| {
            let date = date.as_ref().map(|date| format!(", expires {date}")).unwrap_or_default();
            of(file).map(|file| file + &date)
        };
        let state = match (&self.answers, &self.etcd_version, &self.revision) {
            (Some(true), Some(version), Some(revision)) => {
                Some(format!("etcd {version} answers, revision {revision}"))
            }
            (Some(false), ..) => {
                Some(format!("etcd does not answer: {}", self.answer_error.as_deref().unwrap_or_default()))
            }
            _ => None,
        };
        let members = Some(self.members.join(", ")).filter(|all| !all.is_empty());
        let alarms = Some(self.alarms.join("; ")).filter(|all| !all.is_empty());
        let programs = Some(self.programs.join(", ")).filter(|all| !all.is_empty());
        let real = of(&self.data_dir_real).map(|real| format!(" -> {real}")).unwrap_or_default();
        let unfinished = self.unfinished_restore.as_ref().map(|what| format!("warning: {what}\n\n"));
        let mut text = format!("{}{}\n", unfinished.unwrap_or_default(), self.etcd);
        text += &fields(&[
            ("  state", state),
            ("  alarms", alarms),
            ("  members", members),
            ("  endpoint", Some(format!("{} ({})", self.endpoint, self.endpoint_from))),
            ("  data-dir", Some(format!("{}{real} ({})", path(&self.data_dir), self.data_dir_from))),
            ("  wal-dir", of(&self.wal_dir)),
            ("  config-file", of(&self.config_file)),
            ("  cacert", of(&self.cacert)),
            ("  cert", until(&self.cert, &self.cert_expires)),
            ("  key", of(&self.key)),
            ("  server cert", until(&self.server_cert, &self.server_cert_expires)),
            ("  etcd", Some(path(&self.server))),
            ("  etcdctl", Some(path(&self.etcdctl))),
            ("  etcdutl", of(&self.etcdutl)),
            ("  versions", programs),
            ("  stop with", Some(self.stop.clone())),
            ("  start with", Some(self.start.clone())),
        ]);
        text += &warnings(&self.warnings);
        match (&self.site_file, &self.site_file_text) {
            (Some(file), Some(lines)) => {
                text + &format!("\n{} has these lines now:\n\n{lines}", file.display())
            }
            (None, Some(lines)) => text + &format!("\nThe site file of this etcd:\n\n{lines}"),
            _ => text,
        }
    }
}

/// Adds the result keys of an etcd.
pub(super) fn add(site: &Outcome, results: &mut Results) {
    let path = |path: &Path| path.display().to_string();
    let of = |file: &Option<PathBuf>| file.as_deref().map(path);
    let list = |all: &[String], separator: &str| (!all.is_empty()).then(|| all.join(separator));
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), human_size);
    let quota = site.quota_from.as_ref().map(|_| bytes(site.quota_bytes));
    for (key, value) in [
        (key!("restore.unfinished"), site.unfinished_restore.clone()),
        (key!("site.etcd"), Some(site.etcd.clone())),
        (key!("site.endpoint"), Some(site.endpoint.clone())),
        (key!("site.endpoint-from"), Some(site.endpoint_from.clone())),
        (key!("site.data-dir"), Some(path(&site.data_dir))),
        (key!("site.data-dir-from"), Some(site.data_dir_from.clone())),
        (key!("site.data-dir-is"), of(&site.data_dir_real)),
        (key!("site.wal-dir"), of(&site.wal_dir)),
        (key!("site.config-file"), of(&site.config_file)),
        (key!("site.cacert"), of(&site.cacert)),
        (key!("site.cert"), of(&site.cert)),
        (key!("site.key"), of(&site.key)),
        (key!("site.server-cert"), of(&site.server_cert)),
        (key!("site.etcdutl"), of(&site.etcdutl)),
        (key!("site.etcdctl"), Some(path(&site.etcdctl))),
        (key!("site.server"), Some(path(&site.server))),
        (key!("site.stop"), Some(site.stop.clone())),
        (key!("site.start"), Some(site.start.clone())),
        (key!("site.programs-from"), Some(site.programs_from.clone())),
        (key!("site.service-from"), Some(site.service_from.clone())),
        (key!("site.certificates-from"), site.certificates_from.clone()),
        (key!("site.config-file-from"), site.config_file_from.clone()),
        (key!("site.password-from"), site.password_from.clone()),
        (key!("site.quota-from"), site.quota_from.clone()),
        (key!("site.quota"), quota),
        (key!("site.cert-expires"), site.cert_expires.clone()),
        (key!("site.server-cert-expires"), site.server_cert_expires.clone()),
        (key!("site.warning"), list(&site.warnings, "; ")),
        (key!("site.answers"), site.answers.map(|answers| answers.to_string())),
        (key!("site.version"), site.etcd_version.clone()),
        (key!("site.revision"), site.revision.map(|revision| revision.to_string())),
        (key!("site.alarms"), list(&site.alarms, "; ")),
        (key!("site.error"), site.answer_error.clone()),
        (key!("site.members"), list(&site.members, ", ")),
        (key!("site.programs"), list(&site.programs, ", ")),
        (key!("site.file"), of(&site.site_file)),
        (key!("site.file-text"), site.site_file_text.clone()),
    ] {
        if let Some(value) = value {
            results.set(key, value);
        }
    }
}
