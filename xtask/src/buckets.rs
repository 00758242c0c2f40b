//! `cargo xtask buckets`: runs the tests of buckets on independent servers, and writes the tables in
//! `docs/explanation/buckets.md`.
//!
//! Never leaves out a test, and never reports a test as passed if a server lacks the tested feature.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::go_server::{FAKE_GCS_SERVER, MINIO, VERSITYGW};
use crate::{azurite, ceph, command, page, test, workspace};

/// The version of s3s-fs. It is pinned, because later ones may behave differently.
const S3S_VERSION: &str = "0.14.1";
/// The variable that names its program. The tests read it too.
const S3S_VARIABLE: &str = "S3S_BIN";
/// The variable that names the server of a test run. The tests read it too.
pub const SERVER_VARIABLE: &str = "S3_SERVER";
/// The modules of `tests/it` that test the client of buckets.
pub const CLIENT_TESTS: [&str; 2] = ["bucket::", "bucket_answers::"];
/// The modules of `tests/it` whose tests use a bucket.
const TESTS: [&str; 4] = ["bucket::", "bucket_answers::", "destinations::", "s3_relation::"];
/// The module of `tests/it` whose tests use a bucket of Azure or Google.
const CLOUD_TESTS: &str = "clouds::";
/// The beginning of the line that a test prints if the server lacks the tested feature.
const UNSUPPORTED: &str = "cannot: ";
/// The page with the tables.
const PAGE: &str = "docs/explanation/buckets.md";

/// The servers: the argument on the command line, and the name in the table.
const SERVERS: [(&str, &str); 7] = [
    ("moto", "moto 5.2.1"),
    ("s3s", "s3s-fs 0.14.1"),
    ("versitygw", "versitygw 1.8.0"),
    ("minio", "MinIO of 2026-02-12"),
    ("ceph", "Ceph 16.2.15"),
    ("azurite", "Azurite 3.37.0"),
    ("gcs", "fake-gcs-server 1.55.1"),
];
/// The servers that emulate Azure and Google, which have a table of their own.
const CLOUDS: [&str; 2] = ["azurite", "gcs"];
/// The servers that are used if none is named. MinIO takes long to build, and Ceph to start for each test.
const DEFAULT_SERVERS: [&str; 3] = ["moto", "s3s", "versitygw"];

/// The result of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TestResult {
    Passed,
    Failed,
    /// The server lacks the tested feature.
    Unsupported(String),
}

/// The results by the tests' names.
type Results = BTreeMap<String, TestResult>;

/// A column of the table: the text in each row.
type Column = BTreeMap<String, String>;

