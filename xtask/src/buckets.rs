//! `cargo xtask buckets`: runs the S3 tests against two independent S3 servers, and writes the table in `docs/explanation/buckets.md`.
//!
//! Never leaves out a test, and never reports a test as passed if a server lacks the tested feature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, etcd, moto, page, workspace};

/// The version of the second server. It is pinned, because later ones may behave differently.
const S3S_VERSION: &str = "0.14.1";
/// The variable that names its program. The tests read it too.
const S3S_VARIABLE: &str = "S3S_BIN";
/// The modules of `tests/it` whose tests use a bucket.
const TESTS: [&str; 3] = ["bucket::", "destinations::", "related::"];
/// The beginning of the line that a test prints if the server lacks the tested feature.
const UNSUPPORTED: &str = "cannot: ";

/// The servers: the argument on the command line, and the name in the table.
const SERVERS: [(&str, &str); 2] = [("moto", "moto 5.2.1"), ("s3s", "s3s-fs 0.14.1")];

/// The result of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TestResult {
    Passed,
    Failed,
    /// The server lacks the tested feature.
    Unsupported(String),
}

/// Runs the tests on the server that `arguments` name. Without arguments, runs them on both and writes the table.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let servers: Vec<_> = match arguments {
        [] => SERVERS.to_vec(),
        ["--server", server] => SERVERS.into_iter().filter(|(name, _)| name == server).collect(),
        _ => Vec::new(),
    };
    ensure!(!servers.is_empty(), "usage: cargo xtask buckets [--server moto|s3s]");
    let target = workspace::target_directory()?;
    let mut results = Vec::new();
    for (server, _) in &servers {
        results.push(run_tests(server, &target)?);
    }
    if arguments.is_empty() {
        page::replace("docs/explanation/buckets.md", "table", "`cargo xtask buckets`", &table(&results))?;
    }
    let failed = results.iter().flat_map(BTreeMap::values).any(|result| *result == TestResult::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the tests on one server, and returns the results by the tests' names.
fn run_tests(server: &str, target: &Path) -> Result<BTreeMap<String, TestResult>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--test", "it", "--", "--show-output"]).args(TESTS);
    etcd::set_environment(&mut cargo, target)?;
    moto::set_environment(&mut cargo, target)?;
    cargo.env("S3_SERVER", server);
    if server == "s3s" {
        cargo.env(S3S_VARIABLE, ensure_s3s(target)?);
    }
    let (status, output) = command::run_capturing_status(&mut cargo)?;
    let results = parse_results(&output);
    ensure!(!results.is_empty(), "cargo ran no test ({status}); see its output above");
    Ok(results)
}

/// Returns the server s3s-fs. It is built if it is missing.
fn ensure_s3s(target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(S3S_VARIABLE).filter(|named| !named.is_empty()) {
        let program = std::path::absolute(named)?;
        if !program.is_file() {
            bail!("{S3S_VARIABLE} is {}, which is not a file", program.display());
        }
        return Ok(program);
    }
    let home = target.join(format!("s3/s3s-{S3S_VERSION}"));
    let program = home.join("bin/s3s-fs");
    if !program.is_file() {
        eprintln!(
            "building the second S3 server, s3s-fs {S3S_VERSION} from crates.io in {}, which takes some minutes",
            command::short_path(&home)
        );
        let mut cargo = Command::new("cargo");
        cargo.args([
            "install",
            "s3s-fs",
            "--version",
            S3S_VERSION,
            "--locked",
            "--features",
            "binary",
            "--root",
        ]);
        let install = cargo.arg(&home).arg("--target-dir").arg(target.join("s3/build"));
        command::run_checked(install).context("building s3s-fs")?;
    }
    Ok(program)
}

/// Parses the output of `cargo test -- --show-output`.
fn parse_results(output: &str) -> BTreeMap<String, TestResult> {
    let mut results = BTreeMap::new();
    let mut printing_test = "";
    for line in output.lines() {
        let finished = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
        if let Some((name, outcome)) = finished {
            let result = if outcome == "ok" { TestResult::Passed } else { TestResult::Failed };
            results.insert(name.to_owned(), result);
        } else if let Some(name) = line.strip_prefix("---- ") {
            printing_test = name.trim_end_matches(" stdout ----");
        } else if let Some(reason) = line.strip_prefix(UNSUPPORTED)
            && let Some(result @ TestResult::Passed) = results.get_mut(printing_test)
        {
            *result = TestResult::Unsupported(reason.to_owned());
        }
    }
    results
}

/// Returns a table with a row for each test and a column for each server.
fn table(results: &[BTreeMap<String, TestResult>]) -> String {
    let mut table = String::from("| test |");
    for (_, name) in SERVERS {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|---|---|\n");
    let tests: BTreeSet<&String> = results.iter().flat_map(BTreeMap::keys).collect();
    for test in tests {
        let _ = write!(table, "| {} |", test.replace("patient::", "").replace("::", ": ").replace('_', " "));
        for server in results {
            let cell = match server.get(test) {
                Some(TestResult::Passed) => "passed",
                Some(TestResult::Unsupported(reason)) => reason,
                Some(TestResult::Failed) | None => "**failed**",
            };
            let _ = write!(table, " {cell} |");
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_of_a_missing_feature_has_not_passed() {
        let output = "running 3 tests\ntest a::one ... ok\ntest two ... FAILED\ntest three has been running for over 60 \
                    seconds\ntest three ... ok\n\nsuccesses:\n\n---- three stdout ----\ncannot: s3s-fs has no lock\n\n";
        let results = parse_results(output);
        assert_eq!(results["a::one"], TestResult::Passed);
        assert_eq!(results["two"], TestResult::Failed);
        assert_eq!(results["three"], TestResult::Unsupported("s3s-fs has no lock".into()));
        let table = table(&[results, BTreeMap::new()]);
        assert!(table.contains("| a: one | passed | **failed** |"), "{table}");
        assert!(table.contains("| three | s3s-fs has no lock | **failed** |"), "{table}");
    }
}
