//! The facts of a restore: the existing data and the etcd that serves it, the programs, and the free disk space.
//!
//! Must never decide anything from them: see `decide`.

use super::existing::ExistingData;
use super::stage::{Stage, StoppedData, Unreadable};
use super::versions::Versions;
use crate::etcd::client::{Client, Status};
use crate::etcd::service::Service;
use crate::etcd::site::{InitialMember, Quota, Site};
use crate::etcd::v2_store::V2Keys;
use crate::etcd::wal::{self, WalOwner};
use crate::exchange::{DataDir, Lineage, MEMBER};
use crate::snapshot::required_space;
use crate::system::interrupt;
use anyhow::{Result, ensure};

/// The facts that restore gathers before it decides.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The path of the data directory, for messages.
    pub data_dir: String,
    /// etcdctl with the options that reach this member, as typed.
    pub etcdctl: String,
    /// The command that stops etcd, as typed.
    pub stop_command: String,
    /// The command that starts etcd, as typed.
    pub start_command: String,
    /// Whether kube-apiserver is stopped and started together with etcd.
    pub stops_api_server: bool,
    /// The identity that etcd's configuration gives to a member without data, if there is no data. `None` if it is unknown.
    pub initial: Option<InitialMember>,
    /// The active units that systemd stops together with etcd, if an operator may have to stop it.
    pub dependents: Vec<String>,
    /// The inode number of the live `member` directory, if there is one.
    pub member_inode: Option<u64>,
    /// The live data.
    pub existing: ExistingData,
    /// The clusters that the live data is, was, and was restored from.
    pub lineage: Lineage,
    /// The number of keys in it, or the reason why they could not be counted.
    pub keys: Result<u64, String>,
    /// The versions of the programs and the data.
    pub versions: Versions,
    /// The keys of the v2 API in it.
    pub v2_keys: V2Keys,
    /// The size of the database at which etcd refuses writes, if it is known.
    pub quota: Option<Quota>,
    /// Free bytes in the file system of the data directory.
    pub free: u64,
    /// Bytes of the live database.
    pub database_size: u64,
    /// Bytes that a backup of it needs.
    pub backup_space: u64,
}

impl Facts {
    /// Gathers all facts. If etcd is stopped, its data is copied into `stage` and booted there.
    ///
    /// # Errors
    /// A fact could not be determined, or a signal asked to stop.
    pub fn gather(site: &Site, data: &DataDir, versions: Versions, stage: &mut Stage<'_>) -> Result<Self> {
        let mut lineage = Lineage::read(data.dir().path());
        let observed = observe(site, data, stage, &mut lineage)?;
        // A query that a signal cut short must not count as an answer.
        interrupt::check()?;
        let Observed { existing, keys, size, size_in_use } = observed;
        Ok(Self {
            data_dir: site.data_dir.display().to_string(),
            etcdctl: Client::new(site).typed(),
            stop_command: site.service.stop_command(),
            start_command: site.service.start_command(),
            stops_api_server: matches!(*site.service, Service::StaticPod { .. }),
            initial: matches!(existing, ExistingData::Empty).then(|| site.initial_member()).flatten(),
            dependents: dependents(site, &existing),
            member_inode: member_inode(data)?,
            v2_keys: v2_keys(site, &existing),
            quota: site.quota(),
            existing,
            lineage,
            keys,
            versions,
            free: data.dir().free_bytes()?,
            database_size: size,
            backup_space: required_space(size, size_in_use),
        })
    }

    /// Checks that etcd and its data are unchanged: minutes may have passed, and etcd is about to be stopped.
    ///
    /// # Errors
    /// Something has changed, or etcd did not answer.
    pub fn check_unchanged(&self, site: &Site, data: &DataDir) -> Result<()> {
        ensure!(
            member_inode(data)? == self.member_inode,
            "the member directory in {} was replaced while the restore was prepared",
            self.data_dir
        );
        let ExistingData::Served { status, .. } = &self.existing else {
            ensure!(!data.is_in_use()?, "etcd has been started while the restore was prepared");
            return Ok(());
        };
        let client = Client::new(site);
        let now = client.status()?;
        let members = client.members()?.len();
        ensure!(
            data.is_in_use()? && now.cluster_id == status.cluster_id && members == 1,
            "etcd serves cluster {:x} of {members} members now, but served {:x} of one when the restore began",
            now.cluster_id,
            status.cluster_id
        );
        Ok(())
    }
}

