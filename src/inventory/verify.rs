//! Verifies a stored archive: reads every byte, checks its structure with our own reader and with etcd's tool, and
//! boots a temporary etcd on it if requested (a drill).
//!
//! An archive is never reported as damaged because something else failed: a full disk, the network, or a program.

use super::entry::Entry;
use super::listing::StoredSnapshot;
use super::record::{ArchiveIdentity, Record};
use super::sidecar::is_encrypted;
use super::unpack;
use super::verdict::{Intact, Missing, Unsound, Verdict, Verified};
use crate::archive::age::Identities;
use crate::archive::damage::{Damage, Damaged, ManifestFault};
use crate::archive::manifest::NewerFormat;
use crate::archive::{self, CannotDecrypt, Contents, NotASnapshot, UnpackOptions};
use crate::error::Refusal;
use crate::etcd::backend::{Backend, Fault, find_fault_in, is_read_error};
use crate::etcd::etcdutl::{self, MEMBER_OVERHEAD, RestoreOptions};
use crate::etcd::sandbox;
use crate::etcd::site::Site;
use crate::etcd::trailer::Trailer;
use crate::exchange::Expected;
use crate::progress::{Progress, Sink};
use crate::store::trusted_path::check_space;
use crate::store::work_dir::WorkDir;
use crate::system::durable::Dir;
use crate::system::{interrupt, random};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use std::cell::{Cell, RefCell};

/// The data directory of the temporary etcd.
const DRILL: &str = "drill";
const PEER_URL: &str = "http://localhost:2380";

/// The options of a verification.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Whether to boot a temporary etcd on it and compare the served content with the manifest.
    pub drill: bool,
    /// The identities that decrypt an encrypted archive.
    pub identities: Option<&'a Identities>,
    /// The current time, for the record.
    pub now: Timestamp,
}

/// The result of verifying an archive.
#[derive(Debug)]
pub struct VerifyOutcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The error of recording the verdict, if that failed.
    pub record_error: Option<anyhow::Error>,
}

/// Verifies an archive, and records the verdict. The archive is unpacked in a private directory in `work`.
///
/// # Errors
/// Fails if the archive could not be read or checked. The record then stays unchanged.
pub fn verify(
    snapshot: &StoredSnapshot,
    site: &Site,
    work: &Dir,
    options: &VerifyOptions<'_>,
    progress: Sink<'_>,
) -> Result<VerifyOutcome> {
    let stage = WorkDir::create(work)?;
    progress(Progress::Step(&format!("verifying {}", snapshot.selector())));
    let found = examine(snapshot, site, stage.dir(), options, progress)?;
    Ok(match record(snapshot, &found, options.now) {
        Ok(verdict) => VerifyOutcome { verdict, record_error: None },
        Err(error) => {
            let verdict = found.after(snapshot.entry.record.damage.as_ref());
            VerifyOutcome { verdict, record_error: Some(error) }
        }
    })
}

/// Records what a check found. Returns the verdict, which depends on the damage that is on record now: during a long check,
/// another process may have found or refuted damage.
fn record(snapshot: &StoredSnapshot, found: &Verdict, now: Timestamp) -> Result<Verdict> {
    let StoredSnapshot { repository, entry } = snapshot;
    let is_recorded = match found {
        Verdict::Verified(_) => true,
        Verdict::Intact(_) => entry.record.damage.is_some(),
        Verdict::Damaged(_) => entry.is_ours(),
    };
    if !is_recorded {
        return Ok(found.clone());
    }
    // Whole seconds, as in the manifest.
    let now = Timestamp::from_second(now.as_second())?;
    let verdict = RefCell::new(found.clone());
    repository.update_record(entry, &|record| {
        let after = found.clone().after(record.damage.as_ref());
        add_verdict(record, entry, &after, now);
        verdict.replace(after);
    })?;
    Ok(verdict.into_inner())
}

