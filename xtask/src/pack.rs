//! `cargo xtask pack`: packs the charm as charmcraft does, without charmcraft.
//!
//! Never packs a program that needs a library of the machine: programs must be static, and that is checked.

mod elf;
mod programs;

pub use programs::links;

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zip::result::ZipResult;
use zip::write::SimpleFileOptions;

use crate::{command, workspace};

/// The size limit of a charm in bytes, for downloads over a slow network. Charmhub accepts more.
const MAX_SIZE: u64 = 15 << 20;
/// The files of a charm that are not programs. The manifest is generated, as charmcraft does.
const FILES: [&str; 7] =
    ["LICENSE", "README.md", "actions.yaml", "config.yaml", "copyright", "icon.svg", "metadata.yaml"];

/// A processor architecture: its name in Debian and Juju, and its target in Rust.
pub struct Architecture {
    name: &'static str,
    target: &'static str,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "amd64", target: "x86_64-unknown-linux-musl" },
    Architecture { name: "arm64", target: "aarch64-unknown-linux-musl" },
];

/// Packs the charm for the given architectures, or for that of this computer. With `--twice`, builds each again in another
/// directory, and fails unless the two charms are identical.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (twice, names) = match arguments {
        ["--twice", names @ ..] => (true, names),
        names => (false, names),
    };
    for architecture in architectures(names)? {
        let packed = pack(architecture)?;
        let size = fs::metadata(&packed)?.len();
        println!(
            "{}  {}  {:.1} MB",
            hash(&fs::read(&packed)?),
            command::short_path(&packed),
            size as f64 / 1e6
        );
        ensure!(
            size <= MAX_SIZE,
            "the charm has {:.1} MB, more than {:.1} MB",
            size as f64 / 1e6,
            MAX_SIZE as f64 / 1e6
        );
        if twice {
            check_reproducible(architecture, &packed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Architecture {
    /// Returns Debian's name for the processor.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Returns the kernel's name for the processor.
    pub fn machine(&self) -> &str {
        self.target.split('-').next().unwrap_or(self.target)
    }
}

/// Returns the architectures with these names, or this machine's own if there are no names.
///
/// # Errors
/// Fails if a name is unknown.
pub fn architectures(names: &[&str]) -> Result<Vec<&'static Architecture>> {
    if names.is_empty() {
        return Ok(vec![native()]);
    }
    let find = |name: &&str| {
        let known = ARCHITECTURES.iter().find(|architecture| architecture.name == *name);
        known.with_context(|| format!("unknown architecture {name}: give amd64 or arm64"))
    };
    names.iter().map(find).collect()
}

/// Returns the architecture of this machine.
pub fn native() -> &'static Architecture {
    &ARCHITECTURES[usize::from(cfg!(target_arch = "aarch64"))]
}

/// Builds the static program for one processor in the directory `place`, and returns its path.
///
/// # Errors
/// Fails if the build fails, or if the program needs a shared library.
pub fn build(architecture: &Architecture, place: &Path) -> Result<PathBuf> {
    let built = programs::build(architecture.target, place)?;
    elf::is_static(&read(&built)?).with_context(|| format!("looking at {}", command::short_path(&built)))?;
    Ok(built)
}

/// Builds the charm again in a temporary directory, and compares the two.
fn check_reproducible(architecture: &Architecture, packed: &Path) -> Result<()> {
    let build_dir = tempfile::tempdir().context("creating a build directory")?;
    let again = contents(architecture, build_dir.path()).and_then(zipped)?;
    let (first, second) = (hash(&fs::read(packed)?), hash(&again));
    ensure!(first == second, "a second build in another directory gives a different charm: {second}");
    println!("{second}  identical, built again in {}", build_dir.path().display());
    Ok(())
}

/// Packs the charm for one architecture into cargo's target directory. Returns its path.
pub fn pack(architecture: &Architecture) -> Result<PathBuf> {
    let target = workspace::target_directory()?;
    let charm = target.join(format!("etcd_{}.charm", architecture.name));
    let zipped = contents(architecture, &target).and_then(zipped)?;
    fs::write(&charm, zipped).with_context(|| format!("writing {}", charm.display()))?;
    Ok(charm)
}

/// Returns the files of the charm for one architecture. Its program is built in `build_dir`.
fn contents(architecture: &Architecture, build_dir: &Path) -> Result<Vec<Entry>> {
    let home = workspace::root()?;
    let built = build(architecture, build_dir)?;
    let mut contents: Vec<Entry> = Vec::new();
    for name in FILES {
        contents.push(Entry { name: name.to_owned(), content: Content::File(read(&home.join(name))?) });
    }
    let manifest = manifest(&read(&home.join("charmcraft.yaml"))?, architecture.name)?;
    contents.push(Entry { name: "manifest.yaml".to_owned(), content: Content::File(manifest.into_bytes()) });
    contents.push(Entry { name: programs::ITSELF.to_owned(), content: Content::Program(read(&built)?) });
    for name in programs::links(&home)? {
        contents.push(Entry { name, content: Content::Link(format!("../{}", programs::ITSELF)) });
    }
    Ok(contents)
}

/// Returns the charm for this computer. It is packed only once.
pub fn for_this_machine() -> Result<PathBuf> {
    static PACKED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if packed.is_none() {
        *packed = Some(pack(native())?);
    }
    packed.clone().context("the charm was not packed")
}

/// A file in a charm.
struct Entry {
    name: String,
    content: Content,
}

enum Content {
    File(Vec<u8>),
    Program(Vec<u8>),
    /// A symlink. Juju unpacks symlinks unless they point outside the charm (juju/utils, `zip/zip.go`).
    Link(String),
}

/// Returns the zip file. It depends only on the contents: entries are sorted, and have no time.
fn zipped(mut contents: Vec<Entry>) -> Result<Vec<u8>> {
    contents.sort_by(|a, b| a.name.cmp(&b.name));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(zip::DateTime::default());
    for Entry { name, content } in contents {
        // Juju keeps these modes. It makes files executable only in hooks/.
        let packed = match content {
            Content::Link(to) => zip.add_symlink(&name, to, options),
            Content::File(bytes) => file(&mut zip, &name, options.unix_permissions(0o644), &bytes),
            Content::Program(bytes) => file(&mut zip, &name, options.unix_permissions(0o755), &bytes),
        };
        packed.with_context(|| format!("packing {name}"))?;
    }
    Ok(zip.finish().context("packing")?.into_inner())
}

fn file<W: Write + Seek>(
    zip: &mut zip::ZipWriter<W>,
    name: &str,
    options: SimpleFileOptions,
    bytes: &[u8],
) -> ZipResult<()> {
    zip.start_file(name, options)?;
    Ok(zip.write_all(bytes)?)
}

/// Returns the manifest as charmcraft writes it, from the platforms in charmcraft.yaml, such as `ubuntu@22.04:amd64`.
fn manifest(charmcraft: &[u8], architecture: &str) -> Result<String> {
    let project: Value = serde_yaml::from_slice(charmcraft).context("reading charmcraft.yaml")?;
    let platforms = project["platforms"].as_object().context("charmcraft.yaml has no platforms")?;
    let mut bases = Vec::new();
    for platform in platforms.keys() {
        let Some((base, processor)) = platform.split_once(':') else {
            bail!("the platform {platform} has no base")
        };
        let (name, channel) =
            base.split_once('@').with_context(|| format!("the platform {platform} has no release"))?;
        if processor == architecture {
            bases.push(json!({"name": name, "channel": channel, "architectures": [processor]}));
        }
    }
    ensure!(!bases.is_empty(), "charmcraft.yaml has no platform for {architecture}");
    let unknown = |name: &str| json!({"name": name, "result": "unknown"});
    let analysis = json!({"attributes": [unknown("language"), unknown("framework")]});
    Ok(serde_yaml::to_string(&json!({"bases": bases, "analysis": analysis}))?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", command::short_path(path)))
}

/// Returns the SHA-256 in hex.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks a charm as Juju does, with modes and symlinks. Returns the names of the files.
pub fn unpack(charm: &Path, to: &Path) -> Result<Vec<String>> {
    let mut zip = zip::ZipArchive::new(File::open(charm)?).context("reading the charm")?;
    zip.extract(to).with_context(|| format!("unpacking {}", command::short_path(charm)))?;
    let names = zip.file_names().map(|name| Ok(name.context("a name in the charm")?.into_owned()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn contents(reversed: bool) -> Vec<Entry> {
        let entry = |name: &str, content| Entry { name: name.into(), content };
        let mut all = vec![
            entry("actions/restore", Content::Link("../dispatch".into())),
            entry("dispatch", Content::Program(b"runs".into())),
            entry("metadata.yaml", Content::File(b"says".into())),
        ];
        if reversed {
            all.reverse();
        }
        all
    }

    #[test]
    fn a_charm_depends_only_on_its_contents() {
        assert_eq!(zipped(contents(false)).unwrap(), zipped(contents(true)).unwrap());
    }

    #[test]
    fn unpacked_programs_are_executable_and_other_files_are_not() {
        let home = tempfile::tempdir().unwrap();
        let charm = home.path().join("x.charm");
        fs::write(&charm, zipped(contents(false)).unwrap()).unwrap();
        unpack(&charm, &home.path().join("charm")).unwrap();
        for (name, mode) in [("dispatch", 0o755), ("actions/restore", 0o755), ("metadata.yaml", 0o644)] {
            let file = fs::metadata(home.path().join("charm").join(name)).unwrap();
            assert_eq!(file.permissions().mode() & 0o777, mode, "{name}");
        }
        let link = fs::read_link(home.path().join("charm/actions/restore")).unwrap();
        assert_eq!(link, Path::new("../dispatch"));
    }

    #[test]
    fn the_manifest_has_the_bases_of_its_architecture() {
        let project = "platforms:\n  ubuntu@22.04:amd64:\n  ubuntu@22.04:arm64:\n  ubuntu@24.04:amd64:\n";
        let manifest: Value =
            serde_yaml::from_str(&super::manifest(project.as_bytes(), "amd64").unwrap()).unwrap();
        let channels: Vec<_> = manifest["bases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|base| base["channel"].as_str().unwrap())
            .collect();
        assert_eq!(channels, ["22.04", "24.04"]);
        assert!(super::manifest(project.as_bytes(), "s390x").is_err());
    }
}
