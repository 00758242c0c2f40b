//! Runs one of our programs under ptrace and stops it before every system call that touches a file or a
//! process.
//!
//! The fault injection of strace counts the calls of each thread and each child separately. This tracer
//! counts the calls of all our threads together, and ignores the etcd tools, so that a point means the same
//! call in every run. It sets errors in registers, so it works only on x86-64.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::common::command::{Out, Run, wrap};

/// The maximum duration of a traced run on these small worlds.
const DEADLINE: Duration = Duration::from_secs(200);

/// A system call that a thread is about to make.
#[derive(Debug, Clone)]
pub struct Call {
    /// The name.
    pub name: &'static str,
    /// The path that the call refers to, directly or by a descriptor, without the parts that change from run
    /// to run.
    pub about: String,
    /// The number among the calls with the same name and path, from 1. A number among all calls would not
    /// identify the same call in another run, because the number of waiting calls differs.
    pub number: usize,
    /// Whether the call only reads.
    pub harmless: bool,
    /// The process that the call refers to, if any.
    pub process: Option<Pid>,
    /// The thread that makes the call.
    pub thread: Pid,
}

impl Call {
    /// Returns whether the calls are the same call of two runs.
    pub fn is(&self, other: &Self) -> bool {
        (self.name, self.number, &self.about) == (other.name, other.number, &other.about)
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name, self.about)?;
        if self.number > 1 { write!(f, " #{}", self.number) } else { Ok(()) }
    }
}

/// The decision about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Makes the call.
    Made,
    /// Does not make the call, and returns this error to the program.
    Fails(Errno),
    /// As [`Self::Fails`], and stops tracing.
    FailsAlone(Errno),
    /// Makes the call, and stops tracing.
    Release,
    /// Does not make the call, because the program was killed with SIGKILL.
    Killed,
}

/// Runs `command` until it ends. Calls `judge` with every call before it is made, and with the id of our
/// process.
pub fn trace(command: &Command, dir: &Path, judge: &mut dyn FnMut(&Call, Pid) -> Fate) -> Out {
    let options = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
    run_traced(command, dir, options, &mut |pid| {
        let (counts, failing) = (HashMap::new(), HashMap::new());
        Tracer { pid, executed: false, released: false, counts, failing }.follow(judge)
    })
}

/// Runs `command` under ptrace with these options. `follow` handles its events until it ends.
pub(super) fn run_traced(
    command: &Command,
    dir: &Path,
    options: Options,
    follow: &mut dyn FnMut(Pid) -> ExitStatus,
) -> Out {
    let run = Run::start(wrap_in_stopped_shell(command), dir);
    let pid = Pid::from_raw(run.pid());
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))));
    let options = options | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();

    let (ended, end) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let status = follow(pid);
    drop(ended);
    watchdog.join().unwrap();
    run.with_status(status)
}

/// Waits only for the tracees of this thread: other threads of the tests have children as well.
pub(super) const OURS: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

