//! `cargo xtask pack`: the charm as charmcraft packs it, without charmcraft.
//!
//! It owns what is in a charm and where. It must never put a program into one that needs anything of the machine it runs
//! on: they are static, and that is checked.

mod elf;
mod programs;

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

/// What Charmhub would take is more; what a person waits for on a slow line is not.
const LARGEST: u64 = 15 << 20;
/// The files of a charm that are not programs. charmcraft writes the manifest, and so do we.
const PAPERS: [&str; 7] =
    ["LICENSE", "README.md", "actions.yaml", "config.yaml", "copyright", "icon.svg", "metadata.yaml"];

/// A processor: what Debian and Juju call it, and what Rust does.
pub struct Architecture {
    name: &'static str,
    target: &'static str,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "amd64", target: "x86_64-unknown-linux-musl" },
    Architecture { name: "arm64", target: "aarch64-unknown-linux-musl" },
];

/// Packs the charm for the processors that `wanted` names, or for this machine's own. After `--twice` each is built again,
/// from nothing and in another place, and has to be the same to the byte.
pub fn run(wanted: &[&str]) -> Result<ExitCode> {
    let (twice, wanted) = match wanted {
        ["--twice", wanted @ ..] => (true, wanted),
        wanted => (false, wanted),
    };
    for architecture in architectures(wanted)? {
        let packed = pack(architecture)?;
        let size = fs::metadata(&packed)?.len();
        println!(
            "{}  {}  {:.1} MB",
            hash(&fs::read(&packed)?),
            command::short_path(&packed),
            size as f64 / 1e6
        );
        ensure!(size <= LARGEST, "the charm has {size} bytes, more than {LARGEST}");
        if twice {
            is_made_again(architecture, &packed)?;
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

/// Builds everything once more, in a directory of its own that goes with it, and compares.
fn is_made_again(architecture: &Architecture, packed: &Path) -> Result<()> {
    let place = tempfile::tempdir().context("making a directory to build in")?;
    let again = contents(architecture, place.path()).and_then(zipped)?;
    let (first, second) = (hash(&fs::read(packed)?), hash(&again));
    ensure!(first == second, "built again in another directory, the charm is another: {second}");
    println!("{second}  the same, built again in {}", place.path().display());
    Ok(())
}

/// Makes the charm for one processor, under cargo's target directory.
pub fn pack(architecture: &Architecture) -> Result<PathBuf> {
    let target = workspace::target_directory()?;
    let charm = target.join(format!("etcd_{}.charm", architecture.name));
    let zipped = contents(architecture, &target).and_then(zipped)?;
    fs::write(&charm, zipped).with_context(|| format!("writing {}", charm.display()))?;
    Ok(charm)
}

/// What is in the charm for one processor, its program built in the directory `place`.
fn contents(architecture: &Architecture, place: &Path) -> Result<Vec<Entry>> {
    let home = workspace::root()?;
    let built = build(architecture, place)?;
    let mut contents: Vec<Entry> = Vec::new();
    for paper in PAPERS {
        contents.push(Entry { name: paper.to_owned(), what: What::Paper(read(&home.join(paper))?) });
    }
    let manifest = manifest(&read(&home.join("charmcraft.yaml"))?, architecture.name)?;
    contents.push(Entry { name: "manifest.yaml".to_owned(), what: What::Paper(manifest.into_bytes()) });
    contents.push(Entry { name: programs::ITSELF.to_owned(), what: What::Program(read(&built)?) });
    for name in programs::links(&home)? {
        contents.push(Entry { name, what: What::Link(format!("../{}", programs::ITSELF)) });
    }
    Ok(contents)
}

/// The one for this machine, packed once for all who ask.
pub fn for_this_machine() -> Result<PathBuf> {
    static PACKED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if packed.is_none() {
        *packed = Some(pack(native())?);
    }
    packed.clone().context("nothing was packed")
}

/// A file in a charm.
struct Entry {
    name: String,
    what: What,
}

enum What {
    Paper(Vec<u8>),
    Program(Vec<u8>),
    /// A symlink, which Juju makes again as long as it leads nowhere outside of the charm (juju/utils, `zip/zip.go`).
    Link(String),
}

/// The same bytes for the same contents: sorted, and of no time at all.
fn zipped(mut contents: Vec<Entry>) -> Result<Vec<u8>> {
    contents.sort_by(|a, b| a.name.cmp(&b.name));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(zip::DateTime::default());
    for Entry { name, what } in contents {
        // Juju gives every file the mode that it has here, and makes none executable outside of hooks/.
        let packed = match what {
            What::Link(to) => zip.add_symlink(&name, to, options),
            What::Paper(bytes) => file(&mut zip, &name, options.unix_permissions(0o644), &bytes),
            What::Program(bytes) => file(&mut zip, &name, options.unix_permissions(0o755), &bytes),
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

/// What charmcraft writes of where a charm runs: from the platforms in charmcraft.yaml, `ubuntu@22.04:amd64`.
fn manifest(charmcraft: &[u8], architecture: &str) -> Result<String> {
    let project: Value = serde_yaml::from_slice(charmcraft).context("reading charmcraft.yaml")?;
    let platforms = project["platforms"].as_object().context("charmcraft.yaml names no platforms")?;
    let mut bases = Vec::new();
    for platform in platforms.keys() {
        let Some((base, processor)) = platform.split_once(':') else { bail!("{platform} names no base") };
        let (name, channel) = base.split_once('@').with_context(|| format!("{platform} names no release"))?;
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

/// Unpacks a charm as Juju does: every file with its mode, links as links. Gives the names of the files.
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
        let entry = |name: &str, what| Entry { name: name.into(), what };
        let mut all = vec![
            entry("actions/restore", What::Link("../dispatch".into())),
            entry("dispatch", What::Program(b"runs".into())),
            entry("metadata.yaml", What::Paper(b"says".into())),
        ];
        if reversed {
            all.reverse();
        }
        all
    }

    #[test]
    fn the_same_contents_make_the_same_charm() {
        assert_eq!(zipped(contents(false)).unwrap(), zipped(contents(true)).unwrap());
    }

    #[test]
    fn programs_can_be_run_where_a_charm_is_unpacked_and_papers_not() {
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
    fn the_manifest_has_the_bases_of_its_processor() {
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