/// Adds a verdict to the record of an archive.
fn add_verdict(record: &mut Record, entry: &Entry, verdict: &Verdict, now: Timestamp) {
    match verdict {
        Verdict::Verified(verified) => {
            record.identity = identity(entry, record);
            record.sha256 = Some(verified.contents.sha256.clone());
            record.verified = Some(now);
            record.damage = None;
            record.drilled = verified.drilled.map_or(record.drilled, |_| Some(now));
        }
        Verdict::Intact(_) => {
            record.identity = identity(entry, record);
            record.damage = None;
        }
        Verdict::Damaged(damage) => record.damage = Some(damage.clone()),
    }
}

/// Returns the identity to record with a verdict that refutes damage. An archive that is good without a manifest at its end
/// was packed anew, and is identified without it. The sidecar of an encrypted archive may come back.
fn identity(entry: &Entry, record: &Record) -> ArchiveIdentity {
    match entry.manifest.is_none() && !is_encrypted(&entry.name) {
        true => ArchiveIdentity::new(entry.size, None),
        false => record.identity.clone(),
    }
}

/// Refuses etcd programs that are unable to verify an archive or, with `drill`, to boot one.
///
/// # Errors
/// Fails if a program does not run, or prints no version.
pub fn admit_programs(site: &Site, drill: bool) -> Result<()> {
    site.tools.check_can_read_snapshots()?;
    if drill {
        site.program_source().check_same_minor(&site.tools.versions()?)?;
    }
    Ok(())
}

/// Refuses to boot the snapshot in `stage` if it comes from a newer etcd than this machine has. This does not prove
/// damage.
fn admit_drill(site: &Site, stage: &Dir) -> Result<()> {
    let Some(etcd) = site.tools.versions()?.etcd else { return Ok(()) };
    let data = Backend::open_in(stage, archive::DB)?.versions()?;
    let Some(data) = data.too_new_for(&etcd.version) else { return Ok(()) };
    Err(Refusal::new(
        format!("it comes from etcd {data}, and {etcd}: only etcd {data} or later can be booted on it"),
        format!("drill it on a machine with etcd {data}, or verify it with drill=false"),
    )
    .into())
}

/// Reads all of the archive into `stage`, and runs every check on it.
fn examine(
    snapshot: &StoredSnapshot,
    site: &Site,
    stage: &Dir,
    options: &VerifyOptions<'_>,
    progress: Sink<'_>,
) -> Result<Verdict> {
    let contents = match read(snapshot, stage, options, progress)? {
        Reading::Contents(contents) => *contents,
        Reading::Incomplete(missing) => return verify_hash(snapshot, missing),
        Reading::Damaged(damage) => return Ok(Verdict::Damaged(damage)),
    };
    if let Some(damage) = find_damage(&snapshot.entry, &contents, stage)? {
        return Ok(Verdict::Damaged(damage));
    }
    let recorded = match unpack::compare(snapshot, &contents.sha256)? {
        Ok(recorded) => recorded,
        Err(damage) => return Ok(Verdict::Damaged(damage)),
    };
    // bbolt's own check covers more than our reader, such as the list of free pages. But it is a program of this
    // machine, and may fail for other reasons: its failure is an error and not a verdict.
    etcdutl::status(&site.tools, stage.read(archive::DB)?, &mut |_| Ok(()))?;
    if contents.db.trailer == Trailer::Missing {
        return Ok(Verdict::Intact(Intact { missing: Missing::Trailer, sha256: contents.sha256, recorded }));
    }
    if !options.drill {
        return Ok(Verdict::Verified(Verified { contents, drilled: None }.into()));
    }
    admit_drill(site, stage)?;
    match run_drill(site, stage, &contents, progress) {
        Ok(shown) => Ok(Verdict::Verified(Verified { contents, drilled: Some(shown) }.into())),
        Err(error) if error.is::<Unsound>() => {
            Ok(Verdict::Damaged(Damage::Drill { detail: error.root_cause().to_string() }))
        }
        Err(error) => Err(error),
    }
}

