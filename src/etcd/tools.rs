//! The programs that come with etcd, and what the installed ones can do.

use super::known_messages::recognize;
use super::versions::{Installed, Programs, Version, requires_etcdutl};
use crate::error::Refusal;
use crate::system::process::Program;
use crate::system::threads::{join, spawn_scoped};
use crate::system::trust::{Distrust, check_program};
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The machine's usual path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The processor in the names of etcd's releases.
const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// Decides whether a program may be used.
type May<'a> = &'a dyn Fn(&Path) -> Result<PathBuf, Distrust>;

/// What a refusal calls one of them.
const PROGRAM: &str = "the program";

/// etcd's own programs on this machine.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The client.
    pub etcdctl: PathBuf,
    /// The tool for files at rest; it came with etcd 3.5.
    pub etcdutl: Option<PathBuf>,
    /// The server.
    pub etcd: PathBuf,
}

impl Tools {
    /// Finds them in `bin_dir`, or on the machine's usual path if none is named. Root runs them, so users other than root
    /// must not be able to change them.
    pub fn find(bin_dir: Option<&Path>) -> Result<Self> {
        Self::among(bin_dir, &check_program)?
            .with_context(|| format!("there is no program etcdctl {}", place(bin_dir)))
    }

    /// Returns the tools where they usually are: next to the server `etcd`. Nothing is looked up or checked.
    pub fn expected_next_to(etcd: PathBuf) -> Self {
        Self { etcdctl: etcd.with_file_name("etcdctl"), etcdutl: None, etcd }
    }

    /// Those that may be used; `None` without a client.
    fn among(bin_dir: Option<&Path>, may: May<'_>) -> Result<Option<Self>> {
        let Some(etcdctl) = find("etcdctl", bin_dir, may)? else { return Ok(None) };
        let etcd = find("etcd", bin_dir, may)?.unwrap_or_else(|| etcdctl.with_file_name("etcd"));
        Ok(Some(Self { etcdctl, etcdutl: find("etcdutl", bin_dir, may)?, etcd }))
    }

    /// Finds them where the server `etcd` is: beside it, which makes them of its version, else under the names that its
    /// snap gives them, else on the machine's usual path. There `etcd` may not be, where it runs in a container.
    ///
    /// Users other than root must not be able to change them.
    pub fn next_to(etcd: &Path) -> Result<Self> {
        Self::trusted_next_to(etcd, &check_program)
    }

    fn trusted_next_to(etcd: &Path, may: May<'_>) -> Result<Self> {
        let tools = match Self::among(etcd.parent(), may)? {
            Some(tools) => tools,
            None => Self::away_from(etcd, may)?,
        };
        if tools.etcd.exists() {
            may(&tools.etcd).map_err(|distrust| distrust.refusal(PROGRAM))?;
        }
        Ok(tools)
    }

    /// For a server with no client beside it.
    fn away_from(etcd: &Path, may: May<'_>) -> Result<Self> {
        let mut tools = match snapped("etcdctl", etcd, may)? {
            Some(etcdctl) => Self { etcdctl, etcdutl: snapped("etcdutl", etcd, may)?, etcd: etcd.to_owned() },
            None => Self::among(None, may)?
                .with_context(|| format!("there is no program etcdctl {}", place(None)))?,
        };
        if etcd.exists() {
            tools.etcd = etcd.to_owned();
        }
        Ok(tools)
    }

    /// Asks the programs for their versions: etcdctl, etcdutl if there is one, and etcd if its program is on this machine.
    ///
    /// # Errors
    /// One of them does not run, or prints no version.
    pub fn versions(&self) -> Result<Programs> {
        let etcd = self.etcd.is_file().then_some(&self.etcd);
        std::thread::scope(|scope| {
            let etcdutl = self
                .etcdutl
                .as_ref()
                .map(|path| spawn_scoped(scope, "etcdutl", || ask(path, &ETCDUTL)))
                .transpose()?;
            let etcd = etcd.map(|path| spawn_scoped(scope, "etcd", || ask(path, &ETCD))).transpose()?;
            let etcdctl = self.etcdctl_version();
            Ok(Programs {
                etcdctl: etcdctl?,
                etcdutl: etcdutl.map(join).transpose()?,
                etcd: etcd.map(join).transpose()?,
            })
        })
    }

