//! Downloads Debian packages and unpacks them into a directory of the caller.
//!
//! Never installs anything on this computer: apt works on a private state, with the mirror and the keys that the computer
//! already trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Downloads and unpacks packages of the Debian release `suite` in `work_dir`. Returns the directory with their files.
pub fn download_and_unpack(work_dir: &Path, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = work_dir.join("root");
    for deb in download(work_dir, suite, packages)? {
        command::output(command::new("dpkg").arg("-x").arg(deb).arg(&root))?;
    }
    Ok(root)
}

/// Downloads packages of the Debian release `suite` in `work_dir`. Returns the files.
pub fn download(work_dir: &Path, suite: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    for directory in ["lists/partial", "cache/archives/partial", "debs"] {
        fs::create_dir_all(work_dir.join(directory)).with_context(|| format!("creating {directory}"))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(work_dir.join("sources.list"), source).context("writing sources.list")?;
    fs::write(work_dir.join("status"), "").context("writing an empty package status")?;

    command::output(private_apt(work_dir).args(["-qq", "update"]))?;
    let debs = work_dir.join("debs");
    command::output(private_apt(work_dir).args(["-qq", "download"]).args(packages).current_dir(&debs))?;
    files(&debs)
}

/// Downloads packages of this computer's own release into `work_dir`, with all packages that they need and that are not
/// installed here. Returns the files.
pub fn download_with_dependencies(work_dir: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let debs = work_dir.join("debs");
    fs::create_dir_all(debs.join("partial")).with_context(|| format!("creating {}", debs.display()))?;
    let mut apt = apt();
    apt.arg("-o").arg(format!("Dir::Cache::archives={}", debs.display()));
    // Nothing is installed, so other runs of apt need not wait.
    apt.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]);
    apt.args(["-qq", "--yes", "--no-install-recommends", "--download-only", "install"]);
    command::output(apt.args(packages))?;
    let found = files(&debs)?;
    Ok(found
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    found.with_context(|| format!("reading {}", dir.display()))
}

/// Returns an apt-get that reads one source and writes only to `work_dir`.
fn private_apt(work_dir: &Path) -> Command {
    let mut apt = apt();
    let mut option = |name: &str, value: &Path| {
        apt.arg("-o").arg(format!("{name}={}", value.display()));
    };
    option("Dir::Etc::sourcelist", &work_dir.join("sources.list"));
    option("Dir::State::lists", &work_dir.join("lists"));
    option("Dir::Cache", &work_dir.join("cache"));
    // The version to download must not depend on what this computer has installed or pinned.
    option("Dir::State::status", &work_dir.join("status"));
    for name in ["Dir::Etc::sourceparts", "Dir::Etc::preferences", "Dir::Etc::preferencesparts"] {
        option(name, Path::new("/dev/null"));
    }
    option("APT::Default-Release", Path::new(""));
    option("APT::Get::List-Cleanup", Path::new("0"));
    option("Acquire::Languages", Path::new("none"));
    option("Acquire::Retries", Path::new("3"));
    // By default a failed download of the index is only a warning, and a later error hides the cause.
    option("APT::Update::Error-Mode", Path::new("any"));
    // As root, apt would download as its own user, which cannot enter a private checkout.
    option("APT::Sandbox::User", Path::new("root"));
    apt
}

fn apt() -> Command {
    let mut apt = command::new("apt-get");
    apt.env("LC_ALL", "C");
    apt
}

/// Returns the Debian mirror that this computer already uses.
pub fn mirror() -> Result<String> {
    let mut indexes = indexes()?;
    if indexes.trim().is_empty() {
        eprintln!("apt has no package lists yet; running apt-get update");
        command::output(apt().args(["-qq", "update"])).context("downloading the package lists")?;
        indexes = self::indexes()?;
    }
    debian_mirror(&indexes).context("apt on this computer has no Debian mirror")
}

fn indexes() -> Result<String> {
    command::output(apt().args(["indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(REPO_URI)"]))
}

/// Returns the mirror of the main archive. The security archive has another label, and few packages.
fn debian_mirror(indexes: &str) -> Option<String> {
    indexes.lines().find_map(|line| line.strip_prefix("Packages|Debian|Debian|")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_of_the_main_archive() {
        let indexes = "DEP-11|Debian|Debian|m://a/\nPackages|Debian|Debian-Security|m://b/\nPackages|Debian|Debian|m://c/\nPackages|Debian|Debian|m://d/\n";
        assert_eq!(debian_mirror(indexes).as_deref(), Some("m://c/"));
        assert_eq!(debian_mirror("Packages|Ubuntu|Ubuntu|m://e/\n"), None);
    }
}
