//! `cargo xtask fuzz`: fuzzes the readers of archives, included files, manifests, journals, databases, and the answers of etcdctl and of S3
//! servers, and the compressor.
//!
//! The checked properties are in `src/fuzz.rs`. The committed corpus is only read; new inputs stay in `target/`.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{command, workspace};

const TARGETS: [&str; 10] =
    ["archive", "zip", "included", "age", "manifest", "journal", "answers", "backend", "deflate", "bucket"];
const USAGE: &str = "cargo xtask fuzz [TARGET] [--seconds N]";

/// Runs the given targets one after the other, by default for a minute each.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let Some((targets, seconds)) = parse(arguments) else {
        eprintln!("Usage: {USAGE}\nTargets: {}", TARGETS.join(", "));
        return Ok(ExitCode::from(2));
    };
    let target = workspace::target_directory()?;
    let cargo_fuzz = ensure_cargo_fuzz(&target)?;
    for name in targets {
        let new_inputs = target.join("fuzz").join(name);
        fs::create_dir_all(&new_inputs).with_context(|| format!("creating {}", new_inputs.display()))?;
        let mut fuzz = Command::new(&cargo_fuzz);
        // The instrumentation is a feature that the stable compiler enables only with this variable.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["run", name]).arg(&new_inputs);
        fuzz.arg(format!("fuzz/corpus/{name}")).args(["--", &format!("-max_total_time={seconds}")]);
        // Both an archive of a small database and the smallest database have 20 KB.
        fuzz.args(["-max_len=40000", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]);
        command::run_checked(&mut fuzz)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse<'a>(arguments: &[&'a str]) -> Option<(Vec<&'a str>, u64)> {
    let (targets, seconds) = match arguments {
        [rest @ .., "--seconds", seconds] => (rest, seconds.parse().ok()?),
        rest => (rest, 60),
    };
    match targets {
        [] => Some((TARGETS.to_vec(), seconds)),
        [one] => TARGETS.contains(one).then(|| (vec![*one], seconds)),
        _ => None,
    }
}

/// Returns cargo-fuzz. It is built in `target/` if it is missing.
fn ensure_cargo_fuzz(target: &Path) -> Result<std::path::PathBuf> {
    let root = target.join("tools");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        println!("building cargo-fuzz in {}", root.display());
        let mut install = command::cargo();
        install.args(["install", "cargo-fuzz", "--locked", "--version", "0.13.1", "--root"]).arg(&root);
        command::run_checked(&mut install)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_all_targets_for_a_minute_by_default() {
        assert_eq!(parse(&[]), Some((TARGETS.to_vec(), 60)));
        assert_eq!(parse(&["journal", "--seconds", "5"]), Some((vec!["journal"], 5)));
        assert_eq!(parse(&["--seconds", "5"]), Some((TARGETS.to_vec(), 5)));
        for wrong in [&["nothing"][..], &["journal", "backend"], &["--seconds", "soon"], &["--seconds"]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz");
        for name in TARGETS {
            assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).exists(), "{name}");
            assert!(fs::read_dir(fuzz.join("corpus").join(name)).unwrap().count() > 0, "{name}");
        }
    }
}
