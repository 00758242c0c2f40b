//! etcd's programs on this machine and their versions. Must never run a program that users other than root can change.

use super::known_messages::recognize;
use super::versions::{Installed, Programs, Version, requires_etcdutl};
use crate::error::Refusal;
use crate::system::process::PATH;
use crate::system::process::Program;
use crate::system::threads::{join, spawn_scoped};
use crate::system::trust::{Distrust, check_program};
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the processor in the file names of etcd releases.
const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// Checks that a program may be used.
type Check<'a> = &'a dyn Fn(&Path) -> Result<PathBuf, Distrust>;

/// The name of a program in a refusal.
const PROGRAM: &str = "the program";

/// etcd's programs on this machine.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The client.
    pub etcdctl: PathBuf,
    /// The tool for snapshot files; new in etcd 3.5.
    pub etcdutl: Option<PathBuf>,
    /// The server.
    pub etcd: PathBuf,
}

impl Tools {
    /// Finds them in `bin_dir`, or in the usual directories.
    ///
    /// # Errors
    /// etcdctl is missing, or users other than root can change a program: root runs them.
    pub fn find(bin_dir: Option<&Path>) -> Result<Self> {
        Self::among(bin_dir, &check_program)?
            .with_context(|| format!("the program etcdctl was not found {}", place(bin_dir)))
    }

    /// Returns the tools at their usual path: next to the server `etcd`. Does not look up files or check their owner.
    pub fn expected_next_to(etcd: PathBuf) -> Self {
        Self { etcdctl: etcd.with_file_name("etcdctl"), etcdutl: None, etcd }
    }

    /// Returns those that may be used; `None` without etcdctl.
    fn among(bin_dir: Option<&Path>, check: Check<'_>) -> Result<Option<Self>> {
        let Some(etcdctl) = find("etcdctl", bin_dir, check)? else { return Ok(None) };
        let etcd = find("etcd", bin_dir, check)?.unwrap_or_else(|| etcdctl.with_file_name("etcd"));
        Ok(Some(Self { etcdctl, etcdutl: find("etcdutl", bin_dir, check)?, etcd }))
    }

    /// Finds the tools next to the server `etcd`, because they have its version there. If they are missing, looks for
    /// the names in its snap, then in the usual directories. `etcd` itself may be missing if it runs in a container.
    ///
    /// # Errors
    /// etcdctl is missing, or users other than root can change a program.
    pub fn next_to(etcd: &Path) -> Result<Self> {
        Self::trusted_next_to(etcd, &check_program)
    }

    fn trusted_next_to(etcd: &Path, check: Check<'_>) -> Result<Self> {
        let tools = match Self::among(etcd.parent(), check)? {
            Some(tools) => tools,
            None => Self::elsewhere(etcd, check)?,
        };
        if tools.etcd.exists() {
            check(&tools.etcd).map_err(|distrust| distrust.refusal(PROGRAM))?;
        }
        Ok(tools)
    }

    /// Finds the tools of a server that has no etcdctl next to it.
    fn elsewhere(etcd: &Path, check: Check<'_>) -> Result<Self> {
        let mut tools = match in_snap("etcdctl", etcd, check)? {
            Some(etcdctl) => {
                Self { etcdctl, etcdutl: in_snap("etcdutl", etcd, check)?, etcd: etcd.to_owned() }
            }
            None => Self::among(None, check)?
                .with_context(|| format!("the program etcdctl was not found {}", place(None)))?,
        };
        if etcd.exists() {
            tools.etcd = etcd.to_owned();
        }
        Ok(tools)
    }

    /// Runs the programs to learn their versions: etcdctl, etcdutl if there is one, and etcd if it is on this machine.
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