/// The result of reading an archive.
enum Reading {
    /// It was read to its end.
    Contents(Box<Contents>),
    /// Something is missing to read it.
    Incomplete(Missing),
    /// It could not be decoded.
    Damaged(Damage),
}

/// Unpacks the archive into `stage`.
fn read(
    snapshot: &StoredSnapshot,
    stage: &Dir,
    options: &VerifyOptions<'_>,
    progress: Sink<'_>,
) -> Result<Reading> {
    let no_space = Cell::new(None);
    let check_unpacked = |size: u64| {
        let needed =
            if options.drill { size.saturating_mul(3).saturating_add(MEMBER_OVERHEAD) } else { size };
        let next = "free up space there, or name another directory with target=DIR";
        check_space(needed, stage.free_bytes()?, stage.path(), "verifying the snapshot", next)
            .inspect_err(|error| no_space.set(error.downcast_ref::<Refusal>().cloned()))
    };
    let identities = options.identities;
    let limits = UnpackOptions {
        check_space: &check_unpacked,
        allow_bare: true,
        identities,
        encrypted_for: &[],
        on_database: &|_| (),
    };
    let mut out = stage.create(archive::DB)?;
    let error = match unpack(snapshot, &mut out, &limits, progress) {
        Ok(contents) => return Ok(Reading::Contents(contents.into())),
        Err(error) => error,
    };
    if let Some(refusal) = no_space.take() {
        return Err(refusal.into());
    }
    if let Some(locked) = error.downcast_ref::<CannotDecrypt>() {
        return Ok(Reading::Incomplete(Missing::Identity(locked.clone())));
    }
    if let Some(newer) = error.downcast_ref::<NewerFormat>() {
        return Ok(Reading::Incomplete(Missing::Version(*newer)));
    }
    match error.downcast::<Damaged>() {
        Ok(damaged) => Ok(Reading::Damaged(damaged.damage)),
        // According to its manifest or our records, it was a snapshot once.
        Err(error) if snapshot.entry.is_ours() && error.is::<NotASnapshot>() => {
            let refusal = error.downcast::<Refusal>()?;
            let detail =
                refusal.reason.trim_start_matches(&snapshot.entry.location()).trim_start().to_owned();
            Ok(Reading::Damaged(Damage::Format { detail }))
        }
        Err(error) => Err(error),
    }
}

/// Returns the verdict on an archive that cannot be unpacked here, by its SHA-256.
fn verify_hash(snapshot: &StoredSnapshot, missing: Missing) -> Result<Verdict> {
    if let Some(why) = &snapshot.entry.unreadable {
        bail!("{why}");
    }
    let sha256 = unpack::hash(snapshot)?;
    Ok(match unpack::compare(snapshot, &sha256)? {
        Ok(recorded) => Verdict::Intact(Intact { missing, sha256, recorded }),
        Err(damage) => Verdict::Damaged(damage),
    })
}

/// Looks for damage in the unpacked database in `stage`, with our own reader.
fn find_damage(entry: &Entry, contents: &Contents, stage: &Dir) -> Result<Option<Damage>> {
    if contents.db.trailer == Trailer::Invalid {
        return Ok(Some(Damage::Trailer));
    }
    if entry.manifest.is_some() && contents.manifest != entry.manifest {
        return Ok(Some(Damage::Manifest { fault: ManifestFault::OtherManifest }));
    }
    match find_fault_in(stage, archive::DB, &interrupt::check)? {
        Some(Fault::Corrupt(detail)) => return Ok(Some(Damage::Structure { detail })),
        Some(Fault::NotEtcd) if contents.manifest.is_some() => {
            return Ok(Some(Damage::Format { detail: NOT_ETCD.to_owned() }));
        }
        Some(Fault::NotEtcd) => {
            let next = "give an archive made by the snapshot action";
            return Err(Refusal::new(format!("{} {NOT_ETCD}", entry.location()), next).into());
        }
        None => {}
    }
    let Some(expected) = contents.manifest.as_ref().and_then(|manifest| manifest.content_hash) else {
        return Ok(None);
    };
    // A database that our reader cannot hash now could not be hashed when the manifest was written, either.
    let content = match Backend::open_in(stage, archive::DB)?.content(&interrupt::check) {
        Err(error) if is_read_error(&error) => return Err(error),
        content => content.ok().flatten(),
    };
    interrupt::check()?;
    let differs = content
        .and_then(|content| content.hash)
        .filter(|found| found.compact_revision == expected.compact_revision && found.hash != expected.hash);
    Ok(differs.map(|found| Damage::Content { expected: expected.hash, found: found.hash }))
}

