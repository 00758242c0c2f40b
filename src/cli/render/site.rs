//! The outcome of `site`.

use super::table::{fields, warnings};
use super::{Render, Style};
use crate::commands::results::Results;
use crate::commands::site::Outcome;
use std::path::{Path, PathBuf};

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        // Nothing was found.
        if !self.endpoint.is_empty() {
            self.add_to(&mut results);
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
                Some(format!("etcd does not answer: {}", self.error.as_deref().unwrap_or_default()))
            }
            _ => None,
        };
        let members = Some(self.members.join(", ")).filter(|all| !all.is_empty());
        let alarms = Some(self.alarms.join("; ")).filter(|all| !all.is_empty());
        let programs = Some(self.programs.join(", ")).filter(|all| !all.is_empty());
        let real = of(&self.data_dir_real).map(|real| format!(" -> {real}")).unwrap_or_default();
        let mut text = format!("{}\n", self.etcd);
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
        text + &warnings(&self.warnings)
    }
}
