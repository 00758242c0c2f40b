//! The etcd process of a world. The supervisor script starts and stops it.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::fs_util::names;
use crate::common::world::World;

impl World {
    /// Starts etcd and waits until it serves.
    ///
    /// # Errors
    ///
    /// Returns the end of the log if etcd exits.
    pub fn try_start(&self) -> Result<(), String> {
        self.supervisor("start");
        self.await_service()
    }

    /// Starts etcd and waits until it serves.
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|log| panic!("etcd does not start: {log}"));
    }

    /// Starts etcd and waits until it listens, healthy or not.
    pub fn start_listening(&self) {
        self.launch();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.listening() {
            assert!(Instant::now() < deadline, "etcd does not listen: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Starts the etcd process and does not wait until it serves.
    pub fn launch(&self) {
        self.supervisor("start");
    }

    /// Stops etcd and waits until the process has ended.
    pub fn stop(&self) {
        self.supervisor("stop");
        assert!(!self.running());
    }

    /// Waits until etcd has stopped, if a run asked it to stop and was killed. The signal may not have been
    /// sent, so this waits at most 2 s.
    pub fn await_ordered_stop(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.path("supervisor/stopping").exists() && self.running() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }

    fn supervisor(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/supervisor");
        let status = Command::new(script)
            .args([verb, self.path("supervisor").to_str().unwrap()])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .status()
            .unwrap();
        assert!(status.success(), "supervisor {verb}: {status}");
    }

    fn await_service(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if !self.running() {
                return Err(self.log());
            }
            if self.healthy() && self.serves_with_tls() {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "etcd is not healthy after 30 s: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Returns whether the endpoint of clients serves. With TLS, it starts apart from that of the harness, and reads the
    /// certificates, which a test may replace next.
    fn serves_with_tls(&self) -> bool {
        let health = || self.etcdctl_command(&["endpoint", "health"]).output().unwrap();
        !self.setup().tls || health().status.success()
    }

    /// Returns whether the client port is open.
    pub fn listening(&self) -> bool {
        TcpStream::connect(self.client_address()).is_ok()
    }

    /// Returns the last lines of the log of etcd.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.path("supervisor/log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Returns the process id of etcd, if it is running.
    pub fn pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.path("supervisor/pid")).ok()?.trim().parse().ok()?;
        alive(pid).then_some(pid)
    }

    /// Returns whether etcd is running.
    pub fn running(&self) -> bool {
        self.pid().is_some()
    }

    /// Sends a signal to etcd.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().unwrap()), signal).unwrap();
    }

    /// Returns the processes that have the directory of this world in their arguments: etcd and the orphans
    /// of earlier runs.
    pub fn processes(&self) -> BTreeSet<i32> {
        let ours = self.path("").into_os_string().into_encoded_bytes();
        let mut found = BTreeSet::new();
        for name in names(Path::new("/proc")) {
            let Ok(pid) = name.parse::<i32>() else {
                continue;
            };
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let names = |word: &[u8]| arguments.windows(word.len()).any(|part| part == word);
            if names(&ours) && !names(b"supervisor\0guard") && alive(pid) {
                found.insert(pid);
            }
        }
        found
    }

    /// Describes what the supervisor was asked to do, and the processes of this world with their states (proc_pid_stat(5)).
    pub fn describe_processes(&self) -> String {
        let asked = fs::read_to_string(self.path("supervisor/asked")).unwrap_or_default();
        let asked: Vec<&str> = asked.lines().collect();
        let describe = |pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.split(' ').take(3).collect::<Vec<_>>().join(" ")
        };
        let processes: Vec<String> = self.processes().into_iter().map(describe).collect();
        format!("the supervisor was asked to {}; processes: {}", asked.join(", "), processes.join(", "))
    }
}

/// Returns whether a process exists, and one of its threads has not ended. The first thread may end before the others, which
/// keep the ports.
pub fn alive(pid: i32) -> bool {
    let ends = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > usize::from(ends)
}
