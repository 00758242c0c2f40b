//! The etcd servers that run, as `/proc` shows them.
//!
//! Must never take one of these for the etcd of this machine: a proxy, a private etcd of this program, a process that
//! we may not read, and a process that a user other than root could have started.

use super::candidate::{Candidate, ProcessData};
use super::options::Options;
use super::origin::Launcher;
use super::quota::Quota;
use super::rooted::{file_id, id_in, read_text, under};
use super::site_file_text;
use super::systemd::Systemd;
use crate::error::Refusal;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use crate::system::owner::Owner;
use crate::system::trust::{check_below, is_root_or_us, only_root_can_write};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the server's program.
const ETCD: &str = "etcd";
/// The first word after the program's name if it is not to be a server (etcd, server/etcdmain/main.go).
const PROXIES: [&str; 2] = ["gateway", "grpc-proxy"];

/// The etcd servers that run.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Those with a data directory that is the same directory for us.
    pub local: Vec<Candidate>,
    /// Those in containers, or with another root directory.
    pub contained: Vec<Candidate>,
    /// The processes that we may not read.
    pub unreadable: Vec<i32>,
    /// Those that a user other than root could have started.
    pub untrusted: Vec<Untrusted>,
}

/// A process called etcd that a user other than root could have started. It may be a program of that user, with an
/// `etcdctl` next to it that we would run as root; or root's program on a data directory, a port and certificates of
/// that user, to which we would send root's password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Untrusted {
    pub pid: i32,
    pub program: PathBuf,
    /// The reason, as a message.
    pub reason: String,
    /// Whether its program itself is safe to run as root.
    pub is_safe_program: bool,
    /// A site file that describes it, for an operator to check.
    pub site_file: String,
}

/// Looks at every process of the machine with its files under `root`.
///
/// # Errors
/// A trusted etcd has a configuration file that cannot be read.
pub(super) fn look(root: &Path, systemd: &Systemd<'_>) -> Result<Running, Refusal> {
    let mut running = Running::default();
    for pid in pids(root) {
        let proc_dir = proc_dir(root, pid);
        let process = match Process::read(&proc_dir, pid) {
            Ok(Some(process)) => process,
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                running.unreadable.push(pid);
                continue;
            }
            // It has ended.
            Err(_) => continue,
        };
        // First of all: an untrusted process may have been given any configuration, which must not be read.
        let service = process.service(systemd);
        if let Some(reason) = process.distrust(&proc_dir, &service) {
            running.untrusted.push(process.untrusted(reason, &service));
            continue;
        }
        let Some(candidate) = process.into_candidate(&proc_dir, service)? else { continue };
        match is_same_directory(&candidate.site.data_dir, &proc_dir, root) {
            true => running.local.push(candidate),
            false => running.contained.push(candidate),
        }
    }
    Ok(running)
}

fn pids(root: &Path) -> Vec<i32> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn proc_dir(root: &Path, pid: i32) -> PathBuf {
    root.join("proc").join(pid.to_string())
}

/// An etcd server, as `/proc/PID` shows it.
#[derive(Debug)]
struct Process {
    pid: i32,
    words: Vec<String>,
    environment: Vec<String>,
    cwd: PathBuf,
    program: PathBuf,
    /// Whether the program was replaced or removed while it runs.
    is_replaced: bool,
    cgroup: String,
}

/// Why a process is not trusted.
struct Distrusted {
    reason: String,
    is_safe_program: bool,
}

