//! `cargo xtask memory`: measures the peak memory of the commands that read a large database.
//!
//! The database is that of a real etcd, with the benchmark's objects. Only limits that the documents state are judged.

mod options;
mod test_bed;
mod usage;

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

pub use usage::peak;

use crate::{command, etcd, go_server, page, workspace};
use options::Options;
use test_bed::{KEY, Settings, TestBed};
use usage::Usage;

const PAGE: &str = "docs/explanation/performance.md";
const MARK: &str = "memory";
/// The etcd that holds the database.
const ETCD: &str = "3.6.16";
/// The limit of snapshots and verifications, in MiB.
const SNAPSHOT: f64 = 64.0;
/// The limit of commands that sort the keys of one database, in MiB.
const ONE_INDEX: f64 = 96.0;
/// The limit of commands that compare two databases, in MiB.
const TWO_INDEXES: f64 = 160.0;
/// The limit of uploads and downloads, in MiB.
const TRANSFER: f64 = 128.0;

const KEYS: &str = "`keys`";
const IMPORT_FILE: &str = "`import FILE --plan` of all keys";
/// The name of the file of exported keys.
const EXPORTED: &str = "keys.jsonl";

/// A command to measure.
struct Step {
    what: &'static str,
    limit: f64,
    settings: Settings,
    arguments: Vec<String>,
}

impl Step {
    /// `typed` is the command, in which `FILE` and `IDENTITY` stand for paths.
    fn new(bed: &TestBed, what: &'static str, typed: &str, settings: Settings, limit: f64) -> Self {
        let file = bed.path(EXPORTED).display().to_string();
        let words = typed.split(' ').map(|word| match word {
            "FILE" => file.clone(),
            "IDENTITY" => bed.identity(),
            "KEY" => KEY.to_owned(),
            word => word.to_owned(),
        });
        Self { what, limit, settings, arguments: words.collect() }
    }
}

/// Runs the measurements, prints the table, and writes it to the page on request.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    command::run_checked(command::cargo().args(["build", "--release", "--package", "etcd-backup"]))?;
    let target = workspace::target_directory()?;
    let programs = etcd::build::ensure(&target, ETCD)?;
    let versitygw = go_server::VERSITYGW.ensure(&target)?.context("versitygw needs Go")?;
    let bed = TestBed::new(&programs, &versitygw)?;
    bed.fill(options.megabytes)?;
    bed.compact()?;
    let (megabytes, keys) = (bed.megabytes()?, bed.keys()?);
    println!("the database has {megabytes} MB and {keys} keys");
    let mut rows = Vec::new();
    for step in archives(&bed) {
        rows.push(measure(&bed, step)?);
    }
    bed.change()?;
    for step in readers(&bed) {
        let what = step.what;
        rows.push(measure(&bed, step)?);
        if what == KEYS {
            let lines = BufReader::new(File::open(bed.path("stdout"))?).split(b'\n').count() as u64;
            ensure!(lines == keys, "the archive has {lines} keys, and etcd counted {keys}");
        }
        if what == IMPORT_FILE {
            // The disk must hold two databases next.
            fs::remove_file(bed.path(EXPORTED))?;
        }
    }
    let table = table(&rows);
    println!("\n{table}");
    if options.record {
        let how = format!("etcd {ETCD}, {megabytes} MB, {keys} keys");
        page::replace(PAGE, MARK, &how, &table)?;
    }
    let passes = rows.iter().all(|(step, usage)| usage.own <= step.limit);
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the commands that make the archives.
fn archives(bed: &TestBed) -> Vec<Step> {
    let step = |what, typed, settings, limit| Step::new(bed, what, typed, settings, limit);
    vec![
        step("`snapshot`", "snapshot", Settings::Plain, SNAPSHOT),
        step("`snapshot`, encrypted, with an upload", "snapshot", Settings::Encrypted, TRANSFER),
    ]
}

/// Returns the commands that read the archives.
fn readers(bed: &TestBed) -> Vec<Step> {
    let step = |what, typed, settings, limit| Step::new(bed, what, typed, settings, limit);
    let (plain, encrypted) = (Settings::Plain, Settings::Encrypted);
    vec![
        step("`verify`", "verify latest", plain, SNAPSHOT),
        step("`show`", "show latest", plain, ONE_INDEX),
        step(KEYS, "keys latest", plain, ONE_INDEX),
        step("`get`", "get latest KEY", plain, SNAPSHOT),
        step("`history`", "history latest KEY", plain, SNAPSHOT),
        step("`diff ARCHIVE live`", "diff latest live", plain, TWO_INDEXES),
        step("`export` of all keys", "export latest --output FILE", plain, ONE_INDEX),
        step(IMPORT_FILE, "import FILE --plan", plain, TWO_INDEXES),
        step("`import ARCHIVE --plan`", "import latest --plan", plain, TWO_INDEXES),
        step("`restore --plan`", "restore latest --plan", plain, TWO_INDEXES),
        step("`verify`, encrypted", "verify latest --identity-file IDENTITY", encrypted, SNAPSHOT),
        step(
            "`show`, encrypted, from a bucket",
            "show offsite/latest --identity-file IDENTITY",
            encrypted,
            TRANSFER,
        ),
    ]
}

fn measure(bed: &TestBed, step: Step) -> Result<(Step, Usage)> {
    let arguments: Vec<&str> = step.arguments.iter().map(String::as_str).collect();
    let usage = usage::measure(&bed.etcd_backup(step.settings, &arguments), &bed.path("stdout"))?;
    println!("{}: {:.1} MiB, {:.0} s", step.what, usage.own, usage.seconds);
    Ok((step, usage))
}

/// Returns the measured commands as a Markdown table.
fn table(rows: &[(Step, Usage)]) -> String {
    let mut text = String::from(
        "| command | limit, MiB | peak, MiB | largest process, MiB | s | |\n|---|---|---|---|---|---|\n",
    );
    for (Step { what, limit, .. }, Usage { own, largest, seconds }) in rows {
        let verdict = if own <= limit { "pass" } else { "**fail**" };
        let _ =
            writeln!(text, "| {what} | ≤ {limit:.0} | {own:.1} | {largest:.1} | {seconds:.0} | {verdict} |");
    }
    text
}
