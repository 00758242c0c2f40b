//! `cargo xtask bench`: what a snapshot and a restore cost, against etcd's own tools and every compressor installed.
//!
//! All in one run on one machine, in turn, so that the ratios hold whatever the machine does meanwhile. It must never judge
//! a figure that it did not just measure.

mod database;
mod latency;
mod measure;
mod report;
mod written;

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
use report::{Bar, Line, Row, table};

/// The sizes of the plot, in MB.
const SIZES: [u64; 6] = [10, 50, 200, 500, 1000, 2000];
/// Compressors as tar takes them.
const RIVALS: [(&str, &str); 4] =
    [("gzip", "gzip"), ("pigz", "pigz"), ("igzip", "igzip"), ("zstd", "zstd -T0")];

/// What is asked for.
struct Plan {
    megabytes: u64,
    rounds: usize,
    plot: bool,
}

impl Plan {
    fn read(words: &[&str]) -> Result<Self> {
        let mut plan = Self { megabytes: 1400, rounds: 5, plot: true };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut number =
                || words.next().and_then(|text| text.parse().ok()).context("a number is missing");
            match *word {
                "--size" => plan.megabytes = number()?,
                "--rounds" => plan.rounds = usize::try_from(number()?)?,
                "--no-plot" => plan.plot = false,
                other => bail!("{other} is no option of bench: --size MB, --rounds N, --no-plot"),
            }
        }
        Ok(plan)
    }
}

/// The bench: an etcd, our programs, and a place to work in.
struct Bench {
    server: Server,
    filler: Filler,
    home: TempDir,
    release: PathBuf,
    bin: PathBuf,
}

