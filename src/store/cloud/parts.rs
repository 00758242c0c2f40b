//! The parts of an object, several at a time: sent from a file that is hashed meanwhile, and fetched in their order.
//!
//! It must never hold more than [`MAX_MEMORY`] bytes of parts, or two parts if they are larger, and never leave a thread running.

use super::object::{ObjectReader, PART_SIZE};
use super::service::OnSent;
use super::transport::ABANDONED;
use crate::archive::human_size;
use crate::progress::{Progress, Sink};
use crate::store::ContentChanged;
use crate::system::digest::hex;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Error, Result, ensure};
use base64ct::{Base64, Encoding};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// S3's limit on the parts of one object. Azure's is higher.
const MAX_PARTS: u64 = 10_000;
/// The most parts that are sent at a time, as in other programs for S3.
const SENDERS: u64 = 4;
/// The most parts that are fetched at a time.
const FETCHERS: u64 = 3;
/// The most bytes of parts in memory.
const MAX_MEMORY: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// A file that is sent in parts.
pub(in crate::store) struct Parts<'a> {
    pub file: &'a File,
    pub size: u64,
    /// The SHA-256 of the file when it was made.
    pub sha256: &'a str,
    /// Sends one part. Returns the name by which the server knows it.
    pub send_one: &'a SendPart<'a>,
}

/// Sends the part with this number, counted from 1, and this body.
pub(in crate::store) type SendPart<'a> = dyn Fn(u64, &[u8], &OnSent<'_>) -> Result<String> + Sync + 'a;

/// A part that has been read.
struct Part {
    number: u64,
    offset: u64,
    body: Vec<u8>,
}

/// The number of a part, and how many of its bytes are sent.
type Sent = (u64, u64);

impl Parts<'_> {
    /// Sends all parts, and reports how many bytes were sent. Returns the names that the server gave them.
    ///
    /// # Errors
    /// Fails with the first error of any part. The cause is [`ContentChanged`] if the file has another hash.
    pub fn send(&self, progress: Sink<'_>) -> Result<Vec<String>> {
        let count = self.count();
        // One part is being read.
        let at_a_time = (MAX_MEMORY / self.length()).saturating_sub(1);
        let senders = SENDERS.min(count).min(at_a_time).max(1);
        let (hand_over, parts) = mpsc::sync_channel(0);
        let (parts, failed) = (Arc::new(Mutex::new(parts)), &FirstError::default());
        let (report, sent) = mpsc::channel();
        // Buffers are used again: new memory has to be cleared, and the allocator does not return all of it at once.
        let (give_back, spare) = mpsc::channel();
        let names = thread::scope(|scope| {
            let reader = spawn_scoped(scope, "read", move || self.read(&hand_over, &spare, failed))?;
            let threads: Vec<_> = (0..senders)
                .map(|_| {
                    let (parts, report, give_back) = (Arc::clone(&parts), report.clone(), give_back.clone());
                    let send = move || Ok(self.send_some(&parts, &report, &give_back, failed));
                    spawn_scoped(scope, "send", send)
                })
                .collect();
            // The reader ends if no sender is left, and the reports end with the last sender.
            drop((parts, report));
            self.report(&sent, progress);
            let mut names = Vec::new();
            for thread in threads {
                names.extend(thread.and_then(join)?);
            }
            join(reader)?;
            Ok::<_, Error>(names)
        });
        failed.take().map_or(Ok(()), Err)?;
        let mut names = names?;
        names.sort_unstable();
        ensure!(names.len() as u64 == count, "{} of {count} parts were sent", names.len());
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    fn length(&self) -> u64 {
        part_length(self.size)
    }

    fn count(&self) -> u64 {
        self.size.div_ceil(self.length()).max(1)
    }

    /// Reads the parts in their order, hashes them, and hands each to the next free sender.
    fn read(
        &self,
        hand_over: &SyncSender<Part>,
        spare: &Receiver<Vec<u8>>,
        failed: &FirstError,
    ) -> Result<()> {
        let mut hash = Sha256::new();
        for number in 1..=self.count() {
            let offset = (number - 1) * self.length();
            let mut body = spare.try_recv().unwrap_or_default();
            body.resize(usize::try_from(self.length().min(self.size - offset))?, 0);
            if let Err(error) = self.file.read_exact_at(&mut body, offset) {
                failed.set(Error::new(error).context("reading the archive"));
                return Ok(());
            }
            hash.update(&body);
            if hand_over.send(Part { number, offset, body }).is_err() {
                // All senders have failed.
                return Ok(());
            }
        }
        if hex(&hash.finalize()) != self.sha256 {
            failed.set(ContentChanged.into());
        }
        Ok(())
    }

    /// Sends parts until there are no more, or until any part fails. Returns the numbers and names of those sent.
    fn send_some(
        &self,
        parts: &Mutex<Receiver<Part>>,
        report: &Sender<Sent>,
        give_back: &Sender<Vec<u8>>,
        failed: &FirstError,
    ) -> Vec<(u64, String)> {
        let mut names = Vec::new();
        loop {
            let next = parts.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(part) = next else { return names };
            if failed.is_set() {
                // The other parts are only taken from the reader, so that it ends.
                continue;
            }
            match self.send_one(&part, report, failed) {
                Ok(name) => names.push((part.number, name)),
                Err(error) => failed.set(error.context(self.describe(&part))),
            }
            // The reader may have ended.
            let _ = give_back.send(part.body);
        }
    }

    fn send_one(&self, part: &Part, report: &Sender<Sent>, failed: &FirstError) -> Result<String> {
        let on_sent = |bytes| {
            let _ = report.send((part.number, bytes));
            match failed.is_set() {
                true => Err(io::Error::other(ABANDONED)),
                false => Ok(()),
            }
        };
        let name = (self.send_one)(part.number, &part.body, &on_sent)?;
        let _ = report.send((part.number, part.body.len() as u64));
        Ok(name)
    }

    fn describe(&self, part: &Part) -> String {
        let (sent, size) = (human_size(part.offset), human_size(self.size));
        format!("sending part {} of {}, after {sent} of {size}", part.number, self.count())
    }

    /// Reports the bytes that all parts together have sent, until all senders have ended.
    fn report(&self, sent: &Receiver<Sent>, progress: Sink<'_>) {
        let mut of_part = vec![0; usize::try_from(self.count()).unwrap_or(0)];
        let mut done = 0_u64;
        for (number, bytes) in sent {
            let Some(before) = usize::try_from(number - 1).ok().and_then(|index| of_part.get_mut(index))
            else {
                continue;
            };
            done = done - *before + bytes;
            *before = bytes;
            progress(Progress::Bytes { done, expected: Some(self.size) });
        }
    }
}

