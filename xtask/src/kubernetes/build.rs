//! Builds kube-apiserver, kube-controller-manager, kubectl and the observer from the Go module registry, once.
//!
//! Every file stays in cargo's target directory, except for Go's own caches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// The version of Kubernetes. It is pinned: the table names it.
pub const VERSION: &str = "v1.34.4";
/// The version of its libraries, which Kubernetes itself takes from its own tree (`v0.0.0` in its go.mod).
const LIBRARIES: &str = "v0.34.4";
/// The programs of Kubernetes.
const PROGRAMS: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kubectl"];
/// The client that watches the API server during the tests.
const OBSERVER: &str = "observer";
const OBSERVER_SOURCE: &str = include_str!("module/observer/main.go");

/// Returns the directory of the programs. They are built if they are missing.
pub fn ensure(target: &Path) -> Result<PathBuf> {
    let home = target.join("kubernetes").join(VERSION);
    let (bin, module) = (home.join("bin"), home.join("module"));
    let source = module.join(OBSERVER).join("main.go");
    let is_built = |program: &&str| bin.join(program).is_file();
    let has_observer =
        is_built(&OBSERVER) && fs::read_to_string(&source).is_ok_and(|text| text == OBSERVER_SOURCE);
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|program| !is_built(program)).collect();
    if missing.is_empty() && has_observer {
        return Ok(bin);
    }
    let go = command::new("go").arg("version").output();
    if !go.is_ok_and(|output| output.status.success()) {
        bail!(
            "Go is not installed, and Kubernetes {VERSION} is built with it: install Go 1.24 or later, so that `go version` works"
        );
    }
    if !missing.is_empty() {
        eprintln!(
            "building {} {VERSION} from the Go module registry in {}; once, about 13 minutes on two idle cores",
            missing.join(", "),
            command::short_path(&home)
        );
    }
    write_module(&module).context("preparing the Go module")?;
    fs::write(&source, OBSERVER_SOURCE).with_context(|| format!("writing {}", source.display()))?;
    let mut packages: Vec<String> =
        missing.iter().map(|program| format!("k8s.io/kubernetes/cmd/{program}")).collect();
    packages.push(format!("./{OBSERVER}"));
    build(&home, &packages).with_context(|| format!("building Kubernetes {VERSION} with Go"))?;
    Ok(bin)
}

/// Writes a module that requires Kubernetes, with the replacements that Kubernetes itself has for its libraries.
fn write_module(module: &Path) -> Result<()> {
    fs::create_dir_all(module.join(OBSERVER))?;
    let wanted = format!("k8s.io/kubernetes@{VERSION}");
    // A module is needed to run Go in; its content is replaced below.
    fs::write(module.join("go.mod"), "module kubernetes\n\ngo 1.24.0\n")?;
    let found = command::output(go(module).args(["mod", "download", "-json", &wanted]))?;
    let found: Value = serde_json::from_str(&found).context("the output of go mod download is not JSON")?;
    let path =
        |key: &str| found[key].as_str().map(PathBuf::from).with_context(|| format!("Go reported no {key}"));
    let requirements = fs::read_to_string(path("GoMod")?).context("reading the go.mod of Kubernetes")?;
    fs::write(module.join("go.mod"), go_mod(&requirements))?;
    fs::copy(path("Dir")?.join("go.sum"), module.join("go.sum"))
        .context("copying the go.sum of Kubernetes")?;
    command::output(Command::new("chmod").arg("u+w").arg(module.join("go.sum"))).map(drop)
}

/// Returns our go.mod, from that of Kubernetes.
fn go_mod(kubernetes: &str) -> String {
    let settings = kubernetes.lines().filter(|line| line.starts_with("go ") || line.starts_with("godebug "));
    let libraries = kubernetes.lines().filter_map(|line| line.trim().strip_suffix(" v0.0.0"));
    let mut text = "module kubernetes\n\n".to_owned();
    text.extend(settings.map(|line| format!("{line}\n")));
    text += &format!("\nrequire k8s.io/kubernetes {VERSION}\n\nreplace (\n");
    text.extend(libraries.map(|library| format!("\t{library} => {library} {LIBRARIES}\n")));
    text + ")\n"
}

fn build(home: &Path, packages: &[String]) -> Result<()> {
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/client-go/pkg/version", "k8s.io/component-base/version"] {
        let (major, minor) =
            VERSION.trim_start_matches('v').split_once('.').context("the version has no dot")?;
        let minor = minor.split('.').next().unwrap_or_default();
        for (name, value) in [("gitVersion", VERSION), ("gitMajor", major), ("gitMinor", minor)] {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    // A program appears under its name only when all are complete.
    let work_dir = tempfile::Builder::new().prefix(".building-").tempdir_in(home)?;
    let mut go = go(&home.join("module"));
    go.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(work_dir.path()).args(packages);
    command::output(&mut go)?;
    let bin = home.join("bin");
    fs::create_dir_all(&bin)?;
    for built in fs::read_dir(work_dir.path())? {
        let built = built?;
        fs::rename(built.path(), bin.join(built.file_name()))?;
    }
    Ok(())
}

/// Returns Go's command in `module`, which builds programs without C libraries.
fn go(module: &Path) -> Command {
    let mut go = command::new("nice");
    go.args(["-n", "10", "go"])
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod -buildvcs=false");
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_kubernetes_are_taken_from_the_registry() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire (\n\
                      \tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-20250604170112-4c0f3b243397\n)\n";
        let ours = go_mod(theirs);
        assert!(ours.contains("\ngo 1.24.0\ngodebug default=go1.24\n"), "{ours}");
        assert!(ours.ends_with("replace (\n\tk8s.io/api => k8s.io/api v0.34.4\n)\n"), "{ours}");
    }
}
