//! A temporary S3 server with one bucket, for measurements.
//!
//! The script of the tests starts it, so that it is set up in one place. Never builds or downloads a server.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{command, moto, workspace};

/// The secret of the access key.
pub const SECRET: &str = "measured-secret";
/// The bucket.
pub const BUCKET: &str = "backups";
/// It runs with the Python of moto, which has a client of S3.
const SCRIPT: &str = "tests/it/common/s3/program_server.py";

/// A running server; dropping it stops it.
pub struct S3Server {
    child: Child,
    /// Its URL.
    pub endpoint: String,
    /// The id of its access key.
    pub access_key: String,
}

impl S3Server {
    /// Starts a server of the `kind` versitygw, minio or ceph. `program` is its program, or the directory with those of Ceph.
    /// It stores its objects in the new directory `dir`.
    pub fn start(kind: &str, program: &Path, dir: &Path) -> Result<Self> {
        // A directory in it becomes a bucket.
        fs::create_dir_all(dir.join(BUCKET))?;
        let python = moto::ensure(&workspace::target_directory()?)?.join("bin/python");
        let mut script = command::new(python);
        script.arg("-I").arg(workspace::root()?.join(SCRIPT));
        script.arg(kind).arg(program).args([SECRET, "", ""]).arg(dir);
        // The server ends with its standard input.
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the script has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [port, access_key, _] = words[..] else { bail!("{kind} does not start") };
        Ok(Self { child, endpoint: format!("http://127.0.0.1:{port}"), access_key: access_key.to_owned() })
    }

    /// Writes the access key to the file `credentials`, and returns the bucket as a destination in the settings.
    pub fn destination(&self, credentials: &Path) -> Result<serde_json::Value> {
        let key = &self.access_key;
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n");
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
