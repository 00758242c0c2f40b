//! Starts other programs, watches them and stops them.
//!
//! Every child gets an empty environment, an empty standard input, a process group of its own and a deadline. A
//! parent-death signal ends it with this process, because Juju cancels an action by SIGKILL of this process alone. Its
//! output goes to memory files and not to pipes, so a child that leaves a daemon running cannot block the caller. Must
//! never run a shell.

mod exec;
mod outcome;
mod running;

pub use exec::exec;
pub use outcome::{Ending, Output, ProcessError};
pub use running::{GRACE, Running};

use crate::error::quoted;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid, setsid};
use outcome::Withheld;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{PidfdFlags, pidfd_open};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The path of a program's standard input, for a program that needs a path.
pub const STDIN: &str = "/proc/self/fd/0";
/// The `PATH` of children. A program that is named without a directory is looked up on it too.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a program that is open for writing is waited for.
const MAX_BUSY: Duration = Duration::from_millis(500);

/// A program to run.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    input: Option<Input>,
    deadline: Duration,
    without_network: bool,
    batch_scheduled: bool,
    own_session: bool,
    withheld: Option<Withheld>,
}

/// The standard input of a program.
#[derive(Clone)]
enum Input {
    Bytes(Vec<u8>),
    Open(Arc<File>),
}

/// Omits the environment, which may contain a password.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&self.shown()).finish()
    }
}

