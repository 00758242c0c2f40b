//! What there is before a restore: the old data and who serves it, the tools, the room. Looks and never decides.

use super::Request;
use super::decide::{Backup, backup};
use super::stage::{Stage, Stopped, Unknown};
use super::versions::Versions;
use crate::etcd::client::{Client, Status};
use crate::etcd::member::Member;
use crate::etcd::service::Service;
use crate::etcd::site::{InitialMember, Quota, Site};
use crate::etcd::v2_store::V2Keys;
use crate::exchange::{DataDir, Lineage, MEMBER};
use crate::snapshot::room_for;
use crate::store::trusted_path::TrustedPath;
use anyhow::{Result, ensure};

/// What there is.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The data directory, in words.
    pub data_dir: String,
    /// The command that stops etcd, as typed.
    pub stop_command: String,
    /// The command that starts etcd, as typed.
    pub start_command: String,
    /// Whether stopping and starting etcd does the same to the API server of Kubernetes.
    pub takes_api_server: bool,
    /// Who the member is to be where there is no data, as far as etcd's configuration says.
    pub initial: InitialMember,
    /// The inode number of the live `member` directory, if there is one.
    pub member: Option<u64>,
    /// The data that is live.
    pub old: Old,
    /// The clusters that the live data is, was and came from.
    pub lineage: Lineage,
    /// The keys alive in it, or why they could not be counted.
    pub keys: Result<u64, String>,
    /// The versions of everything that takes part.
    pub versions: Versions,
    /// The keys of the v2 API in it.
    pub v2_keys: V2Keys,
    /// The size of the database at which etcd takes no more writes, if it is known.
    pub quota: Option<Quota>,
    /// Bytes free in the data directory's file system.
    pub free: u64,
    /// Bytes of the live database.
    pub old_size: u64,
    /// Bytes that a backup of it needs.
    pub backup_room: u64,
}

/// The live data, and what is known of it.
#[derive(Debug, Clone)]
pub enum Old {
    /// etcd serves it.
    Serving {
        /// What the member says of itself.
        status: Status,
        /// The members of the cluster.
        members: Vec<Member>,
    },
    /// No etcd runs on it; what a private etcd on a copy of it says.
    Stopped {
        /// The revision that it starts at.
        revision: i64,
        /// The members of the cluster.
        members: Vec<Member>,
    },
    /// The data directory holds no member: nothing to lose.
    Empty,
    /// An etcd has the data open and gives no answer, for this reason.
    Silent(String),
    /// No etcd runs on it, and our own reading of its files found them damaged, for this reason.
    Damaged(String),
    /// No etcd runs on it, and its members could not be learned, for this reason. That is no verdict on the data: the disk, the
    /// program or the machine may be at fault.
    Unknown(String),
    /// There is a member directory without a write-ahead log in it: the log is lost, or elsewhere. An etcd that starts
    /// without its log makes a new cluster of one, and is healthy.
    NoLog,
    /// The endpoint answers, but nothing has this data directory open: they do not belong together.
    Elsewhere,
}

impl Facts {
    /// Looks at everything.
    pub fn gather(site: &Site, data: &DataDir, versions: Versions, stage: &mut Stage<'_>) -> Result<Self> {
        let mut lineage = Lineage::of(data.dir().path());
        let Looked { old, keys, sizes: (size, used) } = look_at_old(site, data, stage, &mut lineage)?;
        Ok(Self {
            data_dir: site.data_dir.display().to_string(),
            stop_command: site.service.stop_command(),
            start_command: site.service.start_command(),
            takes_api_server: matches!(*site.service, Service::StaticPod { .. }),
            initial: site.initial_member.clone(),
            member: member_of(data)?,
            v2_keys: v2_keys(site, &old),
            quota: site.quota(),
            old,
            lineage,
            keys,
            versions,
            free: data.dir().free_bytes()?,
            old_size: size,
            backup_room: room_for(size, used),
        })
    }
}

