//! Builds the charm's programs, static and the same every time, and knows their places in a charm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// Builds all for `target`, and gives the directory they are in.
pub fn build(target: &str) -> Result<PathBuf> {
    if !is_there(target)? {
        command::run_well(Command::new("rustup").args(["target", "add", target]))?;
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--bins", "--package", "etcd-charm", "--target", target]);
    // What a bug report needs is a file and a line, and those are kept.
    cargo.args(["--config", "profile.release.strip='symbols'"]);
    // Ten programs that share nearly all of their code: optimised once, in the library, and not once for each.
    cargo.args(["--config", "profile.release.lto=false"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(target)?.join("\x1f"));
    command::run_well(&mut cargo)?;
    Ok(workspace::target_directory()?.join(target).join("release"))
}

/// Where this checkout and cargo's own files lie must not be told, nor make a difference.
fn flags(target: &str) -> Result<Vec<String>> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("there is no HOME")?).join(".cargo"),
    };
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![map(&workspace::home()?, "etcd-charm"), map(&cargo_home, "cargo")];
    if !target.starts_with(std::env::consts::ARCH) {
        // No C is in these programs, and Rust's own linker knows every processor.
        flags.push("-Clinker=rust-lld".to_owned());
    }
    Ok(flags)
}

fn is_there(target: &str) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    let lib = command::output(rustc.args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(lib.trim()).is_dir())
}

/// The programs and their places: every action by its name, the hooks' own in `bin`.
pub fn places(home: &Path) -> Result<Vec<(String, String)>> {
    let mut places = vec![
        ("dispatch".to_owned(), "dispatch".to_owned()),
        ("reconcile".to_owned(), "bin/reconcile".to_owned()),
    ];
    let text = fs::read_to_string(home.join("actions.yaml")).context("reading actions.yaml")?;
    let actions: serde_json::Map<String, serde_json::Value> = serde_yaml::from_str(&text)?;
    places.extend(actions.keys().map(|name| (name.clone(), format!("actions/{name}"))));
    Ok(places)
}
