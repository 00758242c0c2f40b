//! Decides which endpoints and credentials clients get. Pure.
//!
//! Each change restarts clients such as the Kubernetes API server, so data that is still good stays. Must never name an
//! address that is not a voter's, and never return less than there was.

use super::databag::{ClientAccess, ClientCredentials, UnitData};
use super::facts::ClusterFacts;
use crate::etcd::certificates::{Issuer, Validity};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The facts on this unit that the leader decides by.
#[derive(Debug)]
pub struct LeaderView<'a> {
    /// The data that this unit publishes now.
    pub own: &'a UnitData,
    /// The id of the application's cluster.
    pub cluster: Option<&'a str>,
    /// The version of this unit's etcd, if it answers.
    pub version: Option<&'a str>,
    /// The files for clients on this unit, if there are any.
    pub files: Option<ClientCredentials>,
    /// Whether units that are still joining have had time enough.
    pub is_settled: bool,
}

/// Returns the data for clients. `None` until there is a voter that clients can reach.
pub fn client_access(facts: &ClusterFacts, view: LeaderView<'_>, now: Timestamp) -> Option<ClientAccess> {
    let before = facts.application.access.as_ref();
    let endpoints = endpoints(facts, &view)?;
    let version = view.version.or(before.map(|before| before.version.as_str()))?.to_owned();
    let published = before.map(|before| before.credentials.clone());
    let credentials = match (published, view.files) {
        (Some(published), Some(files)) if stays(&published, &files, now) => published,
        (published, files) => files.or(published)?,
    };
    Some(ClientAccess { endpoints, version, credentials })
}

/// Returns the URLs of the voters whose units stay. The list stays as it is while other units join, so that growth from one
/// unit to three is one change.
fn endpoints(facts: &ClusterFacts, view: &LeaderView<'_>) -> Option<String> {
    let before = facts.application.access.as_ref().map(|access| access.endpoints.as_str());
    let now: BTreeSet<&str> = facts.units.keys().filter_map(|unit| url(facts, view, unit)).collect();
    let is_joining = |unit: &String| url(facts, view, unit).is_none();
    let waits = !view.is_settled && facts.units_at_work().any(is_joining);
    let has_left = before.is_some_and(|before| before.split(',').any(|url| !now.contains(url)));
    if now.is_empty() || (before.is_some() && waits && !has_left) {
        return before.map(str::to_owned);
    }
    Some(now.into_iter().collect::<Vec<_>>().join(","))
}

/// Returns the URL of a unit for clients, if it stays and its member is a voter of the application's cluster.
fn url<'a>(facts: &'a ClusterFacts, view: &'a LeaderView<'_>, unit: &str) -> Option<&'a str> {
    if facts.units.get(unit)?.is_dying() {
        return None;
    }
    let published = if unit == facts.unit { Some(view.own) } else { facts.others.get(unit) }?;
    let is_of_cluster = view.cluster.is_some() && published.cluster.as_deref() == view.cluster;
    let is_voter = facts.members.as_ref().is_none_or(|members| {
        let voters = members.iter().filter(|member| !member.is_learner && member.has_started());
        voters.map(|voter| format!("{:x}", voter.id)).any(|id| Some(id) == published.member)
    });
    published.client.as_deref().filter(|_| is_of_cluster && is_voter)
}

/// Whether the published credentials stay although this unit has others: each unit may have a pair of its own, and the leader
/// may change.
fn stays(published: &ClientCredentials, files: &ClientCredentials, now: Timestamp) -> bool {
    let issuer = |one: &ClientCredentials| Issuer::parse(one.cert.as_bytes()).ok();
    let is_fresh = Validity::parse(published.cert.as_bytes())
        .is_ok_and(|validity| validity.not_before <= now && now < validity.renewal_time());
    published.ca == files.ca && is_fresh && issuer(published) == issuer(files)
}

#[cfg(test)]
mod tests;
