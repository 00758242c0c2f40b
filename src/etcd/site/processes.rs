//! The etcds that run, as `/proc` shows them: the truth about where etcd is.
//!
//! Must never take a proxy, a private etcd of ours, one whose files are not ours to see, one that a user started, or
//! whatever else a user calls etcd for the etcd of this machine.

use super::discovery::{Found, Seen};
use super::quota::Quota;
use super::settings::{Said, Settings, Told};
use super::systemd_units::MainPid;
use crate::error::Refusal;
use crate::etcd::service::Service;
use crate::system::durable::read_small_text;
use crate::system::owner::Owner;
use crate::system::trust::{check_below, is_root_or_us, only_root_can_write};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the server's program.
const ETCD: &str = "etcd";
/// What the program is told first where it is no server (etcd, server/etcdmain/main.go).
const PROXIES: [&str; 2] = ["gateway", "grpc-proxy"];

/// The etcds that run.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Those whose data directory is the same directory here.
    pub here: Vec<Found>,
    /// Those in containers and the like.
    pub elsewhere: Vec<Found>,
    /// The processes that may not be read.
    pub unreadable: Vec<i32>,
    /// Those that root does not answer for.
    pub untrusted: Vec<Untrusted>,
}

/// A process called etcd that any user could have started: a program of theirs, with an `etcdctl` beside it that we would
/// run as root, or root's own on data, a port and certificates of theirs, which would get root's password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Untrusted {
    pub pid: i32,
    pub program: PathBuf,
    /// Why it is not trusted, in words.
    pub why: String,
}

