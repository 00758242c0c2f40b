//! Observes the member before a snapshot is taken of it, and refuses a member with data that may lag.
//!
//! Must never change the member.

use super::request::Source;
use crate::error::{Refusal, Subcommand};
use crate::etcd::client::Client;
use crate::etcd::member::Member;
use crate::etcd::sandbox::BootedCopy;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, bail, ensure};

/// The state of the member before the snapshot.
pub(super) struct Observed {
    pub cluster_id: u64,
    pub version: String,
    /// Size of its database in bytes.
    pub db_size: u64,
    /// Number of bytes in use.
    pub db_in_use: u64,
    /// Its alarms, as etcd reports them.
    pub alarms: Vec<String>,
    pub member: Member,
    /// The number of members of its cluster.
    pub member_count: usize,
}

/// Observes the member that a snapshot is taken of.
pub(super) fn observe(source: &Source<'_>) -> Result<Observed> {
    match source {
        Source::Serving(client) => observe_serving(client),
        Source::Stopped(booted) => observe_copy(booted),
    }
}

fn observe_serving(client: &Client) -> Result<Observed> {
    // Each query starts an etcdctl. This one does not depend on the answers to the others.
    let (status, members) = std::thread::scope(|scope| {
        let members = spawn_scoped(scope, "members", || client.members());
        (client.status(), members.and_then(join))
    });
    let status = status?;
    ensure!(status.has_leader, "etcd answers but has no leader: {}", status.errors.join("; "));
    if status.is_learner {
        return Err(Refusal::new(
            "this member is a learner, so its data may be older than the cluster's",
            format!("run {} on a voting member", Subcommand::new("snapshot")),
        )
        .into());
    }
    client.linearizable_read().context("checking that etcd is healthy")?;
    let members = members?;
    let member_count = members.len();
    let own = members.into_iter().find(|member| member.id == status.member_id);
    let member = own.context("etcd does not list the member that answers")?;
    Ok(Observed {
        cluster_id: status.cluster_id,
        version: status.version,
        db_size: status.db_size,
        db_in_use: status.db_in_use,
        alarms: status.errors,
        member,
        member_count,
    })
}

fn observe_copy(booted: &BootedCopy) -> Result<Observed> {
    let [member] = &*booted.members else {
        bail!("the stopped data is of a cluster of {} members", booted.members.len());
    };
    let size = booted.backend()?.size();
    Ok(Observed {
        cluster_id: booted.cluster_id,
        version: booted.version.clone(),
        db_size: size,
        db_in_use: size,
        // The snapshot contains them, and a restore reports them.
        alarms: Vec::new(),
        member: member.clone(),
        member_count: 1,
    })
}
