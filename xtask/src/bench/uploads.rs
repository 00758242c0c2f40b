//! Uploads to an S3 server on this machine, compared with `rclone copyto`.
//!
//! The server is versitygw. If it or rclone is missing, that is printed and nothing is measured.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Bench;
use super::measure::{MIB, chain};
use super::report::{Limit, Row};
use super::snapshots::is_installed;
use crate::{command, demo, go_server, workspace};

const ACCESS_KEY: &str = "bench";
const SECRET: &str = "bench-secret";
const BUCKET: &str = "backups";
/// Without it, rclone waits a second for permission before it sends an object or a part, which versitygw does not give.
const EAGER: &str = "--expect-continue-timeout=0";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running versitygw; dropping it stops it.
struct S3Server {
    child: Child,
    endpoint: String,
}

impl S3Server {
    /// Starts the server. It stores its objects in `dir`.
    fn start(program: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir(dir)?;
        let [port, _] = demo::server::ports()?;
        let address = format!("127.0.0.1:{port}");
        let mut server = command::new(program);
        server.args(["--quiet", "--port", &address, "--access", ACCESS_KEY, "--secret", SECRET, "posix"]);
        server.arg(dir).stdin(Stdio::null()).stdout(Stdio::null());
        let child = server.spawn().context("starting versitygw")?;
        let server = Self { child, endpoint: format!("http://{address}") };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&address).is_err() {
            ensure!(Instant::now() < deadline, "versitygw does not listen on {address}");
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Returns rclone with this server as the remote `bench:`.
    fn rclone(&self, arguments: &[&str]) -> Command {
        let mut rclone = command::new("rclone");
        // It refuses an authority file of the caller.
        rclone.args(arguments).env("RCLONE_CONFIG", "/dev/null").env_remove("AWS_CA_BUNDLE");
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ACCESS_KEY_ID", ACCESS_KEY),
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
    /// Measures the upload of an archive. Ours includes reading it back from the server.
    pub fn measure_uploads(&self, rounds: usize) -> Result<Vec<Row>> {
        let program = go_server::VERSITYGW.ensure(&workspace::target_directory()?);
        let (Ok(Some(program)), true) = (program, is_installed("rclone")) else {
            println!("skipped: uploads need rclone, and versitygw or Go");
            return Ok(Vec::new());
        };
        let server = S3Server::start(&program, &self.path("s3"))?;
        chain(&mut [server.rclone(&["mkdir", &format!("bench:{BUCKET}")])], None)?;
        let row = |what: String, limit| Row { what, limit, values: Vec::new() };
        let mut rows = Vec::new();
        for round in 1..=rounds {
            println!("uploads, round {round} of {rounds}");
            let archive = self.queue_archive(&server)?;
            // Before and after ours, because a disk may become slower the more is written to it.
            let before = server.copy_with_rclone(&archive, &[])?;
            let (ours, _) = chain(&mut [self.etcd_backup("upload", &[])], Some(&self.path("nothing")))?;
            let rclone = f64::midpoint(before, server.copy_with_rclone(&archive, &[])?);
            let eager = server.copy_with_rclone(&archive, &[EAGER])?;
            if rows.is_empty() {
                let size = fs::metadata(&archive)?.len() as f64 / MIB;
                rows = vec![
                    row(
                        format!("upload of {size:.0} MiB to versitygw / `rclone copyto`"),
                        Limit::AtMost(1.0),
                    ),
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

    /// Takes a snapshot and queues it for the server. Returns the path of the archive.
    fn queue_archive(&self, server: &S3Server) -> Result<String> {
        let not_mounted = json!({"directory": self.path("later"), "mount": self.path("later")});
        self.write_settings("later", &not_mounted)?;
        self.clear_target()?;
        // This fails at once and leaves the archive in the queue.
        let status = self.etcd_backup("snapshot", &["--quiet"]).stderr(Stdio::null()).status()?;
        ensure!(!status.success(), "the archive was stored in a directory that is not mounted");
        fs::write(
            self.path("credentials"),
            format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n"),
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
