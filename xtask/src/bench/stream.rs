//! How long etcd's snapshot stream is open: from the creation of the file that etcdctl writes to its last growth.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// The interval between two looks at the file.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// Runs `work`, and returns its result and for how many seconds the stream was open. etcdctl writes to a file in `dir` or in
/// a directory in it.
pub fn open_while<T>(dir: &Path, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let (done, is_running) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let sampler = scope.spawn(move || {
            let (mut first, mut last) = (None, None);
            let mut size = 0;
            while is_running.recv_timeout(SAMPLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let Some(now) = size_of_partial(dir, 1) else { continue };
                first = first.or_else(|| Some(Instant::now()));
                if now > size {
                    (size, last) = (now, Some(Instant::now()));
                }
            }
            first.zip(last)
        });
        let result = work()?;
        drop(done);
        let times = sampler.join().ok().flatten();
        ensure!(times.is_some(), "etcdctl was not seen to save a snapshot in {}", dir.display());
        Ok((result, times.map_or(f64::NAN, |(first, last)| last.duration_since(first).as_secs_f64())))
    })
}

/// Returns the size of the first `.part` file in `dir`, or in directories up to `depth` below it.
fn size_of_partial(dir: &Path, depth: usize) -> Option<u64> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let found = entry.metadata().ok()?;
        if found.is_dir() {
            return (depth > 0).then(|| size_of_partial(&entry.path(), depth - 1)).flatten();
        }
        entry.path().extension().is_some_and(|extension| extension == "part").then_some(found.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_open_while_the_file_grows() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("db.part");
        let ((), open) = open_while(home.path(), || {
            for length in 1..=4 {
                fs::write(&file, "x".repeat(length))?;
                thread::sleep(Duration::from_millis(60));
            }
            thread::sleep(Duration::from_millis(400));
            Ok(())
        })
        .unwrap();
        assert!((0.1..0.5).contains(&open), "{open}");
        assert!(open_while(&home.path().join("none"), || Ok(())).is_err());
    }
}
