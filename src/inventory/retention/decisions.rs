//! Decides about retention separately for each repository in a listing.

use super::super::entry::Entry;
use super::super::listing::{Listing, StoredSnapshot};
use super::super::repository::Repository;
use super::policy::{Decision, Policy, Scope, decide, reasons_to_keep};
use crate::store::Deletion;
use crate::system::interrupt;
use anyhow::Result;
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

impl RetentionDecision<'_> {
    /// Deletes the archive if that was decided. Returns `None` if it is kept.
    ///
    /// # Errors
    /// Fails if the archive could not be deleted, or on an interrupt before that.
    pub fn apply(&self) -> Result<Option<Deletion>> {
        match self.decision {
            Decision::Delete(_) => {
                interrupt::check()?;
                self.snapshot.repository.delete(&self.snapshot.entry).map(Some)
            }
            Decision::Keep(_) => Ok(None),
        }
    }
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