/// The first error of several threads.
#[derive(Default)]
struct FirstError(Mutex<Option<Error>>);

impl FirstError {
    fn set(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Fetches an object, and calls `on_part` with its parts in their order.
///
/// # Errors
/// Fails if a part cannot be fetched.
pub(in crate::store) fn fetch_in_order(object: &ObjectReader, on_part: &mut dyn FnMut(&[u8])) -> Result<()> {
    let count = object.size().div_ceil(PART_SIZE);
    let fetchers = FETCHERS.min(count).max(1);
    thread::scope(|scope| {
        let mut received = Vec::new();
        for first in 0..fetchers {
            let (sender, receiver) = mpsc::sync_channel(0);
            received.push(receiver);
            spawn_scoped(scope, "fetch", move || {
                let mut parts = (first..count).step_by(usize::try_from(fetchers).unwrap_or(1));
                let fetch = |number| {
                    object.range(number * PART_SIZE, PART_SIZE.min(object.size() - number * PART_SIZE))
                };
                // The receiver ends at the first error.
                let _ = parts.try_for_each(|number| sender.send(fetch(number)));
            })?;
        }
        for number in 0..count {
            let receiver = &received[usize::try_from(number % fetchers)?];
            on_part(&receiver.recv().context("a thread of this program failed")??);
        }
        Ok(())
    })
}

/// Returns the length of each part of an object of `size` bytes: whole mebibytes, and long enough for S3's limit.
fn part_length(size: u64) -> u64 {
    PART_SIZE.max(size.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB)
}

/// Returns the checksum that every server knows, and that buckets with object lock require.
pub(in crate::store) fn md5_of(body: &[u8]) -> String {
    Base64::encode_string(&Md5::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_no_more_parts_than_s3_allows() {
        assert_eq!(part_length(1), PART_SIZE);
        for size in [80 << 30, 100 << 30, 150 << 30] {
            assert!(size / part_length(size) < MAX_PARTS, "{size}");
            assert_eq!(part_length(size) % MIB, 0);
        }
    }
}
