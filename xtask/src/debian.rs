//! Owns what comes from Debian: packages, downloaded and unpacked below a directory of the caller's.
//!
//! It must never install anything on the machine: apt works on a private state, from the mirror and the keys that the
//! machine already trusts, and packages are unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The root that packages of the Debian release `suite` unpack to, with `at` for its working directory.
pub fn unpacked(at: &Path, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = at.join("root");
    for deb in download(at, suite, packages)? {
        command::output(command::new("dpkg").arg("-x").arg(deb).arg(&root))?;
    }
    Ok(root)
}

/// Downloads packages of the Debian release `suite`, with `at` for its working directory.
pub fn download(at: &Path, suite: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    for directory in ["lists/partial", "cache/archives/partial", "debs"] {
        fs::create_dir_all(at.join(directory)).with_context(|| format!("creating {directory}"))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(at.join("sources.list"), source).context("writing sources.list")?;
    fs::write(at.join("status"), "").context("writing an empty package status")?;

    command::output(private_apt(at).args(["-qq", "update"]))?;
    let debs = at.join("debs");
    command::output(private_apt(at).args(["-qq", "download"]).args(packages).current_dir(&debs))?;
    let found = fs::read_dir(&debs).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    found.with_context(|| format!("reading {}", debs.display()))
}

/// apt-get that reads one source and writes to nothing but the stage.
fn private_apt(stage: &Path) -> Command {
    let mut apt = apt();
    let mut option = |name: &str, value: &Path| {
        apt.arg("-o").arg(format!("{name}={}", value.display()));
    };
    option("Dir::Etc::sourcelist", &stage.join("sources.list"));
    option("Dir::State::lists", &stage.join("lists"));
    option("Dir::Cache", &stage.join("cache"));
    // What the machine has installed, pinned or preferred must not decide which version is fetched.
    option("Dir::State::status", &stage.join("status"));
    for name in ["Dir::Etc::sourceparts", "Dir::Etc::preferences", "Dir::Etc::preferencesparts"] {
        option(name, Path::new("/dev/null"));
    }
    option("APT::Default-Release", Path::new(""));
    option("APT::Get::List-Cleanup", Path::new("0"));
    option("Acquire::Languages", Path::new("none"));
    option("Acquire::Retries", Path::new("3"));
    // Without it a failed download of the index is a warning, and the error to come is about something else.
    option("APT::Update::Error-Mode", Path::new("any"));
    // Run by root, apt would download as its own user, who cannot enter a private checkout.
    option("APT::Sandbox::User", Path::new("root"));
    apt
}

fn apt() -> Command {
    let mut apt = command::new("apt-get");
    apt.env("LC_ALL", "C");
    apt
}

/// The Debian mirror that this machine already uses.
pub fn mirror() -> Result<String> {
    let mut indexes = indexes()?;
    if indexes.trim().is_empty() {
        eprintln!("apt has no package lists yet: running apt-get update on this machine first");
        command::output(apt().args(["-qq", "update"]))
            .context("the machine's own package lists are needed once")?;
        indexes = self::indexes()?;
    }
    debian(&indexes).context("this machine's apt knows no Debian mirror")
}

fn indexes() -> Result<String> {
    command::output(apt().args(["indextargets", "--format", "$(CREATED_BY)|$(ORIGIN)|$(LABEL)|$(REPO_URI)"]))
}

/// The main archive: its security archive is labelled otherwise, and lacks most packages.
fn debian(indexes: &str) -> Option<String> {
    indexes.lines().find_map(|line| line.strip_prefix("Packages|Debian|Debian|")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_main_archive() {
        let indexes = "DEP-11|Debian|Debian|m://a/\nPackages|Debian|Debian-Security|m://b/\nPackages|Debian|Debian|m://c/\nPackages|Debian|Debian|m://d/\n";
        assert_eq!(debian(indexes).as_deref(), Some("m://c/"));
        assert_eq!(debian("Packages|Ubuntu|Ubuntu|m://e/\n"), None);
    }
}
