//! Other programs: how they are started, watched, ended and quoted.
//!
//! Every child gets an environment built from nothing, no standard input but what is put there, its own process group, a parent-death
//! signal (Juju's cancel is SIGKILL of our process alone) and a deadline. Its output goes to memory files and
//! not to pipes, so that a child that leaves a daemon behind can never block us. Never runs a shell.

mod exec;
mod outcome;
mod running;

pub use exec::exec;
pub use outcome::{Ending, Output, ProcessError};
pub use running::{GRACE, Running};

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
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
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// The path of its standard input, for a program that wants a path.
pub const STDIN: &str = "/proc/self/fd/0";
/// The `PATH` of children. A program that is named without a directory is looked up on it too.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
    withheld: Option<Withheld>,
}

/// What a program reads from its standard input.
#[derive(Clone)]
enum Input {
    Bytes(Vec<u8>),
    Open(Arc<File>),
}

/// Without the environment, which may hold a password.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&self.shown()).finish()
    }
}

impl Program {
    /// The program at `path`, which is absolute or looked up on the fixed `PATH` of children.
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
            withheld: None,
        };
        for (name, value) in [("PATH", PATH), ("LC_ALL", "C"), ("TZ", "UTC")] {
            program = program.env(name, value);
        }
        program
    }

    /// Adds arguments. Never a secret: arguments are readable by every user of the machine.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment. Later ones win.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The directory that the program starts in.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// What it reads from its standard input, which is nothing otherwise.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(Input::Bytes(bytes));
        self
    }

    /// The open file that is its standard input, for it to find at [`STDIN`] whatever becomes of the file's name.
    #[must_use]
    pub fn stdin_file(mut self, file: File) -> Self {
        self.input = Some(Input::Open(Arc::new(file)));
        self
    }

    /// How long it may take in all.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Gives it a network of its own, with nothing in it: it can call nobody. Takes root.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.without_network = true;
        self
    }

    /// Has it wait for its turn when something comes for it (`SCHED_BATCH`), and so take more at a time.
    #[must_use]
    pub fn batch_scheduled(mut self) -> Self {
        self.batch_scheduled = true;
        self
    }

    /// Marks a program that reads secrets, and so may quote them: an error has nothing of its output but what `recognised`
    /// makes of a line. `by_hand` is how a person sees all of it, a clause such as "run X on a copy".
    #[must_use]
    pub fn redact_output(
        mut self,
        recognised: fn(&str) -> Option<String>,
        by_hand: impl Into<String>,
    ) -> Self {
        self.withheld = Some(Withheld { recognised, by_hand: by_hand.into() });
        self
    }

    /// Runs it to its end. Standard output comes back; both outputs go into the error.
    pub fn run(&self) -> Result<Output, ProcessError> {
        self.start()?.finish(self.deadline, &mut |_| Ok(()))
    }

    /// Starts it and comes back at once. The child is killed when the handle is dropped.
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

    #[expect(clippy::disallowed_methods, reason = "the one place where a child is born")]
    #[expect(unsafe_code, reason = "pre_exec; what it runs is async-signal-safe")]
    fn spawn(&self) -> io::Result<Running> {
        let stdout = memory_file("stdout")?;
        let stderr = memory_file("stderr")?;
        let stdin = match &self.input {
            Some(Input::Bytes(bytes)) => filled(bytes)?.into(),
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
            .stderr(stderr.try_clone()?)
            .process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let (parent, without_network, batch_scheduled) =
            (getpid(), self.without_network, self.batch_scheduled);
        // SAFETY: prctl, unshare, sched_setscheduler and getppid are plain system calls; nothing is allocated between fork and exec.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                if without_network {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                }
                // Whoever has been put behind all others already stays there.
                if batch_scheduled
                    && libc::syscall(libc::SYS_sched_getscheduler, 0) == i64::from(libc::SCHED_OTHER)
                {
                    // All that the kernel's `sched_param` has; in musl's there is more.
                    let priority: libc::c_int = 0;
                    // Where it is not allowed, the work is done all the same. musl's function of this name only fails.
                    libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority);
                }
                if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
            });
        }
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let pidfd = watched(pid).inspect_err(|_| {
            // Nobody could wait for its end: it must not run on, holding what it holds.
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let withheld = self.withheld.clone();
        Ok(Running { shown: self.shown(), child, pid, pidfd, stdout, stderr, status: None, withheld })
    }

    /// Tells a missing program from a working directory that is gone: both are ENOENT.
    fn missing(&self) -> bool {
        self.path.components().count() == 1 || !self.path.exists()
    }

    /// The command as a person would type it.
    fn shown(&self) -> String {
        let words = std::iter::once(self.path.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// Returns the path of the file that [`Program::new`] runs for `word`, or `None` if a name is not on the `PATH` of children.
pub fn program_path(word: &str) -> Option<PathBuf> {
    match Path::new(word).components().count() {
        1 => which::which_in(word, Some(PATH), "/").ok(),
        _ => Some(PathBuf::from(word)),
    }
}

/// A word as a person would type it in a shell.
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What tells of the end of a child.
fn watched(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A file in memory that holds `bytes` and is read from its beginning.
fn filled(bytes: &[u8]) -> io::Result<File> {
    let file = memory_file("stdin")?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Where a child finds the directory behind `fd`, whatever has become of its path: for [`Program::cwd`].
pub fn fd_path(fd: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}
