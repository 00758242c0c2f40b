//! Builds etcd from the Go module registry, for the versions that no Debian package has.
//!
//! etcd's programs are Go modules: a small module that requires all three is enough. Every file stays in cargo's target
//! directory, except for Go's own caches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// etcd's programs, and the module that each is the main package of.
const PROGRAMS: [(&str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
];

/// Returns whether Go is installed.
pub fn has_go() -> bool {
    command::output(command::new("go").arg("version")).is_ok()
}

/// Returns the newest release of each minor version that the registry has, lowest first.
pub fn newest_releases() -> Result<Vec<String>> {
    let (_, server) = PROGRAMS[0];
    let list = command::output(
        command::new("go").args(["list", "-m", "-versions", server]).env("GO111MODULE", "on"),
    )
    .context("asking the Go module registry for the versions of etcd")?;
    Ok(newest_of_each_minor(&list))
}

/// Parses the output of `go list -m -versions`: the module, then its versions. Leaves out pre-releases.
fn newest_of_each_minor(list: &str) -> Vec<String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let mut versions: Vec<[u32; 3]> = list
        .split_whitespace()
        .filter_map(|word| {
            let mut numbers = word.strip_prefix('v')?.split('.').map(number);
            let version = [numbers.next()??, numbers.next()??, numbers.next()??];
            numbers.next().is_none().then_some(version)
        })
        .collect();
    versions.sort_unstable();
    let is_newest = |at: usize| versions.get(at + 1).is_none_or(|next| next[..2] != versions[at][..2]);
    let newest = (0..versions.len()).filter(|at| is_newest(*at)).map(|at| versions[at]);
    newest.map(|[major, minor, patch]| format!("{major}.{minor}.{patch}")).collect()
}

/// Returns the directory of the programs of `version`, such as 3.6.16. They are built if they are missing.
pub fn ensure(target: &Path, version: &str) -> Result<PathBuf> {
    let home = target.join("etcd").join(format!("go-{version}"));
    let bin = home.join("bin");
    let is_complete = || PROGRAMS.iter().all(|(program, _)| bin.join(program).is_file());
    if is_complete() {
        return Ok(bin);
    }
    let _lock = super::lock(target)?;
    if is_complete() {
        return Ok(bin);
    }
    eprintln!(
        "building etcd {version} from the Go module registry in {}, which takes some minutes",
        command::short_path(&home)
    );
    build(&home, &bin, version).with_context(|| format!("building etcd {version} with Go"))?;
    Ok(bin)
}

fn build(home: &Path, bin: &Path, version: &str) -> Result<()> {
    let source = home.join("source");
    if source.exists() {
        fs::remove_dir_all(&source)
            .with_context(|| format!("removing the incomplete {}", source.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("creating {}", source.display()))?;
    command::output(go(&source).args(["mod", "init", "etcd-for-tests"]))?;
    let required = PROGRAMS.map(|(_, module)| format!("{module}@v{version}"));
    command::output(go(&source).arg("get").args(required))?;
    // A program appears under its name only when it is complete.
    let work_dir = tempfile::Builder::new().prefix(".building-").tempdir_in(home)?;
    for (program, module) in PROGRAMS {
        let built = work_dir.path().join(program);
        let mut go = go(&source);
        go.args(["build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&built).arg(module);
        command::output(&mut go)?;
        fs::create_dir_all(bin).with_context(|| format!("creating {}", bin.display()))?;
        fs::rename(&built, bin.join(program))
            .with_context(|| format!("moving {program} to {}", bin.display()))?;
    }
    Ok(())
}

/// Returns Go's command in the module `source`, which builds programs without C libraries. It leaves the processor to tests
/// that run at the same time.
fn go(source: &Path) -> Command {
    let mut go = command::new("nice");
    go.arg("go")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "on")
        .env("GOFLAGS", "-buildvcs=false");
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_of_each_minor_version_is_no_pre_release() {
        let list =
            "go.etcd.io/etcd/server/v3 v3.5.0-alpha.0 v3.5.9 v3.5.35 v3.6.0 v3.6.16 v3.7.3 v3.8.0-rc.0\n";
        assert_eq!(newest_of_each_minor(list), ["3.5.35", "3.6.16", "3.7.3"]);
        assert!(newest_of_each_minor("go.etcd.io/etcd/server/v3\n").is_empty());
    }
}