impl Program {
    /// A program at an absolute `path`, or one that is looked up on [`PATH`]. Its deadline is a minute.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let mut program = Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            input: None,
            deadline: Duration::from_secs(60),
            without_network: false,
            batch_scheduled: false,
            own_session: false,
            withheld: None,
        };
        for (name, value) in [("PATH", PATH), ("LC_ALL", "C"), ("TZ", "UTC")] {
            program = program.env(name, value);
        }
        program
    }

    /// Adds arguments. They must never contain a secret: every user of the machine can read them.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable, or replaces it.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Sets the content of standard input.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(Input::Bytes(bytes));
        self
    }

    /// Uses an open file as standard input. The program finds it at [`STDIN`], even if the file is renamed or removed.
    #[must_use]
    pub fn stdin_file(mut self, file: File) -> Self {
        self.input = Some(Input::Open(Arc::new(file)));
        self
    }

    /// Sets how long the program may run.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the program in an empty network namespace, without any connection. Needs root.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.without_network = true;
        self
    }

    /// Schedules the program in batches (`SCHED_BATCH`): it is woken less often and does more each time.
    #[must_use]
    pub fn batch_scheduled(mut self) -> Self {
        self.batch_scheduled = true;
        self
    }

    /// Runs the program in a session of its own: without cgroups, the kernel divides the processors among sessions first
    /// (`sched(7)`, "The autogroup feature"), and a lower priority of our session would slow the program down.
    #[must_use]
    pub fn own_session(mut self) -> Self {
        self.own_session = true;
        self
    }

    /// Marks a program whose output may quote secrets. Errors contain only the text that `recognised` returns for a
    /// line. `by_hand` is the instruction for the operator to see the whole output, a clause such as "run X on a copy".
    #[must_use]
    pub fn redact_output(
        mut self,
        recognised: fn(&str) -> Option<String>,
        by_hand: impl Into<String>,
    ) -> Self {
        self.withheld = Some(Withheld { recognised, by_hand: by_hand.into() });
        self
    }

    /// Runs the program to its end and returns its standard output.
    ///
    /// # Errors
    /// Fails unless it exits with status 0 before its deadline. The error contains the end of its output.
    pub fn run(&self) -> Result<Output, ProcessError> {
        self.start()?.finish(self.deadline, &mut |_| Ok(()))
    }

    /// Starts the program. It is stopped when the handle is dropped.
    ///
    /// # Errors
    /// Fails if it does not exist or cannot be started.
    pub fn start(&self) -> Result<Running, ProcessError> {
        let failed = |error: io::Error| ProcessError {
            shown: self.shown(),
            ending: match error.kind() {
                io::ErrorKind::NotFound if self.missing() => Ending::NotFound,
                _ => Ending::NotStarted(error.to_string()),
            },
            stdout: String::new(),
            stderr: String::new(),
            by_hand: None,
        };
        self.spawn().map_err(failed)
    }

    #[expect(clippy::disallowed_methods, reason = "started by `spawn_unless_busy`")]
    #[expect(unsafe_code, reason = "pre_exec; the closure is async-signal-safe")]
    fn spawn(&self) -> io::Result<Running> {
        let stdout = memory_file("stdout")?;
        let stderr = memory_file("stderr")?;
        let stdin = match &self.input {
            Some(Input::Bytes(bytes)) => memory_file_with(bytes)?.into(),
            Some(Input::Open(file)) => file.try_clone()?.into(),
            None => Stdio::null(),
        };
        let mut command = std::process::Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        if !self.own_session {
            command.process_group(0);
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let (parent, without_network) = (getpid(), self.without_network);
        let (batch_scheduled, own_session) = (self.batch_scheduled, self.own_session);
        // SAFETY: prctl, setsid, unshare, sched_setscheduler and getppid are plain system calls. No memory is allocated
        // between fork and exec.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // It leads a process group too.
                if own_session {
                    setsid()?;
                }
                if without_network {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                }
                // A process that already has a lower scheduling class keeps it.
                if batch_scheduled
                    && libc::syscall(libc::SYS_sched_getscheduler, 0) == i64::from(libc::SCHED_OTHER)
                {
                    // The kernel's `sched_param` is this one number. musl's has more fields.
                    let priority: libc::c_int = 0;
                    // If this is not permitted, the program runs anyway. musl's function of this name always fails.
                    libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority);
                }
                if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
            });
        }
        let mut child = spawn_unless_busy(&mut command)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let pidfd = open_pidfd(pid).inspect_err(|_| {
            // The end of this child could not be observed, so it must not continue.
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let withheld = self.withheld.clone();
        Ok(Running { shown: self.shown(), child, pid, pidfd, stdout, stderr, status: None, withheld })
    }

    /// Returns whether ENOENT means that the program is missing. A missing working directory is ENOENT too.
    fn missing(&self) -> bool {
        self.path.components().count() == 1 || !self.path.exists()
    }

    /// Returns the command as it would be typed in a shell.
    fn shown(&self) -> String {
        let words = std::iter::once(self.path.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// Starts `command`. Linux refuses to run a file that is open for writing (ETXTBSY). If we have just written the file, a child
/// that another thread is starting can hold a copy of its descriptor until it runs its own program, for a few milliseconds
/// (<https://github.com/golang/go/issues/22315>). Waits for at most [`MAX_BUSY`].
fn spawn_unless_busy(command: &mut std::process::Command) -> io::Result<Child> {
    let start = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && start.elapsed() < MAX_BUSY => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Returns the path of the file that [`Program::new`] runs for `word`, or `None` if a name is not on the `PATH` of
/// children.
pub fn program_path(word: &str) -> Option<PathBuf> {
    match Path::new(word).components().count() {
        1 => which::which_in(word, Some(PATH), "/").ok(),
        _ => Some(PathBuf::from(word)),
    }
}

/// Opens the descriptor that becomes readable when a child ends.
fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Returns a memory file that contains `bytes`.
fn memory_file_with(bytes: &[u8]) -> io::Result<File> {
    let file = memory_file("stdin")?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Returns a path to an open directory, which is valid even if the directory is moved: for [`Program::cwd`].
pub fn fd_path(fd: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_a_program_in_our_session_or_in_its_own() {
        let cut = || Program::new("cut").args(["-d", " ", "-f", "1,6", "/proc/self/stat"]);
        for (program, is_own) in [(cut(), false), (cut().own_session(), true)] {
            let output = program.run().unwrap();
            let text = output.text();
            let (pid, session) = text.trim().split_once(' ').unwrap();
            assert_eq!(pid == session, is_own, "{text}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test lays out a program")]
    fn waits_for_a_program_that_is_still_open_for_writing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("program");
        std::fs::copy("/bin/true", &path).unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        let error = Program::new(&path).run().unwrap_err().to_string();
        assert!(error.contains("Text file busy"), "{error}");
        let closed_later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(writer);
        });
        Program::new(&path).run().unwrap();
        closed_later.join().unwrap();
    }
}