/// Fails if etcd or its data is not as it was looked at: minutes may have passed, and it is about to be stopped.
pub fn still_hold(facts: &Facts, site: &Site, data: &DataDir) -> Result<()> {
    ensure!(
        member_of(data)? == facts.member,
        "{} holds another member directory than when it was looked at",
        facts.data_dir
    );
    let Old::Serving { status, .. } = &facts.old else {
        ensure!(!data.in_use()?, "etcd has been started meanwhile");
        return Ok(());
    };
    let client = Client::new(site);
    let now = client.status()?;
    let members = client.members()?.len();
    ensure!(
        data.in_use()? && now.cluster_id == status.cluster_id && members == 1,
        "etcd serves cluster {:x} of {members} members now, and served {:x} of one when it was looked at",
        now.cluster_id,
        status.cluster_id
    );
    Ok(())
}

fn v2_keys(site: &Site, old: &Old) -> V2Keys {
    match old {
        Old::Serving { status, .. } => V2Keys::read_for_version(site, &status.version),
        Old::Stopped { .. } => V2Keys::read_site(site),
        // There is no data, or it is not going to be replaced.
        Old::Empty | Old::Silent(_) | Old::Damaged(_) | Old::Unknown(_) | Old::NoLog | Old::Elsewhere => {
            V2Keys::None
        }
    }
}

fn member_of(data: &DataDir) -> Result<Option<u64>> {
    Ok(data.dir().inode(MEMBER)?.map(|inode| inode.number))
}

fn has_log(data: &DataDir) -> Result<bool> {
    let member = data.dir().child(MEMBER)?;
    if member.inode("wal")?.is_none() {
        return Ok(false);
    }
    Ok(member.child("wal")?.names()?.iter().any(|name| name.ends_with(".wal")))
}

/// What was seen of the live data.
struct Looked {
    old: Old,
    keys: Result<u64, String>,
    /// Bytes of its database, and those of them that are in use. Where etcd does not tell, its file does, which grows in large
    /// steps.
    sizes: (u64, u64),
}

/// Looks at the live data; the cluster that it is joins `lineage`.
fn look_at_old(site: &Site, data: &DataDir, stage: &mut Stage<'_>, lineage: &mut Lineage) -> Result<Looked> {
    let client = Client::new(site);
    let answer = client.status().and_then(|status| Ok((status, client.members()?)));
    let in_use = data.in_use()?;
    let mut keys = Ok(0);
    let mut sizes = (data.backend_size(), data.backend_size());
    let old = match answer {
        Ok(_) if !in_use => Old::Elsewhere,
        _ if data.dir().inode(MEMBER)?.is_some() && !has_log(data)? => Old::NoLog,
        Ok((status, members)) => {
            lineage.add(status.cluster_id);
            // With an alarm of corruption, etcd counts nothing any more, and has to be restored all the more.
            keys = client.count_keys(0).map_err(|error| format!("{error:#}"));
            sizes = (status.db_size, status.db_in_use);
            Old::Serving { status, members }
        }
        Err(error) if in_use => Old::Silent(format!("{error:#}")),
        Err(_) if data.dir().inode(MEMBER)?.is_none() => Old::Empty,
        Err(_) => match stage.look_at_stopped()? {
            Ok(Stopped { data: Some(data), members }) => {
                lineage.add(data.cluster_id);
                keys = data.keys;
                sizes = (data.size, data.size);
                Old::Stopped { revision: data.revision, members }
            }
            Ok(Stopped { data: None, members }) => Old::Stopped { revision: 0, members },
            Err(Unknown::Damaged(error)) => Old::Damaged(format!("{error:#}")),
            Err(Unknown::Failed(error)) => Old::Unknown(format!("{error:#}")),
        },
    };
    Ok(Looked { old, keys, sizes })
}

/// The way to the backup's target, checked; `None` where nothing will be saved.
pub fn backup_target(request: &Request, facts: &Facts, data: &DataDir) -> Result<Option<TrustedPath>> {
    match (backup(request, facts), &request.backup) {
        (Backup::None, _) | (_, None) => Ok(None),
        (_, Some(target)) => {
            let approach = TrustedPath::open(target, request.owner)?;
            // The stage takes its own room on the same disk; the snapshot walk asks again for the rest.
            let shared = if approach.shares_disk_with(data.dir())? { facts.old_size } else { 0 };
            approach.check_outside(data.dir())?;
            let needed = facts.backup_room.saturating_add(shared);
            approach.check_space(needed, "saving the existing data")?;
            Ok(Some(approach))
        }
    }
}
