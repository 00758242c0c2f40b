//! `cargo xtask bench`: compares the cost of a snapshot and a restore with etcd's tools and the installed compressors.
//!
//! All programs run in turn on the same machine, so that the ratios do not depend on its speed. Only figures of this run are
//! judged.

mod database;
mod latency;
mod measure;
mod page;
mod report;

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::demo::server::Server;
use crate::{command, etcd, workspace};
use database::Filler;
use measure::{Cost, MIB, chain};
use report::{Limit, Line, Row, table};

/// The database sizes of the plot, in MB.
const SIZES: [u64; 6] = [10, 50, 200, 500, 1000, 2000];
/// The compressors, by name and as an option of tar.
const RIVALS: [(&str, &str); 4] =
    [("gzip", "gzip"), ("pigz", "pigz"), ("igzip", "igzip"), ("zstd", "zstd -T0")];

/// The options of the command.
struct Options {
    megabytes: u64,
    rounds: usize,
    plot: bool,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { megabytes: 1400, rounds: 5, plot: true };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut number =
                || arguments.next().and_then(|text| text.parse().ok()).context("the option needs a number");
            match *argument {
                "--size" => options.megabytes = number()?,
                "--rounds" => options.rounds = usize::try_from(number()?)?,
                "--no-plot" => options.plot = false,
                other => bail!("unknown option {other}; the options are --size MB, --rounds N and --no-plot"),
            }
        }
        Ok(options)
    }
}

/// An etcd, the programs, and a working directory.
struct Bench {
    server: Server,
    filler: Filler,
    home: TempDir,
    release: PathBuf,
    bin: PathBuf,
}

