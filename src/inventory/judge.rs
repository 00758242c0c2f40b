//! What retention says of the archives of all places, each place by itself.

use super::{Found, Look, Place};
use crate::catalog::entry::Entry;
use crate::catalog::retention::{Policy, Scope, Verdict, judge, kept_because};
use crate::store::Removed;
use crate::system::interrupt;
use anyhow::Result;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::rc::Rc;

/// An archive and the verdict on it.
#[derive(Debug)]
pub struct Judged<'a> {
    /// The archive.
    pub found: &'a Found,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Judged<'_> {
    /// Deletes what is to go; `None` if nothing is.
    pub fn carry_out(&self) -> Result<Option<Removed>> {
        match self.verdict {
            Verdict::Deleted(_) => {
                interrupt::check()?;
                self.found.place.store.delete(&self.found.entry).map(Some)
            }
            Verdict::Kept(_) => Ok(None),
        }
    }
}

impl Look {
    /// The verdict on each archive, in their order; of each place by what `policy` gives for it.
    pub fn judged(
        &self,
        policy: &dyn Fn(&Place) -> Policy,
        scope: &Scope,
        now: Timestamp,
    ) -> Vec<Judged<'_>> {
        let verdicts = self.of_each_place(&|place, entries| judge(entries, &policy(place), scope, now));
        self.found.iter().zip(verdicts).map(|(found, verdict)| Judged { found, verdict }).collect()
    }

    /// Why each archive is kept, in their order, by the policy of its place; whoever's it is. `own` are the ids that count as
    /// one, as they do when it is pruned.
    pub fn kept_because(&self, own: &BTreeSet<String>, now: Timestamp) -> Vec<Vec<String>> {
        let scope = Scope { clusters: own.clone(), ..Scope::all() };
        self.of_each_place(&|place, entries| kept_because(entries, &place.keep, &scope, now))
    }

    /// What `of` gives for the archives of each place, in the order of all.
    fn of_each_place<T>(&self, of: &dyn Fn(&Place, &[&Entry]) -> Vec<T>) -> Vec<T> {
        let mut all: Vec<(usize, T)> = Vec::new();
        for place in &self.places {
            let there = self.found.iter().enumerate().filter(|(_, found)| Rc::ptr_eq(&found.place, place));
            let (numbers, entries): (Vec<usize>, Vec<&Entry>) =
                there.map(|(number, found)| (number, &found.entry)).unzip();
            all.extend(numbers.into_iter().zip(of(place, &entries)));
        }
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, one)| one).collect()
    }
}
