//! Snapshots, compared with a bare save and with the commands that an operator would type instead.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::database::Content;
use super::measure::{Cost, MIB};
use super::report::{Limit, Row};
use super::{Bench, stream};

/// The compressors, by name and as an option of tar.
const RIVALS: [(&str, &str); 4] =
    [("gzip", "gzip"), ("pigz", "pigz"), ("igzip", "igzip"), ("zstd", "zstd -T0")];

impl Bench {
    /// Measures snapshots of an empty database.
    pub fn measure_empty(&self, rounds: usize) -> Result<Vec<Row>> {
        let mut values = Vec::new();
        for _ in 0..rounds.max(5) {
            values.push(self.snapshot()?.0.wall);
        }
        Ok(vec![Row { what: "20 KB db, whole command, s".to_owned(), limit: Limit::AtMost(0.30), values }])
    }

    pub fn measure_snapshots(&self, rounds: usize, with_rivals: bool) -> Result<Vec<Row>> {
        let (db, title) = (self.megabytes()?, &self.title);
        let cores = std::thread::available_parallelism()?.get() as f64;
        let is_random = title.ends_with(&Content::Random.to_string());
        let wall = if is_random { 1.25 } else { 1.15 };
        let limits = [
            (format!("{title}, {db} MB: snapshot / `etcdctl snapshot save`"), Limit::AtMost(wall)),
            ("the same if no processor were idle".to_owned(), Limit::None),
            ("etcd's stream is open / in a bare save".to_owned(), Limit::AtMost(1.05)),
            ("CPU / the chain's with gzip".to_owned(), Limit::AtMost(0.6)),
            ("archive / `gzip -6`'s".to_owned(), Limit::AtMost(1.08)),
            ("database / `gzip -6`'s archive".to_owned(), Limit::None),
            ("own peak memory, MiB".to_owned(), Limit::AtMost(64.0)),
            ("disk beyond db and archive, MiB".to_owned(), Limit::AtMost(0.01)),
            ("snapshot, s".to_owned(), Limit::None),
            ("`etcdctl snapshot save`, s".to_owned(), Limit::None),
        ];
        let mut rows: Vec<Row> =
            limits.into_iter().map(|(what, limit)| Row { what, limit, values: Vec::new() }).collect();
        // The gzip chain is needed for the ratios of processor time and size.
        let rivals = RIVALS.iter().filter(|(name, _)| (with_rivals || *name == "gzip") && is_installed(name));
        let rivals: Vec<_> = rivals.collect();
        let mut chains: Vec<Row> = rivals.iter().map(|(name, _)| chain_row(name)).collect();
        for round in 1..=rounds {
            println!("snapshots, round {round} of {rounds}");
            // Before and after ours, because the speed of the machine and its disk varies.
            let (before, open_before) = stream::open_while(self.home.path(), || Ok(self.save()?.wall))?;
            let (taken, open) = stream::open_while(&self.path("target"), || self.snapshot())?;
            let (ours, archive) = taken;
            let (after, open_after) = stream::open_while(self.home.path(), || Ok(self.save()?.wall))?;
            let save = f64::midpoint(before, after);
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
                ours.machine_cpu / cores / save,
                open / f64::midpoint(open_before, open_after),
                ours.cpu / gzip.0.cpu,
                archive / gzip.1,
                saved / gzip.1,
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
}

/// Returns the row of the chain of commands with a compressor.
fn chain_row(compressor: &str) -> Row {
    let limit = match compressor {
        "gzip" => Limit::AtLeast(3.0),
        "pigz" => Limit::AtLeast(1.3),
        _ => Limit::None,
    };
    let what = format!("`save; status; tar; sha256sum` with {compressor} / ours");
    Row { what, limit, values: Vec::new() }
}

/// Returns whether a program can be run.
pub(super) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