    /// Refuses tools that can save a snapshot and neither read nor restore it: an etcdctl of 3.6 or later without etcdutl.
    ///
    /// # Errors
    /// The refusal; or etcdctl does not run, or prints no version.
    pub fn check_can_read_snapshots(&self) -> Result<()> {
        if self.etcdutl.is_some() {
            return Ok(());
        }
        let Installed { path, version } = self.etcdctl_version()?;
        let Some(why) = requires_etcdutl(&version) else { return Ok(()) };
        let etcdutl = path.with_file_name("etcdutl");
        let shown = etcdutl.display();
        let refusal = if etcdutl.exists() {
            Refusal::new(
                format!(
                    "{why}, and {shown} is not used: it cannot be run, or others than root can change it"
                ),
                format!(
                    "chown root: {shown} && chmod 755 {shown}, and the same for the directories above it"
                ),
            )
        } else {
            Refusal::new(
                format!("{why}, and there is no {shown}"),
                format!(
                    "download etcd-v{version}-linux-{ARCH}.tar.gz, which has it; tar xzf \
                     etcd-v{version}-linux-{ARCH}.tar.gz -C {} --no-same-owner --strip-components=1 etcd-v{version}-linux-{ARCH}/etcdutl",
                    path.parent().unwrap_or(&path).display()
                ),
            )
        };
        Err(refusal.into())
    }

    fn etcdctl_version(&self) -> Result<Installed> {
        ask(&self.etcdctl, &ETCDCTL)
    }

    /// The program that works on snapshot files: etcdutl since 3.5 (and the only one since 3.6), etcdctl before.
    pub(super) fn snapshot_tool(&self) -> Program {
        let path = self.snapshot_tool_path();
        let by_hand = format!(
            "unpack db from the archive and run {0} snapshot status db, then {0} snapshot restore db --data-dir=NEW-DIRECTORY",
            path.display()
        );
        Program::new(path).env("ETCDCTL_API", "3").redact_output(recognize, by_hand)
    }

    /// Where that program is.
    pub(super) fn snapshot_tool_path(&self) -> &Path {
        self.etcdutl.as_ref().unwrap_or(&self.etcdctl)
    }
}

/// The first program of that name that may be used.
///
/// # Errors
///
/// If there is one, and users other than root can change it.
fn find(name: &str, bin_dir: Option<&Path>, may: May<'_>) -> Result<Option<PathBuf>> {
    let (looking, dirs) = (|| format!("looking for {name}"), bin_dir.unwrap_or(Path::new(PATH)));
    let mut found: Vec<PathBuf> = match which::which_in_all(name, Some(dirs), "/") {
        Ok(found) => found.collect(),
        Err(which::Error::CannotFindBinaryPath) => Vec::new(),
        Err(error) => return Err(error).with_context(looking),
    };
    if found.is_empty() {
        found = there(name, dirs).with_context(looking)?;
    }
    let mut distrusted = None;
    for path in found {
        match may(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(distrust) => distrusted = distrusted.or(Some(distrust)),
        }
    }
    distrusted.map_or(Ok(None), |distrust| Err(distrust.refusal(PROGRAM).into()))
}