/// Looks at every process of the machine whose files lie under `root`.
pub(super) fn look(root: &Path, main_pid: MainPid<'_>) -> Result<Running, Refusal> {
    let mut running = Running::default();
    for pid in pids(root) {
        let home = root.join("proc").join(pid.to_string());
        let process = match Process::read(&home, pid) {
            Ok(Some(process)) => process,
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                running.unreadable.push(pid);
                continue;
            }
            // It has ended meanwhile.
            Err(_) => continue,
        };
        // Before anything that it was told is looked at: it may be told anything.
        let service = match process.trusted(&home, main_pid) {
            Ok(service) => service,
            Err(why) => {
                running.untrusted.push(Untrusted { pid, program: process.program, why });
                continue;
            }
        };
        let Some(found) = process.found(&home, service)? else { continue };
        match is_same(&found.data_dir, &home, root) {
            true => running.here.push(found),
            false => running.elsewhere.push(found),
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

/// What `/proc/PID` tells of an etcd.
#[derive(Debug)]
struct Process {
    pid: i32,
    words: Vec<String>,
    environment: Vec<String>,
    cwd: PathBuf,
    program: PathBuf,
    /// Whether the program was replaced, or removed, while it runs.
    replaced: bool,
    cgroup: String,
}

impl Process {
    /// Reads one; `None` for what is no etcd server, or dead and not yet buried.
    fn read(home: &Path, pid: i32) -> io::Result<Option<Self>> {
        let comm = fs::read(home.join("comm"))?;
        let words = texts(&fs::read(home.join("cmdline"))?);
        let (program, replaced) = match fs::read_link(home.join("exe")) {
            Ok(program) => undeleted(&shown(home, &program)),
            Err(_) if comm.trim_ascii_end() != ETCD.as_bytes() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !is_server(comm.trim_ascii_end(), &words, &program) {
            return Ok(None);
        }
        Ok(Some(Self {
            pid,
            words,
            environment: texts(&fs::read(home.join("environ"))?),
            cwd: fs::read_link(home.join("cwd"))?,
            program,
            replaced,
            cgroup: fs::read_to_string(home.join("cgroup")).unwrap_or_default(),
        }))
    }

    /// What stops and starts it, if root answers for its program and for its being started; else why not, in words. Root
    /// started what runs as root, and systemd what is the main process of a system unit, whoever that runs as.
    fn trusted(&self, home: &Path, main_pid: MainPid<'_>) -> Result<Service, String> {
        if !self.is_of_root(home).unwrap_or(false) {
            return Err("others than root could have put its program there or called it so".to_owned());
        }
        let service = self.service(main_pid);
        // The kernel gives this directory to the effective user, always (proc_pid(5)).
        let uid = fs::metadata(home).map_err(|error| error.to_string())?.uid();
        if is_root_or_us(uid) || matches!(service, Service::Systemd { .. }) {
            return Ok(service);
        }
        let user = Owner { uid, gid: uid }.name().unwrap_or_else(|_| uid.to_string());
        Err(format!("it runs as {user} and is not the main process of a system unit"))
    }

    /// Whether root alone could start this program under this name, and can change it: root is to run the tools beside it,
    /// and any user may start a program of theirs that is called etcd. What `/proc` calls a program is its path in a world
    /// of files that a user may have laid out, so the file that runs is held against it.
    fn is_of_root(&self, home: &Path) -> io::Result<bool> {
        let root = home.join("root");
        let runs = fs::metadata(home.join("exe"))?;
        let dir = self.program.parent().unwrap_or(Path::new("/"));
        if !only_root_can_write(&runs) || check_below(&root, dir).is_err() {
            return Ok(false);
        }
        let there = || fs::symlink_metadata(below(&root, &self.program));
        if !self.replaced && there().map(|there| inode(&there))? != inode(&runs) {
            return Ok(false);
        }
        Ok(is_etcd(&self.program) || self.is_linked(&root)?)
    }

    /// Whether it has the name by a symlink of root's, and not of a user's to any program of root's.
    fn is_linked(&self, root: &Path) -> io::Result<bool> {
        let first = Path::new(self.words.first().map_or("", String::as_str));
        Ok(check_below(root, first).is_ok_and(|program| program == self.program))
    }

    /// What it was told; `None` for one that no client of a network can reach, as our own private ones.
    fn found(self, home: &Path, service: Service) -> Result<Option<Found>, Refusal> {
        let said = self.said(home)?;
        let description = match &service {
            Service::Systemd { systemd } => format!("{systemd} (pid {})", self.pid),
            _ => format!("pid {}", self.pid),
        };
        let found = Found::of(&said, &self.cwd, description, self.program, service);
        Ok(found.map(|found| Found { process: Some(Seen::by(self.pid, home, &found.data_dir)), ..found }))
    }

    /// Its flags, variables and configuration file.
    fn said(&self, home: &Path) -> Result<Said, Refusal> {
        let variables = self.environment.iter().filter_map(|variable| variable.split_once('='));
        let told = Told::of(self.words.iter().skip(1).map(String::as_str), variables);
        let config_file = told.config_file().map(|file| self.cwd.join(file));
        let settings = match &config_file {
            Some(file) => read_config(&below(&home.join("root"), file)).map_err(|why| {
                Refusal::new(
                    format!(
                        "etcd (pid {}) runs with {}, which cannot be read: {why}",
                        self.pid,
                        file.display()
                    ),
                    "mend the file, or write a site file and name it in ETCD_SITE",
                )
            })?,
            None => told.settings(),
        };
        Ok(Said::new(told, config_file, settings))
    }

    /// The systemd unit whose main process it is. One that was started by hand lives in the unit of whoever started it (a
    /// shell of Juju's agent, a job of cron): stopping that would stop the wrong thing.
    fn service(&self, main_pid: MainPid<'_>) -> Service {
        match unit(&self.cgroup) {
            Some(systemd) if main_pid(systemd) == Some(self.pid) => {
                Service::Systemd { systemd: systemd.to_owned() }
            }
            _ => Service::Unknown { pid: self.pid },
        }
    }
}

/// Whether the process is an etcd server. A script named `etcd` is called so too, and is run by a shell.
fn is_server(comm: &[u8], words: &[String], program: &Path) -> bool {
    let Some(first) = words.first() else { return false };
    let is_program = is_etcd(program) || (comm == ETCD.as_bytes() && is_etcd(Path::new(first)));
    is_program && !words.get(1).is_some_and(|word| PROXIES.contains(&word.as_str()))
}

fn is_etcd(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ETCD)
}

/// The strings in a file of `/proc`, each ended by a zero byte.
fn texts(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// What the kernel shows of a program that was replaced while it runs, as an upgrade does it.
fn undeleted(program: &Path) -> (PathBuf, bool) {
    let deleted = program.to_str().and_then(|shown| shown.strip_suffix(" (deleted)"));
    deleted.map_or((program.to_owned(), false), |program| (PathBuf::from(program), true))
}

/// The program as its process sees it. The kernel shows it so; where `/proc` is a tree of files, it lies in that tree.
fn shown(home: &Path, program: &Path) -> PathBuf {
    program.strip_prefix(home.join("root")).map_or(program.to_owned(), |path| Path::new("/").join(path))
}

/// The system unit in a `/proc/PID/cgroup`, of systemd's own hierarchy (`1:name=systemd:`) or the only one (`0::`).
fn unit(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        [_, "name=systemd", path] | ["0", "", path] if path != "/" => Some(path),
        _ => None,
    })?;
    // The units of a user's own systemd are out of reach for the system's.
    let last = path.rsplit('/').next()?;
    (last.ends_with(".service") && !path.starts_with("/user.slice/")).then_some(last)
}

fn read_config(file: &Path) -> Result<Settings, String> {
    let text = read_small_text(file).map_err(|error| error.to_string())?;
    Settings::of_file(&text).map_err(|error| error.to_string())
}

impl Seen {
    /// What the process at `home` in `/proc`, that was told `data_dir`, has of it.
    fn by(pid: i32, home: &Path, data_dir: &Path) -> Self {
        let theirs = home.join("root");
        let told = inode_under(&theirs, data_dir);
        let elsewhere = open_backend(home).filter(|open| inode_under(&theirs, open) != told);
        Self { pid, data_dir: told, elsewhere }
    }
}

/// Returns the quota of the etcd that has the database in `data_dir` open, on the machine whose files lie under `root`. That
/// one decides nothing but a number, so it need not be trusted.
pub(super) fn quota(root: &Path, data_dir: &Path) -> Option<Quota> {
    let wanted = inode_under(root, data_dir)?;
    pids(root).into_iter().find_map(|pid| {
        let home = root.join("proc").join(pid.to_string());
        let open = open_backend(&home)?;
        if inode_under(&home.join("root"), &open)? != wanted {
            return None;
        }
        Quota::of(&Process::read(&home, pid).ok()??.said(&home).ok()?)
    })
}

/// The device and the inode of a directory on the machine whose files lie under `root`, if it is there.
pub(super) fn inode_under(root: &Path, dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(below(root, dir)).map(|found| inode(&found)).ok()
}

/// The directory whose `member/snap/db` the process has open: what is, whatever was said.
fn open_backend(home: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(home.join("fd")).ok()?.flatten();
    let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
    open.find_map(|file| file.to_str()?.strip_suffix("/member/snap/db").map(PathBuf::from))
}

/// The absolute `path` under another root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether `dir` is the same directory to the process as it is to us. Where it is gone for both, the roots decide.
fn is_same(dir: &Path, home: &Path, root: &Path) -> bool {
    let theirs = home.join("root");
    match (inode_under(&theirs, dir), inode_under(root, dir)) {
        (None, None) => inode_under(&theirs, Path::new("/")) == inode_under(root, Path::new("/")),
        (theirs, ours) => theirs == ours,
    }
}

fn inode(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
pub(super) mod tests;
