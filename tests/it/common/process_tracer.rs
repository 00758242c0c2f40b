//! Runs one of our programs and all its children under ptrace. Reports every program that they execute, every
//! file that they create, and every mode that they set.
//!
//! `tracer`, by contrast, counts only the calls of our process. No event is missed: the kernel stops a child
//! before its first instruction, a new program before its first instruction, and a process after each call
//! that creates a file.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::tracer::{OURS, run_traced, text_at};
use crate::common::command::Out;

/// An event of a traced process. The process is stopped while the event is handled.
pub enum Seen<'a> {
    /// The process has executed a new program, see `/proc`.
    Program(Pid),
    /// The process has created a file or a directory, or set its mode.
    Made(&'a Made),
}

/// A file or a directory after its creation or a change of its mode.
#[derive(Debug)]
pub struct Made {
    /// The system call.
    pub call: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The metadata after the call.
    pub found: Metadata,
}

/// Runs `command` until it ends, and calls `judge` for its events and those of its children. Afterwards,
/// detaches from children that are still running.
pub fn trace_with_children(command: &Command, dir: &Path, judge: &mut dyn FnMut(&Seen<'_>)) -> Out {
    let options = Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    run_traced(command, dir, options, &mut |pid| {
        let held = HashSet::from([pid]);
        Family { pid, status: None, held, ended: HashSet::new(), making: HashMap::new() }.follow(judge)
    })
}

/// Time for the threads that are left to be released after our process has ended.
const RELEASE: Duration = Duration::from_secs(20);

/// The interval at which the released threads are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Returns whether the thread is traced, according to `/proc`.
fn is_traced(thread: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

struct Family {
    /// Our process.
    pid: Pid,
    /// The exit status of our process, after it has ended.
    status: Option<ExitStatus>,
    /// The traced threads.
    held: HashSet<Pid>,
    /// Threads that ended before the event of their creation was reported.
    ended: HashSet<Pid>,
    /// Threads in a call that creates a file or sets a mode.
    making: HashMap<Pid, Making>,
}

impl Family {
    fn follow(mut self, judge: &mut dyn FnMut(&Seen<'_>)) -> ExitStatus {
        let mut released_by = None;
        loop {
            if let Some(status) = self.status {
                // The kernel does not report a thread that was killed while it was released.
                self.held.retain(|thread| is_traced(*thread));
                let deadline = *released_by.get_or_insert_with(|| Instant::now() + RELEASE);
                if self.held.is_empty() || Instant::now() > deadline {
                    return status;
                }
            }
            let Some(seen) = self.wait() else { continue };
            match seen {
                WaitStatus::Exited(pid, code) => self.gone(pid, ExitStatus::from_raw(code << 8)),
                WaitStatus::Signaled(pid, signal, _) => self.gone(pid, ExitStatus::from_raw(signal as i32)),
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread, judge);
                    self.go_on(thread, None);
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    self.at_event(thread, event, judge);
                    self.go_on(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => self.go_on(thread, Some(signal)),
                _ => {}
            }
        }
    }

    /// Waits for the next event of a thread that we trace.
    ///
    /// Blocks only while our process runs. Later, another child of this test, such as an S3 server, could be
    /// the only one left to wait for, and it would keep the test waiting until the server ends.
    fn wait(&self) -> Option<WaitStatus> {
        let has_ended = self.status.is_some();
        let flags = if has_ended { OURS | WaitPidFlag::WNOHANG } else { OURS };
        match waitpid(None, Some(flags)) {
            Err(Errno::EINTR) => None,
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) if has_ended => {
                thread::sleep(POLL_INTERVAL);
                None
            }
            event => Some(event.unwrap()),
        }
    }

    fn gone(&mut self, pid: Pid, status: ExitStatus) {
        if !self.held.remove(&pid) {
            self.ended.insert(pid);
        }
        if pid == self.pid {
            self.status = Some(status);
            // We can detach only from a stopped thread, so stop all.
            for thread in &self.held {
                let _ = ptrace::interrupt(*thread);
            }
        }
    }

    /// Continues a thread until its next call. Detaches from it if our process has ended.
    fn go_on(&mut self, thread: Pid, signal: Option<Signal>) {
        // Ignores errors: a thread that was killed cannot be continued. Its end is reported later.
        if self.status.is_none() {
            let _ = ptrace::syscall(thread, signal);
        } else if ptrace::detach(thread, signal).is_ok() {
            self.held.remove(&thread);
        }
    }

    fn at_event(&mut self, thread: Pid, event: i32, judge: &mut dyn FnMut(&Seen<'_>)) {
        let message = || Some(Pid::from_raw(i32::try_from(ptrace::getevent(thread).ok()?).ok()?));
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.held.extend(message().filter(|child| !self.ended.remove(child)));
            }
            libc::PTRACE_EVENT_EXEC => {
                // A thread that executes a program gets the id of the process.
                if let Some(former) = message().filter(|former| *former != thread) {
                    self.held.remove(&former);
                }
                judge(&Seen::Program(thread));
            }
            // The first stop of a thread, which may be reported before the event of its parent.
            _ => {
                self.ended.remove(&thread);
                self.held.insert(thread);
            }
        }
    }

    /// Handles the entry or the exit of a call.
    fn at_call(&mut self, thread: Pid, judge: &mut dyn FnMut(&Seen<'_>)) {
        let Ok(registers) = ptrace::getregs(thread) else { return };
        let result = registers.rax as i64;
        // The kernel sets this value only at the entry.
        if result == -i64::from(libc::ENOSYS) {
            if let Some(making) = Making::entered(thread, &registers) {
                self.making.insert(thread, making);
            }
        } else if let Some(making) = self.making.remove(&thread)
            && result >= 0
            && let Some(made) = making.made(thread, result)
        {
            judge(&Seen::Made(&made));
        }
    }
}

/// A call that creates a file or a directory, or sets its mode.
struct Making {
    call: &'static str,
    /// The path. `None` if it is the path of the returned descriptor.
    path: Option<PathBuf>,
}

impl Making {
    fn entered(thread: Pid, registers: &libc::user_regs_struct) -> Option<Self> {
        let arguments = [registers.rdi, registers.rsi, registers.rdx];
        let path = |nth: usize| Some(in_dir(thread, libc::AT_FDCWD, &text_at(thread, arguments[nth])?));
        let path_in = || Some(in_dir(thread, arguments[0] as i32, &text_at(thread, arguments[1])?));
        let number = registers.orig_rax as i64;
        let (call, path) = match number {
            libc::SYS_open => return opens("open", path(0)?, arguments[1]),
            libc::SYS_creat => return opens("creat", path(0)?, libc::O_CREAT as u64),
            libc::SYS_openat => return opens("openat", path_in()?, arguments[2]),
            // The flags are the first field of `open_how`.
            libc::SYS_openat2 => {
                let flags = ptrace::read(thread, arguments[2] as ptrace::AddressType).ok()?;
                return opens("openat2", path_in()?, flags as u64);
            }
            libc::SYS_mkdir => ("mkdir", path(0)?),
            libc::SYS_mkdirat => ("mkdirat", path_in()?),
            libc::SYS_mknod => ("mknod", path(0)?),
            libc::SYS_mknodat => ("mknodat", path_in()?),
            libc::SYS_chmod => ("chmod", path(0)?),
            libc::SYS_fchmod => ("fchmod", descriptor(thread, arguments[0] as i32)),
            libc::SYS_fchmodat | libc::SYS_fchmodat2 => ("fchmodat", path_in()?),
            // Creates a Unix socket in a file system.
            libc::SYS_bind => {
                let [family, path] = [0, 2].map(|at| text_at(thread, arguments[1] + at));
                let is_unix = family?.as_bytes().first() == Some(&(libc::AF_UNIX as u8));
                let path = path.filter(|path| is_unix && !path.is_empty())?;
                ("bind", in_dir(thread, libc::AT_FDCWD, &path))
            }
            _ => return None,
        };
        Some(Self { call, path: Some(path) })
    }

    fn made(self, by: Pid, result: i64) -> Option<Made> {
        let path = self.path.unwrap_or_else(|| descriptor(by, result as i32));
        let found = match fs::metadata(&path) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return None,
            found => found.unwrap(),
        };
        let path = fs::canonicalize(&path).unwrap_or(path);
        Some(Made { call: self.call, path, found })
    }
}

/// Returns the call if it creates a file.
fn opens(call: &'static str, path: PathBuf, flags: u64) -> Option<Making> {
    let has = |flag: i32| flags as i32 & flag == flag;
    let makes = has(libc::O_TMPFILE) || (has(libc::O_CREAT) && fs::metadata(path).is_err());
    makes.then_some(Making { call, path: None })
}

/// Resolves `path`, relative to the directory `dir`, as a thread does.
fn in_dir(thread: Pid, dir: i32, path: &str) -> PathBuf {
    let own = Path::new("/proc").join(thread.to_string());
    match path.strip_prefix("/proc/self/") {
        Some(path) => own.join(path),
        None if dir == libc::AT_FDCWD => own.join("cwd").join(path),
        None => descriptor(thread, dir).join(path),
    }
}

fn descriptor(thread: Pid, number: i32) -> PathBuf {
    Path::new("/proc").join(thread.to_string()).join("fd").join(number.to_string())
}
