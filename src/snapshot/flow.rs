//! One flow: etcdctl saves, we pack what has arrived, and read back what is packed, all at the same time.
//!
//! The proof is made of what comes out of the archive: it must end in the hash that etcd put there. The manifest is
//! written last, when all that it says is known. Must never publish.

use super::{Looked, Request, Source};
use crate::archive::age::FileKey;
use crate::archive::manifest::{FORMAT, Manifest};
use crate::archive::{self, Contents, Encryption, Packer};
use crate::etcd::backend::{Backend, ContentSummary};
use crate::etcd::client::ContentHash;
use crate::etcd::etcdutl;
use crate::etcd::incoming::IncomingSnapshot;
use crate::etcd::tools::Tools;
use crate::etcd::trailer::{DatabaseDigest, Trailer};
use crate::progress::{Progress, Sink};
use crate::store::work_dir::WorkDir;
use crate::system::growing_file::{GivenUp, GrowingFile, GrowthReceiver, GrowthSender, growth_channel};
use crate::system::interrupt;
use crate::system::priority;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// The archive's name until it is published.
pub(super) const ARCHIVE: &str = "archive";

/// A database of less, in bytes, is packed before anybody could feel it.
const SMALL_DATABASE: u64 = 16 << 20;

/// How long the caller of [`Flow::run`] waits for word before it looks whether it is to wait on, and frees what has been packed.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// An archive that was made durable, and read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// What etcd and its tools say of a snapshot.
struct Found {
    revision: i64,
    keys: Option<u64>,
    total_keys: u64,
    content_hash: Option<ContentHash>,
}

/// What flows where.
pub(super) struct Flow<'a> {
    pub source: &'a Source<'a>,
    pub tools: &'a Tools,
    pub stage: &'a WorkDir<'a>,
    pub looked: &'a Looked,
    pub request: &'a Request,
}

/// How far the work on a snapshot is, for all who work on it.
#[derive(Debug, Default)]
struct Work {
    /// How many bytes of it have been packed.
    packed: AtomicU64,
    /// Whether it will come to nothing: once etcdctl has ended well, its file no longer tells of that.
    called_off: AtomicBool,
}

impl Work {
    fn goes_on(&self) -> io::Result<()> {
        if self.called_off.load(Ordering::Relaxed) { Err(io::Error::other(GivenUp)) } else { Ok(()) }
    }
}

