//! Owns how long a client's puts take while something else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time between two puts.
const PAUSE: Duration = Duration::from_millis(10);

/// The 99th percentile, in milliseconds, of the puts of one client while `work` lasts.
pub fn p99_while(endpoint: &str, work: impl FnOnce() -> Result<()>) -> Result<f64> {
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
    times.get(times.len() * 99 / 100).copied().context("there was no time for a put")
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
