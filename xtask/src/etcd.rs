//! `cargo xtask etcd`: the real etcd servers for the tests and the demo, in cargo's target directory.
//!
//! Never installs anything on this computer: Debian packages are only unpacked, and Go modules only built.

pub mod build;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{command, debian, interrupt, workspace};

/// A version of etcd, and the Debian release that contains it.
pub struct Release {
    /// The major and minor version.
    pub version: &'static str,
    /// The variable that names a directory to use instead. The tests read it too.
    pub variable: &'static str,
    suite: &'static str,
    programs: &'static [&'static str],
}

/// The older etcd, which has only etcdctl.
pub const OLD: Release =
    Release { version: "3.4", variable: "ETCD_3_4_BIN", suite: "bookworm", programs: &["etcd", "etcdctl"] };

/// The newer etcd, which has etcdutl too and can bump revisions.
pub const NEW: Release = Release {
    version: "3.5",
    variable: "ETCD_3_5_BIN",
    suite: "trixie",
    programs: &["etcd", "etcdctl", "etcdutl"],
};

/// The newest etcd, on which the tests run the main story. It is pinned: a test must not depend on the date.
const NEWEST: &str = "3.7.3";
/// The variable that names a directory with the newest etcd. The tests read it too.
pub const NEWEST_VARIABLE: &str = "ETCD_NEWEST_BIN";

/// The versions that all tests run on.
const RELEASES: &[Release] = &[OLD, NEW];

/// The packages that contain etcd.
pub const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];

/// Downloads every version if it is missing, and prints its directory.
pub fn run() -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    for release in RELEASES {
        println!("{}", ensure(&target, release)?.display());
    }
    println!("{}", newest(&target)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Sets the variables by which the tests find each version, for any target directory.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    for release in RELEASES {
        cargo.env(release.variable, ensure(target, release)?);
    }
    Ok(())
}

/// Returns the directory with the programs of a version: 3.4 or 3.5 of Debian, or a later version such as 3.6.16. A
/// variable such as `ETCD_3_6_BIN` names the directory of a later one; otherwise it is built with Go.
pub fn of_version(target: &Path, version: &str) -> Result<PathBuf> {
    if let Some(release) = RELEASES.iter().find(|release| release.version == version) {
        return ensure(target, release);
    }
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let variable = format!("ETCD_{}_BIN", minor.join("_"));
    let Some(bin) = directory_in(&variable)? else { return build::ensure(target, version) };
    let found = version_of(&bin)?;
    if found != version {
        bail!("{variable} names etcd {found}, not {version}");
    }
    Ok(bin)
}

/// Returns the directory of the newest etcd: the one that `ETCD_NEWEST_BIN` names, or one that is built with Go. If it
/// cannot be built, the newer etcd of Debian takes its place, which is printed.
pub fn newest(target: &Path) -> Result<PathBuf> {
    if let Some(bin) = directory_in(NEWEST_VARIABLE)? {
        version_of(&bin).with_context(|| format!("{NEWEST_VARIABLE} names {}", bin.display()))?;
        return Ok(bin);
    }
    let reason = match build::has_go().then(|| build::ensure(target, NEWEST)) {
        Some(Ok(bin)) => return Ok(bin),
        Some(Err(error)) => format!("{error:#}"),
        None => "Go is not installed".to_owned(),
    };
    interrupt::check()?;
    eprintln!(
        "SKIPPED: etcd {NEWEST}, because it cannot be built ({reason}): etcd {} takes its place in the tests. \
         To test it, set {NEWEST_VARIABLE} to the directory of its programs.",
        NEW.version
    );
    ensure(target, &NEW)
}

/// Returns the directory with the programs of a version. They are downloaded if they are missing.
pub fn ensure(target: &Path, release: &Release) -> Result<PathBuf> {
    match named_by_variable(release)? {
        Some(bin) => Ok(bin),
        None => from_debian(target, release),
    }
}

/// Returns the directory that the variable of a release names.
pub fn named_by_variable(release: &Release) -> Result<Option<PathBuf>> {
    let Some(bin) = directory_in(release.variable)? else { return Ok(None) };
    check(&bin, release).with_context(|| format!("{} names {}", release.variable, bin.display()))?;
    Ok(Some(bin))
}

fn directory_in(variable: &str) -> Result<Option<PathBuf>> {
    let named = std::env::var_os(variable).filter(|named| !named.is_empty());
    Ok(named.map(std::path::absolute).transpose()?)
}

