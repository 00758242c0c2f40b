//! `cargo xtask buckets`: the tests of buckets against two S3 servers that no one here wrote, and the table in
//! `docs/explanation/buckets.md`.
//!
//! It must never leave out a test, nor call one passed that a server could not be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, etcd, moto, page, workspace};

/// What the second server is built from. A later one may behave otherwise.
const S3S: &str = "0.14.1";
/// The variable that names its program; the tests read the same.
const PROGRAM: &str = "S3S_BIN";
/// Which tests these are: a file of cargo's, and what the names of those in it begin with.
const TESTS: [(&str, &[&str]); 2] = [("bucket", &[]), ("it", &["destinations::", "related::"])];
/// What a test says of a server that lacks what it tries.
const CANNOT: &str = "cannot: ";

/// A server, by its word on the command line and its name in the table.
const SERVERS: [(&str, &str); 2] = [("moto", "moto 5.2.1"), ("s3s", "s3s-fs 0.14.1")];

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// The server lacks what the test tries.
    Cannot(String),
}

/// Runs the tests on the servers that `arguments` name, or on both; then it writes the table.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let wanted: Vec<_> = match arguments {
        [] => SERVERS.to_vec(),
        ["--server", word] => SERVERS.into_iter().filter(|(name, _)| name == word).collect(),
        _ => Vec::new(),
    };
    ensure!(!wanted.is_empty(), "give --server moto or --server s3s, or nothing for both");
    let target = workspace::target_directory()?;
    let mut found = Vec::new();
    for (word, _) in &wanted {
        found.push(on(word, &target)?);
    }
    if arguments.is_empty() {
        page::put("docs/explanation/buckets.md", "table", "`cargo xtask buckets`", &table(&found))?;
    }
    let failed = found.iter().flat_map(BTreeMap::values).any(|verdict| *verdict == Verdict::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The verdicts on one server, by the tests' names.
fn on(server: &str, target: &Path) -> Result<BTreeMap<String, Verdict>> {
    let mut all = BTreeMap::new();
    for (file, filters) in TESTS {
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--test", file, "--", "--show-output"]).args(filters);
        etcd::tell(&mut cargo, target)?;
        moto::tell(&mut cargo, target)?;
        cargo.env("S3_SERVER", server);
        if server == "s3s" {
            cargo.env(PROGRAM, s3s(target)?);
        }
        let (status, said) = command::run_and_hear(&mut cargo)?;
        let verdicts = verdicts(&said);
        ensure!(!verdicts.is_empty(), "no test of {file} was run ({status}); cargo's words are above");
        all.extend(verdicts);
    }
    Ok(all)
}

/// The server s3s-fs, built first where it is missing.
fn s3s(target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM).filter(|named| !named.is_empty()) {
        let program = std::path::absolute(named)?;
        if !program.is_file() {
            bail!("{PROGRAM} names {}, which is no file", program.display());
        }
        return Ok(program);
    }
    let home = target.join(format!("s3/s3s-{S3S}"));
    let program = home.join("bin/s3s-fs");
    if !program.is_file() {
        eprintln!(
            "the second S3 server is missing: building s3s-fs {S3S} from crates.io in {}, which takes some minutes; nothing \
             is installed on this machine",
            workspace::short(&home)
        );
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "s3s-fs", "--version", S3S, "--locked", "--features", "binary", "--root"]);
        let install = cargo.arg(&home).arg("--target-dir").arg(target.join("s3/build"));
        command::run_well(install).context("s3s-fs could not be built")?;
    }
    Ok(program)
}

/// Reads what `cargo test -- --show-output` prints.
fn verdicts(said: &str) -> BTreeMap<String, Verdict> {
    let mut found = BTreeMap::new();
    let mut speaks = "";
    for line in said.lines() {
        let ended = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
        if let Some((name, word)) = ended {
            let verdict = if word == "ok" { Verdict::Passed } else { Verdict::Failed };
            found.insert(name.to_owned(), verdict);
        } else if let Some(name) = line.strip_prefix("---- ") {
            speaks = name.trim_end_matches(" stdout ----");
        } else if let Some(why) = line.strip_prefix(CANNOT)
            && let Some(verdict @ Verdict::Passed) = found.get_mut(speaks)
        {
            *verdict = Verdict::Cannot(why.to_owned());
        }
    }
    found
}

/// A row for each test and a column for each server.
fn table(found: &[BTreeMap<String, Verdict>]) -> String {
    let mut table = String::from("| test |");
    for (_, name) in SERVERS {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|---|---|\n");
    let tests: BTreeSet<&String> = found.iter().flat_map(BTreeMap::keys).collect();
    for test in tests {
        let _ = write!(table, "| {} |", test.replace("::", ": ").replace('_', " "));
        for verdicts in found {
            let cell = match verdicts.get(test) {
                Some(Verdict::Passed) => "passed",
                Some(Verdict::Cannot(why)) => why,
                Some(Verdict::Failed) | None => "**failed**",
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
    fn a_test_that_a_server_could_not_be_asked_is_not_passed() {
        let said = "running 3 tests\ntest a::one ... ok\ntest two ... FAILED\ntest three has been running for over 60 \
                    seconds\ntest three ... ok\n\nsuccesses:\n\n---- three stdout ----\ncannot: s3s-fs has no lock\n\n";
        let found = verdicts(said);
        assert_eq!(found["a::one"], Verdict::Passed);
        assert_eq!(found["two"], Verdict::Failed);
        assert_eq!(found["three"], Verdict::Cannot("s3s-fs has no lock".into()));
        let table = table(&[found, BTreeMap::new()]);
        assert!(table.contains("| a: one | passed | **failed** |"), "{table}");
        assert!(table.contains("| three | s3s-fs has no lock | **failed** |"), "{table}");
    }
}