/// The description of a valid bbolt file without etcd's data.
const NOT_ETCD: &str = "holds a database that is not etcd's";

/// Restores the unpacked snapshot in `stage`, boots an etcd on it without network, and compares the served content.
fn run_drill(site: &Site, stage: &Dir, contents: &Contents, progress: Sink<'_>) -> Result<Expected> {
    progress(Progress::Step("booting a temporary etcd on it"));
    let shown = boot_restored(site, stage).context("the drill")?;
    shown.check_manifest(contents.manifest.as_ref()).context("the drill").context(Unsound)?;
    Ok(shown)
}

/// Returns the content that an etcd serves after restoring the snapshot. Its data is deleted afterwards, so it boots
/// without a copy.
fn boot_restored(site: &Site, stage: &Dir) -> Result<Expected> {
    let token = random::uuid()?;
    let making =
        RestoreOptions { name: DRILL, peer_urls: PEER_URL, token: &token, bump: 0, hash_check: true };
    etcdutl::restore(&site.tools, stage, archive::DB, DRILL, &making)?;
    let snapshot = etcdutl::compare_restored(stage, archive::DB, DRILL)?;
    let booted = sandbox::boot(&site.tools.etcd, stage.child(DRILL)?)?;
    Expected::from_boot(&booted, snapshot.revision()?).context("reading its content")
}

#[cfg(test)]
mod tests {
    use super::super::repository::Repository;
    use super::*;
    use crate::archive::manifest::Manifest;
    use crate::store::{Blob, BlobStore, Deletion, ErrorScope};
    use crate::system::lock::Lock;
    use anyhow::bail;
    use std::fs::File;
    use std::io::{self, Read};
    use std::rc::Rc;

    /// The name of an archive that this machine has no credentials for.
    const FORBIDDEN: &str = "forbidden.tar.gz";

    /// A store with a connection that breaks after the first bytes of every archive.
    #[derive(Debug)]
    struct BrokenStore;

    impl BlobStore for BrokenStore {
        fn url(&self) -> &str {
            "s3://bucket"
        }

        fn list(&self, _: &str) -> Result<Vec<Blob>> {
            bail!("not expected")
        }

        fn head(&self, _: &str) -> Result<Option<Blob>> {
            bail!("not expected")
        }

        fn get(&self, name: &str) -> Result<Box<dyn Read + Send>> {
            if name == FORBIDDEN {
                return Err(Refusal::new("the credentials file cannot be read", "chmod it").into());
            }
            Ok(Box::new([0x1f, 0x8b, 8, 0].as_slice().chain(BrokenConnection)))
        }

        fn get_range(&self, _: &Blob, _: u64, _: u64) -> Result<Vec<u8>> {
            bail!("not expected")
        }

        fn put_if_absent(&self, _: &str, _: &File, _: &str, _: Sink<'_>) -> Result<()> {
            bail!("not expected")
        }

        fn replace_small(&self, _: &str, _: Option<&Blob>, _: &[u8]) -> Result<()> {
            bail!("not expected")
        }

        fn delete(&self, _: &Blob) -> Result<Deletion> {
            bail!("not expected")
        }

        fn delete_small(&self, _: &str) -> Result<()> {
            bail!("not expected")
        }

        fn remove_unfinished(&self, _: &str) -> Result<()> {
            bail!("not expected")
        }

