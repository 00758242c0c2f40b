//! `cargo xtask fuzz`: throws bytes at what reads archives, manifests, journals, databases and the words of etcd's
//! tools, and at what deflates.
//!
//! It owns which targets there are and for how long; what must hold stands in `src/fuzz.rs`. The committed corpus is read
//! and not written to: what the fuzzer finds on its way stays in `target/`.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{command, workspace};

const TARGETS: [&str; 8] = ["archive", "zip", "age", "manifest", "journal", "answers", "backend", "deflate"];
const USAGE: &str = "cargo xtask fuzz [TARGET] [--seconds N]";

/// Runs the targets that were asked for, one after the other, a minute each unless told otherwise.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let Some((wanted, seconds)) = parse(arguments) else {
        eprintln!("Usage: {USAGE}\nThe targets: {}", TARGETS.join(", "));
        return Ok(ExitCode::from(2));
    };
    let target = workspace::target_directory()?;
    let cargo_fuzz = ensure(&target)?;
    for name in wanted {
        let found = target.join("fuzz").join(name);
        fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        let mut fuzz = Command::new(&cargo_fuzz);
        // The instruments are the compiler's own, behind a door that only a nightly opens by itself.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["run", name]).arg(&found);
        fuzz.arg(format!("fuzz/corpus/{name}")).args(["--", &format!("-max_total_time={seconds}")]);
        // An archive of a small database has 20 KB, and the smallest database as many.
        fuzz.args(["-max_len=40000", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        command::run_well(&mut fuzz)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse<'a>(arguments: &[&'a str]) -> Option<(Vec<&'a str>, u64)> {
    let (wanted, seconds) = match arguments {
        [rest @ .., "--seconds", seconds] => (rest, seconds.parse().ok()?),
        rest => (rest, 60),
    };
    match wanted {
        [] => Some((TARGETS.to_vec(), seconds)),
        [one] => TARGETS.contains(one).then(|| (vec![*one], seconds)),
        _ => None,
    }
}

/// cargo-fuzz, built into `target/` where it is missing.
fn ensure(target: &Path) -> Result<std::path::PathBuf> {
    let root = target.join("tools");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        println!("cargo-fuzz is not here: building it into {}", root.display());
        let mut install = Command::new("cargo");
        install.args(["install", "cargo-fuzz", "--locked", "--version", "0.13.1", "--root"]).arg(&root);
        command::run_well(&mut install)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_a_minute_each_unless_told_otherwise() {
        assert_eq!(parse(&[]), Some((TARGETS.to_vec(), 60)));
        assert_eq!(parse(&["journal", "--seconds", "5"]), Some((vec!["journal"], 5)));
        assert_eq!(parse(&["--seconds", "5"]), Some((TARGETS.to_vec(), 5)));
        for wrong in [&["nothing"][..], &["journal", "backend"], &["--seconds", "soon"], &["--seconds"]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn each_target_has_a_program_and_a_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz");
        for name in TARGETS {
            assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name}");
            assert!(fs::read_dir(fuzz.join("corpus").join(name)).unwrap().count() > 0, "{name}");
        }
    }
}
