//! Runs a binary to its end, or to a deadline, and keeps what it said.

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

/// No walk of these small worlds may take longer, not even one that waits for an etcd that never answers.
const DEADLINE: Duration = Duration::from_secs(200);

/// `other`, which is given the words of `command` after its own, and runs where and with what that would.
pub fn given(mut other: Command, command: &Command) -> Command {
    other.arg(command.get_program()).args(command.get_args());
    other.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    other
}

/// Links the program to the names that it has in the charm, for [`program!`].
pub fn link_programs() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        fs::create_dir_all(&dir).unwrap();
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("actions.yaml")).unwrap();
        let actions: serde_json::Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        for name in actions.keys().map(String::as_str).chain(["dispatch", "reconcile"]) {
            // Another test program may do the same now.
            let new = dir.join(format!(".{name}.{}", std::process::id()));
            symlink(env!("CARGO_BIN_EXE_etcd-backup"), &new).unwrap();
            fs::rename(new, dir.join(name)).unwrap();
        }
    });
}

/// A process on its way. Its output goes to files: an orphan that keeps a pipe open must not stop a test.
pub struct Run {
    child: Child,
    shown: String,
    out: PathBuf,
    err: PathBuf,
    started: Instant,
}

impl Run {
    /// Starts `command`, with its output in `dir`.
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

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// SIGKILL to this process alone, as `juju cancel-task` does it.
    pub fn kill(mut self) -> Out {
        self.child.kill().unwrap();
        self.finish()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Whether it has ended, without clearing it away: `/proc` still tells of it.
    pub fn is_over(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(self.pid())), flags).unwrap() != WaitStatus::StillAlive
    }

    /// What it has said to stderr so far.
    pub fn stderr_so_far(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Waits until `it_is_so`, which must be before the end.
    #[track_caller]
    pub fn await_until(&self, it_is_so: &dyn Fn() -> bool) {
        while !it_is_so() {
            let over = self.is_over() || self.started.elapsed() > DEADLINE;
            assert!(!over, "it never came to that: {}", self.stderr_so_far());
            sleep(Duration::from_millis(3));
        }
    }

    /// Waits for the end.
    pub fn finish(self) -> Out {
        self.finish_within(DEADLINE)
    }

    /// Waits for the end, which must come within `limit` from now.
    pub fn finish_in(self, limit: Duration) -> Out {
        let limit = self.started.elapsed() + limit;
        self.finish_within(limit)
    }

    /// Waits for the end, which must come within `limit` from the start.
    pub fn finish_within(mut self, limit: Duration) -> Out {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > limit {
                self.child.kill().unwrap();
                let _ = self.child.wait();
                let (out, err) = (read(&self.out), read(&self.err));
                panic!("{} still ran after {limit:?}\n--- stdout\n{out}--- stderr\n{err}", self.shown);
            }
            sleep(Duration::from_millis(3));
        };
        self.ended_as(status)
    }

    /// It has ended, and somebody else has waited for it.
    pub fn ended_as(self, status: ExitStatus) -> Out {
        Out {
            took: self.started.elapsed(),
            status,
            stdout: read(&self.out),
            stderr: read(&self.err),
            shown: self.shown,
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// What a finished process left: its status and its words.
#[must_use]
#[derive(Debug)]
pub struct Out {
    /// How it ended.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
    shown: String,
}

impl Out {
    /// Status and words, for a failing assertion.
    pub fn told(&self) -> String {
        format!(
            "{}\n{} after {:?}\n--- stdout\n{}--- stderr\n{}",
            self.shown, self.status, self.took, self.stdout, self.stderr
        )
    }

    /// It is no mistake of ours that it ended: no panic, neither told by Rust nor caught and told by us, on whatever thread.
    #[track_caller]
    pub fn is_in_good_order(&self) {
        if let Err(complaint) = self.tells_no_bug() {
            panic!("{complaint}");
        }
    }

    /// The same, for tables that go on after a complaint.
    pub fn tells_no_bug(&self) -> Result<(), String> {
        match bug_in(&self.stderr) {
            None => Ok(()),
            Some(words) => Err(format!("{words:?} is a mistake of ours: {}", self.told())),
        }
    }

    /// It completed: status 0. Gives its results.
    #[track_caller]
    pub fn completed(self) -> Results {
        assert_eq!(self.status.code(), Some(0), "expected it to complete: {}", self.told());
        let value = match serde_yaml::from_str::<Value>(&self.stdout) {
            Ok(Value::Object(mut map)) if map.len() == 1 && map.contains_key("results") => {
                map.remove("results").unwrap()
            }
            Ok(value) => value,
            Err(error) => panic!("stdout is not YAML: {error}: {}", self.told()),
        };
        Results { value, out: self }
    }

    /// It refused: status 2, a reason that holds one of the `reasons`, and a next step.
    #[track_caller]
    pub fn refused(self, reasons: &[&str]) {
        if let Err(complaint) = self.is_refusal(reasons) {
            panic!("{complaint}");
        }
    }

    /// It failed in this step for this reason, and tells this to type next.
    #[track_caller]
    pub fn failed_at(self, step: &str, reason: &str, next: &str) {
        self.says_one_of(&[&format!("failed: {step}: ")]);
        self.says_one_of(&[&format!("Next: {next}.")]);
        self.failed(&[reason]);
    }

    /// As [`Self::refused`], for tables that go on after a complaint.
    pub fn is_refusal(&self, reasons: &[&str]) -> Result<(), String> {
        // Another run that holds the lock is a refusal of its own kind.
        let expected = if self.stderr.contains(" is working on ") { 3 } else { 2 };
        if self.status.code() != Some(expected) {
            return Err(format!("expected a refusal, status {expected}: {}", self.told()));
        }
        if !self.stderr.contains("Next:") {
            return Err(format!("no next step: {}", self.told()));
        }
        self.holds_one_of(reasons)
    }

    /// It failed: status 1, words that hold one of the `reasons`, the state left behind, and a next step.
    #[track_caller]
    pub fn failed(self, reasons: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "expected a failure: {}", self.told());
        assert!(self.stderr.contains("State:"), "no state: {}", self.told());
        assert!(self.stderr.contains("Next:"), "no next step: {}", self.told());
        self.says_one_of(reasons);
    }

    /// stderr holds one of the fragments, in any case of letters, and no panic.
    #[track_caller]
    pub fn says_one_of(&self, fragments: &[&str]) {
        if let Err(complaint) = self.holds_one_of(fragments) {
            panic!("{complaint}");
        }
    }

    fn holds_one_of(&self, fragments: &[&str]) -> Result<(), String> {
        self.tells_no_bug()?;
        let said = self.stderr.to_lowercase();
        if !fragments.iter().any(|fragment| said.contains(&fragment.to_lowercase())) {
            return Err(format!("stderr says none of {fragments:?}: {}", self.told()));
        }
        Ok(())
    }
}

/// The words by which a panic is told: by Rust itself, by the door that catches it, or by who waited for a thread.
fn bug_in(said: &str) -> Option<&str> {
    let of_thread = |part: &&str| part.contains("thread") && part.trim_end().ends_with("failed");
    let caught = ["panicked", "failed: bug:"].into_iter().find(|word| said.contains(word));
    caught.or_else(|| said.split([':', ';', '\n', '.']).find(of_thread))
}

#[test]
fn a_panic_is_seen_in_whatever_words() {
    for said in [
        "thread 'main' panicked at src/lib.rs:1",
        "failed: bug: index 7 out of bounds. State: …",
        "failed: the thread `pack` failed. State: …",
        "failed: writing the archive: the thread that hashes failed\n",
        "failed: another thread of ours failed; and more",
    ] {
        assert!(bug_in(said).is_some(), "{said}");
    }
    for said in ["failed: starting the thread `pack`: Resource temporarily unavailable", "the start failed"] {
        assert_eq!(bug_in(said), None);
    }
}

/// The results of a completed action.
#[derive(Debug)]
pub struct Results {
    value: Value,
    /// The run they came from.
    pub out: Out,
}

impl Results {
    /// The result under a dotted key, as text; it must be there.
    #[track_caller]
    pub fn get(&self, key: &str) -> String {
        self.find(key).unwrap_or_else(|| panic!("no result {key}: {}", self.out.told()))
    }

    /// The result under a dotted key as a number; it must be there.
    pub fn number(&self, key: &str) -> i64 {
        let text = self.get(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is no number: {text}"))
    }

    /// The result under a dotted key, if it is there.
    pub fn find(&self, key: &str) -> Option<String> {
        find(&self.value, key)
    }
}

/// Looks a dotted key up in nested maps.
pub fn find(value: &Value, key: &str) -> Option<String> {
    match key.split('.').try_fold(value, |value, part| value.get(part))? {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) | Value::Null => None,
        other => Some(other.to_string()),
    }
}
