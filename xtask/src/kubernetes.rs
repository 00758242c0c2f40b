//! `cargo xtask kubernetes`: restores the etcd of a real Kubernetes API server, and writes the table in
//! `docs/explanation/kubernetes.md`.
//!
//! The programs are built from the Go module registry, once. Everything runs on a machine in a container. Never leaves
//! out a check because it failed.

mod build;
mod cluster;
mod observation;
mod story;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::machines::{prerequisites, root};
use crate::{command, etcd, page, workspace};
use cluster::Cluster;

const PAGE: &str = "docs/explanation/kubernetes.md";
const USAGE: &str = "\
Restores the etcd of a real Kubernetes API server, and checks its lists, caches, watches and controllers. Needs root and Go.

Usage: cargo xtask kubernetes [--etcd VERSION...]

  --etcd VERSION...  run only on these versions of etcd (default: 3.4, 3.5 and 3.6.16, and write the table)";
/// The versions of etcd in the table.
const VERSIONS: [&str; 3] = ["3.4", "3.5", "3.6.16"];

/// Runs everything on the versions that `arguments` name, or on all, and then writes the table.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let wanted = match arguments {
        [] => &[][..],
        ["--etcd", versions @ ..] if !versions.is_empty() => versions,
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    if let Some(reason) = prerequisites::unmet() {
        eprintln!("Kubernetes cannot run here, because machines cannot: {reason}");
        return Ok(ExitCode::from(2));
    }
    let target = workspace::target_directory()?;
    let kubernetes = build::ensure(&target)?;
    command::run_checked(command::cargo().args(["build", "--bins", "--package", "etcd-backup"]))?;
    let (root, product) = (root::ensure(&target)?, target.join("debug/etcd-backup"));
    let mut text = table::HEAD.to_owned();
    for version in if wanted.is_empty() { &VERSIONS[..] } else { wanted } {
        let bin = etcd::of_version(&target, version)?;
        let version = etcd::version_of(&bin)?;
        println!("etcd {version}");
        let cluster = Cluster::start(&root, &product, &bin, &kubernetes)?;
        let rows = story::run(&cluster).with_context(|| format!("etcd {version}"))?;
        let lines = table::lines(&version, &rows);
        print!("{lines}");
        text += &lines;
    }
    if wanted.is_empty() {
        page::replace(
            PAGE,
            "table",
            &format!("`cargo xtask kubernetes`, Kubernetes {}", build::VERSION),
            &text,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
