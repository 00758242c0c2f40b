//! `cargo xtask bench`: compares the cost of a snapshot and a restore with etcd's tools and the installed compressors.
//!
//! All programs run in turn on the same machine, so that the ratios do not depend on its speed. Only figures of this run are
//! judged.

mod busy;
pub mod database;
mod gardener;
mod latency;
pub mod measure;
mod options;
mod page;
mod report;
mod restores;
mod snapshots;
mod stream;
mod uploads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::demo::server::Server;
use crate::{command, etcd, workspace};
use database::{Content, Filler};
use measure::{Cost, MIB, chain};
use options::{Options, Part};
use report::{Line, Row, table};

/// The database sizes of the plot, in MB.
const SIZES: [u64; 6] = [10, 50, 200, 500, 1000, 2000];
/// The size of the database that is saved on a busy machine, in MB.
const BUSY_SIZE: u64 = 270;
/// The size of the database for gardener's program, in MB.
const GARDENER_SIZE: u64 = 335;
/// The variable that names a directory with the programs of etcd 3.6. Without it, only etcd 3.5 is measured.
const NEWER_ETCD: &str = "ETCD_3_6_BIN";

/// An etcd, the programs, and a working directory.
struct Bench {
    server: Server,
    filler: Filler,
    home: TempDir,
    release: PathBuf,
    bin: PathBuf,
    /// The minor version of etcd and the kind of objects, for the table.
    title: String,
}

