//! Decides about retention separately for each repository in a listing.

use super::super::entry::Entry;
use super::super::listing::{Listing, StoredSnapshot};
use super::super::repository::Repository;
use super::policy::{Decision, Policy, Scope, decide, reasons_to_keep};
use crate::store::{Deletion, Locked};
use anyhow::{Error, Result};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::rc::Rc;

/// An archive and the decision about it.
#[derive(Debug)]
pub struct RetentionDecision<'a> {
    /// The archive.
    pub snapshot: &'a StoredSnapshot,
    /// The decision.
    pub decision: Decision,
}

/// What became of an archive when the decision about it was applied.
#[derive(Debug)]
pub enum Applied {
    /// It was kept, as decided.
    Kept,
    /// It was deleted or hidden.
    Deleted(Deletion),
    /// It was kept by a lock of its store, described in a few words. A later run deletes it.
    Locked(String),
    /// It could not be deleted.
    Failed(Error),
}

impl Applied {
    fn from_deletion(deletion: Result<Deletion>) -> Self {
        match deletion {
            Ok(deletion) => Self::Deleted(deletion),
            Err(error) => match error.downcast_ref::<Locked>() {
                Some(Locked(lock)) => Self::Locked(lock.clone()),
                None => Self::Failed(error),
            },
        }
    }
}

/// Deletes the archives for which that was decided. Returns the result for each decision, in their order.
pub fn apply(decisions: &[RetentionDecision<'_>]) -> Vec<Applied> {
    let mut applied: Vec<Applied> = decisions.iter().map(|_| Applied::Kept).collect();
    let mut rest: Vec<usize> = (0..decisions.len())
        .filter(|index| matches!(decisions[*index].decision, Decision::Delete(_)))
        .collect();
    while let Some(first) = rest.first() {
        let repository = &decisions[*first].snapshot.repository;
        let is_its = |index: &usize| Rc::ptr_eq(&decisions[*index].snapshot.repository, repository);
        let (its, others): (Vec<usize>, Vec<usize>) = rest.iter().copied().partition(is_its);
        let entries: Vec<&Entry> = its.iter().map(|index| &decisions[*index].snapshot.entry).collect();
        for (index, deletion) in its.into_iter().zip(repository.delete_all(&entries)) {
            applied[index] = Applied::from_deletion(deletion);
        }
        rest = others;
    }
    applied
}

impl Listing {
    /// Decides about each archive, in their order, by the policy that `policy` returns for its repository.
    pub fn decide(
        &self,
        policy: &dyn Fn(&Repository) -> Policy,
        scope: &Scope,
        now: Timestamp,
    ) -> Vec<RetentionDecision<'_>> {
        let decisions =
            self.for_each_repository(&|repository, entries| decide(entries, &policy(repository), scope, now));
        let decision = |(snapshot, decision)| RetentionDecision { snapshot, decision };
        self.snapshots.iter().zip(decisions).map(decision).collect()
    }

    /// Returns why each archive is kept, in their order, by the policy of its repository. `own` are the ids of this
    /// machine's cluster, which count as one, as they do for a deletion.
    pub fn reasons_to_keep(&self, own: &BTreeSet<String>, now: Timestamp) -> Vec<Vec<String>> {
        let scope = Scope { clusters: own.clone(), ..Scope::all() };
        self.for_each_repository(&|repository, entries| {
            reasons_to_keep(entries, &repository.keep, &scope, now)
        })
    }

    /// Calls `decide` with the archives of each repository, and returns the results in the order of all archives.
    fn for_each_repository<T>(&self, decide: &dyn Fn(&Repository, &[&Entry]) -> Vec<T>) -> Vec<T> {
        let mut all: Vec<(usize, T)> = Vec::new();
        for repository in &self.repositories {
            let is_its =
                |(_, snapshot): &(usize, &StoredSnapshot)| Rc::ptr_eq(&snapshot.repository, repository);
            let (indices, entries): (Vec<usize>, Vec<&Entry>) = self
                .snapshots
                .iter()
                .enumerate()
                .filter(is_its)
                .map(|(index, snapshot)| (index, &snapshot.entry))
                .unzip();
            all.extend(indices.into_iter().zip(decide(repository, &entries)));
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, result)| result).collect()
    }
}
