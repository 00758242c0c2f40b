//! Uploads to S3 servers on this machine, compared with `rclone copyto`.
//!
//! versitygw is built if it is missing. MinIO and Ceph take long to fetch, so they are used only if `cargo xtask buckets` has
//! fetched them. A server that is missing is printed, and not measured.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Bench;
use super::measure::{MIB, chain};
use super::report::{Limit, Row};
use super::snapshots::is_installed;
use crate::go_server::{MINIO, VERSITYGW};
use crate::{ceph, command, moto, workspace};

const SECRET: &str = "bench-secret";
const BUCKET: &str = "backups";
/// The script that starts a server, for the tests and here. It runs with the Python of moto, which has a client of S3.
const SCRIPT: &str = "tests/it/common/s3/program_server.py";
/// Without it, rclone waits a second for permission before it sends an object or a part, which versitygw does not give.
const EAGER: &str = "--expect-continue-timeout=0";

/// A server that is fetched.
struct Installed {
    /// Its name in [`SCRIPT`].
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

/// A running server; dropping it stops it.
struct S3Server {
    child: Child,
    provider: &'static str,
    endpoint: String,
    access_key: String,
}

impl S3Server {
    /// Starts the server with a bucket. It stores its objects in `dir`.
    fn start(server: &Installed, target: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join(BUCKET))?;
        let mut python = command::new(moto::ensure(target)?.join("bin/python"));
        let script = workspace::root()?.join(SCRIPT);
        python.arg("-I").arg(script).arg(server.kind).arg(&server.program).args([SECRET, "", ""]).arg(dir);
        // The server ends with its standard input.
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the script has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [port, access_key, _] = words[..] else { anyhow::bail!("{} does not start", server.name) };
        let (endpoint, access_key) = (format!("http://127.0.0.1:{port}"), access_key.to_owned());
        Ok(Self { child, provider: server.provider, endpoint, access_key })
    }

    /// Returns rclone with this server as the remote `bench:`.
    fn rclone(&self, arguments: &[&str]) -> Command {
        let mut rclone = command::new("rclone");
        // It refuses an authority file of the caller.
        rclone.args(arguments).env("RCLONE_CONFIG", "/dev/null").env_remove("AWS_CA_BUNDLE");
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", self.provider),
            ("ACCESS_KEY_ID", &*self.access_key),
            ("SECRET_ACCESS_KEY", SECRET),
            ("ENDPOINT", &*self.endpoint),
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

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
            let running = S3Server::start(&server, &target, &self.path(server.kind))?;
            rows.extend(self.measure_uploads_to(&running, server.name, rounds)?);
        }
        Ok(rows)
    }

    fn measure_uploads_to(&self, server: &S3Server, name: &str, rounds: usize) -> Result<Vec<Row>> {
        let row = |what: String, limit| Row { what, limit, values: Vec::new() };
        let mut rows = Vec::new();
        for round in 1..=rounds {
            println!("uploads to {name}, round {round} of {rounds}");
            let archive = self.queue_archive(server)?;
            // Before and after ours, because a disk may become slower the more is written to it.
            let before = server.copy_with_rclone(&archive, &[])?;
            let (ours, _) = chain(&mut [self.etcd_backup("upload", &[])], Some(&self.path("nothing")))?;
            let rclone = f64::midpoint(before, server.copy_with_rclone(&archive, &[])?);
            let eager = server.copy_with_rclone(&archive, &[EAGER])?;
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
        fs::write(
            self.path("credentials"),
            format!(
                "[default]\naws_access_key_id = {}\naws_secret_access_key = {SECRET}\n",
                server.access_key
            ),
        )?;
        fs::set_permissions(self.path("credentials"), Permissions::from_mode(0o600))?;
        let credentials = self.path("credentials");
        let bucket = json!({"bucket": BUCKET, "endpoint": server.endpoint, "credentials-file": credentials});
        self.write_settings("bucket", &json!({"s3": bucket}))?;
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
