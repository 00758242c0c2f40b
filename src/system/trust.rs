//! Decides whether users other than root can change a path.
//!
//! Every file that decides what root runs, reads or believes passes [`check`] first: the site file, the settings,
//! hooks, identities, credentials, programs, and the directories that lead to them. The caller decides about the
//! consequences.

use super::owner::Owner;
use crate::error::Refusal;
use crate::error::quoted;
use nix::unistd::{Gid, Group};
use rustix::fs::lgetxattr;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The most symlinks in a path, the same number as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The mode bit of a directory in which only the owner of a name can remove it (S_ISVTX, inode(7)).
const STICKY: u32 = 0o1000;

/// The reason why a path is not trusted. Its `Display` is the reason, [`Distrust::next`] the command that fixes it.
#[derive(Debug)]
pub struct Distrust {
    /// The path that was to be used.
    path: PathBuf,
    /// The file or directory at fault: the path itself, or a directory that leads to it.
    culprit: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Relative,
    Unreachable(io::Error),
    TooManyLinks,
    Owner(u32),
    WritableByAll(u32),
    WritableByGroup { mode: u32, gid: u32 },
    WritableByAccessList,
    ReadableByOthers(u32),
}

/// The accepted owners of a path, and whether others may read it.
#[derive(Debug, Clone, Copy, Default)]
struct Rule {
    also: Option<u32>,
    is_secret: bool,
}

/// Returns the file that the absolute `path` leads to, with symlinks resolved.
///
/// # Errors
///
/// If a user other than root (and than the one we run as) can change the file, or put another one in its place.
pub fn check(path: &Path) -> Result<PathBuf, Distrust> {
    walk(Path::new("/"), path, Rule::default())
}

/// Does the same as [`check`], on a machine with the root directory `root`.
pub fn check_below(root: &Path, path: &Path) -> Result<PathBuf, Distrust> {
    walk(root, path, Rule::default())
}

/// Does the same as [`check`], and the file must also be unreadable for other users.
pub fn check_secret(path: &Path) -> Result<PathBuf, Distrust> {
    walk(Path::new("/"), path, Rule { is_secret: true, ..Rule::default() })
}

/// Does the same as [`check`] for a program that was searched for: in a sticky directory, every user can create one
/// with that name.
pub fn check_program(path: &Path) -> Result<PathBuf, Distrust> {
    if let Some(dir) = path.parent() {
        check(dir).map_err(|distrust| Distrust { path: path.to_owned(), ..distrust })?;
    }
    check(path)
}

/// Does the same as [`check`], but the user `uid` may own the path too: for files of the etcd user, which can read and
/// change all of etcd's data anyway.
pub fn check_for(uid: Option<u32>, path: &Path) -> Result<PathBuf, Distrust> {
    walk(Path::new("/"), path, Rule { also: uid, ..Rule::default() })
}

/// Returns whether only root, or the user we run as, can write to a file. Directories that lead to it are not checked.
pub fn only_root_can_write(found: &Metadata) -> bool {
    problem_of(found, Rule::default()).is_none()
}

/// Returns whether a user is root, or the user that we run as.
pub fn is_root_or_us(uid: u32) -> bool {
    [0, Owner::ourselves().uid].contains(&uid)
}

/// Follows a path name by name. A user with write access to a directory can replace any file in it, so every directory
/// counts, also those that symlinks lead through.
///
/// A sticky directory such as /tmp is accepted if the next name in the path belongs to root: other users cannot remove
/// or rename that (S_ISVTX, inode(7)). The directory itself is not trusted: every user can add names to it, so programs
/// must not be searched for in it.
struct Walk<'a> {
    root: &'a Path,
    path: &'a Path,
    rule: Rule,
    /// The current position, relative to the root and without symlinks.
    here: PathBuf,
    /// The file or directory at that position.
    found: Metadata,
    /// The remaining names, the last first.
    ahead: Vec<OsString>,
    links: usize,
}

