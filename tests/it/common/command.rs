//! Runs a program until it ends or until a deadline, and keeps its output.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;

/// The maximum duration of a run on these small worlds, even if it waits for an etcd that never answers.
const DEADLINE: Duration = Duration::from_secs(200);

/// Appends the program and the arguments of `command` to the arguments of `other`. Also gives `other` the
/// environment and the current directory of `command`.
pub fn wrap(mut other: Command, command: &Command) -> Command {
    other.arg(command.get_program()).args(command.get_args());
    other.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    other
}

/// Creates symlinks to the program with the names that it has in the charm, for [`program!`].
pub fn link_programs() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        fs::create_dir_all(&dir).unwrap();
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml")).unwrap();
        let actions: serde_json::Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        for name in actions.keys().map(String::as_str).chain(["dispatch", "reconcile"]) {
            // Another test program may do the same at this time.
            let new = dir.join(format!(".{name}.{}", std::process::id()));
            symlink(env!("CARGO_BIN_EXE_etcd-backup"), &new).unwrap();
            fs::rename(new, dir.join(name)).unwrap();
        }
    });
}

/// A running process. Its output is written to files, because an orphan that keeps a pipe open must not block
/// a test.
pub struct Run {
    child: Child,
    shown: String,
    out: PathBuf,
    err: PathBuf,
    started: Instant,
}

impl Run {
    /// Starts `command` and writes its output to files in `dir`.
    pub fn start(mut command: Command, dir: &Path) -> Self {
        link_programs();
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        fs::create_dir_all(dir).unwrap();
        let (out, err) = (dir.join(format!("{number}.out")), dir.join(format!("{number}.err")));
        let shown = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        Self { child, shown, out, err, started: Instant::now() }
    }

    /// Returns the process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends SIGKILL to this process but not to its children, as `juju cancel-task` does.
    pub fn kill(mut self) -> Out {
        self.child.kill().unwrap();
        self.finish()
    }

    /// Returns whether the process has ended, and reaps it.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Returns whether the process has ended, without reaping it: it is still in `/proc`.
    pub fn is_over(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(self.pid())), flags).unwrap() != WaitStatus::StillAlive
    }

    /// Returns the output on stderr so far.
    pub fn stderr_so_far(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Waits until `condition` returns true. Panics if the process ends before.
    #[track_caller]
    pub fn await_until(&self, condition: &dyn Fn() -> bool) {
        while !condition() {
            let over = self.is_over() || self.started.elapsed() > DEADLINE;
            assert!(!over, "the process ended before the condition was true: {}", self.stderr_so_far());
            sleep(Duration::from_millis(3));
        }
    }

    /// Waits for the end of the process.
    pub fn finish(self) -> Out {
        self.finish_within(DEADLINE)
    }

    /// Waits for the end of the process, at most `limit` from now.
    pub fn finish_in(self, limit: Duration) -> Out {
        let limit = self.started.elapsed() + limit;
        self.finish_within(limit)
    }

    /// Waits for the end of the process, at most `limit` from its start.
    pub fn finish_within(mut self, limit: Duration) -> Out {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > limit {
                self.child.kill().unwrap();
                let _ = self.child.wait();
                let (out, err) = (read(&self.out), read(&self.err));
                panic!(
                    "{} was still running after {limit:?}\n--- stdout\n{out}--- stderr\n{err}",
                    self.shown
                );
            }
            sleep(Duration::from_millis(3));
        };
        self.with_status(status)
    }

    /// Returns the output of a process that was already reaped, with this status.
    pub fn with_status(self, status: ExitStatus) -> Out {
        let out = Out {
            took: self.started.elapsed(),
            status,
            stdout: read(&self.out),
            stderr: read(&self.err),
            shown: self.shown,
        };
        assert_commands_exist(&out.stderr);
        out
    }
}

