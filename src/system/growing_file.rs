//! A file that is read while it is still written, by us or by a child.
//!
//! Owns the waiting for what is not there yet. Must never call a file whole on its own: only who writes it knows, and
//! says so through [`GrowthSender`].

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a file of which nobody says that it grew is looked at.
const LOOK: Duration = Duration::from_millis(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Growing,
    Ended(u64),
    GivenUp,
}

#[derive(Debug)]
struct Word {
    state: Mutex<State>,
    changed: Condvar,
}

/// The error of a reader whose writer went away before the end: the writer has the cause.
#[derive(Debug, Clone, Copy)]
pub struct GivenUp;

impl std::fmt::Display for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("whoever wrote the file gave up")
    }
}

impl std::error::Error for GivenUp {}

impl GivenUp {
    /// Whether an error is this one, in whatever it is wrapped.
    pub fn is_in(error: &anyhow::Error) -> bool {
        let inner = |cause: &(dyn std::error::Error + 'static)| {
            cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
                .is_some_and(|inner| inner.is::<Self>())
        };
        error.chain().any(inner)
    }
}

/// The writer's side. Dropped before [`Self::end`], it gives the file up, and whoever reads it fails.
#[derive(Debug)]
pub struct GrowthSender(Arc<Word>);

/// The readers' side: whether the file still grows.
#[derive(Debug, Clone)]
pub struct GrowthReceiver(Arc<Word>);

/// The two sides of a file about to be written.
pub fn growth_channel() -> (GrowthSender, GrowthReceiver) {
    let word = Arc::new(Word { state: Mutex::new(State::Growing), changed: Condvar::new() });
    (GrowthSender(Arc::clone(&word)), GrowthReceiver(word))
}

impl GrowthSender {
    /// Wakes the readers: there is more.
    pub fn grew(&self) {
        self.0.changed.notify_all();
    }

    /// The file is whole, and so long.
    pub fn end(self, length: u64) {
        self.say(State::Ended(length));
    }

    fn say(&self, state: State) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.0.changed.notify_all();
    }
}

impl Drop for GrowthSender {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Growing {
            *state = State::GivenUp;
        }
        self.0.changed.notify_all();
    }
}

impl GrowthReceiver {
    /// Whether more may come; waits a moment for it. Fails when the writer gave up.
    pub fn goes_on(&self) -> io::Result<bool> {
        Ok(self.ended()?.is_none())
    }

    /// The length of the file if it is whole; `None`, after a moment, while it grows.
    fn ended(&self) -> io::Result<Option<u64>> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match *state {
            State::Growing => {
                let waited = self.0.changed.wait_timeout(state, LOOK);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            }
            settled => settled,
        };
        match state {
            State::Growing => Ok(None),
            State::Ended(length) => Ok(Some(length)),
            State::GivenUp => Err(io::Error::other(GivenUp)),
        }
    }
}

/// A growing file, read from its beginning to the end that its writer tells.
#[derive(Debug)]
pub struct GrowingFile<F> {
    file: F,
    growth: GrowthReceiver,
    at: u64,
}

impl<F: std::borrow::Borrow<File>> GrowingFile<F> {
    /// Reads `file`, of whose end `growth` tells.
    pub fn new(file: F, growth: GrowthReceiver) -> Self {
        Self { file, growth, at: 0 }
    }

    /// Waits until the file has `length` bytes. `false` if it ends before.
    pub fn wait_for(&self, length: u64) -> io::Result<bool> {
        loop {
            // In this order: what was written before the end was told is seen.
            let whole = match self.length()? >= length {
                true => return Ok(true),
                false => self.growth.ended()?,
            };
            if whole.is_some() {
                return Ok(self.length()? >= length);
            }
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.file.borrow()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    fn at_end(&self) -> io::Result<usize> {
        match self.growth.ended()? {
            Some(length) if length == self.at => Ok(0),
            length => Err(io::Error::other(format!(
                "{} bytes were read of a file of {}",
                self.at,
                length.unwrap_or_default()
            ))),
        }
    }
}

impl<F: std::borrow::Borrow<File>> Read for GrowingFile<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wait_for(self.at + 1)? {
            return self.at_end();
        }
        let length = self.file().read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn in_parts(parts: &[&[u8]], told: Option<u64>) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        let (writing, growth) = growth_channel();
        let mut growing = GrowingFile::new(file.try_clone().unwrap(), growth);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for part in parts {
                    std::thread::sleep(Duration::from_millis(10));
                    file.write_all(part).unwrap();
                    writing.grew();
                }
                if let Some(length) = told {
                    writing.end(length);
                }
            });
            let mut read = Vec::new();
            growing.read_to_end(&mut read).map(|_| read)
        })
    }

    #[test]
    fn a_file_is_read_to_the_end_that_its_writer_tells() {
        assert_eq!(in_parts(&[b"one ", b"two ", b"three"], Some(13)).unwrap(), b"one two three");
        assert_eq!(in_parts(&[], Some(0)).unwrap(), b"");
    }

    #[test]
    fn a_writer_that_goes_away_is_no_end() {
        assert!(in_parts(&[b"one ", b"two"], None).unwrap_err().to_string().contains("gave up"));
    }

    #[test]
    fn a_file_of_another_length_than_told_is_not_whole() {
        for told in [3, 99] {
            assert!(in_parts(&[b"one ", b"two"], Some(told)).is_err(), "{told}");
        }
    }
}
