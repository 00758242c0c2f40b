//! Measures how long a client's puts take while something else is running.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Pause between two puts.
const PAUSE: Duration = Duration::from_millis(10);

/// The durations of puts, in milliseconds.
pub struct Latency {
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

/// Measures the puts of one client while `work` is running.
pub fn puts_while(endpoint: &str, work: impl FnOnce() -> Result<()>) -> Result<Latency> {
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
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().context("the work was too short for a put");
    Ok(Latency { p99: at(times.len() * 99 / 100)?, longest: at(times.len().saturating_sub(1))? })
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
