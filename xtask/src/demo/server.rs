//! A temporary etcd: its ports, files and supervisor script.
//!
//! Listens only on loopback, and never on etcd's default ports. The etcd always ends with this object. `restore` stops and
//! starts the etcd too, so it is ended by the supervisor script and not by a process handle.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command;

const SUPERVISOR: &str = include_str!("supervisor.sh");
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running etcd; dropping it stops it.
pub struct Server {
    endpoint: String,
    path: OsString,
    script: PathBuf,
    log: PathBuf,
    site: PathBuf,
    running: bool,
}

impl Server {
    /// Writes the files of a small installation to `home`, and starts etcd.
    pub fn start(home: &Path, bin: &Path) -> Result<Self> {
        Self::start_with(home, bin, &json!({}))
    }

    /// Starts etcd as [`start`](Self::start) does, with further settings in its configuration file.
    pub fn start_with(home: &Path, bin: &Path, more: &Value) -> Result<Self> {
        let [client, peer] = ports()?.map(|port| format!("http://127.0.0.1:{port}"));
        let mut server = Self {
            path: path(bin)?,
            script: home.join("etcd-supervisor"),
            log: home.join("etcd.log"),
            site: home.join("site.yaml"),
            endpoint: client,
            running: false,
        };
        server.write_files(home, bin, &peer, more)?;
        // From here on, there may be an etcd to stop, even if the script fails.
        server.running = true;
        command::run_checked(command::new(&server.script).arg("start"))?;
        let shown = command::quote(&command::short_path(bin));
        println!("$ export ETCDCTL_ENDPOINTS={} PATH={shown}:\"$PATH\"", server.endpoint);
        server.wait_until_healthy()?;
        Ok(server)
    }

    /// Stops etcd, and fails if it cannot be stopped. Dropping only prints the error.
    pub fn stop(mut self) -> Result<()> {
        command::print(&self.stop_command());
        self.running = false;
        self.run_stop_command()
    }

    /// Returns the client URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the script that starts and stops etcd; its argument is `start` or `stop`.
    pub fn supervisor(&self) -> &Path {
        &self.script
    }

    /// Returns the site file, which describes this etcd for the actions.
    pub fn site(&self) -> &Path {
        &self.site
    }

    /// Returns etcdctl for this etcd. Its path and endpoint are in the environment, to keep the printed command short.
    pub fn etcdctl(&self, arguments: &[&str]) -> Command {
        let mut etcdctl = command::new("etcdctl");
        etcdctl.env("PATH", &self.path).env("ETCDCTL_ENDPOINTS", &self.endpoint).args(arguments);
        etcdctl
    }

    /// Prints the number of keys and the revision, as etcdctl reports them.
    pub fn count(&self) -> Result<()> {
        command::run_checked(&mut self.etcdctl(&[
            "get",
            "",
            "--from-key",
            "--count-only",
            "--write-out=fields",
        ]))
    }

    fn write_files(&self, home: &Path, bin: &Path, peer: &str, more: &Value) -> Result<()> {
        let (config, data) = (home.join("etcd.conf.yml"), home.join("data"));
        let mut settings = json!({
            "name": "demo",
            "data-dir": data,
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": format!("demo={peer}"),
            "initial-cluster-token": "etcd-demo",
            // The largest quota that etcd recommends: the benchmark exceeds the default of 2 GiB.
            "quota-backend-bytes": 8_u64 << 30,
        });
        if let (Some(settings), Some(more)) = (settings.as_object_mut(), more.as_object()) {
            settings.extend(more.clone());
        }
        let site = json!({
            "endpoint": self.endpoint,
            "data-dir": data,
            "config-file": config,
            "bin-dir": bin,
            "service": {"start": [self.script, "start"], "stop": [self.script, "stop"]},
        });
        write(&config, &serde_yaml::to_string(&settings)?)?;
        write(&self.site, &serde_yaml::to_string(&site)?)?;
        write(&self.script, &supervisor(home, bin))?;
        fs::set_permissions(&self.script, Permissions::from_mode(0o700)).context("the supervisor script")
    }

    /// Waits until etcd is healthy, and prints that.
    fn wait_until_healthy(&self) -> Result<()> {
        let mut health = self.etcdctl(&["endpoint", "health"]);
        let began = Instant::now();
        while let Err(error) = command::output(&mut health) {
            crate::interrupt::check()?;
            if began.elapsed() > START_TIMEOUT {
                return Err(error)
                    .with_context(|| format!("etcd did not start; its log is {}", self.log.display()));
            }
            sleep(Duration::from_millis(200));
        }
        command::run_checked(&mut self.etcdctl(&["endpoint", "health"]))
    }

    fn stop_command(&self) -> Command {
        let mut stop = command::new(&self.script);
        stop.arg("stop");
        stop
    }

    fn run_stop_command(&self) -> Result<()> {
        let status = self.stop_command().status().context("starting the supervisor script")?;
        if !status.success() {
            bail!(
                "the temporary etcd may still be running: {} failed ({status})",
                command::as_typed(&self.stop_command())
            );
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running
            && let Err(error) = self.run_stop_command()
        {
            eprintln!("error: {error:#}");
        }
    }
}

/// Returns PATH with this etcd's programs first.
fn path(bin: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).with_context(|| format!("{} cannot be put on PATH", bin.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    println!("(writing {})", command::short_path(path));
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn supervisor(home: &Path, bin: &Path) -> String {
    let word = |path: PathBuf| command::quote(&path.to_string_lossy());
    SUPERVISOR.replace("@HOME@", &word(home.to_owned())).replace("@ETCD@", &word(bin.join("etcd")))
}

/// Returns two free ports. Both are held until both are known, so that they differ.
pub fn ports() -> Result<[u16; 2]> {
    let free = || {
        loop {
            let listener =
                TcpListener::bind("127.0.0.1:0").context("looking for a free port on 127.0.0.1")?;
            let port = listener.local_addr()?.port();
            if !(2379..=2380).contains(&port) {
                return anyhow::Ok((port, listener));
            }
        }
    };
    let (client, peer) = (free()?, free()?);
    Ok([client.0, peer.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_two_different_ports() {
        let [client, peer] = ports().unwrap();
        assert_ne!(client, peer);
    }

    #[test]
    fn the_supervisor_accepts_a_directory_with_a_space() {
        let script = supervisor(Path::new("/tmp/a b"), Path::new("/opt/etcd"));
        assert!(script.contains("home='/tmp/a b'\netcd=/opt/etcd/etcd\n"), "{script}");
    }
}
