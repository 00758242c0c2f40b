//! Uploads to S3 servers on this machine, compared with `rclone copyto`.
//!
//! versitygw is built if it is missing. MinIO and Ceph take long to fetch, so they are used only if `cargo xtask buckets` has
//! fetched them. A server that is missing is printed, and not measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Bench;
use super::measure::{MIB, chain};
use super::report::{Limit, Row};
use super::snapshots::is_installed;
use crate::go_server::{MINIO, VERSITYGW};
use crate::s3_server::{BUCKET, S3Server, SECRET};
use crate::{ceph, command, workspace};

/// Without it, rclone waits a second for permission before it sends an object or a part, which versitygw does not give.
const EAGER: &str = "--expect-continue-timeout=0";

/// A server that is fetched.
struct Installed {
    /// Its name in [`S3Server::start`].
    kind: &'static str,
    /// Its name in the table.
    name: &'static str,
    /// Its name in rclone, which has defaults for each.
    provider: &'static str,
    /// The program, or the directory with Ceph's programs.
    program: PathBuf,
}

/// Returns the servers that can be started here.
fn installed(target: &Path) -> Result<Vec<Installed>> {
    let all = [
        ("versitygw", "versitygw", "Other", VERSITYGW.ensure(target)?),
        ("minio", "MinIO", "Minio", MINIO.fetched(target)),
        ("ceph", "Ceph", "Ceph", ceph::fetched(target)),
    ];
    let found = all.into_iter().filter_map(|(kind, name, provider, program)| match program {
        Some(program) => Some(Installed { kind, name, provider, program }),
        None => {
            println!("skipped: uploads to {name}, which `cargo xtask buckets --server {kind}` fetches");
            None
        }
    });
    Ok(found.collect())
}

/// A running server, and rclone as its client.
struct Remote {
    server: S3Server,
    provider: &'static str,
}

impl Remote {
    /// Returns rclone with this server as the remote `bench:`.
    fn rclone(&self, arguments: &[&str]) -> Command {
        let mut rclone = command::new("rclone");
        // It refuses an authority file of the caller.
        rclone.args(arguments).env("RCLONE_CONFIG", "/dev/null").env_remove("AWS_CA_BUNDLE");
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", self.provider),
            ("ACCESS_KEY_ID", &*self.server.access_key),
            ("SECRET_ACCESS_KEY", SECRET),
            ("ENDPOINT", &*self.server.endpoint),
        ] {
            rclone.env(format!("RCLONE_CONFIG_BENCH_{name}"), value);
        }
        rclone
    }

    /// Uploads `archive` with rclone, and returns the seconds that it took. Removes the object again.
    fn copy_with_rclone(&self, archive: &str, options: &[&str]) -> Result<f64> {
        let remote = format!("bench:{BUCKET}/rclone.tar.gz");
        let (cost, _) = chain(&mut [self.rclone(&[&["copyto", archive, &remote], options].concat())], None)?;
        chain(&mut [self.rclone(&["deletefile", &remote])], None)?;
        Ok(cost.wall)
    }
}

impl Bench {
    /// Measures the upload of an archive to each server. Ours includes reading it back from the server.
    pub fn measure_uploads(&self, rounds: usize) -> Result<Vec<Row>> {
        if !is_installed("rclone") {
            println!("skipped: uploads need rclone");
            return Ok(Vec::new());
        }
        let target = workspace::target_directory()?;
        let mut rows = Vec::new();
        for server in installed(&target)? {
            let Installed { kind, name, provider, program } = server;
            let running = S3Server::start(kind, &program, &self.path(kind))?;
            rows.extend(self.measure_uploads_to(&Remote { server: running, provider }, name, rounds)?);
        }
        Ok(rows)
    }

    fn measure_uploads_to(&self, remote: &Remote, name: &str, rounds: usize) -> Result<Vec<Row>> {
        let row = |what: String, limit| Row { what, limit, values: Vec::new() };
        let mut rows = Vec::new();
        for round in 1..=rounds {
            println!("uploads to {name}, round {round} of {rounds}");
            let archive = self.queue_archive(&remote.server)?;
            // Before and after ours, because a disk may become slower the more is written to it.
            let before = remote.copy_with_rclone(&archive, &[])?;
            let (ours, _) = chain(&mut [self.etcd_backup("upload", &[])], Some(&self.path("nothing")))?;
            let rclone = f64::midpoint(before, remote.copy_with_rclone(&archive, &[])?);
            let eager = remote.copy_with_rclone(&archive, &[EAGER])?;
            if rows.is_empty() {
                let size = fs::metadata(&archive)?.len() as f64 / MIB;
                rows = vec![
                    row(format!("upload of {size:.0} MiB to {name} / `rclone copyto`"), Limit::AtMost(1.0)),
                    row(format!("the same with `{EAGER}`"), Limit::None),
                    row("own peak memory of an upload, MiB".to_owned(), Limit::AtMost(128.0)),
                    row("upload, s".to_owned(), Limit::None),
                    row("`rclone copyto`, s".to_owned(), Limit::None),
                ];
            }
            let values = [ours.wall / rclone, ours.wall / eager, ours.memory, ours.wall, rclone];
            for (row, value) in rows.iter_mut().zip(values) {
                row.values.push(value);
            }
        }
        Ok(rows)
    }

    /// Returns a destination in a directory that is not mounted.
    fn not_mounted(&self) -> serde_json::Value {
        json!({"directory": self.path("later"), "mount": self.path("later")})
    }

    /// Takes a snapshot and queues it for the server. Returns the path of the archive.
    fn queue_archive(&self, server: &S3Server) -> Result<String> {
        self.write_settings("later", &self.not_mounted())?;
        self.clear_target()?;
        // This fails at once and leaves the archive in the queue.
        let status = self.etcd_backup("snapshot", &["--quiet"]).stderr(Stdio::null()).status()?;
        ensure!(!status.success(), "the archive was stored in a directory that is not mounted");
        self.write_settings("bucket", &server.destination(&self.path("credentials"))?)?;
        chain(&mut [self.etcd_backup("upload", &["--move", "later/bucket"])], None)?;
        Ok(self.archive()?.display().to_string())
    }

    /// Writes the settings file with one destination.
    fn write_settings(&self, name: &str, destination: &serde_json::Value) -> Result<()> {
        let settings = json!({"destinations": {name: destination}});
        Ok(fs::write(self.path("backup.yaml"), serde_yaml::to_string(&settings)?)?)
    }

    fn etcd_backup(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut ours = command::new(self.release.join("etcd-backup"));
        ours.env("ETCD_SITE", self.server.site()).env("ETCD_BACKUP", self.path("backup.yaml"));
        ours.arg(subcommand).arg(format!("--target={}", self.path("target").display())).args(arguments);
        ours
    }
}
