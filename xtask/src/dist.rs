//! `cargo xtask dist`: what is installed without Juju, under `target/dist`: a tarball, a Debian package, the checksums of
//! both, and an SBOM.
//!
//! It owns which files are installed, and their places. The same sources make the same bytes.

mod crates;
mod deb;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::pack::{self, Architecture};
use crate::{command, docs, workspace};
use tree::{NAME, Tree};

/// The manual pages and completions are printed by the program itself, so they have to come from one that runs here.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/etcd-backup"),
    ("zsh", "usr/share/zsh/vendor-completions/_etcd-backup"),
    ("fish", "usr/share/fish/vendor_completions.d/etcd-backup.fish"),
];

/// Makes everything for the processors that `wanted` names, or for this machine's own.
///
/// # Errors
/// Fails if the program cannot be built for one of them, or if a file cannot be written.
pub fn run(wanted: &[&str]) -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    let dist = target.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("creating {}", dist.display()))?;
    let native = pack::build(pack::native(), &target)?;
    let mut made = vec![sbom(&dist)?];
    for architecture in pack::architectures(wanted)? {
        let program = pack::build(architecture, &target)?;
        let tree = files(&program, &native)?;
        made.push(tarball(architecture, &tree, &dist)?);
        made.push(package(architecture, &tree, &dist)?);
    }
    let sums: Vec<String> = made
        .iter()
        .map(|name| Ok(format!("{}  {name}\n", pack::hash(&fs::read(dist.join(name))?))))
        .collect::<Result<_>>()?;
    fs::write(dist.join("SHA256SUMS"), sums.concat())?;
    print!("{}", sums.concat());
    println!("in {}", command::short_path(&dist));
    Ok(ExitCode::SUCCESS)
}

/// Makes the Debian package for this machine, and returns its path.
///
/// # Errors
/// Fails if the program cannot be built, or if the package cannot be written.
pub fn package_for_this_machine() -> Result<PathBuf> {
    let target = workspace::target_directory()?;
    let program = pack::build(pack::native(), &target)?;
    let name = package(pack::native(), &files(&program, &program)?, &target)?;
    Ok(target.join(name))
}

/// Returns the version of the package, which is that of the program.
fn version() -> Result<String> {
    let manifest = fs::read_to_string(workspace::root()?.join("Cargo.toml"))?;
    let package = manifest.split("[package]").nth(1).context("Cargo.toml has no [package]")?;
    let line = package.lines().find_map(|line| line.strip_prefix("version = \"")).context("no version")?;
    Ok(line.trim_end_matches('"').to_owned())
}

/// Returns a property of the last commit, in a format of git-log(1). Its time is the time of all files, so that the same sources
/// make the same bytes.
fn last_commit(format: &str) -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()?).args(["log", "-1", &format!("--format={format}")]);
    Ok(command::output(&mut git)?.trim().to_owned())
}

/// Returns every file that is installed. `native` is the program for this machine, which prints its own manual.
fn files(program: &Path, native: &Path) -> Result<Tree> {
    let home = workspace::root()?;
    let read = |path: &str| fs::read(home.join(path)).with_context(|| format!("reading {path}"));
    let doc = format!("usr/share/doc/{NAME}");
    let mut tree = Tree::at(last_commit("%ct")?.parse().context("the time of the last commit")?);
    tree.program(&format!("usr/bin/{NAME}"), fs::read(program)?);
    for (shell, path) in SHELLS {
        let text = command::output(Command::new(native).args(["completions", shell]))?;
        tree.file(path, text.into_bytes());
    }
    for (name, page) in manual(native)? {
        tree.file(&format!("usr/share/man/man1/{name}.gz"), tree::gzip(page.as_bytes())?);
    }
    tree.file(&format!("{doc}/copyright"), read("packaging/copyright")?);
    tree.file(&format!("{doc}/licenses.txt.gz"), tree::gzip(crates::licenses()?.as_bytes())?);
    tree.file(&format!("{doc}/changelog.gz"), tree::gzip(changelog()?.as_bytes())?);
    for example in ["config.yaml", "site.yaml"] {
        tree.file(&format!("{doc}/examples/{example}"), read(&format!("packaging/{example}"))?);
    }
    for file in ["monitoring/alerts.yaml", "monitoring/dashboard.json"] {
        let name = file.trim_start_matches("monitoring/");
        tree.file(&format!("{doc}/examples/{name}"), read(file)?);
    }
    Ok(tree)
}

/// Returns the manual pages, by file name.
fn manual(program: &Path) -> Result<Vec<(String, String)>> {
    let page = |words: &[&str]| command::output(Command::new(program).arg("man").args(words));
    let overview = command::output(Command::new(program).arg("--help"))?;
    let commands =
        docs::commands(&overview).into_iter().filter(|name| !["completions", "man"].contains(name));
    let pages = commands.map(|name| Ok((format!("{NAME}-{name}.1"), page(&[name])?)));
    pages.chain([Ok((format!("{NAME}.1"), page(&[])?))]).collect()
}

/// Returns the change log in Debian's form, which says only where the real one is.
fn changelog() -> Result<String> {
    Ok(format!(
        "{NAME} ({}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n -- {}  {}\n",
        version()?,
        maintainer()?,
        last_commit("%cD")?
    ))
}

/// Returns the person who makes the package: whom `DEBFULLNAME` and `DEBEMAIL` name, as for Debian's own tools, or the author of the
/// last commit.
fn maintainer() -> Result<String> {
    match (std::env::var("DEBFULLNAME"), std::env::var("DEBEMAIL")) {
        (Ok(name), Ok(address)) => Ok(format!("{name} <{address}>")),
        _ => last_commit("%an <%ae>"),
    }
}

fn tarball(architecture: &Architecture, tree: &Tree, dist: &Path) -> Result<String> {
    let root = format!("{NAME}-{}", version()?);
    let name = format!("{root}-{}-linux.tar.gz", architecture.machine());
    fs::write(dist.join(&name), tree::gzip(&tree.tar(&root)?)?)?;
    Ok(name)
}

fn package(architecture: &Architecture, tree: &Tree, dist: &Path) -> Result<String> {
    let (version, maintainer) = (version()?, maintainer()?);
    let description =
        deb::Description { version: &version, architecture: architecture.name(), maintainer: &maintainer };
    let name = format!("{NAME}_{version}_{}.deb", architecture.name());
    fs::write(dist.join(&name), deb::package(tree, &description)?)?;
    Ok(name)
}

fn sbom(dist: &Path) -> Result<String> {
    let name = format!("{NAME}-{}.cdx.json", version()?);
    fs::write(dist.join(&name), crates::sbom(NAME, &version()?)?)?;
    Ok(name)
}