impl Flow<'_> {
    /// Makes the archive in the stage, durable and proved.
    pub fn run(&self, tell: Sink<'_>) -> Result<(Packed, Manifest)> {
        let felt = self.looked.db_size >= SMALL_DATABASE;
        let behind = felt.then(priority::lower_session_priority);
        let out = self.stage.dir().create(ARCHIVE)?;
        self.request.owner.chown(&out).context("giving the archive to its owner")?;
        let back = out.try_clone().context("opening the archive again")?;
        let (saving, saved) = growth_channel();
        let (writing, written) = growth_channel();
        let sealing = self.sealing()?;
        let key = sealing.as_ref().map(|sealing| sealing.key.clone());
        let (tell_seal, seal) = channel();
        let (hand_over, manifest) = channel();
        let arriving = saved.clone();
        let (looks, seen) = channel::<()>();
        let work = &Work::default();
        thread::scope(|scope| {
            // Where one cannot be made, what the others wait for goes with us, and so do they.
            let pack = move || {
                let packing =
                    Packer { out, writing, effort: self.request.effort, sealing, taken: self.request.now };
                self.pack(packing, &saved, work, &manifest)
            };
            let packer = spawn_scoped(scope, "pack", pack)?;
            let prover =
                spawn_scoped(scope, "read back", move || read_back(back, written, key.as_ref(), &tell_seal))?;
            let look = move || {
                // Goes with the thread, whatever becomes of it.
                let _looks = looks;
                self.look_into(&arriving, work)
            };
            let looker = spawn_scoped(scope, "look", look)?;
            let broken = || packer.is_finished() || prover.is_finished();
            let goes_on = || {
                interrupt::check()?;
                if broken() { Err(Consequence.into()) } else { Ok(()) }
            };
            let described = self.save(saving, &broken, tell).and_then(|()| {
                // etcd has sent all and serves its clients as ever. On a busy machine, what is left would starve.
                drop(behind);
                priority::restore_priority();
                tell(Progress::Step("verifying the snapshot"));
                word(&seen, &mut &goes_on)?;
                let manifest = self.describe(&seal, join(looker), work, &goes_on)?;
                // A packer that is gone has an error to tell.
                let _ = hand_over.send(manifest.clone());
                // It may be in clear here alone.
                self.stage.dir().remove_file(archive::DB)?;
                Ok(manifest)
            });
            work.called_off.store(described.is_err(), Ordering::Relaxed);
            drop(hand_over);
            settle(described, join(packer), join(prover))
        })
    }

    /// The key of the archive, new for each.
    fn sealing(&self) -> Result<Option<Encryption>> {
        let recipients = self.request.encrypt_to.clone();
        (!recipients.is_empty()).then(|| Ok(Encryption { key: FileKey::fresh()?, recipients })).transpose()
    }

    /// Packs what arrives, and tells how many bytes of it are packed.
    fn pack(
        &self,
        packing: Packer,
        saved: &GrowthReceiver,
        work: &Work,
        manifest: &Receiver<Manifest>,
    ) -> Result<u64> {
        priority::lower_priority();
        let db = IncomingSnapshot::follow(self.stage.dir(), archive::DB, saved)?;
        let size = db.length();
        let manifest = || manifest.recv().map_err(|_| Consequence.into());
        packing.pack(Told { source: db, work }, size, manifest)
    }

    fn save(&self, saving: GrowthSender, broken: &dyn Fn() -> bool, tell: Sink<'_>) -> Result<()> {
        tell(Progress::Step("saving, packing and reading back the snapshot"));
        let (dir, expected) = (self.stage.dir(), self.looked.db_size);
        // Asked while etcdctl runs: once it has failed, the others fail with it.
        let mut given_up = false;
        let mut watch = |done| {
            tell(Progress::Bytes { done, expected: (expected > 0).then_some(expected) });
            given_up = broken();
            if given_up { Err("given up, for the archive cannot be written".to_owned()) } else { Ok(()) }
        };
        let saved = match self.source {
            Source::Serving(client) => client.save(dir, archive::DB, expected, saving, &mut watch),
            Source::Stopped(booted) => booted.save(dir, archive::DB, saving, &mut watch),
        };
        saved.map_err(|error| if given_up { error.context(Consequence) } else { error })
    }

    /// What etcd and its tools say of the snapshot, as soon as all of it is there: etcdctl still makes it durable then.
    fn look_into(&self, saved: &GrowthReceiver, work: &Work) -> Result<Found> {
        let dir = self.stage.dir();
        // What is cut short is for whoever packs it to tell of.
        let db =
            IncomingSnapshot::follow(dir, archive::DB, saved)?.wait_until_complete()?.ok_or(Consequence)?;
        let again = db.try_clone().context("opening the snapshot again")?;
        // Once anybody has failed, nobody wants to know.
        let wanted = || -> Result<()> {
            work.goes_on()?;
            saved.goes_on()?;
            Ok(())
        };
        thread::scope(|scope| {
            let structure = spawn_scoped(scope, "structure", || {
                etcdutl::status(self.tools, db, &mut |_| wanted().map_err(|error| error.to_string()))
            });
            let told = Backend::from_file(again, &dir.path().join(archive::DB)).and_then(|snapshot| {
                let revision = snapshot.revision()?;
                Ok((revision, self.content(&snapshot, revision, &wanted)?))
            });
            let structure = structure.and_then(join)?;
            let (revision, (keys, content_hash)) = told?;
            Ok(Found { total_keys: structure.total_key, revision, keys, content_hash })
        })
    }

    /// Its keys alive, and the hash over all. etcd is asked where the snapshot does not tell, and does not know where it has
    /// compacted the revision meanwhile or has too much to do; the snapshot is no worse for it.
    fn content(
        &self,
        snapshot: &Backend,
        revision: i64,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<(Option<u64>, Option<ContentHash>)> {
        if let Ok(Some(ContentSummary { keys, hash: Some(hash) })) = snapshot.content(wanted) {
            return Ok((Some(keys), Some(hash)));
        }
        let Source::Serving(client) = self.source else { return Ok((None, None)) };
        wanted()?;
        let keys = client.count_keys(revision).ok();
        wanted()?;
        Ok((keys, client.content_hash(revision).ok()))
    }

    /// The verdict on what is read back. Nobody but the packer reads the snapshot any more, and to free so much takes a moment:
    /// what it is through with is freed while the rest is packed.
    fn sealed(
        &self,
        seal: &Receiver<DatabaseDigest>,
        work: &Work,
        goes_on: &dyn Fn() -> Result<()>,
    ) -> Result<DatabaseDigest> {
        let mut spent = self.stage.dir().hole_puncher(archive::DB)?;
        let sealed = word(seal, &mut || {
            spent.punch_up_to(work.packed.load(Ordering::Relaxed));
            goes_on()
        });
        sealed?.ok_or_else(|| Consequence.into())
    }

    /// The manifest. What is `found` in a snapshot counts once its seal is known to be sound.
    fn describe(
        &self,
        seal: &Receiver<DatabaseDigest>,
        found: Result<Found>,
        work: &Work,
        goes_on: &dyn Fn() -> Result<()>,
    ) -> Result<Manifest> {
        let sealed = self.sealed(seal, work, goes_on)?;
        match sealed.trailer {
            Trailer::Valid => {}
            Trailer::Missing => {
                bail!("etcdctl saved {} bytes without the hash that ends a snapshot", sealed.size)
            }
            Trailer::Invalid => {
                bail!("the snapshot of {} bytes does not match the hash that ends it", sealed.size)
            }
        }
        let Found { revision, keys, total_keys, content_hash } = found?;
        let Looked { cluster_id, version, member, count, .. } = self.looked;
        Ok(Manifest {
            format: FORMAT,
            // The second that the archive's name has.
            taken: Timestamp::from_second(self.request.now.as_second())?.to_string(),
            unit: self.request.unit.clone(),
            etcd_version: version.clone(),
            cluster_id: format!("{cluster_id:x}"),
            member_id: format!("{:x}", member.id),
            member_name: member.name.clone(),
            member_count: *count,
            revision,
            keys,
            total_keys,
            db_size: sealed.size,
            db_sha256: sealed.sha256,
            before_restore: self.request.before_restore,
            content_hash,
        })
    }
}

