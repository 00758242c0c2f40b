//! The snapshot walk: look, save, verify, pack, verify again, publish, report.
//!
//! Nothing stands under a final name before it is whole, verified and durable. Never touches etcd's own files; knows
//! nothing of Juju.

use crate::archive::{self, Packed};
use crate::catalog::manifest::{FORMAT, Manifest};
use crate::catalog::name::archive_name;
use crate::etcd::backend::Backend;
use crate::etcd::client::{Client, Status};
use crate::etcd::member::Member;
use crate::etcd::offline;
use crate::etcd::seal::{Seal, SealCheck, Sealed};
use crate::etcd::tools::Tools;
use crate::progress::{Progress, Tell};
use crate::stop::Refusal;
use crate::store::directory::Approach;
use crate::store::stage::Stage;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory to put the archive in.
    pub target: PathBuf,
    /// Who the archive belongs to.
    pub owner: Owner,
    /// The Juju unit this runs on, if any.
    pub unit: Option<String>,
    /// The time, for the name and the manifest.
    pub now: Timestamp,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where the archive is.
    pub path: PathBuf,
    /// Its size and hash.
    pub packed: Packed,
    /// What is in it.
    pub manifest: Manifest,
    /// The alarms of the member, as it words them. They are in the snapshot too.
    pub alarms: Vec<String>,
}

/// Takes a snapshot of the member behind `client` and publishes it as an archive.
pub fn take(client: &Client, tools: &Tools, request: &Request, tell: Tell<'_>) -> Result<Report> {
    tell(Progress::Step("looking at etcd and at the target"));
    let member = look(client)?;
    let approach = Approach::to(&request.target, request.owner)?;
    approach.need(room_for(&member.status), "the snapshot")?;
    let target = approach.make()?;
    let stage = Stage::make(&target)?;

    tell(Progress::Step("saving the snapshot"));
    client.save(stage.dir(), archive::DB, member.status.db_size, tell)?;

    tell(Progress::Step("verifying the snapshot"));
    let manifest = verify(client, tools, &stage, &member, request)?;

    tell(Progress::Step("packing the archive"));
    let packed = pack(&stage, &manifest, request.owner, tell)?;

    tell(Progress::Step("reading the archive back"));
    read_back(&stage, &packed, &manifest, tell)?;
    interrupt::check()?;
    let path = publish(&target, &stage, request.now)?;
    Ok(Report { path, packed, manifest, alarms: member.status.errors })
}

const ARCHIVE: &str = "archive";

/// The member as it is before the snapshot.
struct Looked {
    status: Status,
    member: Member,
    count: usize,
}

fn look(client: &Client) -> Result<Looked> {
    let status = client.status()?;
    ensure!(status.has_leader, "etcd answers and has no leader: {}", status.errors.join("; "));
    if status.is_learner {
        return Err(Refusal::new(
            "this member is a learner, whose data may lag behind the cluster's",
            "run snapshot on a voting member",
        )
        .into());
    }
    // A read that goes through the leader: what `endpoint health` does.
    client.keys(0).context("checking that etcd is healthy")?;
    let members = client.members()?;
    let count = members.len();
    let own = members.into_iter().find(|member| member.id == status.member_id);
    let member = own.context("etcd does not list the member that answers")?;
    Ok(Looked { status, member, count })
}

/// The database with a tenth to grow while it is saved, and an archive of half of what is in use: Kubernetes objects
/// shrink to a fifth. Data that shrinks less may still run out of room; then the walk ends with nothing published.
fn room_for(status: &Status) -> u64 {
    let (db, used) = (status.db_size, status.db_in_use);
    db.saturating_add(db / 10).saturating_add(used / 2).saturating_add(1 << 20)
}

fn verify(
    client: &Client,
    tools: &Tools,
    stage: &Stage<'_>,
    looked: &Looked,
    request: &Request,
) -> Result<Manifest> {
    let sealed = seal_of(stage.dir().read(archive::DB)?)?;
    match sealed.seal {
        Seal::Sound => {}
        Seal::Absent => bail!("etcdctl saved {} bytes without the hash that ends a snapshot", sealed.size),
        Seal::Broken => bail!("the snapshot of {} bytes does not match the hash that ends it", sealed.size),
    }
    let structure = offline::structure(tools, stage.dir(), archive::DB)?;
    let revision = Backend::open(&stage.dir().handle(archive::DB))?.revision()?;
    Ok(Manifest {
        format: FORMAT,
        // The second that the archive's name has.
        taken: Timestamp::from_second(request.now.as_second())?.to_string(),
        unit: request.unit.clone(),
        etcd_version: looked.status.version.clone(),
        cluster_id: format!("{:x}", looked.status.cluster_id),
        member_id: format!("{:x}", looked.status.member_id),
        member_name: looked.member.name.clone(),
        member_count: looked.count,
        revision,
        // Both fail where etcd compacted that revision meanwhile; the snapshot is no worse for it.
        keys: client.keys(revision).ok(),
        total_keys: structure.total_key,
        db_size: sealed.size,
        db_sha256: sealed.sha256,
        content_hash: client.content_hash(revision).ok(),
    })
}

/// The seal of the file, read once.
pub fn seal_of(mut file: File) -> Result<Sealed> {
    let mut check = SealCheck::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        interrupt::check()?;
        let length = file.read(&mut buffer).context("reading the snapshot")?;
        if length == 0 {
            return Ok(check.finish());
        }
        check.update(buffer.get(..length).unwrap_or_default());
    }
}

fn pack(stage: &Stage<'_>, manifest: &Manifest, owner: Owner, tell: Tell<'_>) -> Result<Packed> {
    let mut db = stage.dir().read(archive::DB)?;
    db.rewind()?;
    let out = stage.dir().create(ARCHIVE)?;
    owner.own(&out).context("giving the archive to its owner")?;
    archive::pack(manifest, &db, out, tell)
}

fn read_back(stage: &Stage<'_>, packed: &Packed, manifest: &Manifest, tell: Tell<'_>) -> Result<()> {
    let contents = archive::verify(stage.dir().read(ARCHIVE)?, "the archive just written", tell)
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .context("reading the archive back")?;
    ensure!(
        contents.sha256 == packed.sha256
            && contents.db.sha256 == manifest.db_sha256
            && contents.manifest.as_ref() == Some(manifest),
        "the archive reads back other than it was written"
    );
    Ok(())
}

fn publish(target: &Dir, stage: &Stage<'_>, now: Timestamp) -> Result<PathBuf> {
    for nth in 1..=1000 {
        let name = archive_name(now, nth);
        if target.adopt(stage.dir(), ARCHIVE, &name).context("publishing the archive")? {
            return Ok(target.path().join(name));
        }
    }
    bail!("a thousand archives of this second are in {} already", Path::display(target.path()))
}
