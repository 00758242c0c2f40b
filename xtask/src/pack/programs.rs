//! Builds the program of the charm, static and reproducible, and lists its names in the charm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The name of the binary and of its package.
const PROGRAM: &str = "etcd-backup";
/// The path of the program in a charm. Juju runs it for every hook and action.
pub const ITSELF: &str = "dispatch";

/// Builds the program for `target` in the directory `place`, and returns its path.
pub fn build(target: &str, place: &Path) -> Result<PathBuf> {
    if !has_target(target)? {
        command::run_checked(Command::new("rustup").args(["target", "add", target]))?;
    }
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--bin",
        PROGRAM,
        "--package",
        PROGRAM,
        "--target",
        target,
    ]);
    // File names and line numbers in panic messages are kept, which is enough for bug reports.
    cargo.args(["--config", "profile.release.strip='symbols'"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(target, place)?.join("\x1f"));
    command::run_checked(cargo.arg("--target-dir").arg(place))?;
    Ok(place.join(target).join("release").join(PROGRAM))
}

/// Returns compiler flags that remove the paths of this checkout and of cargo's files from the program.
fn flags(target: &str, place: &Path) -> Result<Vec<String>> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let home = workspace::root()?;
    let mut flags = vec![map(&home, "etcd-backup"), map(&cargo_home, "cargo")];
    if !place.starts_with(&home) {
        flags.push(map(place, "etcd-backup/target"));
    }
    if !target.starts_with(std::env::consts::ARCH) {
        // The programs contain no C code, and Rust's linker supports every processor.
        flags.push("-Clinker=rust-lld".to_owned());
    }
    Ok(flags)
}

fn has_target(target: &str) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    let lib = command::output(rustc.args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(lib.trim()).is_dir())
}

/// The other names of the program in a charm, which are links to [`ITSELF`]: one for each action, one for the hooks, one for
/// the server of metrics, and its own name for operators on the unit.
pub fn links(home: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(home.join("actions.yaml")).context("reading actions.yaml")?;
    let actions: serde_json::Map<String, serde_json::Value> = serde_yaml::from_str(&text)?;
    let actions = actions.keys().map(|name| format!("actions/{name}"));
    let others = ["reconcile", "serve-metrics", PROGRAM].map(|name| format!("bin/{name}"));
    Ok(actions.chain(others).collect())
}
