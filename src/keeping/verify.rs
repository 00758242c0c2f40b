//! An archive at rest, verified: every byte of it read, its structure by etcd's tool, and on demand a drill.
//!
//! Must never call an archive broken because something else was: a disk that is full, a network that is down.

use super::versions::admit_drill;
use super::{Found, unpack, was_verified_as};
use crate::archive::age::Identities;
use crate::archive::{self, Contents, Limits, Locked};
use crate::catalog::entry::Entry;
use crate::etcd::offline::{self, BESIDES, Making, Unsound};
use crate::etcd::sandbox;
use crate::etcd::seal::Seal;
use crate::etcd::site::Site;
use crate::progress::{Progress, Tell};
use crate::stop::Refusal;
use crate::store::directory::need;
use crate::store::stage::Stage;
use crate::swap::Expected;
use crate::system::durable::Dir;
use crate::system::random;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::cell::Cell;

/// The data directory of the throw-away etcd.
const DRILL: &str = "drill";
const PEER_URL: &str = "http://localhost:2380";

/// How to verify.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Whether a throw-away etcd is booted on it, and what that shows compared with the manifest.
    pub drill: bool,
    /// What opens an archive that is encrypted.
    pub identities: Option<&'a Identities>,
    /// The time, for the record.
    pub now: Timestamp,
}

/// What was found in an archive that is good.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it holds.
    pub contents: Contents,
    /// What a throw-away etcd showed of it, where one was booted.
    pub drilled: Option<Expected>,
}

/// Verifies the archive and notes the outcome in its record. `work` is where it is unpacked meanwhile.
pub fn verify(found: &Found, site: &Site, work: &Dir, how: &How<'_>, tell: Tell<'_>) -> Result<Verified> {
    let &How { drill, identities, now } = how;
    let stage = Stage::make(work)?;
    tell(Progress::Step(&format!("verifying {}", found.named())));
    let contents = match read(found, stage.dir(), drill, identities, tell)? {
        Ok(contents) => contents,
        // Of other tools' archives nothing is claimed in the first place.
        Err(broken) if found.entry.manifest.is_some() => {
            found.place.store.note(&found.entry, &|record| record.broken = Some(broken.reason.clone()))?;
            return Err(broken.into());
        }
        Err(refused) => return Err(refused.into()),
    };
    let drilled = stage
        .dir()
        .read(archive::DB)
        .and_then(|db| offline::structure(&site.tools, db, &mut |_| Ok(())))
        .and_then(|_| {
            if !drill {
                return Ok(None);
            }
            admit_drill(site, stage.dir())?;
            rehearse(site, stage.dir(), &contents, tell).map(Some)
        });
    let drilled = match drilled {
        Err(error) if error.is::<Unsound>() && found.entry.manifest.is_some() => {
            found.place.store.note(&found.entry, &|record| {
                record.broken = Some(format!("{error:#}"));
                record.broken_by_drill = drill;
            })?;
            return Err(error);
        }
        drilled => drilled?,
    };
    if let (Some(why), true, false) = (&found.entry.record.broken, found.entry.record.broken_by_drill, drill)
    {
        return Err(Refusal::new(
            format!("{} reads well, but failed its last drill: {why}", found.named()),
            "drill it again with drill=true, or restore another snapshot",
        )
        .into());
    }
    // To the second, as the manifest tells its time.
    let now = Timestamp::from_second(now.as_second())?;
    found.place.store.note(&found.entry, &|record| {
        record.sha256 = Some(contents.sha256.clone());
        record.verified = Some(now);
        record.broken = None;
        record.broken_by_drill = false;
        record.drilled = drilled.map_or(record.drilled, |_| Some(now));
    })?;
    Ok(Verified { contents, drilled })
}

/// Unpacks all of it into `stage`. The inner refusal is the archive's fault, whatever else goes wrong is not.
fn read(
    found: &Found,
    stage: &Dir,
    drill: bool,
    identities: Option<&Identities>,
    tell: Tell<'_>,
) -> Result<Result<Contents, Refusal>> {
    let short_of_room = Cell::new(None);
    let room_for = |size: u64| {
        let needed = if drill { size.saturating_mul(3).saturating_add(BESIDES) } else { size };
        let next = "make room there, or name another directory with target=DIR";
        need(needed, stage.free_bytes()?, stage.path(), "verifying the snapshot", next)
            .inspect_err(|error| short_of_room.set(error.downcast_ref::<Refusal>().cloned()))
    };
    let limits = Limits { room_for: &room_for, bare: true, identities, encrypted_for: &[], found: &|_| () };
    let mut out = stage.create(archive::DB)?;
    let outcome = unpack(found, &mut out, &limits, tell);
    if let Some(refusal) = short_of_room.take() {
        return Err(refusal.into());
    }
    match outcome {
        Ok(contents) => sealed(&found.entry, contents),
        Err(error) if error.is::<Locked>() => Err(error),
        Err(error) => error.downcast::<Refusal>().map(Err),
    }
}

