//! Full snapshots by gardener's etcdbrctl, compared with ours.
//!
//! It is in no package registry: `ETCDBRCTL_BIN` names the program. Without it, that is printed and nothing is measured.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::report::{Limit, Row};
use crate::command;

/// The variable that names the program.
const PROGRAM: &str = "ETCDBRCTL_BIN";
/// The line of its log after the first full snapshot (`pkg/snapshot/snapshotter/snapshotter.go`).
const SAVED: &str = "Successfully saved full snapshot";

impl Bench {
    /// Measures full snapshots, compressed with gzip. Ours runs before and after, and the mean is used.
    pub fn measure_gardener(&self, rounds: usize) -> Result<Vec<Row>> {
        let Some(program) = std::env::var_os(PROGRAM) else {
            println!("skipped: gardener's etcdbrctl, because {PROGRAM} names no program");
            return Ok(Vec::new());
        };
        let (mut ratio, mut bound, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds {
            println!("gardener, round {round} of {rounds}");
            let before = self.snapshot()?.0.wall;
            let rival = self.save_with_gardener(&program)?;
            let after = self.snapshot()?.0.wall;
            bound.push(rival / self.save()?.wall);
            ratio.push(rival / f64::midpoint(before, after));
            seconds.push(rival);
        }
        let db = self.megabytes()?;
        Ok(vec![
            Row {
                what: format!("{db} MB: full snapshot by gardener's etcdbrctl with gzip / ours"),
                limit: Limit::AtLeast(4.0),
                values: ratio,
            },
            Row {
                what: "the same if ours took as long as `etcdctl snapshot save`".to_owned(),
                limit: Limit::None,
                values: bound,
            },
            Row { what: "etcdbrctl, s".to_owned(), limit: Limit::None, values: seconds },
        ])
    }

    /// Returns the seconds from the start of etcdbrctl to the end of its first full snapshot. It would run forever, so it
    /// is killed then.
    fn save_with_gardener(&self, program: &OsStr) -> Result<f64> {
        let (store, temporary) = (self.path("gardener"), self.path("gardener-tmp"));
        for dir in [&store, &temporary] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir(dir)?;
        }
        let mut rival = command::new(program);
        rival.args(["snapshot", "--storage-provider=Local", "--compress-snapshots", "--insecure-transport"]);
        rival.args(["--delta-snapshot-period=0s", "--schedule=0 0 1 1 *"]);
        rival.arg(format!("--endpoints={}", self.server.endpoint()));
        rival.arg(format!("--store-container={}", store.display()));
        rival.arg(format!("--snapstore-temp-directory={}", temporary.display()));
        // It takes the path of the store as one below the home directory.
        rival.env("HOME", "/");
        rival.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        nix::unistd::sync();
        let began = Instant::now();
        let mut child = rival.spawn().context("starting etcdbrctl")?;
        let log = child.stderr.take().context("etcdbrctl has no stderr")?;
        let mut seconds = None;
        let mut last = String::new();
        for line in BufReader::new(log).lines() {
            last = line.context("reading the log of etcdbrctl")?;
            if last.contains(SAVED) {
                seconds = Some(began.elapsed().as_secs_f64());
                break;
            }
        }
        let _ = child.kill();
        child.wait().context("waiting for etcdbrctl")?;
        let Some(seconds) = seconds else { bail!("etcdbrctl saved no snapshot: {last}") };
        ensure!(fs::read_dir(&store)?.next().is_some(), "etcdbrctl left no file in {}", store.display());
        fs::remove_dir_all(&store)?;
        Ok(seconds)
    }
}
