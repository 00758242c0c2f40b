//! Restores, compared with the commands that an operator would type instead.

use std::fs;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::measure::chain;
use super::report::{Limit, Row};
use crate::command;

impl Bench {
    /// Measures restores with the default backup and without one. Both end with etcd serving the restored data.
    pub fn measure_restores(&self, rounds: usize) -> Result<Vec<Row>> {
        let title = format!("{}, {} MB", self.title, self.megabytes()?);
        let row = |what: String, limit| Row { what, limit, values: Vec::new() };
        let mut rows = [
            row(
                format!("{title}: restore / (save, tar xzf, sha256sum, snapshot restore, stop, start)"),
                Limit::AtMost(1.0),
            ),
            row(
                "restore with `skip-backup=true` / (tar xzf, sha256sum, snapshot restore, stop, start)"
                    .to_owned(),
                Limit::AtMost(1.0),
            ),
            row("restore's downtime / stop and start of etcd".to_owned(), Limit::AtMost(1.3)),
            row("restore, s".to_owned(), Limit::None),
            row("restore with `skip-backup=true`, s".to_owned(), Limit::None),
        ];
        for round in 1..=rounds {
            println!("restores, round {round} of {rounds}");
            self.snapshot()?;
            let shown = self.archive()?.display().to_string();
            let save = self.save()?.wall;
            let by_hand = self.restore_by_hand(&shown)?;
            let restart = self.median_restart()?;
            let (alone, downtime) = self.restore(&shown, &["skip-backup=true"])?;
            let (whole, _) = self.restore(&shown, &[])?;
            let values = [
                whole / (save + by_hand + restart),
                alone / (by_hand + restart),
                downtime / restart,
                whole,
                alone,
            ];
            for (row, value) in rows.iter_mut().zip(values) {
                row.values.push(value);
            }
        }
        Ok(rows.into())
    }

    /// Returns the seconds that it takes to unpack, hash and restore the archive by hand.
    fn restore_by_hand(&self, archive: &str) -> Result<f64> {
        let _ = fs::remove_dir_all(self.path("by-hand"));
        let (cost, _) = chain(
            &mut [
                self.system_program("tar", &["xzf", archive]),
                self.system_program("sha256sum", &[archive]),
                self.etcd_tool("etcdutl", &["snapshot", "restore", "db", "--data-dir=by-hand"]),
                self.system_program("sync", &["by-hand/member/snap/db"]),
            ],
            None,
        )?;
        Ok(cost.wall)
    }

    /// Restores the archive. Returns the seconds of the whole command, and of the downtime.
    fn restore(&self, archive: &str, options: &[&str]) -> Result<(f64, f64)> {
        let words: Vec<String> = std::iter::once(format!("snapshot={archive}"))
            .chain(options.iter().map(ToString::to_string))
            .collect();
        let (cost, printed) = chain(&mut [self.own_program("restore", &words)], None)?;
        let results: serde_yaml::Value = serde_yaml::from_str(&printed)?;
        let downtime = results["restore"]["downtime"]
            .as_str()
            .and_then(|text| text.trim_end_matches('s').parse::<f64>().ok());
        Ok((cost.wall, downtime.context("restore reported no downtime")?))
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
}
