//! The checks in Python: the types of the integration tests, those of them that need no controller, and charmcraft's check of
//! the charm's files.
//!
//! Installs only into cargo's target directory. Without Python, the checks are skipped with a message.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{command, etcd, workspace};

const TESTS: &str = "tests/integration";
const REQUIREMENTS: &str = "tests/integration/requirements.txt";

/// Returns the commands to run in order. If the Python packages cannot be installed, prints the reason and returns an empty
/// list.
pub fn checks(target: &Path) -> Result<Vec<Command>> {
    let bin = match packages(target) {
        Ok(bin) => bin,
        Err(error) => {
            eprintln!("skipped {TESTS} and charmcraft's check of the charm's files: {error:#}");
            return Ok(Vec::new());
        }
    };
    let program = |name: &str, arguments: &[&str]| -> Result<Command> {
        let mut program = Command::new(bin.join(name));
        program.current_dir(workspace::root()?).args(arguments);
        Ok(program)
    };
    let mut pytest = program("pytest", &["-q", "-p", "no:cacheprovider", TESTS, "--fake-juju"])?;
    pytest.env("CARGO_TARGET_DIR", target).env("PYTHONDONTWRITEBYTECODE", "1");
    etcd::set_environment(&mut pytest, target)?;
    let cache = target.join("mypy").display().to_string();
    let mypy = program("mypy", &["--strict", "--cache-dir", &cache, TESTS])?;
    let mut charmcraft = program("charmcraft", &["expand-extensions"])?;
    // Its output repeats the files. Its log would go to the user's home directory.
    charmcraft.stdout(Stdio::null()).env("XDG_STATE_HOME", target.join("python/state"));
    // The rules of Juju that the fake `juju` follows.
    let mut rules = command::cargo();
    rules.current_dir(workspace::root()?).args(["build", "--quiet", "--package", "fake-juju"]);
    Ok(vec![charmcraft, mypy, rules, pytest])
}

/// Returns the directory with the programs of the packages. They are installed if they are missing or outdated.
fn packages(target: &Path) -> Result<PathBuf> {
    let home = target.join("python");
    let wanted = fs::read(workspace::root()?.join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let mark = home.join("requirements.txt");
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(home.join("bin"));
    }
    eprintln!("installing Python packages in {}", command::short_path(&home));
    command::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["--disable-pip-version-check", "install", "--quiet", "--requirement"]);
    command::output(pip.current_dir(workspace::root()?).arg(REQUIREMENTS))?;
    fs::write(&mark, wanted).with_context(|| format!("writing {}", mark.display()))?;
    Ok(home.join("bin"))
}