/// Runs all measurements, prints the table and writes the page.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(arguments)?;
    command::run_checked(Command::new("cargo").args([
        "build",
        "--release",
        "--package",
        "etcd-backup-actions",
    ]))?;
    let (mut rows, mut lines) = (Vec::new(), None);
    let mut bench = Bench::new()?;
    rows.extend(bench.measure_empty(options.rounds)?);
    if options.plot {
        lines = Some(bench.measure_sizes()?);
        drop(bench);
        bench = Bench::new()?;
    }
    bench.grow_to(options.megabytes)?;
    rows.extend(bench.measure_snapshots(options.rounds)?);
    rows.extend(bench.measure_latency(options.rounds)?);
    rows.extend(bench.measure_restores(options.rounds)?);
    let table = table(&rows);
    println!("\n{table}");
    page::write(options.rounds, &table, lines)?;
    Ok(if rows.iter().all(Row::passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    fn new() -> Result<Self> {
        let target = workspace::target_directory()?;
        let bin = etcd::ensure(&target, &etcd::NEW)?;
        // In the target directory, because a temporary directory may be in memory.
        let home = tempfile::Builder::new().prefix("etcd-bench-").tempdir_in(&target)?;
        fs::create_dir(home.path().join("target"))?;
        let server = Server::start(home.path(), &bin)?;
        let filler = Filler::new(server.endpoint());
        Ok(Self { server, filler, home, release: target.join("release"), bin })
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

    /// Measures snapshots of an empty database.
    fn measure_empty(&self, rounds: usize) -> Result<Vec<Row>> {
        let mut values = Vec::new();
        for _ in 0..rounds.max(5) {
            values.push(self.snapshot()?.0.wall);
        }
        Ok(vec![Row { what: "20 KB db, whole command, s".to_owned(), limit: Limit::AtMost(0.30), values }])
    }

    fn measure_snapshots(&self, rounds: usize) -> Result<Vec<Row>> {
        let db = self.megabytes()?;
        let limits = [
            (format!("snapshot, {db} MB: wall / `etcdctl snapshot save`"), Limit::AtMost(1.30)),
            ("CPU / the chain's with gzip".to_owned(), Limit::AtMost(0.6)),
            ("archive / `gzip -6`'s".to_owned(), Limit::AtMost(1.08)),
            ("own peak memory, MiB".to_owned(), Limit::AtMost(64.0)),
            ("disk beyond db and archive, MiB".to_owned(), Limit::AtMost(0.01)),
            ("snapshot, s".to_owned(), Limit::None),
            ("`etcdctl snapshot save`, s".to_owned(), Limit::None),
        ];
        let mut rows: Vec<Row> =
            limits.into_iter().map(|(what, limit)| Row { what, limit, values: Vec::new() }).collect();
        let rivals: Vec<_> = RIVALS.iter().filter(|(name, _)| is_installed(name)).collect();
        let mut chains: Vec<Row> = Vec::new();
        for (name, _) in &rivals {
            let limit = match *name {
                "gzip" => Limit::AtLeast(3.0),
                "pigz" => Limit::AtLeast(1.3),
                _ => Limit::None,
            };
            let what = format!("`save; status; tar; sha256sum` with {name} / ours");
            chains.push(Row { what, limit, values: Vec::new() });
        }
        for round in 1..=rounds {
            println!("snapshots, round {round} of {rounds}");
            // Before and after ours, because the speed of the machine and its disk varies.
            let before = self.save()?.wall;
            let (ours, archive) = self.snapshot()?;
            let save = f64::midpoint(before, self.save()?.wall);
            let saved = fs::metadata(self.path("s.db"))?.len() as f64 / MIB;
            let mut gzip = (Cost::default(), f64::NAN);
            for ((name, compressor), row) in rivals.iter().zip(&mut chains) {
                let rival = self.by_hand(compressor)?;
                row.values.push(rival.0.wall / ours.wall);
                if *name == "gzip" {
                    gzip = rival;
                }
            }
            let values = [
                ours.wall / save,
                ours.cpu / gzip.0.cpu,
                archive / gzip.1,
                ours.memory,
                (ours.disk - saved - archive).max(0.0),
                ours.wall,
                save,
            ];
            for (row, value) in rows.iter_mut().zip(values) {
                row.values.push(value);
            }
        }
        rows.extend(chains);
        Ok(rows)
    }

    fn measure_latency(&self, rounds: usize) -> Result<Vec<Row>> {
        let names = ["idle", "during a snapshot", "during `etcdctl snapshot save`"];
        let row = |what: String| Row { what, limit: Limit::None, values: Vec::new() };
        let mut p99s = names.map(|name| row(format!("p99 of a put {name}, ms")));
        let mut longest = names.map(|name| row(format!("longest put {name}, ms")));
        for round in 1..=rounds {
            println!("puts, round {round} of {rounds}");
            let works: [&dyn Fn() -> Result<()>; 3] = [
                &|| {
                    sleep(Duration::from_secs(5));
                    Ok(())
                },
                &|| run_in_new_session(&self.own_program("snapshot", &[])),
                &|| run_in_new_session(&self.etcd_tool("etcdctl", &["snapshot", "save", "s.db"])),
            ];
            for ((work, p99), most) in works.into_iter().zip(&mut p99s).zip(&mut longest) {
                // Removing the files of the previous work would disturb the measurement.
                self.clear_target()?;
                let _ = fs::remove_file(self.path("s.db"));
                let latency = latency::puts_while(self.server.endpoint(), work)?;
                p99.values.push(latency.p99);
                most.values.push(latency.longest);
            }
        }
        Ok(p99s.into_iter().chain(longest).collect())
    }

    fn measure_restores(&self, rounds: usize) -> Result<Vec<Row>> {
        let (mut whole, mut down, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            println!("restores, round {round} of {rounds}");
            self.snapshot()?;
            let archive = self.archive()?;
            let shown = archive.display().to_string();
            let _ = fs::remove_dir_all(self.path("by-hand"));
            let by_hand = chain(
                &mut [
                    self.system_program("tar", &["xzf", &shown]),
                    self.system_program("sha256sum", &[&shown]),
                    self.etcd_tool("etcdutl", &["snapshot", "restore", "db", "--data-dir=by-hand"]),
                    self.system_program("sync", &["by-hand/member/snap/db"]),
                ],
                None,
            )?;
            let restart = self.median_restart()?;
            let words = [format!("snapshot={shown}"), "skip-backup=true".to_owned()];
            let (ours, printed) = chain(&mut [self.own_program("restore", &words)], None)?;
            let results: serde_yaml::Value = serde_yaml::from_str(&printed)?;
            let downtime = results["restore"]["downtime"]
                .as_str()
                .and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
            whole.push(ours.wall / by_hand.0.wall);
            down.push(downtime.context("restore reported no downtime")? / restart);
            seconds.push(ours.wall);
        }
        Ok(vec![
            Row {
                what: "restore / `tar xzf; sha256sum; snapshot restore`".to_owned(),
                limit: Limit::AtMost(1.5),
                values: whole,
            },
            Row {
                what: "restore's downtime / stop and start of etcd".to_owned(),
                limit: Limit::AtMost(1.3),
                values: down,
            },
            Row { what: "restore, s".to_owned(), limit: Limit::None, values: seconds },
        ])
    }

    /// Returns the median of three restarts in seconds: etcd waits for a random time before it becomes the leader.
    fn median_restart(&self) -> Result<f64> {
        let mut seconds = [self.stop_and_start()?, self.stop_and_start()?, self.stop_and_start()?];
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[1])
    }

    /// Stops and starts etcd. Returns the seconds until it is serving.
    fn stop_and_start(&self) -> Result<f64> {
        let began = Instant::now();
        for verb in ["stop", "start"] {
            let status = command::new(self.server.supervisor()).arg(verb).status()?;
            anyhow::ensure!(status.success(), "{verb} of etcd failed");
        }
        // If etcdctl connects too early, it waits a second before the next try, which would be unfair.
        let address = self.server.endpoint().trim_start_matches("http://");
        while TcpStream::connect(address).is_err() {
            sleep(Duration::from_millis(5));
        }
        while command::output(&mut self.server.etcdctl(&[
            "get",
            "",
            "--from-key",
            "--limit=1",
            "--keys-only",
        ]))
        .is_err()
        {
            sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed().as_secs_f64())
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

/// Runs the command in a new session, as etcd, its clients and a backup are in different sessions on a real machine. The
/// kernel shares the processors among sessions first.
fn run_in_new_session(command: &Command) -> Result<()> {
    let mut setsid = command::new("setsid");
    setsid.arg("--wait").arg(command.get_program()).args(command.get_args());
    setsid.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(cwd) = command.get_current_dir() {
        setsid.current_dir(cwd);
    }
    command::output(&mut setsid).map(drop)
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