/// Measures, prints the table, and writes the page.
pub fn run(words: &[&str]) -> Result<ExitCode> {
    let plan = Plan::read(words)?;
    command::run_checked(Command::new("cargo").args([
        "build",
        "--release",
        "--bin",
        "snapshot",
        "--bin",
        "restore",
    ]))?;
    let (mut rows, mut lines) = (Vec::new(), None);
    let mut bench = Bench::new()?;
    rows.extend(bench.small(plan.rounds)?);
    if plan.plot {
        lines = Some(bench.ladder()?);
        drop(bench);
        bench = Bench::new()?;
    }
    bench.grow_to(plan.megabytes)?;
    rows.extend(bench.snapshots(plan.rounds)?);
    rows.extend(bench.latency(plan.rounds)?);
    rows.extend(bench.restores(plan.rounds)?);
    let table = table(&rows);
    println!("\n{table}");
    written::write(plan.rounds, &table, lines)?;
    Ok(if rows.iter().all(Row::passes) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    fn new() -> Result<Self> {
        let target = workspace::target_directory()?;
        let bin = etcd::ensure(&target, &etcd::NEW)?;
        // Where the programs are built, for a temporary directory may be in memory.
        let home = tempfile::Builder::new().prefix("etcd-bench-").tempdir_in(&target)?;
        fs::create_dir(home.path().join("target"))?;
        let server = Server::start(home.path(), &bin)?;
        let filler = Filler::new(server.endpoint());
        Ok(Self { server, filler, home, release: target.join("release"), bin })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The size of the database, in MB, as etcd tells it.
    fn megabytes(&self) -> Result<u64> {
        let text = command::output(&mut self.server.etcdctl(&["endpoint", "status", "--write-out=json"]))?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let bytes = status[0]["Status"]["dbSize"].as_u64().context("etcd tells no size")?;
        Ok(bytes / 1_000_000)
    }

    fn grow_to(&mut self, megabytes: u64) -> Result<()> {
        while let missing @ 1.. = megabytes.saturating_sub(self.megabytes()?) {
            // A page holds about two thirds of values.
            self.filler.add((missing * 600_000).max(1_000_000))?;
        }
        println!("the database has {} MB", self.megabytes()?);
        Ok(())
    }

    fn ours(&self, name: &str, words: &[String]) -> Command {
        let mut ours = command::new(self.release.join(name));
        ours.env("ETCD_SITE", self.server.site()).arg(format!("target={}", self.path("target").display()));
        ours.args(words);
        ours
    }

    fn tool(&self, name: &str, words: &[&str]) -> Command {
        let mut tool = command::new(self.bin.join(name));
        tool.env("ETCDCTL_ENDPOINTS", self.server.endpoint()).args(words).current_dir(self.home.path());
        tool
    }

    fn plain(&self, name: &str, words: &[&str]) -> Command {
        let mut plain = command::new(name);
        plain.args(words).current_dir(self.home.path());
        plain
    }

    fn save(&self) -> Result<Cost> {
        Ok(chain(&mut [self.tool("etcdctl", &["snapshot", "save", "s.db"])], None)?.0)
    }

    /// A snapshot of ours: its cost, and the size of the archive in MiB.
    fn snapshot(&self) -> Result<(Cost, f64)> {
        self.clear_target()?;
        let (cost, _) = chain(&mut [self.ours("snapshot", &[])], Some(&self.path("target")))?;
        Ok((cost, fs::metadata(self.archive()?)?.len() as f64 / MIB))
    }

    fn clear_target(&self) -> Result<()> {
        let target = self.path("target");
        fs::remove_dir_all(&target)?;
        Ok(fs::create_dir(&target)?)
    }

    fn archive(&self) -> Result<PathBuf> {
        // The record of the run lies beside it.
        let mut names = fs::read_dir(self.path("target"))?.map(|entry| entry.map(|entry| entry.path()));
        let archive = names.find(|path| path.as_ref().is_ok_and(|path| path.is_file()));
        Ok(archive.context("there is no archive")??)
    }

    /// What an operator would type instead, with this compressor.
    fn by_hand(&self, compressor: &str) -> Result<(Cost, f64)> {
        let (cost, _) = chain(
            &mut [
                self.tool("etcdctl", &["snapshot", "save", "s.db"]),
                self.tool("etcdutl", &["snapshot", "status", "s.db"]),
                self.plain("tar", &["-I", compressor, "-cf", "s.tar.z", "s.db"]),
                self.plain("sync", &["s.tar.z"]),
                self.plain("sha256sum", &["s.tar.z"]),
            ],
            None,
        )?;
        Ok((cost, fs::metadata(self.path("s.tar.z"))?.len() as f64 / MIB))
    }

    /// A database as etcd makes it, with nothing in it.
    fn small(&self, rounds: usize) -> Result<Vec<Row>> {
        let mut values = Vec::new();
        for _ in 0..rounds.max(5) {
            values.push(self.snapshot()?.0.wall);
        }
        Ok(vec![Row { what: "20 KB db, whole command, s".to_owned(), bar: Bar::AtMost(0.30), values }])
    }

    fn snapshots(&self, rounds: usize) -> Result<Vec<Row>> {
        let db = self.megabytes()?;
        let bars = [
            (format!("snapshot, {db} MB: wall / `etcdctl snapshot save`"), Bar::AtMost(1.30)),
            ("CPU / the chain's with gzip".to_owned(), Bar::AtMost(0.6)),
            ("archive / `gzip -6`'s".to_owned(), Bar::AtMost(1.08)),
            ("own peak memory, MiB".to_owned(), Bar::AtMost(64.0)),
            ("disk beyond db and archive, MiB".to_owned(), Bar::AtMost(0.01)),
            ("snapshot, s".to_owned(), Bar::Shown),
            ("`etcdctl snapshot save`, s".to_owned(), Bar::Shown),
        ];
        let mut rows: Vec<Row> =
            bars.into_iter().map(|(what, bar)| Row { what, bar, values: Vec::new() }).collect();
        let rivals: Vec<_> = RIVALS.iter().filter(|(name, _)| installed(name)).collect();
        let mut chains: Vec<Row> = Vec::new();
        for (name, _) in &rivals {
            let bar = match *name {
                "gzip" => Bar::AtLeast(3.0),
                "pigz" => Bar::AtLeast(1.3),
                _ => Bar::Shown,
            };
            let what = format!("`save; status; tar; sha256sum` with {name} / ours");
            chains.push(Row { what, bar, values: Vec::new() });
        }
        for round in 1..=rounds {
            println!("snapshots, round {round} of {rounds}");
            // On both sides of ours, for a machine and its disk are never the same twice.
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

    fn latency(&self, rounds: usize) -> Result<Vec<Row>> {
        let names = ["idle", "during a snapshot", "during `etcdctl snapshot save`"];
        let row = |what: String| Row { what, bar: Bar::Shown, values: Vec::new() };
        let mut p99s = names.map(|name| row(format!("p99 of a put {name}, ms")));
        let mut longest = names.map(|name| row(format!("longest put {name}, ms")));
        for round in 1..=rounds {
            println!("puts, round {round} of {rounds}");
            let works: [&dyn Fn() -> Result<()>; 3] = [
                &|| {
                    sleep(Duration::from_secs(5));
                    Ok(())
                },
                &|| apart(&self.ours("snapshot", &[])),
                &|| apart(&self.tool("etcdctl", &["snapshot", "save", "s.db"])),
            ];
            for ((work, p99), most) in works.into_iter().zip(&mut p99s).zip(&mut longest) {
                // To free what the one before has left would be felt too.
                self.clear_target()?;
                let _ = fs::remove_file(self.path("s.db"));
                let latency = latency::puts_while(self.server.endpoint(), work)?;
                p99.values.push(latency.p99);
                most.values.push(latency.longest);
            }
        }
        Ok(p99s.into_iter().chain(longest).collect())
    }

    fn restores(&self, rounds: usize) -> Result<Vec<Row>> {
        let (mut whole, mut down, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            println!("restores, round {round} of {rounds}");
            self.snapshot()?;
            let archive = self.archive()?;
            let shown = archive.display().to_string();
            let _ = fs::remove_dir_all(self.path("by-hand"));
            let by_hand = chain(
                &mut [
                    self.plain("tar", &["xzf", &shown]),
                    self.plain("sha256sum", &[&shown]),
                    self.tool("etcdutl", &["snapshot", "restore", "db", "--data-dir=by-hand"]),
                    self.plain("sync", &["by-hand/member/snap/db"]),
                ],
                None,
            )?;
            let again = self.usual_restart()?;
            let words = [format!("snapshot={shown}"), "skip-backup=true".to_owned()];
            let (ours, printed) = chain(&mut [self.ours("restore", &words)], None)?;
            let results: serde_yaml::Value = serde_yaml::from_str(&printed)?;
            let told = results["restore"]["downtime"]
                .as_str()
                .and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
            whole.push(ours.wall / by_hand.0.wall);
            down.push(told.context("restore told no downtime")? / again);
            seconds.push(ours.wall);
        }
        Ok(vec![
            Row {
                what: "restore / `tar xzf; sha256sum; snapshot restore`".to_owned(),
                bar: Bar::AtMost(1.5),
                values: whole,
            },
            Row {
                what: "restore's downtime / stop and start of etcd".to_owned(),
                bar: Bar::AtMost(1.3),
                values: down,
            },
            Row { what: "restore, s".to_owned(), bar: Bar::Shown, values: seconds },
        ])
    }

    /// The median of three: etcd waits for a second and a part by chance before it calls itself the leader.
    fn usual_restart(&self) -> Result<f64> {
        let mut seconds = [self.stop_and_start()?, self.stop_and_start()?, self.stop_and_start()?];
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[1])
    }

    /// A plain stop and start, until etcd serves.
    fn stop_and_start(&self) -> Result<f64> {
        let began = Instant::now();
        for word in ["stop", "start"] {
            let status = command::new(self.server.supervisor()).arg(word).status()?;
            anyhow::ensure!(status.success(), "{word} of etcd failed");
        }
        // etcdctl that comes too early waits a second before it tries again; that would be no fair rival.
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

    /// Time and memory against size.
    fn ladder(&mut self) -> Result<(Vec<Line>, Vec<Line>)> {
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

/// Runs it in a session of its own, as etcd, its clients and whoever takes snapshots each have one: the kernel shares the
/// processors among sessions first.
fn apart(command: &Command) -> Result<()> {
    let mut apart = command::new("setsid");
    apart.arg("--wait").arg(command.get_program()).args(command.get_args());
    apart.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(cwd) = command.get_current_dir() {
        apart.current_dir(cwd);
    }
    command::output(&mut apart).map(drop)
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
