//! `cargo xtask versions`: runs the integration tests on each supported etcd, and writes the table in
//! `docs/reference/versions.md`.
//!
//! A row of the table is written only from a run of that version, with its date and commit. Never leaves out a test of
//! that version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::{command, etcd, page, test, workspace};

const USAGE: &str = "cargo xtask versions [VERSION...]";
const PAGE: &str = "docs/reference/versions.md";
const HEAD: &str =
    "| etcd | origin | passed | failed | minutes | date | commit |\n|---|---|---|---|---|---|---|\n";

/// An etcd to run the tests on.
struct Candidate {
    version: String,
    origin: &'static str,
    bin: PathBuf,
}

/// The result of the integration tests on one etcd.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
}

/// Runs the tests on the versions that `arguments` name, or on all, one after the other.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    if arguments.iter().any(|argument| !argument.starts_with(|c: char| c.is_ascii_digit())) {
        eprintln!("Usage: {USAGE}");
        return Ok(ExitCode::from(2));
    }
    let target = workspace::target_directory()?;
    let mut all_passed = true;
    for candidate in candidates(&target, arguments)? {
        let started = Instant::now();
        let outcome = run_tests(&candidate, &target)?;
        let minutes = started.elapsed().as_secs().div_ceil(60);
        all_passed &= outcome.failed.is_empty();
        let row = row(&candidate, &outcome, minutes, &page::today()?, &page::commit()?);
        page::update(PAGE, "tested", |old| with_row(old, &candidate.version, &row))?;
    }
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the etcds that `named` lists. Without names: Debian's 3.4, the one that `ETCD_3_4_BIN` names, and the newest
/// release of each later minor version in the Go module registry.
fn candidates(target: &Path, named: &[&str]) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let old = etcd::from_debian(target, &etcd::OLD)?;
    let mut olds = vec![Candidate { version: etcd::version_of(&old)?, origin: "Debian 12", bin: old }];
    if let Some(bin) = etcd::named_by_variable(&etcd::OLD)? {
        olds.push(Candidate { version: etcd::version_of(&bin)?, origin: "built from source", bin });
    }
    let wanted = |version: &str| named.is_empty() || named.contains(&version);
    found.extend(olds.into_iter().filter(|old| wanted(&old.version)));
    let is_built = |version: &&str| !found.iter().any(|known| known.version == **version);
    let to_build: Vec<String> = match named {
        [] => etcd::build::newest_releases()?,
        named => named.iter().copied().filter(is_built).map(str::to_owned).collect(),
    };
    for version in to_build {
        ensure!(
            is_new(&version),
            "etcd {version} is in no package registry; set {} to the directory of its programs",
            etcd::OLD.variable
        );
        let bin = etcd::build::ensure(target, &version)?;
        found.push(Candidate { version, origin: "Go modules", bin });
    }
    Ok(found)
}

/// Whether a version takes the place of the newer etcd in the tests, the one with etcdutl.
fn is_new(version: &str) -> bool {
    !version.starts_with(&format!("{}.", etcd::OLD.version))
}

/// Runs the integration tests with an etcd in the place of the older or the newer one.
fn run_tests(candidate: &Candidate, target: &Path) -> Result<Outcome> {
    let Candidate { version, bin, .. } = candidate;
    println!("\n== etcd {version}: {}", command::short_path(bin));
    // The tests of the other place are the same for every version.
    let other = if is_new(version) { "etcd_3_4" } else { "etcd_3_5" };
    let mut cargo = test::tests(&["--test", test::SLOW_TESTS], &["--", "--skip", other], target)?;
    if is_new(version) {
        // The older etcd in these tests is always the same.
        cargo.env(etcd::OLD.variable, etcd::from_debian(target, &etcd::OLD)?);
        cargo.env(etcd::NEW.variable, bin).env(etcd::NEWEST_VARIABLE, bin);
    } else {
        cargo.env(etcd::OLD.variable, bin);
    }
    let (status, output) = command::run_capturing_status(&mut cargo)?;
    let outcome = parse(&output);
    if outcome.passed == 0 || status.success() != outcome.failed.is_empty() {
        bail!("cargo did not run the tests to their end ({status}); see its output above");
    }
    Ok(outcome)
}

/// Parses the output of `cargo test`.
fn parse(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in output.lines() {
        match line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            Some((_, "ok")) => outcome.passed += 1,
            Some((name, "FAILED")) => outcome.failed.push(name.to_owned()),
            _ => {}
        }
    }
    outcome
}

fn row(candidate: &Candidate, outcome: &Outcome, minutes: u64, date: &str, commit: &str) -> String {
    let Candidate { version, origin, .. } = candidate;
    let failed = match &*outcome.failed {
        [] => "0".to_owned(),
        failed => format!("{}: {}", failed.len(), failed.join(", ")),
    };
    format!("| {version} | {origin} | {} | {failed} | {minutes} | {date} | {commit} |\n", outcome.passed)
}

/// Returns the table `old` with the row of one version replaced or added. The newest run of a minor version replaces
/// those of its other patch versions, except that 3.4.23, the oldest, keeps its own row.
fn with_row(old: &str, version: &str, row: &str) -> String {
    let mut rows = BTreeMap::new();
    for line in old.lines() {
        let number = line.strip_prefix("| ").and_then(|line| line.split(' ').next());
        if let Some(number) = number.filter(|number| number.starts_with(|c: char| c.is_ascii_digit())) {
            rows.insert(key(number), format!("{line}\n"));
        }
    }
    let new = key(version);
    if is_new(version) {
        rows.retain(|known, _| known[..2] != new[..2]);
    }
    rows.insert(new, row.to_owned());
    format!("\n{HEAD}{}\n", rows.into_values().collect::<String>())
}

/// Returns the numbers of a version, by which rows are sorted.
fn key(version: &str) -> [u32; 3] {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(version: &str, outcome: &Outcome) -> String {
        let candidate = Candidate { version: version.to_owned(), origin: "Go modules", bin: "/bin".into() };
        row(&candidate, outcome, 12, "2026-11-29", "abc")
    }

    #[test]
    fn a_row_names_the_tests_that_failed() {
        let output = "running 3 tests\ntest a::one ... ok\ntest two ... FAILED\ntest three has been running for over \
                      60 seconds\ntest three ... ok\ntest result: FAILED. 2 passed; 1 failed\n";
        let outcome = parse(output);
        assert_eq!(outcome, Outcome { passed: 2, failed: vec!["two".to_owned()] });
        assert_eq!(
            row_of("3.6.16", &outcome),
            "| 3.6.16 | Go modules | 2 | 1: two | 12 | 2026-11-29 | abc |\n"
        );
    }

    #[test]
    fn a_run_replaces_the_row_of_its_minor_version() {
        let passed = Outcome { passed: 2, failed: Vec::new() };
        let mut table = String::new();
        for version in ["3.7.3", "3.4.45", "3.6.9", "3.4.23", "3.6.16"] {
            table = with_row(&table, version, &row_of(version, &passed));
        }
        let versions: Vec<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| 3"))
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(versions, [".4.23", ".4.45", ".6.16", ".7.3"]);
    }
}