        fn lock(&self, _: &str) -> Result<Option<Lock>> {
            Ok(None)
        }

        fn error_scope(&self, _: &anyhow::Error) -> ErrorScope {
            ErrorScope::Store
        }
    }

    struct BrokenConnection;

    impl Read for BrokenConnection {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection reset by peer"))
        }
    }

    #[test]
    fn a_verdict_counts_the_damage_that_is_on_record_when_the_check_ends() {
        let dir = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test lays out a directory in files")]
        std::fs::write(dir.path().join("a.db"), "1").unwrap();
        let repository = Rc::new(Repository::open_directory(dir.path()).unwrap().unwrap());
        let entry = || repository.entries().unwrap().remove(0);
        let set = |damage: &Option<Damage>| {
            repository.update_record(&entry(), &|record| record.damage = damage.clone()).unwrap();
        };
        let intact = Verdict::Intact(Intact {
            missing: Missing::Trailer,
            sha256: "ab".to_owned(),
            recorded: Vec::new(),
        });
        let drill = Some(Damage::Drill { detail: "other keys".to_owned() });
        for (listed, now) in [(Some(Damage::Trailer), drill.clone()), (drill, None)] {
            set(&listed);
            let snapshot = StoredSnapshot { repository: Rc::clone(&repository), entry: entry() };
            // Another process records the result of a drill during the check.
            set(&now);
            let verdict = record(&snapshot, &intact, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(matches!(verdict, Verdict::Damaged(_)), now.is_some(), "{verdict:?}");
            assert_eq!(entry().record.damage, now);
        }
    }

    #[test]
    fn a_network_or_a_login_that_fails_is_not_damage() {
        let entry = Entry {
            name: "a.tar.gz".to_owned(),
            store: BrokenStore.url().to_owned(),
            size: 9000,
            modified: Timestamp::UNIX_EPOCH,
            manifest: None,
            encrypted_for: Vec::new(),
            record: Record::empty(ArchiveIdentity::new(9000, None)),
            unreadable: None,
            pending_uploads: Vec::new(),
            made: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let stage = Dir::open(dir.path()).unwrap();
        let repository = Rc::new(Repository::new(Some("offsite".to_owned()), Box::new(BrokenStore)));
        let mut snapshot = StoredSnapshot { repository, entry };
        let options = VerifyOptions { drill: false, identities: None, now: Timestamp::UNIX_EPOCH };
        let error = read(&snapshot, &stage, &options, &mut |_| ()).err().unwrap();
        assert_eq!(format!("{error:#}"), "reading s3://bucket/a.tar.gz: connection reset by peer");
        // A refused login does not prove damage, even if the archive has a manifest of ours.
        let fields = ["taken", "etcd_version", "cluster_id", "member_id", "member_name", "db_sha256"];
        let texts: Vec<String> = fields.iter().map(|field| format!("\"{field}\": \"x\"")).collect();
        let numbers =
            "\"format\": 1, \"member_count\": 1, \"revision\": 1, \"total_keys\": 1, \"db_size\": 1";
        let manifest = Manifest::parse(format!("{{{}, {numbers}}}", texts.join(", ")).as_bytes()).unwrap();
        let entry = Entry { name: FORBIDDEN.to_owned(), manifest: Some(manifest), ..snapshot.entry.clone() };
        let forbidden = StoredSnapshot { repository: Rc::clone(&snapshot.repository), entry };
        stage.remove_file(archive::DB).unwrap();
        let error = read(&forbidden, &stage, &options, &mut |_| ()).err().unwrap();
        assert!(error.is::<Refusal>(), "{error:#}");
        // The same applies to a connection that breaks while only the bytes are compared.
        snapshot.entry.name += ".age";
        let missing = Missing::Version(NewerFormat(9));
        let error = verify_hash(&snapshot, missing).unwrap_err();
        assert_eq!(format!("{error:#}"), "reading s3://bucket/a.tar.gz.age: connection reset by peer");
    }
}
