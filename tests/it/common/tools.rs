//! A directory of stand-ins for the etcd tools (the script `tool`). They record every call, pass it on to the
//! real tool, and inject the faults that a test sets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory of stand-ins of a world.
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Creates the directory `dir` with a stand-in for each tool in `real`.
    pub fn new(dir: &Path, real: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/tool");
        for name in ["etcd", "etcdctl", "etcdutl"] {
            if real.join(name).exists() {
                symlink(&script, dir.join(name)).unwrap();
            }
        }
        fs::write(dir.join("real"), format!("{}\n", real.display())).unwrap();
        fs::write(dir.join("calls"), "").unwrap();
        fs::write(dir.join("out"), "").unwrap();
        fs::write(dir.join("err"), "").unwrap();
        Self { dir: dir.to_owned() }
    }

    /// Returns the calls so far: the process id and `NAME ARGUMENTS`.
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

    /// Kills the caller before its `n`-th call from now on.
    pub fn crash_at(&self, n: usize) {
        self.forget_calls();
        fs::write(self.dir.join("crash-at"), n.to_string()).unwrap();
    }

    /// Returns whether the crash of [`Self::crash_at`] is still pending, and cancels it.
    pub fn crash_pending(&self) -> bool {
        fs::remove_file(self.dir.join("crash-at")).is_ok()
    }

    /// Checks the calls of a complete run, after `kills` runs of which each was killed before a later call. A
    /// run must have been killed before each call, and there must be at least `least` calls.
    #[track_caller]
    pub fn assert_killed_before_each(&self, kills: usize, least: usize) {
        let calls = self.calls();
        assert!(
            kills >= calls.len() && calls.len() >= least,
            "{kills} kills for {} calls: {calls:?}",
            calls.len()
        );
    }

    /// Answers calls that match the shell pattern with this output and status, and does not run the real
    /// tool.
    pub fn answer(&self, pattern: &str, stdout: &str, stderr: &str, status: u8) {
        fs::write(self.dir.join("out"), stdout).unwrap();
        fs::write(self.dir.join("err"), stderr).unwrap();
        self.fault(pattern, "answer", status);
    }

    /// As [`Self::answer`], but runs the real tool first.
    pub fn answer_after(&self, pattern: &str, stdout: &str, stderr: &str, status: u8) {
        self.answer(pattern, stdout, stderr, status);
        self.fault(pattern, "after", status);
    }

    /// Changes one byte in the middle of the file that the real tool saves, in calls that match the shell
    /// pattern.
    pub fn corrupt(&self, pattern: &str) {
        self.fault(pattern, "spoil", 0);
    }

    /// Runs the real tool in calls that match the shell pattern, and then truncates its files.
    pub fn cut(&self, pattern: &str) {
        self.fault(pattern, "cut", 0);
    }

    /// Makes calls that match the shell pattern hang.
    pub fn hang(&self, pattern: &str) {
        self.fault(pattern, "hang", 0);
    }

    /// As [`Self::hang`], and ignores SIGTERM.
    pub fn hang_ignoring_sigterm(&self, pattern: &str) {
        self.fault(pattern, "deaf", 0);
    }

    /// Delays calls that match the shell pattern by `seconds`, and then runs the real tool.
    pub fn delay(&self, pattern: &str, seconds: u8) {
        self.fault(pattern, "delay", seconds);
    }

    /// Sends SIGSTOP to the process `pid` in calls that match the shell pattern, and then runs the real tool.
    pub fn suspend_process(&self, pattern: &str, pid: i32) {
        fs::write(self.dir.join("whom"), pid.to_string()).unwrap();
        self.fault(pattern, "halt", 0);
    }

    /// Kills the tool with SIGKILL in calls that match the shell pattern.
    pub fn kill(&self, pattern: &str) {
        self.fault(pattern, "die", 0);
    }

    /// Makes the next call that matches the shell pattern fail after SIGTERM has ended the real tool.
    pub fn fail_at_the_end(&self, pattern: &str) {
        self.fault(pattern, "late", 1);
    }

    /// Makes the `n`-th call from now on fail after the real tool has run. A tool that reads a database also
    /// prints `quote`.
    pub fn fail_after(&self, n: usize, quote: &str) {
        self.forget_calls();
        self.answer_after("*", "", "", 1);
        fs::write(self.dir.join("quote"), quote).unwrap();
        fs::write(self.dir.join("fault-at"), n.to_string()).unwrap();
    }

    /// Removes a tool.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.dir.join(name)).unwrap();
    }

    /// Removes the fault.
    pub fn remove_fault(&self) {
        let _ = fs::remove_file(self.dir.join("fault"));
        let _ = fs::remove_file(self.dir.join("fault-at"));
    }

    fn fault(&self, pattern: &str, mode: &str, status: u8) {
        fs::write(self.dir.join("fault"), format!("{pattern}\n{mode}\n{status}\n")).unwrap();
    }
}
