//! Owns how long a client's puts take while something else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time between two puts.
const PAUSE: Duration = Duration::from_millis(10);

/// How long puts took, in milliseconds.
pub struct Latency {
    /// All but one in a hundred were at least as fast.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

/// The puts of one client while `work` lasts.
pub fn puts_while(endpoint: &str, work: impl FnOnce() -> Result<()>) -> Result<Latency> {
    // What the disk still has to write is no matter of `work`.
    nix::unistd::sync();
    let done = AtomicBool::new(false);
    let (worked, measured) = std::thread::scope(|scope| {
        let puts = scope.spawn(|| puts(endpoint, &done));
        let worked = work();
        done.store(true, Ordering::Relaxed);
        (worked, puts.join())
    });
    worked?;
    let Ok(times) = measured else { bail!("the client of the puts failed") };
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().context("there was no time for a put");
    Ok(Latency { p99: at(times.len() * 99 / 100)?, longest: at(times.len().saturating_sub(1))? })
}

fn puts(endpoint: &str, done: &AtomicBool) -> Result<Vec<f64>> {
    let (door, url) = (ureq::Agent::new_with_defaults(), format!("{endpoint}/v3/kv/put"));
    let mut times = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        // `latency`, both of them.
        let answer =
            door.post(&url).send(r#"{"key":"bGF0ZW5jeQ==","value":"bGF0ZW5jeQ=="}"#).context("a put")?;
        answer.into_body().read_to_string().context("the answer to a put")?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}
