//! The crates that are linked into the program: their licences, and an SBOM in CycloneDX's JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::tree::NAME;
use crate::{command, workspace};

/// Beginnings of the names of files that contain a licence.
const LICENSE_FILES: [&str; 4] = ["license", "licence", "copying", "notice"];

/// A crate that is linked into the program.
struct Crate {
    name: String,
    version: String,
    license: String,
    /// Where its sources are.
    manifest: String,
}

/// Returns the licence of each crate: its name in SPDX's form, and the text of its licence files.
///
/// # Errors
/// Fails if cargo cannot list the crates, or if a licence file cannot be read.
pub fn licenses() -> Result<String> {
    let mut text = String::from("etcd-backup contains these crates.\n");
    for linked in linked()? {
        text += &format!("\n{}\n{} {}: {}\n\n", "=".repeat(79), linked.name, linked.version, linked.license);
        for license in license_files(Path::new(&linked.manifest))? {
            text += &license;
            text.push('\n');
        }
    }
    Ok(text)
}

fn license_files(manifest: &Path) -> Result<Vec<String>> {
    let dir = manifest.parent().context("a crate without a directory")?;
    let mut files: Vec<_> = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let is_license = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().to_lowercase();
        entry.path().is_file() && LICENSE_FILES.iter().any(|prefix| name.starts_with(prefix))
    };
    let files = files.iter().filter(|entry| is_license(entry));
    files.map(|entry| Ok(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned())).collect()
}

/// Returns an SBOM of the program.
///
/// # Errors
/// Fails if cargo cannot list the crates.
pub fn sbom(name: &str, version: &str) -> Result<String> {
    let components: Vec<Value> = linked()?
        .into_iter()
        .map(|linked| {
            json!({
                "type": "library",
                "name": linked.name,
                "version": linked.version,
                "purl": format!("pkg:cargo/{}@{}", linked.name, linked.version),
                "licenses": [{"expression": linked.license}],
            })
        })
        .collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version}},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// Returns the crates that the program is linked with, sorted by name. Those that only build scripts and tests need are not
/// among them.
fn linked() -> Result<Vec<Crate>> {
    let manifest = workspace::root()?.join("Cargo.toml");
    let mut cargo = command::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform"]);
    cargo.arg("x86_64-unknown-linux-musl").arg("--manifest-path").arg(&manifest);
    let metadata: Value = serde_json::from_str(&command::output(&mut cargo)?).context("cargo metadata")?;
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<String, Value> =
        list(&metadata, "packages").into_iter().map(|package| (text(&package, "id"), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"], "nodes").into_iter().map(|node| (text(&node, "id"), node)).collect();
    let root = packages.values().find(|package| text(package, "name") == NAME);
    let mut queue = vec![text(root.context("cargo metadata does not list the program")?, "id")];
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        let Some(node) = nodes.get(&id).filter(|_| seen.insert(id.clone())) else { continue };
        let is_linked = |dep: &Value| list(dep, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
        queue.extend(list(node, "deps").iter().filter(|dep| is_linked(dep)).map(|dep| text(dep, "pkg")));
    }
    let mut linked: Vec<Crate> = seen
        .iter()
        .filter_map(|id| packages.get(id))
        .filter(|package| text(package, "name") != NAME)
        .map(|package| Crate {
            name: text(package, "name"),
            version: text(package, "version"),
            license: text(package, "license"),
            manifest: text(package, "manifest_path"),
        })
        .collect();
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(linked)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