/// Runs the chosen measurements, prints the table and writes the sections of the page that it records.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    command::run_checked(command::cargo().args([
        "build",
        "--release",
        "--package",
        "etcd-backup-actions",
        "--package",
        "etcd-backup",
    ]))?;
    let programs = etcd::ensure(&workspace::target_directory()?, &etcd::NEW)?;
    let mut rows = measure(&options, &programs, "3.5", Content::Kubernetes)?;
    rows.extend(measure(&options, &programs, "3.5", Content::Random)?);
    if let Some(newer) = std::env::var_os(NEWER_ETCD) {
        rows.extend(measure(&options, Path::new(&newer), "3.6", Content::Kubernetes)?);
    }
    let lines = if options.plot {
        Some(Bench::new(&programs, "3.5", Content::Kubernetes)?.measure_sizes()?)
    } else {
        None
    };
    println!("\n{}", table(rows.iter().map(|(_, row)| row)));
    if options.record {
        page::write(options.rounds, &rows, lines)?;
    }
    Ok(if rows.iter().all(|(_, row)| row.passes()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures the chosen parts with the programs in `bin`, on a new etcd with this content.
fn measure(options: &Options, bin: &Path, minor: &str, content: Content) -> Result<Vec<(Part, Row)>> {
    let is_first = content == Content::Kubernetes && minor == "3.5";
    let is_needed = match options.part {
        None | Some(Part::Snapshot | Part::Restore) => true,
        Some(Part::Upload) => content == Content::Random,
        Some(Part::Gardener | Part::Busy | Part::Latency) => is_first,
    };
    if !is_needed {
        return Ok(Vec::new());
    }
    let mut bench = Bench::new(bin, minor, content)?;
    let mut rows = Vec::new();
    let mut add = |part, new: Vec<Row>| rows.extend(new.into_iter().map(|row| (part, row)));
    if options.wants(Part::Snapshot) && is_first {
        add(Part::Snapshot, bench.measure_empty(options.rounds)?);
    }
    if options.wants(Part::Busy) && is_first {
        bench.grow_to(BUSY_SIZE.min(options.megabytes))?;
        for loops in &options.busy {
            add(Part::Busy, bench.measure_busy(*loops, options.rounds)?);
        }
    }
    if options.wants(Part::Gardener) && is_first {
        bench.grow_to(GARDENER_SIZE.min(options.megabytes))?;
        add(Part::Gardener, bench.measure_gardener(options.rounds)?);
    }
    if !matches!(options.part, Some(Part::Busy | Part::Gardener)) {
        bench.grow_to(options.megabytes)?;
    }
    if options.wants(Part::Snapshot) {
        add(Part::Snapshot, bench.measure_snapshots(options.rounds, is_first)?);
    }
    if options.wants(Part::Latency) && is_first {
        add(Part::Latency, bench.measure_latency(options.rounds, 0)?);
        add(Part::Latency, bench.measure_latency(options.rounds, 2)?);
    }
    if options.wants(Part::Restore) {
        add(Part::Restore, bench.measure_restores(options.rounds)?);
    }
    if options.wants(Part::Upload) && content == Content::Random {
        add(Part::Upload, bench.measure_uploads(options.rounds)?);
    }
    Ok(rows)
}

impl Bench {
    fn new(bin: &Path, minor: &str, content: Content) -> Result<Self> {
        let target = workspace::target_directory()?;
        // In the target directory, because a temporary directory may be in memory.
        let home = tempfile::Builder::new().prefix("etcd-bench-").tempdir_in(&target)?;
        fs::create_dir(home.path().join("target"))?;
        let server = Server::start(home.path(), bin)?;
        let filler = Filler::new(server.endpoint(), content);
        let title = format!("etcd {minor}, {content}");
        Ok(Self { server, filler, home, release: target.join("release"), bin: bin.to_owned(), title })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Returns the size of the database in MB, as etcd reports it.
    fn megabytes(&self) -> Result<u64> {
        let text = command::output(&mut self.server.etcdctl(&["endpoint", "status", "--write-out=json"]))?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let bytes = status[0]["Status"]["dbSize"].as_u64().context("etcd reported no size")?;
        Ok(bytes / 1_000_000)
    }

    fn grow_to(&mut self, megabytes: u64) -> Result<()> {
        while let missing @ 1.. = megabytes.saturating_sub(self.megabytes()?) {
            // Values take about two thirds of a page.
            self.filler.add((missing * 600_000).max(1_000_000))?;
        }
        println!("the database has {} MB", self.megabytes()?);
        Ok(())
    }

    fn own_program(&self, name: &str, arguments: &[String]) -> Command {
        let mut ours = command::new(self.release.join(name));
        ours.env("ETCD_SITE", self.server.site()).arg(format!("target={}", self.path("target").display()));
        ours.args(arguments);
        ours
    }

    fn etcd_tool(&self, name: &str, arguments: &[&str]) -> Command {
        let mut tool = command::new(self.bin.join(name));
        tool.env("ETCDCTL_ENDPOINTS", self.server.endpoint()).args(arguments).current_dir(self.home.path());
        tool
    }

    fn system_program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut plain = command::new(name);
        plain.args(arguments).current_dir(self.home.path());
        plain
    }

    fn save(&self) -> Result<Cost> {
        Ok(chain(&mut [self.etcd_tool("etcdctl", &["snapshot", "save", "s.db"])], None)?.0)
    }

    /// Takes a snapshot. Returns its cost, and the size of the archive in MiB.
    fn snapshot(&self) -> Result<(Cost, f64)> {
        self.clear_target()?;
        let (cost, _) = chain(&mut [self.own_program("snapshot", &[])], Some(&self.path("target")))?;
        Ok((cost, fs::metadata(self.archive()?)?.len() as f64 / MIB))
    }

    fn clear_target(&self) -> Result<()> {
        let target = self.path("target");
        fs::remove_dir_all(&target)?;
        Ok(fs::create_dir(&target)?)
    }

    fn archive(&self) -> Result<PathBuf> {
        // The record of the run is in the same directory.
        let mut names = fs::read_dir(self.path("target"))?.map(|entry| entry.map(|entry| entry.path()));
        let archive = names.find(|path| path.as_ref().is_ok_and(|path| path.is_file()));
        Ok(archive.context("no archive was created")??)
    }

    /// Runs the commands that an operator would type instead, with this compressor. Returns as [`Self::snapshot`].
    fn by_hand(&self, compressor: &str) -> Result<(Cost, f64)> {
        let (cost, _) = chain(
            &mut [
                self.etcd_tool("etcdctl", &["snapshot", "save", "s.db"]),
                self.etcd_tool("etcdutl", &["snapshot", "status", "s.db"]),
                self.system_program("tar", &["-I", compressor, "-cf", "s.tar.z", "s.db"]),
                self.system_program("sync", &["s.tar.z"]),
                self.system_program("sha256sum", &["s.tar.z"]),
            ],
            None,
        )?;
        Ok((cost, fs::metadata(self.path("s.tar.z"))?.len() as f64 / MIB))
    }

    /// Measures time and memory for each size of the database.
    fn measure_sizes(&mut self) -> Result<(Vec<Line>, Vec<Line>)> {
        let line = |name, colour| Line { name, colour, points: Vec::new() };
        let mut seconds = vec![
            line("etcdctl snapshot save", "#888"),
            line("snapshot", "#06c"),
            line("save; status; tar czf; sha256sum", "#c60"),
        ];
        let mut memory = vec![line("snapshot", "#06c")];
        for size in SIZES {
            self.grow_to(size)?;
            let at = self.megabytes()? as f64;
            let (ours, _) = self.snapshot()?;
            for (line, value) in
                seconds.iter_mut().zip([self.save()?.wall, ours.wall, self.by_hand("gzip")?.0.wall])
            {
                line.points.push((at, value));
            }
            memory[0].points.push((at, ours.memory));
        }
        Ok((seconds, memory))
    }
}