/// Returns the directory with the programs of the Debian package. They are downloaded if they are missing.
pub fn from_debian(target: &Path, release: &Release) -> Result<PathBuf> {
    let home = target.join("etcd").join(release.version);
    let bin = home.join("usr/bin");
    if missing(&bin, release).is_none() {
        return Ok(bin);
    }
    let _lock = lock(target)?;
    if missing(&bin, release).is_none() {
        return Ok(bin);
    }
    announce(&home, release);
    download(&home, release).with_context(|| download_error(release))?;
    Ok(bin)
}

/// Waits until no other scenario or run fetches an etcd. The lock ends with the file.
fn lock(target: &Path) -> Result<File> {
    let path = target.join("etcd/.lock");
    fs::create_dir_all(target.join("etcd")).context("creating the directory of the etcds")?;
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

fn announce(home: &Path, release: &Release) {
    eprintln!(
        "downloading etcd {}: {} of Debian {} to {} (only unpacked there)",
        release.version,
        PACKAGES.join(" and "),
        release.suite,
        command::short_path(home)
    );
}

fn download_error(release: &Release) -> String {
    let Release { version, variable, programs, .. } = release;
    let programs = programs.join(", ");
    format!(
        "downloading etcd {version}; to use another etcd {version}, set {variable} to the directory of its {programs}"
    )
}

/// Unpacks to a temporary directory next to the final one, which is renamed when it is complete.
fn download(home: &Path, release: &Release) -> Result<()> {
    let parent = home.parent().context("the target directory has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let work_dir = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(parent)
        .with_context(|| format!("creating a directory in {}", parent.display()))?;
    let root = debian::download_and_unpack(work_dir.path(), release.suite, &PACKAGES)?;
    check(&root.join("usr/bin"), release)?;
    move_into_place(&root, home, release)
}

/// Renames `root` to `home`. If another run was faster, its equal copy is kept.
fn move_into_place(root: &Path, home: &Path, release: &Release) -> Result<()> {
    let bin = home.join("usr/bin");
    if home.exists() && missing(&bin, release).is_some() {
        fs::remove_dir_all(home).with_context(|| format!("removing the incomplete {}", home.display()))?;
    }
    match fs::rename(root, home) {
        Err(_) if missing(&bin, release).is_none() => Ok(()),
        renamed => renamed.with_context(|| format!("renaming the unpacked etcd to {}", home.display())),
    }
}

/// Checks that the programs exist and have the right version.
fn check(bin: &Path, release: &Release) -> Result<()> {
    if let Some(program) = missing(bin, release) {
        bail!("{} does not contain {program}", bin.display());
    }
    let version = version_of(bin)?;
    // Another newer etcd may take its place, to run the same tests on it.
    let fits = version.starts_with(&format!("{}.", release.version));
    if !fits && release.variable != NEW.variable {
        bail!("{} is version {version}, not {}", bin.join("etcd").display(), release.version);
    }
    Ok(())
}

/// Returns the version that the server in `bin` prints.
pub fn version_of(bin: &Path) -> Result<String> {
    let output = command::output(command::new(bin.join("etcd")).arg("--version"))?;
    let version = output.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    let version = version.with_context(|| format!("{} printed no version", bin.join("etcd").display()))?;
    Ok(version.trim().to_owned())
}

fn missing(bin: &Path, release: &Release) -> Option<&'static str> {
    release.programs.iter().copied().find(|program| !bin.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_missing_program() {
        let empty = tempfile::tempdir().unwrap();
        let error = check(empty.path(), &NEW).unwrap_err().to_string();
        assert!(error.ends_with(" does not contain etcd"), "{error}");
    }

    #[test]
    fn keeps_a_complete_copy_of_another_run() {
        let shelf = tempfile::tempdir().unwrap();
        let (root, home) = (shelf.path().join("root"), shelf.path().join("3.4"));
        for place in [&root, &home] {
            fs::create_dir_all(place.join("usr/bin")).unwrap();
            for program in OLD.programs {
                fs::write(place.join("usr/bin").join(program), place.display().to_string()).unwrap();
            }
        }
        move_into_place(&root, &home, &OLD).unwrap();
        assert_eq!(fs::read_to_string(home.join("usr/bin/etcd")).unwrap(), home.display().to_string());
    }

    #[test]
    fn replaces_an_incomplete_directory() {
        let shelf = tempfile::tempdir().unwrap();
        let (root, home) = (shelf.path().join("root"), shelf.path().join("3.4"));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(home.join("usr/bin")).unwrap();
        for program in OLD.programs {
            fs::write(root.join("usr/bin").join(program), "new").unwrap();
        }
        fs::write(home.join("usr/bin/etcd"), "half").unwrap();
        move_into_place(&root, &home, &OLD).unwrap();
        assert_eq!(fs::read_to_string(home.join("usr/bin/etcd")).unwrap(), "new");
    }
}