/// The programs of that name, or why one cannot be looked at: `which` takes it for none then.
fn there(name: &str, dirs: &Path) -> Result<Vec<PathBuf>> {
    let mut there = Vec::new();
    for path in std::env::split_paths(dirs).map(|dir| dir.join(name)) {
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.mode() & 0o111 != 0 => there.push(path),
            Ok(_) => {}
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(there)
}

/// The program `name` of the snap that `etcd` is from.
fn snapped(name: &str, etcd: &Path, may: May<'_>) -> Result<Option<PathBuf>> {
    let Some(snap) = snap_of(etcd) else { return Ok(None) };
    let path = Path::new("/snap/bin").join(format!("{snap}.{name}"));
    if !path.exists() {
        return Ok(None);
    }
    may(&path).map_err(|distrust| distrust.refusal(PROGRAM))?;
    Ok(Some(path))
}

/// The name of the snap that a program is from: `etcd` for `/snap/etcd/current/bin/etcd`.
fn snap_of(program: &Path) -> Option<&str> {
    program.strip_prefix("/snap").ok()?.components().next()?.as_os_str().to_str()
}

fn place(bin_dir: Option<&Path>) -> String {
    bin_dir.map_or_else(|| "on this machine".to_owned(), |dir| format!("in {}", dir.display()))
}

/// How one of etcd's programs is asked for its version, and what the line with the answer begins with.
struct Question {
    name: &'static str,
    word: &'static str,
    label: &'static str,
}

const ETCDCTL: Question = Question { name: "etcdctl", word: "version", label: "etcdctl version:" };
const ETCDUTL: Question = Question { name: "etcdutl", word: "version", label: "etcdutl version:" };
const ETCD: Question = Question { name: "etcd", word: "--version", label: "etcd Version:" };

/// Asks a program for its version.
fn ask(path: &Path, question: &Question) -> Result<Installed> {
    let Question { name, word, label } = question;
    let output = Program::new(path).env("ETCDCTL_API", "3").args([word]).run();
    let output = output.with_context(|| format!("asking {name} for its version"))?;
    let version = Version::from_output(&output.text(), label);
    let version = version.with_context(|| format!("{} printed no version of etcd", path.display()))?;
    Ok(Installed { path: path.to_owned(), version })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::{Tools, find, snap_of};
    use crate::system::trust::{Distrust, check_below};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    fn put(dir: &Path, name: &str, mode: u32) {
        fs::write(dir.join(name), "").unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// As if `dir` were `/`: a directory of a test lies in one that others may write to.
    fn check(dir: &Path, path: &Path) -> Result<PathBuf, Distrust> {
        check_below(dir, &Path::new("/").join(path.strip_prefix(dir).unwrap()))
    }

    #[test]
    fn the_tools_beside_the_server_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        put(dir, "etcd", 0o755);
        put(dir, "etcdctl", 0o755);
        let tools = Tools::trusted_next_to(&dir.join("etcd"), &|path| check(dir, path)).unwrap();
        assert_eq!(tools.etcdctl, dir.join("etcdctl"));
        assert_eq!(tools.etcd, dir.join("etcd"));
        assert_eq!(tools.etcdutl, None);
    }

    #[test]
    fn refuses_tools_that_others_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let etcd = dir.join("etcd");
        let beside = || Tools::trusted_next_to(&etcd, &|path| check(dir, path));
        put(dir, "etcd", 0o755);
        put(dir, "etcdctl", 0o755);
        put(dir, "etcdutl", 0o757);
        let refused = |tool: &str| {
            let told =
                format!("refused: the program /{tool} cannot be used: users other than root can change it");
            let error = beside().unwrap_err().to_string();
            assert!(error.starts_with(&told), "{error}");
        };
        refused("etcdutl");
        put(dir, "etcdutl", 0o755);
        put(dir, "etcd", 0o757);
        refused("etcd");
        put(dir, "etcd", 0o755);
        assert!(beside().unwrap().etcdutl.is_some());
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(find("etcdctl", Some(dir), &|path| check(dir, path)).is_err());
    }

    #[test]
    fn a_snap_is_known_by_its_path() {
        for (path, snap) in [
            ("/snap/etcd/current/bin/etcd", Some("etcd")),
            ("/snap/charmed-etcd/12/bin/etcd", Some("charmed-etcd")),
            ("/usr/bin/etcd", None),
        ] {
            assert_eq!(snap_of(Path::new(path)), snap, "{path}");
        }
    }
}
