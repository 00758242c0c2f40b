//! A directory of stand-ins for etcd's tools (the script `tool`): they pass every call on to the real tools, write it
//! down, and misbehave where a test says so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory of stand-ins of one world.
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Makes the directory `dir` with one stand-in for each tool in `real`.
    pub fn new(dir: &Path, real: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/tool");
        for name in ["etcd", "etcdctl", "etcdutl"] {
            if real.join(name).exists() {
                symlink(&script, dir.join(name)).unwrap();
            }
        }
        fs::write(dir.join("real"), real.to_str().unwrap()).unwrap();
        fs::write(dir.join("calls"), "").unwrap();
        fs::write(dir.join("out"), "").unwrap();
        fs::write(dir.join("err"), "").unwrap();
        Self { dir: dir.to_owned() }
    }

    /// The calls so far: process id and `NAME ARGUMENTS`.
    pub fn calls(&self) -> Vec<(i32, String)> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(pid, call)| Some((pid.parse().ok()?, call.to_owned())))
            .collect()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        fs::write(self.dir.join("calls"), "").unwrap();
    }

    /// Kills the caller before its `n`-th call from here.
    pub fn crash_at(&self, n: usize) {
        self.forget_calls();
        fs::write(self.dir.join("crash-at"), n.to_string()).unwrap();
    }

    /// Whether a crash is still to come; if so it is called off.
    pub fn crash_pending(&self) -> bool {
        fs::remove_file(self.dir.join("crash-at")).is_ok()
    }

    /// After `kills` runs that were killed before a call, each before a later one, and one that was not killed: the latter
    /// made no call before which none was killed, and at least `least` calls.
    #[track_caller]
    pub fn assert_killed_before_each(&self, kills: usize, least: usize) {
        let calls = self.calls();
        assert!(
            kills >= calls.len() && calls.len() >= least,
            "{kills} kills for {} calls: {calls:?}",
            calls.len()
        );
    }

    /// Answers calls that match the shell pattern with these words and this status, instead of the real tool.
    pub fn answer(&self, pattern: &str, stdout: &str, stderr: &str, status: u8) {
        fs::write(self.dir.join("out"), stdout).unwrap();
        fs::write(self.dir.join("err"), stderr).unwrap();
        self.fault(pattern, "answer", status);
    }

    /// As [`Self::answer`], but after the real tool has done its work.
    pub fn answer_after(&self, pattern: &str, stdout: &str, stderr: &str, status: u8) {
        self.answer(pattern, stdout, stderr, status);
        self.fault(pattern, "after", status);
    }

    /// Lets what the real tool saves in a call that matches the shell pattern arrive with one byte changed amid it.
    pub fn spoil(&self, pattern: &str) {
        self.fault(pattern, "spoil", 0);
    }

    /// Lets the real tool do its work in a call that matches the shell pattern, and cuts the end off its files.
    pub fn cut(&self, pattern: &str) {
        self.fault(pattern, "cut", 0);
    }

    /// Never ends a call that matches the shell pattern.
    pub fn hang(&self, pattern: &str) {
        self.fault(pattern, "hang", 0);
    }

    /// The same, and hears no SIGTERM.
    pub fn hang_deaf(&self, pattern: &str) {
        self.fault(pattern, "deaf", 0);
    }

    /// Lets a call that matches the shell pattern wait for so many seconds before the real tool does its work.
    pub fn delay(&self, pattern: &str, seconds: u8) {
        self.fault(pattern, "delay", seconds);
    }

    /// Stops the process `pid` by SIGSTOP before the real tool does its work in a call that matches the shell pattern.
    pub fn halt(&self, pattern: &str, pid: i32) {
        fs::write(self.dir.join("whom"), pid.to_string()).unwrap();
        self.fault(pattern, "halt", 0);
    }

    /// Dies by SIGKILL in a call that matches the shell pattern.
    pub fn die(&self, pattern: &str) {
        self.fault(pattern, "die", 0);
    }

    /// Lets the `n`-th call from here do its work and then exit with an error. A program that reads a database prints `quote`.
    pub fn fail_after(&self, n: usize, quote: &str) {
        self.forget_calls();
        self.answer_after("*", "", "", 1);
        fs::write(self.dir.join("quote"), quote).unwrap();
        fs::write(self.dir.join("fault-at"), n.to_string()).unwrap();
    }

    /// Takes a tool away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.dir.join(name)).unwrap();
    }

    /// Takes a fault back.
    pub fn mend(&self) {
        let _ = fs::remove_file(self.dir.join("fault"));
        let _ = fs::remove_file(self.dir.join("fault-at"));
    }

    fn fault(&self, pattern: &str, mode: &str, status: u8) {
        fs::write(self.dir.join("fault"), format!("{pattern}\n{mode}\n{status}\n")).unwrap();
    }
}