fn walk(root: &Path, path: &Path, rule: Rule) -> Result<PathBuf, Distrust> {
    let at_root = |problem| Distrust { path: path.to_owned(), culprit: path.to_owned(), problem };
    if !path.is_absolute() {
        return Err(at_root(Problem::Relative));
    }
    let found = fs::metadata(root).map_err(|error| at_root(Problem::Unreachable(error)))?;
    let mut walk = Walk { root, path, rule, here: PathBuf::new(), found, ahead: steps(path), links: 0 };
    while let Some(step) = walk.ahead.pop() {
        walk.may_lead_on()?;
        walk.step(&step)?;
    }
    walk.may_be_used()?;
    Ok(Path::new("/").join(walk.here))
}

impl Walk<'_> {
    fn step(&mut self, step: &OsStr) -> Result<(), Distrust> {
        if step == ".." {
            self.here.pop();
            return self.look();
        }
        let next = self.here.join(step);
        let found = fs::symlink_metadata(self.root.join(&next));
        let found = found.map_err(|error| self.no(&next, Problem::Unreachable(error)))?;
        if !found.is_symlink() {
            (self.here, self.found) = (next, found);
            return Ok(());
        }
        // The mode of a symlink has no meaning, and its owner matters only in a sticky directory.
        if self.problem().is_some() && !may_own(found.uid(), self.rule) {
            return Err(self.no(&next, Problem::Owner(found.uid())));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.no(&next, Problem::TooManyLinks));
        }
        let target = fs::read_link(self.root.join(&next));
        let target = target.map_err(|error| self.no(&next, Problem::Unreachable(error)))?;
        if target.is_absolute() {
            self.here.clear();
            self.look()?;
        }
        self.ahead.extend(steps(&target));
        Ok(())
    }

    fn look(&mut self) -> Result<(), Distrust> {
        let found = fs::metadata(self.root.join(&self.here));
        self.found = found.map_err(|error| self.no(&self.here, Problem::Unreachable(error)))?;
        Ok(())
    }

    /// Returns the fault of the current position.
    fn problem(&self) -> Option<Problem> {
        let by_list = || has_access_list(&self.root.join(&self.here), &self.found);
        problem_of(&self.found, self.rule).or_else(|| by_list().then_some(Problem::WritableByAccessList))
    }

    fn may_lead_on(&self) -> Result<(), Distrust> {
        let is_sticky = self.found.mode() & STICKY != 0 && may_own(self.found.uid(), self.rule);
        match self.problem() {
            Some(problem) if !is_sticky => Err(self.no(&self.here, problem)),
            _ => Ok(()),
        }
    }

    fn may_be_used(&self) -> Result<(), Distrust> {
        let mode = self.found.mode();
        let read = || (self.rule.is_secret && mode & 0o077 != 0).then_some(Problem::ReadableByOthers(mode));
        self.problem().or_else(read).map_or(Ok(()), |problem| Err(self.no(&self.here, problem)))
    }

    fn no(&self, culprit: &Path, problem: Problem) -> Distrust {
        let culprit = Path::new("/").join(culprit);
        Distrust { path: self.path.to_owned(), culprit, problem }
    }
}

/// Returns the names in a path, the last first.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
    steps.rev().map(|step| step.as_os_str().to_owned()).collect()
}

fn may_own(uid: u32, rule: Rule) -> bool {
    is_root_or_us(uid) || rule.also == Some(uid)
}

fn problem_of(found: &Metadata, rule: Rule) -> Option<Problem> {
    let (mode, gid) = (found.mode(), found.gid());
    if !may_own(found.uid(), rule) {
        return Some(Problem::Owner(found.uid()));
    }
    if mode & 0o002 != 0 {
        return Some(Problem::WritableByAll(mode));
    }
    (mode & 0o020 != 0 && gid != 0).then_some(Problem::WritableByGroup { mode, gid })
}

/// Returns whether an access list may let others write, although the group is root's: the group bits of the mode are
/// then the most that any entry of the list allows (acl(5)).
fn has_access_list(path: &Path, found: &Metadata) -> bool {
    found.mode() & 0o020 != 0
        && !matches!(
            lgetxattr(path, "system.posix_acl_access", &mut [0_u8; 0]),
            Err(Errno::NODATA | Errno::OPNOTSUPP)
        )
}