fn sealed(entry: &Entry, contents: Contents) -> Result<Result<Contents, Refusal>> {
    let shown = entry.location();
    match contents.db.seal {
        Seal::Broken => {
            let why = format!("{shown} does not match the hash that ends its snapshot");
            Ok(Err(Refusal::new(why, "restore another snapshot")))
        }
        Seal::Absent => Err(Refusal::new(
            format!("{shown} carries no hash of its own, as archives of the older etcd charm and plain copies do not"),
            "nothing can show that it is whole; restore takes it with allow-unhashed=true",
        )
        .into()),
        Seal::Sound if entry.manifest.is_some() && contents.manifest != entry.manifest => {
            let why = format!("{shown} holds another manifest than the one that stands beside it");
            Ok(Err(Refusal::new(why, "restore another snapshot")))
        }
        Seal::Sound => Ok(was_verified_as(entry, &contents.sha256).map(|()| contents)),
    }
}

/// Restores the unpacked snapshot in `stage` and boots it, heard by nobody.
fn rehearse(site: &Site, stage: &Dir, contents: &Contents, tell: Tell<'_>) -> Result<Expected> {
    tell(Progress::Step("booting a throw-away etcd on it"));
    let shown = boot(site, stage).context("the drill")?;
    shown.must_match(contents.manifest.as_ref()).context("the drill").context(Unsound)?;
    Ok(shown)
}

/// What an etcd that was restored from the snapshot shows. Its data is thrown away afterwards, so it needs no copy.
fn boot(site: &Site, stage: &Dir) -> Result<Expected> {
    let token = random::uuid()?;
    let making = Making { name: DRILL, peer_urls: PEER_URL, token: &token, bump: 0, hash_check: true };
    let snapshot = offline::restore(&site.tools, stage, archive::DB, DRILL, &making)?;
    let booted = sandbox::boot(&site.tools.etcd, stage.child(DRILL)?)?;
    Expected::of(&booted, snapshot.revision()?).context("reading what it holds")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::record::{About, Record};
    use crate::catalog::retention::Policy;
    use crate::keeping::Place;
    use crate::store::{Removed, Store};
    use anyhow::bail;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs::File;
    use std::io::{self, Read};
    use std::rc::Rc;

    /// A store whose line breaks after the first bytes of every archive.
    #[derive(Debug)]
    struct Broken;

    impl Store for Broken {
        fn shown(&self) -> &str {
            "s3://bucket"
        }

        fn entries(&self) -> Result<Vec<Entry>> {
            bail!("not asked")
        }

        fn names(&self) -> Result<BTreeSet<String>> {
            bail!("not asked")
        }

        fn read(&self, _: &str) -> Result<Box<dyn Read + Send>> {
            Ok(Box::new([0x1f, 0x8b, 8, 0].as_slice().chain(Reset)))
        }

        fn put(&self, _: &str, _: &File, _: &str, _: Tell<'_>) -> Result<()> {
            bail!("not asked")
        }

        fn note(&self, _: &Entry, _: &dyn Fn(&mut Record)) -> Result<()> {
            bail!("not asked")
        }

        fn delete(&self, _: &Entry) -> Result<Removed> {
            bail!("not asked")
        }
    }

    struct Reset;

    impl Read for Reset {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection reset by peer"))
        }
    }

    #[test]
    fn a_line_that_breaks_is_not_taken_for_a_broken_archive() {
        let entry = Entry {
            name: "a.tar.gz".to_owned(),
            store: Broken.shown().to_owned(),
            size: 9000,
            modified: Timestamp::UNIX_EPOCH,
            manifest: None,
            encrypted_for: Vec::new(),
            record: About::of(9000, None).record(Ok(None)).0,
            unread: None,
            waits_for: Vec::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let stage = Dir::open(dir.path()).unwrap();
        let name = Some("offsite".to_owned());
        let (keep, waiting) = (Policy::default(), BTreeMap::new());
        let place = Place { name, store: Box::new(Broken), keep, waiting };
        let found = Found { place: Rc::new(place), entry };
        let error = read(&found, &stage, false, None, &mut |_| ()).unwrap_err();
        assert_eq!(format!("{error:#}"), "reading s3://bucket/a.tar.gz: connection reset by peer");
    }
}
