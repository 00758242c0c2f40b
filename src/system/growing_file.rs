//! A file that is read while it is being written, by this process or by a child.
//!
//! Waits for bytes that are not written yet. This module must never treat a file as complete by itself: only its writer
//! knows when it is, and reports it through its [`GrowthSender`].

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The interval at which a reader examines the file. A child that writes the file does not report its growth.
const POLL_INTERVAL: Duration = Duration::from_millis(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Growing,
    Complete(u64),
    Abandoned,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The writer's end. If it is dropped before [`Self::end`], the file is abandoned, and reading it fails.
#[derive(Debug)]
pub struct GrowthSender(Arc<Shared>);

/// A reader's end, which shows whether the file is still growing.
#[derive(Debug, Clone)]
pub struct GrowthReceiver(Arc<Shared>);

/// Returns the two ends of a file that is about to be written.
pub fn growth_channel() -> (GrowthSender, GrowthReceiver) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Growing), changed: Condvar::new() });
    (GrowthSender(Arc::clone(&shared)), GrowthReceiver(shared))
}

impl GrowthSender {
    /// Wakes the readers, because the file has grown.
    pub fn grew(&self) {
        self.0.changed.notify_all();
    }

    /// Reports that the file is complete and has `length` bytes.
    pub fn end(&self, length: u64) {
        self.settle(State::Complete(length));
    }

    /// Sets the final state, unless it is already set.
    fn settle(&self, settled: State) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Growing {
            *state = settled;
        }
        self.0.changed.notify_all();
    }
}

impl Drop for GrowthSender {
    fn drop(&mut self) {
        self.settle(State::Abandoned);
    }
}

impl GrowthReceiver {
    /// Returns whether the file may still grow. If so, it first waits up to [`POLL_INTERVAL`] for a change.
    ///
    /// # Errors
    /// Fails if the file was abandoned.
    pub fn goes_on(&self) -> io::Result<bool> {
        Ok(self.final_length()?.is_none())
    }

    /// Returns the length of a complete file in bytes. If the file is still growing, waits a moment and returns `None`.
    fn final_length(&self) -> io::Result<Option<u64>> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match *state {
            State::Growing => {
                let waited = self.0.changed.wait_timeout(state, POLL_INTERVAL);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            }
            settled => settled,
        };
        match state {
            State::Growing => Ok(None),
            State::Complete(length) => Ok(Some(length)),
            State::Abandoned => Err(io::Error::other("the file was abandoned before it was complete")),
        }
    }
}

/// Reads a growing file from its beginning to the end that its writer reports.
#[derive(Debug)]
pub struct GrowingFile<F> {
    file: F,
    growth: GrowthReceiver,
    position: u64,
}

impl<F: std::borrow::Borrow<File>> GrowingFile<F> {
    /// Reads `file`. The writer reports its end through `growth`.
    pub fn new(file: F, growth: GrowthReceiver) -> Self {
        Self { file, growth, position: 0 }
    }

    /// Waits until the file has `length` bytes. Returns `false` if it ends before that.
    ///
    /// # Errors
    /// Fails if the file was abandoned or cannot be examined.
    pub fn wait_for(&self, length: u64) -> io::Result<bool> {
        loop {
            if self.length()? >= length {
                return Ok(true);
            }
            // The length is read again after the end was reported: bytes may have been written in between.
            if self.growth.final_length()?.is_some() {
                return Ok(self.length()? >= length);
            }
        }
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        self.file.borrow()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    fn at_end(&self) -> io::Result<usize> {
        match self.growth.final_length()? {
            Some(length) if length == self.position => Ok(0),
            length => Err(io::Error::other(format!(
                "{} bytes were read of a file of {}",
                self.position,
                length.unwrap_or_default()
            ))),
        }
    }
}

impl<F: std::borrow::Borrow<File>> Read for GrowingFile<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wait_for(self.position + 1)? {
            return self.at_end();
        }
        let length = self.file().read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Reads a file that is written in `parts`. Its writer reports `length`, or drops its end.
    fn read_parts(parts: &[&[u8]], length: Option<u64>) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        let (sender, growth) = growth_channel();
        let mut growing = GrowingFile::new(file.try_clone().unwrap(), growth);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for part in parts {
                    std::thread::sleep(Duration::from_millis(10));
                    file.write_all(part).unwrap();
                    sender.grew();
                }
                if let Some(length) = length {
                    sender.end(length);
                }
            });
            let mut read = Vec::new();
            growing.read_to_end(&mut read).map(|_| read)
        })
    }

    #[test]
    fn reads_to_the_end_that_the_writer_reports() {
        assert_eq!(read_parts(&[b"one ", b"two ", b"three"], Some(13)).unwrap(), b"one two three");
        assert_eq!(read_parts(&[], Some(0)).unwrap(), b"");
    }

    #[test]
    fn fails_if_the_writer_goes_away_before_the_end() {
        assert!(read_parts(&[b"one ", b"two"], None).unwrap_err().to_string().contains("abandoned"));
    }

    #[test]
    fn fails_if_the_file_has_another_length_than_reported() {
        for length in [3, 99] {
            assert!(read_parts(&[b"one ", b"two"], Some(length)).is_err(), "{length}");
        }
    }
}