/// Waits for word `from` another thread, and looks every moment whether that `goes_on`. `None` where the thread has gone.
fn word<T>(from: &Receiver<T>, goes_on: &mut dyn FnMut() -> Result<()>) -> Result<Option<T>> {
    loop {
        match from.recv_timeout(POLL_INTERVAL) {
            Ok(word) => return Ok(Some(word)),
            Err(RecvTimeoutError::Timeout) => goes_on()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// A source of which is told how many bytes have been read, and which ends by an error once the work is called off.
struct Told<'a, R> {
    source: R,
    work: &'a Work,
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.work.goes_on()?;
        let length = self.source.read(buffer)?;
        self.work.packed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Reads what stands in the file, which its own key opens where it is encrypted: the recipients' is not here.
fn read_back(
    archive: File,
    written: GrowthReceiver,
    key: Option<&FileKey>,
    seal: &Sender<DatabaseDigest>,
) -> Result<Contents> {
    priority::lower_priority();
    let whole = written.clone();
    let archive = GrowingFile::new(archive, written);
    archive::verify_with(key, archive, "the archive just written", &|sealed| {
        // Who no longer listens has failed.
        let _ = seal.send(sealed.clone());
    })
    // An archive that its writer gave up reads as one that is cut short.
    .map_err(|error| match follows(&error) || whole.goes_on().is_err() {
        true => Consequence.into(),
        // A refusal would blame the caller.
        false => anyhow!("{error:#}").context("reading the archive back"),
    })
}

/// The first error of the three: where one fails, the others do in consequence.
fn settle(
    described: Result<Manifest>,
    packed: Result<u64>,
    read: Result<Contents>,
) -> Result<(Packed, Manifest)> {
    let (manifest, size, contents) = match (described, packed, read) {
        (Ok(manifest), Ok(size), Ok(contents)) => (manifest, size, contents),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) if !follows(&error) => {
            return Err(error);
        }
        _ => return Err(Consequence.into()),
    };
    ensure!(
        contents.manifest.as_ref() == Some(&manifest),
        "the archive reads back other than it was written"
    );
    Ok((Packed { size, sha256: contents.sha256 }, manifest))
}

/// Whether an error only follows from another thread's.
fn follows(error: &anyhow::Error) -> bool {
    error.is::<Consequence>() || GivenUp::is_in(error)
}

/// Marks an error that only follows from another thread's.
#[derive(Debug, Clone, Copy)]
struct Consequence;

impl std::fmt::Display for Consequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the archive could not be made")
    }
}

impl std::error::Error for Consequence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_and_not_what_follows_from_it() {
        let gave_up =
            || anyhow::Error::from(io::Error::other(GivenUp)).context("reading the snapshot as it arrives");
        let cause = || anyhow!("db ends after 3 of 4 bytes").context("reading the archive back");
        let told = |outcome: Result<(Packed, Manifest)>| format!("{:#}", outcome.unwrap_err());
        assert!(told(settle(Err(Consequence.into()), Err(gave_up()), Err(cause()))).contains("3 of 4"));
        assert!(
            told(settle(Err(gave_up().context(Consequence)), Err(cause()), Err(gave_up())))
                .contains("3 of 4")
        );
        assert!(told(settle(Err(cause()), Err(gave_up()), Err(Consequence.into()))).contains("3 of 4"));
    }
}