    /// Checks that the tools can also read and restore a snapshot. Since 3.6, etcdctl can only save one, and etcdutl is
    /// needed.
    ///
    /// # Errors
    /// Refuses an etcdctl of 3.6 or later without etcdutl. Fails if etcdctl does not run or prints no version.
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
                    "{why}, but {shown} cannot be used: it is not executable, or users other than root can change it"
                ),
                format!(
                    "chown root: {shown} && chmod 755 {shown}; the directories above it must belong to root too"
                ),
            )
        } else {
            Refusal::new(
                format!("{why}, but {shown} does not exist"),
                format!(
                    "download etcd-v{version}-linux-{ARCH}.tar.gz, which contains it; then tar xzf \
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

    /// Returns the program that works on snapshot files: etcdutl since 3.5 (and only etcdutl since 3.6), etcdctl
    /// before.
    pub(super) fn snapshot_tool(&self) -> Program {
        let path = self.snapshot_tool_path();
        let by_hand = format!(
            "unpack db from the archive and run {0} snapshot status db, then {0} snapshot restore db --data-dir=NEW-DIRECTORY",
            path.display()
        );
        Program::new(path).redact_output(recognize, by_hand)
    }

    /// Returns the path of that program.
    pub(super) fn snapshot_tool_path(&self) -> &Path {
        self.etcdutl.as_ref().unwrap_or(&self.etcdctl)
    }
}

/// Returns the first program of that name that may be used, if there is one.
///
/// # Errors
/// There are only programs of that name that users other than root can change.
fn find(name: &str, bin_dir: Option<&Path>, check: Check<'_>) -> Result<Option<PathBuf>> {
    let (looking, dirs) = (|| format!("looking for {name}"), bin_dir.unwrap_or(Path::new(PATH)));
    let mut found: Vec<PathBuf> = match which::which_in_all(name, Some(dirs), "/") {
        Ok(found) => found.collect(),
        Err(which::Error::CannotFindBinaryPath) => Vec::new(),
        Err(error) => return Err(error).with_context(looking),
    };
    if found.is_empty() {
        found = look_up(name, dirs).with_context(looking)?;
    }
    let mut distrusted = None;
    for path in found {
        match check(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(distrust) => distrusted = distrusted.or(Some(distrust)),
        }
    }
    distrusted.map_or(Ok(None), |distrust| Err(distrust.refusal(PROGRAM).into()))
}

/// Returns the programs of that name, or the error of looking at one: `which` skips a file that it cannot look at.
fn look_up(name: &str, dirs: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for path in std::env::split_paths(dirs).map(|dir| dir.join(name)) {
        match fs::metadata(&path) {
            Ok(found) if found.is_file() && found.mode() & 0o111 != 0 => programs.push(path),
            Ok(_) => {}
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(programs)
}

/// Returns the program `name` of the snap that `etcd` is from.
fn in_snap(name: &str, etcd: &Path, check: Check<'_>) -> Result<Option<PathBuf>> {
    let Some(snap) = snap_of(etcd) else { return Ok(None) };
    let path = Path::new("/snap/bin").join(format!("{snap}.{name}"));
    if !path.exists() {
        return Ok(None);
    }
    check(&path).map_err(|distrust| distrust.refusal(PROGRAM))?;
    Ok(Some(path))
}

/// Returns the name of the snap that a program is from: `etcd` for `/snap/etcd/current/bin/etcd`.
fn snap_of(program: &Path) -> Option<&str> {
    program.strip_prefix("/snap").ok()?.components().next()?.as_os_str().to_str()
}

fn place(bin_dir: Option<&Path>) -> String {
    bin_dir.map_or_else(|| "on this machine".to_owned(), |dir| format!("in {}", dir.display()))
}

/// The arguments that make an etcd program print its version, and the beginning of the line that contains it.
struct VersionQuery {
    name: &'static str,
    word: &'static str,
    label: &'static str,
}

const ETCDCTL: VersionQuery = VersionQuery { name: "etcdctl", word: "version", label: "etcdctl version:" };
const ETCDUTL: VersionQuery = VersionQuery { name: "etcdutl", word: "version", label: "etcdutl version:" };
const ETCD: VersionQuery = VersionQuery { name: "etcd", word: "--version", label: "etcd Version:" };

/// The variable without which etcd 3.4 does not start on arm64, and other versions on other architectures (`etcdmain/etcd.go`
/// `checkSupportArch`). It names the architecture. Where etcd is supported, it has no effect.
pub(super) const UNSUPPORTED_ARCH: &str = "ETCD_UNSUPPORTED_ARCH";

/// Returns Go's name of this machine's architecture.
pub(super) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        same => same,
    }
}

/// Runs a program to learn its version.
fn ask(path: &Path, question: &VersionQuery) -> Result<Installed> {
    let VersionQuery { name, word, label } = question;
    let output = Program::new(path).args([word]).env(UNSUPPORTED_ARCH, go_architecture()).run();
    let output = output.with_context(|| format!("asking {name} for its version"))?;
    let version = Version::from_output(&output.text(), label);
    let version = version.with_context(|| format!("{} did not print a version of etcd", path.display()))?;
    Ok(Installed { path: path.to_owned(), version })
}

/// Reads a text as the output of each program, for the fuzzer: its version, and the messages that may be reported.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_all_output(text: &str) {
    for question in [ETCDCTL, ETCDUTL, ETCD] {
        let _ = Version::from_output(text, question.label);
    }
    for line in text.lines() {
        let message = recognize(line).unwrap_or_default();
        assert!(message.len() <= line.len(), "{message:?} is not a part of {line:?}");
    }
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

    /// Checks a path as if `dir` were `/`: the directory of a test is in one that other users can write to.
    fn check(dir: &Path, path: &Path) -> Result<PathBuf, Distrust> {
        check_below(dir, &Path::new("/").join(path.strip_prefix(dir).unwrap()))
    }

    #[test]
    fn prefers_the_tools_next_to_the_server() {
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
        let find_tools = || Tools::trusted_next_to(&etcd, &|path| check(dir, path));
        put(dir, "etcd", 0o755);
        put(dir, "etcdctl", 0o755);
        put(dir, "etcdutl", 0o757);
        let refused = |tool: &str| {
            let expected =
                format!("refused: the program /{tool} cannot be used: users other than root can change it");
            let error = find_tools().unwrap_err().to_string();
            assert!(error.starts_with(&expected), "{error}");
        };
        refused("etcdutl");
        put(dir, "etcdutl", 0o755);
        put(dir, "etcd", 0o757);
        refused("etcd");
        put(dir, "etcd", 0o755);
        assert!(find_tools().unwrap().etcdutl.is_some());
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(find("etcdctl", Some(dir), &|path| check(dir, path)).is_err());
    }

    #[test]
    fn finds_the_snap_of_a_program_by_its_path() {
        for (path, snap) in [
            ("/snap/etcd/current/bin/etcd", Some("etcd")),
            ("/snap/charmed-etcd/12/bin/etcd", Some("charmed-etcd")),
            ("/usr/bin/etcd", None),
        ] {
            assert_eq!(snap_of(Path::new(path)), snap, "{path}");
        }
    }
}
