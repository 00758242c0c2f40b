//! The command `show`: describes the contents of an archive.

use super::usage::{KeyUsage, UsageCounter};
use super::{ArchiveFacts, ArchiveName, OpenDatabase, with_archive};
use crate::commands::Call;
use crate::commands::archive::Contents;
use crate::error::ActionError;
use crate::etcd::backend::KeyScope;
use crate::etcd::key_text::printable;
use crate::system::interrupt;
use anyhow::Result;
use serde::Serialize;

pub use super::usage::{NamespaceUsage, PrefixUsage, Usage};

/// A request to describe an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive.
    pub archive: ArchiveName,
}

/// The description of an archive.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archive, if it could be read.
    pub archive: Option<Description>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The contents of an archive.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Description {
    /// The path or URL of the archive.
    pub location: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// When etcd's data was saved, in RFC 3339, by the manifest. etcd stores no times, so this is also the only limit
    /// that is known for the time of the newest change.
    pub created: Option<String>,
    /// The facts in the manifest. Archives of other tools have no manifest.
    pub manifest: Option<Contents>,
    /// The last revision.
    pub revision: i64,
    /// The revision of the last compaction. The archive has no state from before it.
    pub compacted_revision: Option<i64>,
    /// The size of the database in bytes, its free pages included.
    pub database_bytes: u64,
    /// The number of records in the database, history included.
    pub records: u64,
    /// The version of the storage format, which etcd 3.6 and newer store.
    pub storage_version: Option<String>,
    /// The version of the cluster.
    pub cluster_version: Option<String>,
    /// The members in the database.
    pub members: Vec<Member>,
    /// Whether clients must log in.
    pub auth_enabled: bool,
    /// The users.
    pub users: Vec<User>,
    /// The names of the roles.
    pub roles: Vec<String>,
    /// The leases.
    pub leases: Leases,
    /// The alarms.
    pub alarms: Vec<Alarm>,
    /// The keys at the last revision.
    pub keys: KeyUsage,
}

/// A member of the cluster. In data of etcd 3.4 and 3.5 the name and the client URLs may be missing, and there may be
/// members of earlier clusters.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Member {
    /// Its id in hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The URLs for its peers.
    pub peer_urls: Vec<String>,
    /// The URLs for clients.
    pub client_urls: Vec<String>,
    /// Whether it is a learner.
    pub is_learner: bool,
}

/// A user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct User {
    /// The name.
    pub name: String,
    /// The names of its roles.
    pub roles: Vec<String>,
}

/// The leases.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Leases {
    /// The number of leases.
    pub count: u64,
    /// The shortest time to live in seconds.
    pub shortest_ttl_seconds: Option<i64>,
    /// The longest time to live in seconds.
    pub longest_ttl_seconds: Option<i64>,
}

/// An alarm.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Alarm {
    /// Its name, such as `NOSPACE`.
    pub name: String,
    /// The id of the member in hexadecimal digits.
    pub member: String,
}

/// Describes an archive.
///
/// # Errors
/// Refuses an archive that cannot be read.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    *outcome = with_archive(call, &request.archive, |open| {
        Ok(Outcome {
            archive: open.archive.as_ref().map(|archive| describe(open, archive)).transpose()?,
            warnings: open.warnings(),
        })
    })?;
    Ok(())
}

fn describe(open: &OpenDatabase<'_>, archive: &ArchiveFacts) -> Result<Description> {
    let (backend, ArchiveFacts { size, contents }) = (&open.backend, archive);
    let versions = backend.versions()?;
    let leases = backend.leases()?;
    Ok(Description {
        location: open.location.clone(),
        size_bytes: *size,
        sha256: contents.sha256.clone(),
        created: contents.manifest.as_ref().map(|manifest| manifest.taken.clone()),
        manifest: contents.manifest.as_ref().map(Contents::of),
        revision: backend.revision()?,
        compacted_revision: open.compacted_revision()?,
        database_bytes: backend.size(),
        records: backend.record_count(&interrupt::check)?,
        storage_version: versions.storage.map(|version| version.to_string()),
        cluster_version: versions.cluster.map(|version| version.to_string()),
        members: members(open)?,
        auth_enabled: backend.auth_enabled()?,
        users: users(open)?,
        roles: backend.roles()?.iter().map(|name| printable(name)).collect(),
        leases: Leases {
            count: leases.count,
            shortest_ttl_seconds: leases.ttl_seconds.map(|(shortest, _)| shortest),
            longest_ttl_seconds: leases.ttl_seconds.map(|(_, longest)| longest),
        },
        alarms: alarms(open)?,
        keys: usage(open)?,
    })
}

fn members(open: &OpenDatabase<'_>) -> Result<Vec<Member>> {
    let members = open.backend.members()?.into_iter().map(|member| Member {
        id: format!("{:x}", member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    });
    Ok(members.collect())
}

fn users(open: &OpenDatabase<'_>) -> Result<Vec<User>> {
    let users = open.backend.users()?.into_iter().map(|user| User {
        name: printable(&user.name),
        roles: user.roles.iter().map(|role| printable(role)).collect(),
    });
    Ok(users.collect())
}

fn alarms(open: &OpenDatabase<'_>) -> Result<Vec<Alarm>> {
    let alarms = open.backend.alarms()?.into_iter();
    Ok(alarms.map(|alarm| Alarm { name: alarm.name, member: format!("{:x}", alarm.member) }).collect())
}

fn usage(open: &OpenDatabase<'_>) -> Result<KeyUsage> {
    let scope = KeyScope { prefix: b"", revision: i64::MAX, digests: false };
    let keys = open.backend.live_keys(scope, open.stage.dir(), &interrupt::check)?;
    let (mut all, mut counter) = (keys.iter()?, UsageCounter::default());
    while let Some(version) = all.next()? {
        counter.add(version);
    }
    Ok(counter.finish())
}