fn v2_keys(site: &Site, existing: &ExistingData) -> V2Keys {
    match existing {
        ExistingData::Served { status, .. } => V2Keys::read_for_version(site, &status.version),
        ExistingData::Stopped { .. } => V2Keys::read_site(site),
        // The directory is empty, or restore will refuse to replace the data.
        ExistingData::Empty
        | ExistingData::NotAnswering(_)
        | ExistingData::Damaged(_)
        | ExistingData::NotReadable(_)
        | ExistingData::WithoutLog
        | ExistingData::OfAnotherEtcd { .. } => V2Keys::None,
    }
}

/// Returns the active units that systemd stops together with etcd. If restore itself stops etcd, it starts them again.
fn dependents(site: &Site, existing: &ExistingData) -> Vec<String> {
    match existing {
        ExistingData::Served { .. } | ExistingData::Stopped { .. } => Vec::new(),
        _ => site.service.state().dependents,
    }
}

fn member_inode(data: &DataDir) -> Result<Option<u64>> {
    Ok(data.dir().inode(MEMBER)?.map(|inode| inode.number))
}

fn has_log(data: &DataDir) -> Result<bool> {
    let member = data.dir().child(MEMBER)?;
    if member.inode("wal")?.is_none() {
        return Ok(false);
    }
    Ok(member.child("wal")?.names()?.iter().any(|name| name.ends_with(".wal")))
}

/// Returns whether the log in the data directory belongs to another member than the one that reports `status`. A log that
/// cannot be read does not show that.
fn is_of_another(data: &DataDir, status: &Status) -> bool {
    let log = data.dir().child(MEMBER).and_then(|member| member.child("wal"));
    let owner = log.ok().and_then(|log| wal::owner(&log).ok());
    let answering = WalOwner { member_id: status.member_id, cluster_id: status.cluster_id };
    owner.is_some_and(|owner| owner != answering)
}

/// The observed state of the live data.
struct Observed {
    existing: ExistingData,
    keys: Result<u64, String>,
    /// Size of its database in bytes. If etcd does not report it, the size of the file, which grows in large steps.
    size: u64,
    /// Bytes of it that are in use.
    size_in_use: u64,
}

/// Observes the live data. The cluster that it belongs to is added to `lineage`.
fn observe(site: &Site, data: &DataDir, stage: &mut Stage<'_>, lineage: &mut Lineage) -> Result<Observed> {
    let client = Client::new(site);
    let answer = client.status().and_then(|status| Ok((status, client.members()?)));
    let is_in_use = data.is_in_use()?;
    let has_member = data.dir().inode(MEMBER)?.is_some();
    let observed = |existing| {
        let size = data.database_size();
        Observed { existing, keys: Ok(0), size, size_in_use: size }
    };
    Ok(match answer {
        Ok(_) if !is_in_use => observed(ExistingData::OfAnotherEtcd { is_open: false }),
        _ if has_member && !has_log(data)? => observed(ExistingData::WithoutLog),
        Ok((status, _)) if is_of_another(data, &status) => {
            observed(ExistingData::OfAnotherEtcd { is_open: true })
        }
        Ok((status, members)) => {
            lineage.add_own(status.cluster_id);
            Observed {
                // With a CORRUPT alarm, etcd no longer counts keys, but may still have to be restored.
                keys: client.count_keys(0).map_err(|error| format!("{error:#}")),
                size: status.db_size,
                size_in_use: status.db_in_use,
                existing: ExistingData::Served { status, members },
            }
        }
        Err(error) if is_in_use => observed(ExistingData::NotAnswering(format!("{error:#}"))),
        Err(_) if !has_member => observed(ExistingData::Empty),
        Err(_) => observe_stopped(stage, lineage, observed)?,
    })
}

/// Observes the data of a stopped etcd on a booted copy. `observed` fills in the rest.
fn observe_stopped(
    stage: &mut Stage<'_>,
    lineage: &mut Lineage,
    observed: impl Fn(ExistingData) -> Observed,
) -> Result<Observed> {
    let stopped = match stage.boot_stopped()? {
        Ok(stopped) => stopped,
        Err(Unreadable::Damaged(error)) => {
            return Ok(observed(ExistingData::Damaged(format!("{error:#}"))));
        }
        Err(Unreadable::Failed(error)) => {
            return Ok(observed(ExistingData::NotReadable(format!("{error:#}"))));
        }
    };
    let members = stopped.members;
    let Some(StoppedData { cluster_id, revision, keys, size }) = stopped.data else {
        return Ok(observed(ExistingData::Stopped { revision: 0, members }));
    };
    lineage.add_own(cluster_id);
    Ok(Observed { existing: ExistingData::Stopped { revision, members }, keys, size, size_in_use: size })
}