/// Checks that our program accepts each command of ours in a message, as it would be typed in a shell.
fn assert_commands_exist(message: &str) {
    for after in message.split("`sudo etcd-backup ").skip(1) {
        let Some((words, _)) = after.split_once('`') else { continue };
        let script = format!("exec \"$0\" {words} --help");
        let typed =
            Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_etcd-backup")]).output().unwrap();
        let answer = String::from_utf8_lossy(&typed.stderr).into_owned();
        assert!(typed.status.success(), "{words}: {answer}: {message}");
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// The status and the output of a finished process.
#[must_use]
#[derive(Debug)]
pub struct Out {
    /// The exit status.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// The duration from start to end.
    pub took: Duration,
    shown: String,
}

impl Out {
    /// Returns the command, the status and the output, for the message of an assertion.
    pub fn describe(&self) -> String {
        format!(
            "{}\n{} after {:?}\n--- stdout\n{}--- stderr\n{}",
            self.shown, self.status, self.took, self.stdout, self.stderr
        )
    }

    /// Checks that stderr contains no panic, on any thread: neither a message of Rust nor one of our own
    /// panic handler.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        if let Err(failure) = self.check_no_panic() {
            panic!("{failure}");
        }
    }

    /// As [`Self::assert_no_panic`], but returns an error, for tables that continue after a failure.
    pub fn check_no_panic(&self) -> Result<(), String> {
        match panic_in(&self.stderr) {
            None => Ok(()),
            Some(words) => Err(format!("the program panicked, with {words:?}: {}", self.describe())),
        }
    }

    /// Checks that the action completed, with status 0. Returns its results.
    #[track_caller]
    pub fn completed(self) -> Results {
        assert_eq!(self.status.code(), Some(0), "expected it to complete: {}", self.describe());
        let value = match serde_yaml::from_str::<Value>(&self.stdout) {
            Ok(Value::Object(mut map)) if map.len() == 1 && map.contains_key("results") => {
                map.remove("results").unwrap()
            }
            Ok(value) => value,
            Err(error) => panic!("stdout is not YAML: {error}: {}", self.describe()),
        };
        Results { value, out: self }
    }

    /// Checks that the action refused: status 2, a message that contains each of the `reasons`, and a next
    /// step.
    #[track_caller]
    pub fn refused(self, reasons: &[&str]) {
        if let Err(failure) = self.check_refused(reasons) {
            panic!("{failure}");
        }
    }

    /// Checks that the action failed in this step, with this reason and this next step.
    #[track_caller]
    pub fn failed_at(self, step: &str, reason: &str, next: &str) {
        self.assert_stderr_contains(&[&format!("failed: {step}: ")]);
        self.assert_stderr_contains(&[&format!("Next: {next}.")]);
        self.failed(&[reason]);
    }

    /// As [`Self::refused`], but for one of the `reasons`, and returns an error, for tables that continue after a failure.
    pub fn check_refused_for_one_of(&self, reasons: &[&str]) -> Result<(), String> {
        match reasons.iter().any(|reason| self.check_refused(&[reason]).is_ok()) {
            true => Ok(()),
            false => Err(format!("not refused for any of {reasons:?}: {}", self.describe())),
        }
    }

    fn check_refused(&self, reasons: &[&str]) -> Result<(), String> {
        // A refusal has status 3 if another run holds the lock.
        let expected = if self.stderr.contains(" is working on ") { 3 } else { 2 };
        if self.status.code() != Some(expected) {
            return Err(format!("expected a refusal, status {expected}: {}", self.describe()));
        }
        if !self.stderr.contains("Next:") {
            return Err(format!("no next step: {}", self.describe()));
        }
        self.check_stderr_contains(reasons)
    }

    /// Checks that the action failed: status 1, a message that contains each of the `reasons`, the state, and
    /// a next step.
    #[track_caller]
    pub fn failed(self, reasons: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "expected a failure: {}", self.describe());
        assert!(self.stderr.contains("State:"), "no state: {}", self.describe());
        assert!(self.stderr.contains("Next:"), "no next step: {}", self.describe());
        self.assert_stderr_contains(reasons);
    }

    /// Checks that stderr contains each of the fragments, ignoring case, and no panic.
    #[track_caller]
    pub fn assert_stderr_contains(&self, fragments: &[&str]) {
        if let Err(failure) = self.check_stderr_contains(fragments) {
            panic!("{failure}");
        }
    }

    /// Checks that stderr contains one of the fragments, ignoring case, and no panic. For reasons that depend on the version of
    /// etcd or on the time.
    #[track_caller]
    pub fn assert_stderr_contains_one_of(&self, fragments: &[&str]) {
        let found = fragments.iter().any(|fragment| self.check_stderr_contains(&[fragment]).is_ok());
        assert!(found, "stderr does not contain any of {fragments:?}: {}", self.describe());
    }

    fn check_stderr_contains(&self, fragments: &[&str]) -> Result<(), String> {
        self.check_no_panic()?;
        let text = self.stderr.to_lowercase();
        match fragments.iter().find(|fragment| !text.contains(&fragment.to_lowercase())) {
            Some(missing) => Err(format!("stderr does not contain {missing:?}: {}", self.describe())),
            None => Ok(()),
        }
    }
}

/// Returns the part of the output that reports a panic. Rust itself prints it, or our panic handler, or the
/// code that joins a thread.
fn panic_in(text: &str) -> Option<&str> {
    let of_thread = |part: &&str| part.contains("thread") && part.trim_end().ends_with("failed");
    let caught = ["panicked", "failed: bug:"].into_iter().find(|word| text.contains(word));
    caught.or_else(|| text.split([':', ';', '\n', '.']).find(of_thread))
}

#[test]
fn every_form_of_panic_message_is_detected() {
    for text in [
        "thread 'main' panicked at src/lib.rs:1",
        "failed: bug: index 7 out of bounds. State: …",
        "failed: the thread `pack` failed. State: …",
        "failed: writing the archive: the thread that hashes failed\n",
        "failed: another thread of ours failed; and more",
    ] {
        assert!(panic_in(text).is_some(), "{text}");
    }
    for text in ["failed: starting the thread `pack`: Resource temporarily unavailable", "the start failed"] {
        assert_eq!(panic_in(text), None);
    }
}

/// The results of a completed action.
#[derive(Debug)]
pub struct Results {
    value: Value,
    /// The output of the run.
    pub out: Out,
}

impl Results {
    /// Returns the result with a dotted key, which must exist, as text.
    #[track_caller]
    pub fn get(&self, key: &str) -> String {
        self.find(key).unwrap_or_else(|| panic!("no result {key}: {}", self.out.describe()))
    }

    /// Returns the result with a dotted key, which must exist, as a number.
    pub fn number(&self, key: &str) -> i64 {
        let text = self.get(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is not a number: {text}"))
    }

    /// Returns the result with a dotted key, if it exists.
    pub fn find(&self, key: &str) -> Option<String> {
        find(&self.value, key)
    }
}

/// Looks up a dotted key in nested maps.
pub fn find(value: &Value, key: &str) -> Option<String> {
    match key.split('.').try_fold(value, |value, part| value.get(part))? {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) | Value::Null => None,
        other => Some(other.to_string()),
    }
}