impl Distrust {
    /// Returns whether the path is not trusted because it does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(&self.problem, Problem::Unreachable(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Returns whether the only fault is that the path, or a directory that leads to it, belongs to another user.
    pub fn is_of_another_owner(&self) -> bool {
        matches!(self.problem, Problem::Owner(_))
    }

    /// Returns the file or directory at fault.
    pub fn culprit(&self) -> &Path {
        &self.culprit
    }

    /// Returns the command that fixes the problem.
    pub fn next(&self) -> String {
        let culprit = quoted(self.culprit.as_os_str());
        match self.problem {
            Problem::Relative => "give the absolute path".to_owned(),
            Problem::Unreachable(_) | Problem::TooManyLinks => format!("ls -ld {culprit}"),
            Problem::WritableByAll(mode) if mode & STICKY != 0 => self.move_away(),
            Problem::WritableByAll(_) | Problem::WritableByGroup { .. } if self.path.is_file() => {
                format!("sudo chmod go-w {culprit}; or {}", self.move_away())
            }
            Problem::WritableByAll(_) | Problem::WritableByGroup { .. } => {
                format!("sudo chmod go-w {culprit}")
            }
            Problem::WritableByAccessList => {
                format!("sudo setfacl -b {culprit} && sudo chmod go-w {culprit}")
            }
            Problem::Owner(_) => format!("sudo chown root:root {culprit} && sudo chmod go-w {culprit}"),
            Problem::ReadableByOthers(_) => format!(
                "sudo chown root:root {culprit} && sudo chmod 0600 {culprit}, and replace the secret in it if somebody may \
                 have read it"
            ),
        }
    }

    /// Returns the command that moves the file to where only root can write.
    fn move_away(&self) -> String {
        let path = quoted(self.path.as_os_str());
        match fs::metadata(&self.path) {
            Ok(found) if found.is_file() && found.mode() & 0o111 != 0 => {
                format!("sudo install -t /usr/local/bin {path}, and use the file there")
            }
            Ok(found) if found.is_file() => {
                format!("sudo install -D -m 600 -t /etc/etcd-backup {path}, and use the file there")
            }
            _ => "choose a directory that only root can write to, such as /etc/etcd-backup, or /usr/local/bin for programs"
                .to_owned(),
        }
    }

    /// Returns the refusal to use the path as `what`, such as "the site file".
    pub fn refusal(&self, what: &str) -> Refusal {
        Refusal::new(format!("{what} {} cannot be used: {self}", self.path.display()), self.next())
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let culprit = match self.culprit == self.path {
            true => "it".to_owned(),
            false => self.culprit.display().to_string(),
        };
        match &self.problem {
            Problem::Relative => write!(f, "it is not an absolute path"),
            Problem::Unreachable(error) => write!(f, "{culprit} cannot be read: {error}"),
            Problem::TooManyLinks => write!(f, "it leads through more than {MAX_LINKS} symlinks"),
            Problem::Owner(uid) => {
                let owner = Owner { uid: *uid, gid: *uid }.name().unwrap_or_else(|_| uid.to_string());
                write!(f, "users other than root can change it: {culprit} belongs to user {owner}")
            }
            Problem::WritableByAll(mode) => {
                let mode = mode & 0o7777;
                write!(
                    f,
                    "users other than root can change it: every user can write to {culprit} (mode {mode:04o})"
                )
            }
            Problem::WritableByGroup { mode, gid } => {
                let (group, mode) = (group(*gid), mode & 0o7777);
                write!(
                    f,
                    "users other than root can change it: group {group} can write to {culprit} (mode {mode:04o})"
                )
            }
            Problem::WritableByAccessList => {
                write!(
                    f,
                    "users other than root can change it: {culprit} has an access list that allows writing"
                )
            }
            Problem::ReadableByOthers(mode) => {
                write!(f, "users other than root can read it: {culprit} has mode {:04o}", mode & 0o7777)
            }
        }
    }
}

impl std::error::Error for Distrust {}

/// Returns the name of a group, or its number if it has no name.
fn group(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests;