impl Process {
    /// Reads one process. Returns `None` if it is not an etcd server, or a zombie.
    fn read(proc_dir: &Path, pid: i32) -> io::Result<Option<Self>> {
        let comm = fs::read(proc_dir.join("comm"))?;
        let words = strings(&fs::read(proc_dir.join("cmdline"))?);
        let (program, is_replaced) = match fs::read_link(proc_dir.join("exe")) {
            Ok(program) => without_deleted(&inside(proc_dir, &program)),
            Err(_) if comm.trim_ascii_end() != ETCD.as_bytes() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !is_server(comm.trim_ascii_end(), &words, &program) {
            return Ok(None);
        }
        Ok(Some(Self {
            pid,
            words,
            environment: strings(&fs::read(proc_dir.join("environ"))?),
            cwd: fs::read_link(proc_dir.join("cwd"))?,
            program,
            is_replaced,
            cgroup: fs::read_to_string(proc_dir.join("cgroup")).unwrap_or_default(),
        }))
    }

    /// Returns why root does not answer for this process, or `None` if root does: only root can have put the program
    /// there, and root or systemd started it.
    fn distrust(&self, proc_dir: &Path, service: &Service) -> Option<Distrusted> {
        match self.distrust_program(proc_dir) {
            Ok(None) => {}
            Ok(Some(reason)) => return Some(Distrusted { reason, is_safe_program: false }),
            Err(error) => {
                let reason = format!("its program {} cannot be read: {error}", self.program.display());
                return Some(Distrusted { reason, is_safe_program: false });
            }
        }
        // The kernel always gives this directory to the effective user (proc_pid(5)).
        let uid = match fs::metadata(proc_dir) {
            Ok(metadata) => metadata.uid(),
            Err(error) => return Some(Distrusted { reason: error.to_string(), is_safe_program: true }),
        };
        // Root started every process of root, and systemd the main process of a system unit under any user.
        if is_root_or_us(uid) || matches!(service, Service::Systemd { .. }) {
            return None;
        }
        let user = Owner { uid, gid: uid }.name().unwrap_or_else(|_| uid.to_string());
        let reason = format!("it runs as user {user} and is not the main process of a systemd system unit");
        Some(Distrusted { reason, is_safe_program: true })
    }

    /// Returns how a user other than root could have put this program there, or given it the name etcd. We run the
    /// tools next to it as root. The path that `/proc` shows is relative to a root directory that a user may have laid
    /// out, so it is compared with the file that runs.
    fn distrust_program(&self, proc_dir: &Path) -> io::Result<Option<String>> {
        let root = proc_dir.join("root");
        let program = self.program.display();
        let running = fs::metadata(proc_dir.join("exe"))?;
        let dir = self.program.parent().unwrap_or(Path::new("/"));
        if let Err(distrust) = check_below(&root, dir) {
            return Ok(Some(format!(
                "the directory of its program, {}, is not safe: {distrust}",
                dir.display()
            )));
        }
        if !only_root_can_write(&running) {
            let mode = running.mode() & 0o7777;
            let owner = Owner { uid: running.uid(), gid: running.gid() };
            let owner = owner.name().unwrap_or_else(|_| running.uid().to_string());
            return Ok(Some(format!(
                "users other than root can change its program: {program} belongs to user {owner} and has mode {mode:04o}"
            )));
        }
        if !self.is_replaced && id_in(&fs::symlink_metadata(under(&root, &self.program))?) != id_in(&running)
        {
            return Ok(Some(format!("the program that runs is not the file {program}")));
        }
        if is_etcd(&self.program) || self.is_linked(&root) {
            return Ok(None);
        }
        Ok(Some(format!("its program is {program}, and any user could have called that etcd")))
    }

    /// Returns whether a symlink that root owns names the program etcd. A user could link any program that root owns.
    fn is_linked(&self, root: &Path) -> bool {
        let first = Path::new(self.words.first().map_or("", String::as_str));
        check_below(root, first).is_ok_and(|program| program == self.program)
    }

    /// Describes an untrusted process without reading any file that its options name.
    fn untrusted(self, Distrusted { reason, is_safe_program }: Distrusted, service: &Service) -> Untrusted {
        let site_file =
            site_file_text::draft(&self.options(), &self.cwd, &self.program, service, is_safe_program);
        Untrusted { pid: self.pid, program: self.program, reason, is_safe_program, site_file }
    }

    /// Returns the server with its options; `None` if no network client can reach it, as with the private etcds of this
    /// program.
    fn into_candidate(self, proc_dir: &Path, service: Service) -> Result<Option<Candidate>, Refusal> {
        let options = self.resolved_options(proc_dir)?;
        let description = match &service {
            Service::Systemd { systemd } => format!("{systemd} (pid {})", self.pid),
            _ => format!("pid {}", self.pid),
        };
        let launcher = Launcher::Process(self.pid);
        let candidate = Candidate::new(&options, &launcher, &self.cwd, description, self.program, service);
        Ok(candidate.map(|mut candidate| {
            candidate.site.pid = Some(self.pid);
            candidate.process = Some(ProcessData::read(proc_dir, &candidate.site.data_dir));
            candidate
        }))
    }

    /// Returns its flags and variables.
    fn options(&self) -> Options {
        let variables = self.environment.iter().filter_map(|variable| variable.split_once('='));
        let words = self.words.iter().skip(1).map(String::as_str);
        Options::from_command(words, variables, &Launcher::Process(self.pid))
    }

    /// Returns its options, from its configuration file if it has one.
    fn resolved_options(&self, proc_dir: &Path) -> Result<Options, Refusal> {
        let read = |file: &Path| read_text(&proc_dir.join("root"), file);
        self.options().resolve(&self.cwd, read).map_err(|bad| {
            let path = bad.path.display();
            Refusal::new(
                format!(
                    "the configuration file {path} of etcd (pid {}) cannot be read: {}",
                    self.pid, bad.problem
                ),
                format!("correct {path}, or describe etcd in {SITE_FILE}"),
            )
        })
    }

    /// Returns the systemd unit that has it as main process. An etcd that was started by hand is in the unit of the
    /// process that started it, such as a shell of the Juju agent or a cron job. Stopping that unit would stop the
    /// wrong process.
    fn service(&self, systemd: &Systemd<'_>) -> Service {
        match unit_in(&self.cgroup) {
            Some(unit) if (systemd.main_pid)(unit) == Some(self.pid) => {
                Service::Systemd { systemd: unit.to_owned() }
            }
            _ => Service::Unknown { pid: self.pid },
        }
    }
}

/// Returns whether the process is an etcd server. A shell script named `etcd` has that name too, but runs a shell.
fn is_server(comm: &[u8], words: &[String], program: &Path) -> bool {
    let Some(first) = words.first() else { return false };
    let is_program = is_etcd(program) || (comm == ETCD.as_bytes() && is_etcd(Path::new(first)));
    is_program && !words.get(1).is_some_and(|word| is_proxy(word))
}

fn is_etcd(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ETCD)
}

