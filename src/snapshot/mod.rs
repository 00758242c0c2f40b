//! The snapshot walk: look, save while packing while reading back, verify, publish, report.
//!
//! Nothing stands under a final name before it is whole, verified and durable. Never touches etcd's own files; knows
//! nothing of Juju.

mod flow;

use crate::archive::Effort;
use crate::archive::age::Recipient;
use crate::archive::manifest::Manifest;
use crate::archive::name::archive_name;
use crate::error::Refusal;
use crate::etcd::client::Client;
use crate::etcd::member::Member;
use crate::etcd::sandbox::BootedCopy;
use crate::etcd::tools::Tools;
use crate::inventory::sidecar::{Sidecar, encrypted_name, sidecar_name};
use crate::progress::{Progress, Sink};
use crate::store::trusted_path::TrustedPath;
use crate::store::work_dir::{Companion, WorkDir};
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, bail, ensure};
use flow::{ARCHIVE, Flow, Packed};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The directory to put the archive in.
    pub target: PathBuf,
    /// How hard to compress.
    pub effort: Effort,
    /// Who the archive belongs to.
    pub owner: Owner,
    /// Whom the archive is encrypted for; nobody leaves it in clear.
    pub encrypt_to: Vec<Recipient>,
    /// The Juju unit this runs on, if any.
    pub unit: Option<String>,
    /// Whether a restore is about to replace what is saved.
    pub before_restore: bool,
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
    /// Who can open it, where it is encrypted.
    pub encrypted_for: Vec<String>,
    /// The alarms of the member, as it words them. They are in the snapshot too.
    pub alarms: Vec<String>,
}

/// What a snapshot is taken of.
pub enum Source<'a> {
    /// A member that serves.
    Serving(&'a Client),
    /// A booted copy of the data of a member that is stopped.
    Stopped(&'a BootedCopy),
}

/// Takes a snapshot of `source` and publishes it as an archive.
pub fn take(source: &Source<'_>, tools: &Tools, request: &Request, tell: Sink<'_>) -> Result<Report> {
    tell(Progress::Step("looking at etcd and at the target"));
    let looked = match source {
        Source::Serving(client) => look(client)?,
        Source::Stopped(booted) => look_at_copy(booted)?,
    };
    let approach = TrustedPath::open(&request.target, request.owner)?;
    approach.check_space(room_for(looked.db_size, looked.db_in_use), "the snapshot")?;
    let target = approach.create()?;
    let stage = WorkDir::create(&target)?;

    let flow = Flow { source, tools, stage: &stage, looked: &looked, request };
    let (packed, manifest) = flow.run(tell)?;
    interrupt::check()?;
    let recipients: Vec<String> = request.encrypt_to.iter().map(ToString::to_string).collect();
    let sidecar = (!recipients.is_empty())
        .then(|| Sidecar::new(packed.size, packed.sha256.clone(), recipients.clone(), manifest.clone()));
    let path = publish(&target, &stage, sidecar.as_ref(), request)?;
    Ok(Report { path, packed, manifest, encrypted_for: recipients, alarms: looked.alarms })
}

/// The member as it is before the snapshot.
struct Looked {
    cluster_id: u64,
    version: String,
    /// Bytes of its database.
    db_size: u64,
    /// Bytes of it that are in use.
    db_in_use: u64,
    alarms: Vec<String>,
    member: Member,
    count: usize,
}

fn look(client: &Client) -> Result<Looked> {
    // Each question costs a start of etcdctl; this one needs no answer to the others.
    let (status, members) = std::thread::scope(|scope| {
        let members = spawn_scoped(scope, "members", || client.members());
        (client.status(), members.and_then(join))
    });
    let status = status?;
    ensure!(status.has_leader, "etcd answers and has no leader: {}", status.errors.join("; "));
    if status.is_learner {
        return Err(Refusal::new(
            "this member is a learner, whose data may lag behind the cluster's",
            "run snapshot on a voting member",
        )
        .into());
    }
    client.linearizable_read().context("checking that etcd is healthy")?;
    let members = members?;
    let count = members.len();
    let own = members.into_iter().find(|member| member.id == status.member_id);
    let member = own.context("etcd does not list the member that answers")?;
    Ok(Looked {
        cluster_id: status.cluster_id,
        version: status.version,
        db_size: status.db_size,
        db_in_use: status.db_in_use,
        alarms: status.errors,
        member,
        count,
    })
}

fn look_at_copy(booted: &BootedCopy) -> Result<Looked> {
    let [member] = &*booted.members else {
        bail!("the stopped data is of a cluster of {} members", booted.members.len());
    };
    let size = booted.backend()?.size();
    Ok(Looked {
        cluster_id: booted.cluster_id,
        version: booted.version.clone(),
        db_size: size,
        db_in_use: size,
        // They are in the snapshot and show when it is restored.
        alarms: Vec::new(),
        member: member.clone(),
        count: 1,
    })
}

/// What a snapshot of a database of `db` bytes, `used` of them in use, needs: the database with a tenth to grow while it is
/// saved, and an archive of half of what is in use: Kubernetes objects shrink to a fifth. Data that shrinks less may still run out of room; then the walk ends with nothing published.
pub fn room_for(db: u64, used: u64) -> u64 {
    db.saturating_add(db / 10).saturating_add(used / 2).saturating_add(1 << 20)
}

/// Gives the archive the first name of its second that is free.
fn publish(
    target: &Dir,
    stage: &WorkDir<'_>,
    sidecar: Option<&Sidecar>,
    request: &Request,
) -> Result<PathBuf> {
    let sidecar = sidecar.map(Sidecar::to_json).transpose()?;
    for nth in 1..=1000 {
        let plain = archive_name(request.now, nth);
        let name = if sidecar.is_some() { encrypted_name(&plain) } else { plain };
        let sidecar_name = sidecar_name(&name);
        let companion = sidecar.as_deref().map(|bytes| Companion { name: &sidecar_name, bytes });
        if stage.publish(ARCHIVE, &name, companion, request.owner)?.is_none() {
            return Ok(target.path().join(name));
        }
    }
    bail!("a thousand archives of this second are in {} already", Path::display(target.path()))
}