/// Runs the tests on the servers that `arguments` name, and replaces their columns of the table.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (clouds, servers) =
        parse(arguments)?.into_iter().partition::<Vec<_>, _>(|(server, _)| CLOUDS.contains(server));
    let passed = [run_on(&servers, "table")?, run_on(&clouds, "clouds")?];
    Ok(if passed.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the tests on `servers`, and replaces their columns of the table in the section `mark`. Returns whether no test
/// failed.
fn run_on(servers: &[(&str, &str)], mark: &str) -> Result<bool> {
    let target = workspace::target_directory()?;
    let mut all = BTreeMap::new();
    for (server, name) in servers {
        if let Some(results) = run_tests(server, &target)? {
            all.insert(format!("{name}, {}", page::today()?), results);
        }
    }
    let failed = all.values().flat_map(BTreeMap::values).any(|result| *result == TestResult::Failed);
    if !all.is_empty() {
        let columns = all.iter().map(|(name, results)| (name.clone(), column(results))).collect();
        page::update(PAGE, mark, |present| table(columns_with(present, columns)))?;
    }
    Ok(!failed)
}

/// Returns the servers that the arguments name.
fn parse(arguments: &[&str]) -> Result<Vec<(&'static str, &'static str)>> {
    let mut named = BTreeSet::new();
    for pair in arguments.chunks(2) {
        match pair {
            ["--server", server] if SERVERS.iter().any(|(known, _)| known == server) => named.insert(*server),
            _ => bail!("usage: cargo xtask buckets [--server moto|s3s|versitygw|minio|ceph|azurite|gcs]..."),
        };
    }
    if named.is_empty() {
        named.extend(DEFAULT_SERVERS);
    }
    Ok(SERVERS.into_iter().filter(|(server, _)| named.contains(server)).collect())
}

/// Runs the tests on one server. Returns `None` if the server cannot be built here, which is printed.
fn run_tests(server: &str, target: &Path) -> Result<Option<Results>> {
    let mut cargo = test::tests(&["--test", test::SLOW_TESTS], &["--", "--show-output"], target)?;
    match CLOUDS.contains(&server) {
        true => cargo.args([CLOUD_TESTS, "--ignored"]),
        false => cargo.args(TESTS),
    };
    cargo.env(SERVER_VARIABLE, server);
    let is_there = match server {
        "versitygw" => VERSITYGW.set_environment(&mut cargo, target)?,
        "minio" => MINIO.set_environment(&mut cargo, target)?,
        "gcs" => FAKE_GCS_SERVER.set_environment(&mut cargo, target)?,
        "azurite" => {
            azurite::set_environment(&mut cargo, target)?;
            true
        }
        "ceph" => {
            ceph::set_environment(&mut cargo, target)?;
            true
        }
        "s3s" => {
            cargo.env(S3S_VARIABLE, ensure_s3s(target)?);
            true
        }
        _ => true,
    };
    if !is_there {
        return Ok(None);
    }
    let (status, output) = command::run_capturing_status(&mut cargo)?;
    let results = parse_results(&output);
    ensure!(!results.is_empty(), "cargo ran no test ({status}); see its output above");
    Ok(Some(results))
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
        let mut cargo = command::cargo();
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
fn parse_results(output: &str) -> Results {
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

/// Returns the results as the table shows them.
fn column(results: &Results) -> Column {
    let row = |test: &String| test.replace("::", ": ").replace('_', " ");
    let cell = |result: &TestResult| match result {
        TestResult::Passed => "passed".to_owned(),
        TestResult::Unsupported(reason) => reason.clone(),
        TestResult::Failed => "**failed**".to_owned(),
    };
    results.iter().map(|(test, result)| (row(test), cell(result))).collect()
}

/// Returns the columns of the `present` table with `new` ones, which replace those of the same server.
fn columns_with(present: &str, new: BTreeMap<String, Column>) -> BTreeMap<String, Column> {
    let server = |name: &str| name.split(',').next().unwrap_or_default().to_owned();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = present.lines().filter(|line| line.starts_with("| ")).map(cells);
    let names = rows.next().unwrap_or_default();
    let mut columns: BTreeMap<String, Column> =
        names.iter().skip(1).map(|name| (name.clone(), Column::new())).collect();
    for row in rows {
        let Some((test, cells)) = row.split_first() else { continue };
        for (name, cell) in names.iter().skip(1).zip(cells) {
            columns.entry(name.clone()).or_default().insert(test.clone(), cell.clone());
        }
    }
    columns.retain(|name, _| !new.keys().any(|new| server(new) == server(name)));
    // A test that no longer exists has no row.
    let tests: BTreeSet<String> = new.values().flat_map(BTreeMap::keys).cloned().collect();
    columns.values_mut().for_each(|column| column.retain(|test, _| tests.contains(test)));
    columns.extend(new);
    columns
}

/// Returns a table with a row for each test and a column for each server.
fn table(columns: BTreeMap<String, Column>) -> String {
    let mut table = String::from("| test |");
    for name in columns.keys() {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(columns.len()));
    table.push('\n');
    let tests: BTreeSet<&String> = columns.values().flat_map(BTreeMap::keys).collect();
    for test in tests {
        let _ = write!(table, "| {test} |");
        for column in columns.values() {
            let _ = write!(table, " {} |", column.get(test).map_or("not run", String::as_str));
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
        let column = column(&results);
        assert_eq!(column["a: one"], "passed");
        assert_eq!(column["three"], "s3s-fs has no lock");
    }

    #[test]
    fn a_run_replaces_only_the_columns_of_its_servers() {
        let column = |cell: &str| Column::from([("one".to_owned(), cell.to_owned())]);
        let all = |names: [(&str, &str); 2]| names.map(|(name, cell)| (name.to_owned(), column(cell))).into();
        let present = table(all([("moto 1, 2026-01-01", "passed"), ("s3s 1, 2026-01-01", "passed")]));
        let new = BTreeMap::from([("moto 1, 2026-02-02".to_owned(), column("**failed**"))]);
        let now = columns_with(&present, new);
        assert_eq!(now, all([("moto 1, 2026-02-02", "**failed**"), ("s3s 1, 2026-01-01", "passed")]));
        assert!(
            table(now)
                .starts_with("| test | moto 1, 2026-02-02 | s3s 1, 2026-01-01 |\n|---|---|---|\n| one |")
        );
        let other_tests =
            BTreeMap::from([("moto 1, x".to_owned(), Column::from([("two".into(), "passed".into())]))]);
        let text = table(columns_with(&present, other_tests));
        assert!(text.contains("| two | passed | not run |") && !text.contains("one"), "{text}");
    }
}