/// Wraps a command in a shell that stops itself before it executes the command, so that the tracer can
/// attach.
fn wrap_in_stopped_shell(command: &Command) -> Command {
    let mut stopped = Command::new("/bin/sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
    wrap(stopped, command)
}

struct Tracer {
    pid: Pid,
    executed: bool,
    /// Whether tracing has ended.
    released: bool,
    counts: HashMap<(&'static str, String), usize>,
    /// Threads in a call that must fail.
    failing: HashMap<Pid, Errno>,
}

impl Tracer {
    fn follow(&mut self, judge: &mut dyn FnMut(&Call, Pid) -> Fate) -> ExitStatus {
        loop {
            match waitpid(None, Some(OURS)).unwrap() {
                WaitStatus::Exited(pid, code) if pid == self.pid => return ExitStatus::from_raw(code << 8),
                WaitStatus::Signaled(pid, signal, _) if pid == self.pid => {
                    return ExitStatus::from_raw(signal as i32);
                }
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread, judge);
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    self.executed |= event == libc::PTRACE_EVENT_EXEC;
                    self.go_on(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => self.go_on(thread, signal),
                _ => {}
            }
        }
    }

    /// Continues a thread until its next call, or detaches from it if tracing has ended.
    fn go_on(&self, thread: Pid, signal: impl Into<Option<Signal>>) {
        let signal = signal.into();
        // Ignores errors: a thread that was killed cannot be continued.
        let _ = if self.released { ptrace::detach(thread, signal) } else { ptrace::syscall(thread, signal) };
    }

    /// Handles the entry or the exit of a call.
    fn at_call(&mut self, thread: Pid, judge: &mut dyn FnMut(&Call, Pid) -> Fate) {
        // The registers of a thread that was killed cannot be read.
        let Ok(mut registers) = ptrace::getregs(thread) else { return };
        if let Some(errno) = self.failing.remove(&thread) {
            registers.rax = -i64::from(errno as i32) as u64;
            let _ = ptrace::setregs(thread, registers);
        } else if self.released {
            // Calls are no longer counted.
        } else if let Some(call) = self.counted(thread, &registers) {
            let fate = judge(&call, self.pid);
            match fate {
                Fate::Made => {}
                Fate::Release => self.released = true,
                Fate::Killed => return,
                Fate::Fails(errno) | Fate::FailsAlone(errno) => {
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(thread, registers).unwrap();
                    self.failing.insert(thread, errno);
                    // The exit of the call sets the error, and detaches if needed.
                    let _ = ptrace::syscall(thread, None);
                    self.released = matches!(fate, Fate::FailsAlone(_));
                    return;
                }
            }
        }
        self.go_on(thread, None);
    }

    /// Returns the call that a thread is about to make, if it is traced.
    fn counted(&mut self, thread: Pid, registers: &libc::user_regs_struct) -> Option<Call> {
        // The kernel sets this value only at the entry.
        let entered = registers.rax as i64 == -i64::from(libc::ENOSYS);
        let kind = KINDS.iter().find(|kind| kind.number == registers.orig_rax as i64)?;
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        if !self.executed || !entered || !kind.counts(&arguments) {
            return None;
        }
        let about = kind.about.map_or(String::new(), |about| normalize_path(&about.read(thread, &arguments)));
        let number = self.counts.entry((kind.name, about.clone())).or_default();
        *number += 1;
        let number = *number;
        let harmless = kind.harmless || (kind.number == libc::SYS_openat && arguments[2] & WRITES == 0);
        let process = kind.process.and_then(|nth| Some(Pid::from_raw(i32::try_from(arguments[nth]).ok()?)));
        Some(Call { name: kind.name, about, number, harmless, process, thread })
    }
}

/// Returns a path without the parts that differ from run to run: the directory of the world, process ids,
/// times and random names.
fn normalize_path(path: &str) -> String {
    const UUID: usize = 36;
    let mut words = Vec::new();
    for word in path.split('/') {
        if word.starts_with("etcd-world-") {
            words.clear();
            continue;
        }
        let random = word.char_indices().map(|(at, _)| &word[at..]).find_map(|tail| {
            let head = tail.get(..UUID)?;
            let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
            (head.chars().all(hex) && head.matches('-').count() == 4).then_some(head)
        });
        let word = random.map_or(word.to_owned(), |random| word.replace(random, "…"));
        words.push(replace_numbers(&word));
    }
    words.join("/")
}

/// Replaces each number in a word by `0`.
fn replace_numbers(word: &str) -> String {
    let mut plain = word.replace(|c: char| c.is_ascii_digit(), "0");
    while plain.contains("00") {
        plain = plain.replace("00", "0");
    }
    plain
}

/// The flags with which `openat` can change a file.
const WRITES: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;

struct Kind {
    number: i64,
    name: &'static str,
    about: Option<About>,
    harmless: bool,
    /// The index of the argument that is a process id.
    process: Option<usize>,
}

impl Kind {
    /// Returns whether the call is traced. Of the commands of `fcntl`, only those that duplicate a descriptor
    /// are.
    fn counts(&self, arguments: &[u64; 4]) -> bool {
        let duplicates = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC].map(|command| command as u64);
        self.number != libc::SYS_fcntl || duplicates.contains(&arguments[1])
    }

    const fn of_process(self, nth: usize) -> Self {
        Self { process: Some(nth), ..self }
    }
}

/// The index of the argument that is the path or the descriptor of a call.
#[derive(Clone, Copy)]
enum About {
    Path(usize),
    Descriptor(usize),
}

impl About {
    fn read(self, thread: Pid, arguments: &[u64; 4]) -> String {
        match self {
            // An empty path stands for the descriptor in the argument before it.
            Self::Path(n) => match text_at(thread, arguments[n]).unwrap_or_default() {
                path if path.is_empty() && n > 0 => Self::Descriptor(n - 1).read(thread, arguments),
                path => path,
            },
            Self::Descriptor(n) => fs::read_link(format!("/proc/{thread}/fd/{}", arguments[n]))
                .map_or(String::new(), |path| path.to_string_lossy().into_owned()),
        }
    }
}

/// Returns the text at an address in the memory of a thread.
pub(super) fn text_at(thread: Pid, address: u64) -> Option<String> {
    let mut memory = fs::File::open(format!("/proc/{thread}/mem")).ok()?;
    memory.seek(SeekFrom::Start(address)).ok()?;
    let mut bytes = [0; 256];
    let length = memory.read(&mut bytes).ok()?;
    let text = bytes[..length].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

const fn changes(number: i64, name: &'static str, about: Option<About>) -> Kind {
    Kind { number, name, about, harmless: false, process: None }
}

const fn reads(number: i64, name: &'static str, about: Option<About>) -> Kind {
    Kind { number, name, about, harmless: true, process: None }
}

const PATH: Option<About> = Some(About::Path(0));
const PATH_IN: Option<About> = Some(About::Path(1));
const FILE: Option<About> = Some(About::Descriptor(0));

/// The traced calls: those that touch files or processes.
const KINDS: &[Kind] = &[
    changes(libc::SYS_openat, "openat", PATH_IN),
    changes(libc::SYS_openat2, "openat2", PATH_IN),
    changes(libc::SYS_write, "write", FILE),
    changes(libc::SYS_pwrite64, "pwrite64", FILE),
    changes(libc::SYS_writev, "writev", FILE),
    changes(libc::SYS_copy_file_range, "copy_file_range", Some(About::Descriptor(2))),
    changes(libc::SYS_sendfile, "sendfile", FILE),
    changes(libc::SYS_ftruncate, "ftruncate", FILE),
    changes(libc::SYS_fallocate, "fallocate", FILE),
    changes(libc::SYS_fsync, "fsync", FILE),
    changes(libc::SYS_fdatasync, "fdatasync", FILE),
    changes(libc::SYS_syncfs, "syncfs", FILE),
    changes(libc::SYS_renameat, "renameat", PATH_IN),
    changes(libc::SYS_renameat2, "renameat2", PATH_IN),
    changes(libc::SYS_rename, "rename", PATH),
    changes(libc::SYS_linkat, "linkat", PATH_IN),
    changes(libc::SYS_unlink, "unlink", PATH),
    changes(libc::SYS_unlinkat, "unlinkat", PATH_IN),
    changes(libc::SYS_rmdir, "rmdir", PATH),
    changes(libc::SYS_mkdir, "mkdir", PATH),
    changes(libc::SYS_mkdirat, "mkdirat", PATH_IN),
    changes(libc::SYS_fchown, "fchown", FILE),
    changes(libc::SYS_fchownat, "fchownat", PATH_IN),
    changes(libc::SYS_fchmod, "fchmod", FILE),
    changes(libc::SYS_fchmodat, "fchmodat", PATH_IN),
    changes(libc::SYS_fsetxattr, "fsetxattr", FILE),
    changes(libc::SYS_flock, "flock", FILE),
    changes(libc::SYS_memfd_create, "memfd_create", PATH),
    changes(libc::SYS_clone, "clone", None),
    changes(libc::SYS_clone3, "clone3", None),
    changes(libc::SYS_vfork, "vfork", None),
    changes(libc::SYS_kill, "kill", None),
    changes(libc::SYS_wait4, "wait4", None).of_process(0),
    changes(libc::SYS_waitid, "waitid", None).of_process(1),
    changes(libc::SYS_pidfd_open, "pidfd_open", None).of_process(0),
    reads(libc::SYS_read, "read", FILE),
    reads(libc::SYS_pread64, "pread64", FILE),
    reads(libc::SYS_fstat, "fstat", FILE),
    reads(libc::SYS_newfstatat, "newfstatat", PATH_IN),
    reads(libc::SYS_statx, "statx", PATH_IN),
    reads(libc::SYS_fstatfs, "fstatfs", FILE),
    reads(libc::SYS_getdents64, "getdents64", FILE),
    reads(libc::SYS_readlinkat, "readlinkat", PATH_IN),
    reads(libc::SYS_fgetxattr, "fgetxattr", FILE),
    reads(libc::SYS_flistxattr, "flistxattr", FILE),
    reads(libc::SYS_lseek, "lseek", FILE),
    reads(libc::SYS_fcntl, "fcntl dup", FILE),
    reads(libc::SYS_dup, "dup", FILE),
    reads(libc::SYS_pipe2, "pipe2", None),
    reads(libc::SYS_socketpair, "socketpair", None),
    reads(libc::SYS_socket, "socket", None),
    reads(libc::SYS_connect, "connect", None),
];

#[test]
fn a_path_is_the_same_in_every_run() {
    let uuid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
    for (path, plain) in [
        ("/tmp/etcd-world-Xy3/runs/9.out", "runs/0.out"),
        ("/tmp/etcd-world-Xy3/runs/1042.out", "runs/0.out"),
        ("/proc/77/fd/12/snap/db", "/proc/0/fd/0/snap/db"),
        (&format!("target/.etcd-snapshot-{uuid}/db"), "target/.etcd-snapshot-…/db"),
    ] {
        assert_eq!(normalize_path(path), plain);
    }
}
