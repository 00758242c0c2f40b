//! `cargo xtask etcd`: the real etcd servers that the tests and the demo run, unpacked under cargo's
//! target directory.
//!
//! It must never install anything on the machine: Debian's packages are unpacked there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{command, debian, workspace};

/// One etcd, and the Debian release that has it.
pub struct Release {
    /// Major and minor version.
    pub version: &'static str,
    /// The variable that names a directory to use instead; the tests read the same.
    variable: &'static str,
    suite: &'static str,
    programs: &'static [&'static str],
}

/// The older etcd, where etcdctl does all the work.
pub const OLD: Release =
    Release { version: "3.4", variable: "ETCD_3_4_BIN", suite: "bookworm", programs: &["etcd", "etcdctl"] };

/// The newer etcd, which has etcdutl and can bump revisions.
pub const NEW: Release = Release {
    version: "3.5",
    variable: "ETCD_3_5_BIN",
    suite: "trixie",
    programs: &["etcd", "etcdctl", "etcdutl"],
};

/// All that the tests run on.
const RELEASES: &[Release] = &[OLD, NEW];

/// What has them.
pub const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];

/// Makes sure of every release and prints its directory.
pub fn run() -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    for release in RELEASES {
        println!("{}", ensure(&target, release)?.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells the tests that `cargo` runs where each release is, so that they find it under any target directory.
pub fn tell(cargo: &mut Command, target: &Path) -> Result<()> {
    for release in RELEASES {
        cargo.env(release.variable, ensure(target, release)?);
    }
    Ok(())
}

/// The directory that has the release's programs, fetched first where it is missing.
pub fn ensure(target: &Path, release: &Release) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(release.variable).filter(|named| !named.is_empty()) {
        let bin = std::path::absolute(named)?;
        inspect(&bin, release).with_context(|| format!("{} names {}", release.variable, bin.display()))?;
        return Ok(bin);
    }
    let home = target.join("etcd").join(release.version);
    let bin = home.join("usr/bin");
    if missing(&bin, release).is_none() {
        return Ok(bin);
    }
    announce(&home, release);
    fetch(&home, release).with_context(|| no_etcd(release))?;
    Ok(bin)
}

fn announce(home: &Path, release: &Release) {
    eprintln!(
        "etcd {} is missing: fetching Debian's {} ({}) into {}; nothing is installed on this machine",
        release.version,
        PACKAGES.join(" and "),
        release.suite,
        workspace::short(home)
    );
}

fn no_etcd(release: &Release) -> String {
    let Release { version, variable, programs, .. } = release;
    let programs = programs.join(", ");
    format!(
        "etcd {version} could not be fetched; to use one you have, set {variable} to the directory of {programs}"
    )
}

/// Everything happens in a directory beside the final one, which is renamed when it is whole.
fn fetch(home: &Path, release: &Release) -> Result<()> {
    let shelf = home.parent().context("the target directory has no parent")?;
    fs::create_dir_all(shelf).with_context(|| format!("creating {}", shelf.display()))?;
    let stage = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(shelf)
        .with_context(|| format!("creating a directory in {}", shelf.display()))?;
    let root = debian::unpacked(stage.path(), release.suite, &PACKAGES)?;
    inspect(&root.join("usr/bin"), release)?;
    put(&root, home, release)
}

/// Two runs at once may both arrive here: the second finds the place taken by an equal.
fn put(root: &Path, home: &Path, release: &Release) -> Result<()> {
    let bin = home.join("usr/bin");
    if home.exists() && missing(&bin, release).is_some() {
        fs::remove_dir_all(home).with_context(|| format!("removing the incomplete {}", home.display()))?;
    }
    match fs::rename(root, home) {
        Err(_) if missing(&bin, release).is_none() => Ok(()),
        renamed => renamed.with_context(|| format!("renaming the unpacked etcd to {}", home.display())),
    }
}

/// The programs are there, and of the version that they are taken for.
fn inspect(bin: &Path, release: &Release) -> Result<()> {
    if let Some(program) = missing(bin, release) {
        bail!("there is no {program} in {}", bin.display());
    }
    let said = command::output(command::new(bin.join("etcd")).arg("--version"))?;
    let first = said.lines().next().unwrap_or_default();
    if !first.starts_with(&format!("etcd Version: {}.", release.version)) {
        bail!("{} is not of version {}: it says “{first}”", bin.join("etcd").display(), release.version);
    }
    Ok(())
}

fn missing(bin: &Path, release: &Release) -> Option<&'static str> {
    release.programs.iter().copied().find(|program| !bin.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_the_programs_is_told_by_the_one_that_is_missing() {
        let empty = tempfile::tempdir().unwrap();
        let error = inspect(empty.path(), &NEW).unwrap_err().to_string();
        assert!(error.starts_with("there is no etcd in "), "{error}");
    }

    #[test]
    fn an_equal_that_came_first_is_kept() {
        let shelf = tempfile::tempdir().unwrap();
        let (root, home) = (shelf.path().join("root"), shelf.path().join("3.4"));
        for place in [&root, &home] {
            fs::create_dir_all(place.join("usr/bin")).unwrap();
            for program in OLD.programs {
                fs::write(place.join("usr/bin").join(program), place.display().to_string()).unwrap();
            }
        }
        put(&root, &home, &OLD).unwrap();
        assert_eq!(fs::read_to_string(home.join("usr/bin/etcd")).unwrap(), home.display().to_string());
    }

    #[test]
    fn an_incomplete_directory_is_replaced() {
        let shelf = tempfile::tempdir().unwrap();
        let (root, home) = (shelf.path().join("root"), shelf.path().join("3.4"));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(home.join("usr/bin")).unwrap();
        for program in OLD.programs {
            fs::write(root.join("usr/bin").join(program), "new").unwrap();
        }
        fs::write(home.join("usr/bin/etcd"), "half").unwrap();
        put(&root, &home, &OLD).unwrap();
        assert_eq!(fs::read_to_string(home.join("usr/bin/etcd")).unwrap(), "new");
    }
}
