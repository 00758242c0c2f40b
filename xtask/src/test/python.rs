//! The checks that are Python's: the integration tests, with their types and as far as they need no controller, and
//! charmcraft's own reading of the charm's files.
//!
//! Must never install anything but under cargo's target directory, nor fail where there is no Python to be had: it says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{command, etcd, workspace};

const TESTS: &str = "tests/integration";
const REQUIREMENTS: &str = "tests/integration/requirements.txt";

/// What to run, one after the other; nothing, and a line that says why, where its packages cannot be had.
pub fn checks(target: &Path) -> Result<Vec<Command>> {
    let bin = match packages(target) {
        Ok(bin) => bin,
        Err(error) => {
            eprintln!("skipped: {TESTS} and charmcraft's reading of the charm's files: {error:#}");
            return Ok(Vec::new());
        }
    };
    let program = |name: &str, words: &[&str]| -> Result<Command> {
        let mut program = Command::new(bin.join(name));
        program.current_dir(workspace::root()?).args(words);
        Ok(program)
    };
    let mut pytest = program("pytest", &["-q", "-p", "no:cacheprovider", TESTS, "--played"])?;
    pytest.env("CARGO_TARGET_DIR", target).env("PYTHONDONTWRITEBYTECODE", "1");
    etcd::set_environment(&mut pytest, target)?;
    let cache = target.join("mypy").display().to_string();
    let mypy = program("mypy", &["--strict", "--cache-dir", &cache, TESTS])?;
    let mut charmcraft = program("charmcraft", &["expand-extensions"])?;
    // What it prints is the files themselves; its log would go to the home of whoever runs this.
    charmcraft.stdout(Stdio::null()).env("XDG_STATE_HOME", target.join("python/state"));
    Ok(vec![charmcraft, mypy, pytest])
}

/// The directory with the programs of the packages, fetched first where they are missing or were others.
fn packages(target: &Path) -> Result<PathBuf> {
    let home = target.join("python");
    let wanted = fs::read(workspace::root()?.join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let mark = home.join("requirements.txt");
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(home.join("bin"));
    }
    eprintln!("fetching Python's packages into {}", command::short_path(&home));
    command::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["--disable-pip-version-check", "install", "--quiet", "--requirement"]);
    command::output(pip.current_dir(workspace::root()?).arg(REQUIREMENTS))?;
    fs::write(&mark, wanted).with_context(|| format!("writing {}", mark.display()))?;
    Ok(home.join("bin"))
}
