//! Measures how long a client's puts take while something else is running.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bench;
use super::busy::BusyLoops;
use super::report::{Limit, Row};
use crate::command;

/// Pause between two puts.
const PAUSE: Duration = Duration::from_millis(10);

/// How often a round runs each work, in turn. One snapshot is short: the 99th percentile of its puts is the fifth longest,
/// which is too few to compare.
const TURNS: usize = 3;

/// The durations of puts, in milliseconds.
struct Latency {
    /// The 99th percentile of all puts that the client wanted to send.
    p99: f64,
    /// The 99th percentile of those that it sent.
    p99_sent: f64,
    /// The longest.
    longest: f64,
}

impl Bench {
    /// Measures puts while nothing else, a snapshot, or a bare save is running, next to some busy loops.
    pub fn measure_latency(&self, rounds: usize, loops: usize) -> Result<Vec<Row>> {
        let _busy = BusyLoops::start(loops)?;
        let machine = if loops == 0 { String::new() } else { format!(", {loops} busy loops") };
        let names = ["idle", "during a snapshot", "during `etcdctl snapshot save`"];
        let row = |what: String| Row { what, limit: Limit::None, values: Vec::new() };
        let mut p99s = names.map(|name| row(format!("p99 of a put, sent or delayed, {name}{machine}, ms")));
        let mut p99s_sent =
            names.map(|name| row(format!("p99 of the puts that were sent, {name}{machine}, ms")));
        let mut longest = names.map(|name| row(format!("longest put {name}{machine}, ms")));
        let what = format!("p99 of a put during a snapshot / during a bare save{machine}");
        let mut ratio = Row { what, limit: Limit::AtMost(1.2), values: Vec::new() };
        let what = format!("the same of the puts that were sent{machine}");
        let mut ratio_sent = Row { what, limit: Limit::AtMost(1.2), values: Vec::new() };
        for round in 1..=rounds {
            println!("puts, round {round} of {rounds}");
            let works: [&dyn Fn() -> Result<()>; 3] = [
                &|| {
                    std::thread::sleep(Duration::from_secs(5));
                    Ok(())
                },
                &|| run_in_new_session(&self.own_program("snapshot", &[])),
                &|| run_in_new_session(&self.etcd_tool("etcdctl", &["snapshot", "save", "s.db"])),
            ];
            let mut times = works.map(|_| Vec::new());
            for _ in 0..TURNS {
                for (work, times) in works.into_iter().zip(&mut times) {
                    // Removing the files of the previous work would disturb the measurement.
                    self.clear_target()?;
                    let _ = fs::remove_file(self.path("s.db"));
                    times.extend(puts_while(self.server.endpoint(), work)?);
                }
            }
            let rows = p99s.iter_mut().zip(&mut p99s_sent).zip(&mut longest);
            for (times, ((p99, p99_sent), longest)) in times.into_iter().zip(rows) {
                let latency = Latency::of(times)?;
                p99.values.push(latency.p99);
                p99_sent.values.push(latency.p99_sent);
                longest.values.push(latency.longest);
            }
            let last = |row: &Row| row.values.last().copied().unwrap_or(f64::NAN);
            ratio.values.push(last(&p99s[1]) / last(&p99s[2]));
            ratio_sent.values.push(last(&p99s_sent[1]) / last(&p99s_sent[2]));
        }
        Ok([ratio, ratio_sent].into_iter().chain(p99s).chain(p99s_sent).chain(longest).collect())
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

impl Latency {
    fn of(sent: Vec<f64>) -> Result<Self> {
        let sent = sorted(sent);
        let period = PAUSE.as_secs_f64() * 1000.0 + at_percent(&sent, 50)?;
        let missed = sent.iter().flat_map(|time| missed_during(*time, period));
        let wanted = sorted(sent.iter().copied().chain(missed).collect());
        Ok(Self {
            p99: at_percent(&wanted, 99)?,
            p99_sent: at_percent(&sent, 99)?,
            longest: at_percent(&sent, 100)?,
        })
    }
}

/// While a client waits for a put that takes `time`, it cannot send the next ones. Returns how long these would have taken, at
/// one put in each `period`. Without them, one put of 2 s would count less than six of 0.3 s ("coordinated omission", corrected
/// as in HdrHistogram).
fn missed_during(time: f64, period: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(time - period), move |rest| Some(rest - period))
        .take_while(move |rest| *rest >= period)
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

fn at_percent(sorted: &[f64], percent: usize) -> Result<f64> {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().context("the work was too short for a put")
}

/// Returns how long each put of one client took while `work` was running, in milliseconds.
fn puts_while(endpoint: &str, work: impl FnOnce() -> Result<()>) -> Result<Vec<f64>> {
    // Earlier writes must not slow down `work`.
    nix::unistd::sync();
    let done = AtomicBool::new(false);
    let (worked, measured) = std::thread::scope(|scope| {
        let puts = scope.spawn(|| puts(endpoint, &done));
        let worked = work();
        done.store(true, Ordering::Relaxed);
        (worked, puts.join())
    });
    worked?;
    let Ok(times) = measured else { bail!("the thread that puts panicked") };
    times
}

fn puts(endpoint: &str, done: &AtomicBool) -> Result<Vec<f64>> {
    let (agent, url) = (ureq::Agent::new_with_defaults(), format!("{endpoint}/v3/kv/put"));
    let mut times = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        // The key and the value are `latency`.
        let answer = agent
            .post(&url)
            .send(r#"{"key":"bGF0ZW5jeQ==","value":"bGF0ZW5jeQ=="}"#)
            .context("putting a key")?;
        answer.into_body().read_to_string().context("reading the answer to a put")?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_wait_counts_as_much_as_the_puts_that_it_delayed() {
        let quick = || std::iter::repeat_n(5.0, 1000);
        let one = Latency::of(quick().chain([2000.0]).collect()).unwrap();
        let six = Latency::of(quick().chain([300.0; 6]).collect()).unwrap();
        assert!(one.p99_sent < 6.0 && six.p99_sent < 6.0);
        assert!(one.p99 > 1700.0 && six.p99 > 250.0 && six.p99 < 300.0, "{} {}", one.p99, six.p99);
        assert_eq!(one.longest, 2000.0);
    }
}