/// Returns whether etcd is a proxy and not a server if this is the first word after its name.
pub(super) fn is_proxy(word: &str) -> bool {
    PROXIES.contains(&word)
}

/// Returns the strings in a file of `/proc`, each of which ends with a zero byte.
fn strings(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Removes the mark that the kernel puts after the path of a program that was replaced while it runs, as by an upgrade.
fn without_deleted(program: &Path) -> (PathBuf, bool) {
    let deleted = program.to_str().and_then(|shown| shown.strip_suffix(" (deleted)"));
    deleted.map_or((program.to_owned(), false), |program| (PathBuf::from(program), true))
}

/// Returns the program's path as its process sees it. That is how the kernel shows it; in a test, `/proc` is a tree of
/// files and the path leads into that tree.
fn inside(proc_dir: &Path, program: &Path) -> PathBuf {
    program.strip_prefix(proc_dir.join("root")).map_or(program.to_owned(), |path| Path::new("/").join(path))
}

/// Returns the system unit in a `/proc/PID/cgroup`, of the systemd hierarchy (`1:name=systemd:`) or the only one
/// (`0::`).
fn unit_in(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        [_, "name=systemd", path] | ["0", "", path] if path != "/" => Some(path),
        _ => None,
    })?;
    // The system's systemd does not control the units of a user's systemd.
    let last = path.rsplit('/').next()?;
    (last.ends_with(".service") && !path.starts_with("/user.slice/")).then_some(last)
}

impl ProcessData {
    /// Reads the data directory of the process in `proc_dir` with `data_dir` in its options.
    fn read(proc_dir: &Path, data_dir: &Path) -> Self {
        let root = proc_dir.join("root");
        let named = file_id(&root, data_dir);
        let open_elsewhere = open_data_dir(proc_dir).filter(|open| file_id(&root, open) != named);
        Self { data_dir: named, open_elsewhere }
    }
}

/// Returns the process that has the database in `data_dir` open, on the machine with its files under `root`.
pub(super) fn pid_with_data_open(root: &Path, data_dir: &Path) -> Option<i32> {
    let wanted = file_id(root, data_dir)?;
    pids(root).into_iter().find(|pid| {
        let proc_dir = proc_dir(root, *pid);
        let open = open_data_dir(&proc_dir);
        open.is_some_and(|open| file_id(&proc_dir.join("root"), &open) == Some(wanted))
    })
}

/// Returns the quota of the etcd that has the database in `data_dir` open, on the machine with its files under `root`.
/// The process need not be trusted: it only supplies a number.
pub(super) fn quota(root: &Path, data_dir: &Path) -> Option<Quota> {
    let pid = pid_with_data_open(root, data_dir)?;
    let proc_dir = proc_dir(root, pid);
    let process = Process::read(&proc_dir, pid).ok()??;
    Quota::from_options(&process.resolved_options(&proc_dir).ok()?)
}

/// Returns the directory of the `member/snap/db` that the process has open, regardless of its options.
fn open_data_dir(proc_dir: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(proc_dir.join("fd")).ok()?.flatten();
    let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
    open.find_map(|file| file.to_str()?.strip_suffix("/member/snap/db").map(PathBuf::from))
}

/// Returns whether `dir` is the same directory for the process and for us. If neither of us has it, the root
/// directories decide.
fn is_same_directory(dir: &Path, proc_dir: &Path, root: &Path) -> bool {
    let theirs = proc_dir.join("root");
    match (file_id(&theirs, dir), file_id(root, dir)) {
        (None, None) => file_id(&theirs, Path::new("/")) == file_id(root, Path::new("/")),
        (theirs, ours) => theirs == ours,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
pub(super) mod tests;
