//! A temporary S3 server with one bucket: versitygw, which stores objects as files.

use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{command, demo};

const ACCESS_KEY: &str = "memory";
const SECRET: &str = "memory-secret";
const BUCKET: &str = "backups";
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running versitygw; dropping it stops it.
pub struct S3Server {
    child: Child,
    endpoint: String,
}

impl S3Server {
    /// Starts the server. It stores its objects in the new directory `dir`.
    pub fn start(program: &Path, dir: &Path) -> Result<Self> {
        // A directory in it is a bucket.
        fs::create_dir_all(dir.join(BUCKET))?;
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

    /// Writes the access key to the file `credentials`, and returns the bucket as a destination in the settings.
    pub fn destination(&self, credentials: &Path) -> Result<serde_json::Value> {
        let text = format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n");
        fs::write(credentials, text)?;
        fs::set_permissions(credentials, Permissions::from_mode(0o600))?;
        let bucket = json!({"bucket": BUCKET, "endpoint": self.endpoint, "credentials-file": credentials});
        Ok(json!({"s3": bucket}))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
