//! The metrics file for the textfile collector of Prometheus' node exporter.
//!
//! One file holds the series of all targets, distinguished by labels. A run must never change the series of another target. The
//! file holds no secret, because every user may read it.

mod series;

pub use series::{DestinationFacts, MetricsFacts, Usage};

use crate::system::durable::{Dir, PUBLIC};
use crate::system::lock::{HeldLock, try_lock};
use anyhow::{Context, Result};
use series::{ALL, Kind, Metric, OF_SCHEDULE, Sample, Value, samples};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The name of the file. The node exporter reads only names that end in `.prom`, and so not the temporary file.
pub const FILE_NAME: &str = "etcd_backup.prom";

/// The longest time to wait for another run that is writing the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the series of one target into the node exporter's `directory`. The series of other targets are kept.
///
/// # Errors
/// Fails if the file cannot be read or written.
pub fn write(directory: &Path, facts: &MetricsFacts<'_>) -> Result<()> {
    let put = || {
        let directory = directory.canonicalize().context("resolving its path")?;
        let directory = Dir::open(&directory)?;
        let _lock = lock_directory(&directory)?;
        let before = directory.read_small(FILE_NAME)?.unwrap_or_default();
        let text = text(facts, &String::from_utf8_lossy(&before));
        directory.replace_for(FILE_NAME, text.as_bytes(), PUBLIC, None)
    };
    put().with_context(|| format!("writing metrics into {}", directory.display()))
}

/// Locks the directory against other runs. Every user can lock a directory that they can read, so after a few seconds the
/// metrics are written without the lock.
fn lock_directory(directory: &Dir) -> Result<Option<HeldLock>> {
    let opened = directory.read(".")?;
    let since = Instant::now();
    loop {
        let lock = try_lock(&opened)?;
        if lock.is_some() || since.elapsed() >= LOCK_TIMEOUT {
            return Ok(lock);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Returns the new content of the file: the series of this target, and those of other targets from the content `before`.
fn text(facts: &MetricsFacts<'_>, before: &str) -> String {
    let mut written = String::new();
    let (own, samples) = (labels(facts), samples(facts));
    for metric in &ALL {
        let others = before.lines().filter(|line| is_kept(line, metric, facts)).map(str::to_owned);
        let ours = samples.iter().filter(|sample| sample.metric.name == metric.name);
        let ours = ours.filter_map(|sample| line(sample, &own, facts.target, before));
        let lines: Vec<String> = others.chain(ours).collect();
        if !lines.is_empty() {
            let Metric { name, kind, help } = metric;
            let kind = kind.as_str();
            written += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{}\n", lines.join("\n"));
        }
    }
    written
}

/// Returns the line of a sample. A counter never falls below the value that the file has, even if the records of the runs
/// were removed.
fn line(sample: &Sample, own: &str, target: &Path, before: &str) -> Option<String> {
    let name = sample.metric.name;
    let extra: String =
        sample.labels.iter().map(|(label, value)| format!(",{label}={}", quoted(value))).collect();
    let old = || {
        let is_same = |line: &&str| {
            line.starts_with(&format!("{name}{{{},", target_label(target)))
                && line.contains(&format!("{extra}}} "))
        };
        before.lines().find(is_same)?.rsplit(' ').next()
    };
    let value = match &sample.value {
        Value::Known(value) if sample.metric.kind == Kind::Counter => {
            let number = |text: &str| text.parse::<u64>().ok();
            number(value).max(old().and_then(number))?.to_string()
        }
        Value::Known(value) => value.clone(),
        Value::Unknown => return None,
        Value::NotRead => old()?.to_owned(),
    };
    Some(format!("{name}{{{own}{extra}}} {value}"))
}

/// Returns the labels of a target's series. Cluster and member are those of its last run that recorded them.
fn labels(facts: &MetricsFacts<'_>) -> String {
    let runs = facts.backups.runs;
    let cluster = runs.iter().find_map(|run| run.cluster_id.as_deref()).unwrap_or_default();
    let member = runs.iter().find_map(|run| run.member.as_deref()).unwrap_or_default();
    format!("{},cluster_id={},member={}", target_label(facts.target), quoted(cluster), quoted(member))
}

fn target_label(target: &Path) -> String {
    format!("target={}", quoted(&target.display().to_string()))
}

/// Quotes a label's value for the text format.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Whether a line of the old file is kept: a sample of `metric` for another target.
fn is_kept(line: &str, metric: &Metric, facts: &MetricsFacts<'_>) -> bool {
    let name = metric.name;
    let of = |target: &Path| line.starts_with(&format!("{name}{{{},", target_label(target)));
    let is_labelled = line.starts_with(&format!("{name}{{target="));
    // An older version wrote one series without labels. The next scheduled run replaces it.
    let is_older =
        line.starts_with(&format!("{name} ")) && facts.scheduled.is_some_and(|it| it != facts.target);
    // The schedule now has another target, or was removed.
    let is_outdated = OF_SCHEDULE.contains(&name) && !is_older && !facts.scheduled.is_some_and(of);
    (is_labelled || is_older) && !of(facts.target) && !is_outdated
}

#[cfg(test)]
mod tests;
