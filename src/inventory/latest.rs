//! Which archive `latest` means.
//!
//! Within one cluster that is the archive with the highest revision: etcd counts revisions, and a clock may be wrong. An archive
//! dated in the future is never chosen if there is another. Backups taken by `restore` are never `latest`.

use super::{Found, Look, Wanted};
use crate::catalog::entry::Entry;
use crate::error::Refusal;
use crate::exchange::Lineage;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

impl Look {
    /// Returns the latest good archive in the place that is wanted, whichever cluster it is of.
    ///
    /// # Errors
    /// Refuses if the place has no good archive.
    pub(super) fn latest(&self, wanted: &Wanted, folder: &str) -> Result<&Found, Refusal> {
        let newest = newest(&self.good(wanted, folder), self.now).into_iter().next();
        newest.ok_or_else(|| self.none_good(wanted, folder))
    }

    /// Returns the latest good archive of the cluster that the data is now, which has the id `current`. If there is none, as
    /// just after a restore, returns the latest of the clusters that the data was before, then of those that it came from. If
    /// there is none of these either, or the cluster is unknown, returns the latest of the only cluster in that place.
    ///
    /// # Errors
    /// Refuses if there is no good archive, or if the place holds those of several other clusters.
    pub fn latest_of(
        &self,
        lineage: &Lineage,
        current: Option<&str>,
        wanted: &Wanted,
        folder: &str,
    ) -> Result<&Found, Refusal> {
        self.must_be_read(wanted)?;
        let good = self.good(wanted, folder);
        let of = |is_meant: &dyn Fn(&str) -> bool| {
            let ours = good.iter().copied().filter(|found| found.entry.cluster().is_some_and(is_meant));
            newest(&ours.collect::<Vec<_>>(), self.now).into_iter().next()
        };
        let known = |ids: &BTreeSet<String>| of(&|id| ids.contains(id));
        let present = of(&|id| current == Some(id)).filter(|found| !found.entry.is_dated_after(self.now));
        let own = present.or_else(|| known(&lineage.own));
        if let Some(found) = own.or_else(|| known(&lineage.origins)) {
            return Ok(found);
        }
        match newest(&good, self.now).as_slice() {
            [found] => Ok(*found),
            [] => Err(self.none_good(wanted, folder)),
            several => {
                let names: Vec<String> = several.iter().map(|found| found.named()).collect();
                Err(Refusal::new(
                    format!("each of these is the latest of another cluster: {}", names.join(", ")),
                    "name the one that is meant: from=NAME",
                ))
            }
        }
    }

    /// Says why `latest` is not the archive with the latest date, if it is not: the clock was wrong once, or the cluster was
    /// restored to an older revision by other means.
    pub fn passed_over(&self, latest: &Found) -> Option<String> {
        let is_later = |other: &&Found| {
            let same = std::rc::Rc::ptr_eq(&other.place, &latest.place);
            same && is_candidate(&other.entry)
                && (other.entry.cluster() == latest.entry.cluster() || other.entry.is_dated_after(self.now))
                && other.entry.taken() > latest.entry.taken()
        };
        let other = self.found.iter().filter(is_later).max_by_key(|found| found.entry.taken())?;
        let why = match other.entry.is_dated_after(self.now) {
            true => "which is in the future".to_owned(),
            false => format!("but has the lower revision {}", revision(&other.entry)),
        };
        Some(format!(
            "latest is {}, revision {}; {} is dated {}, {why}",
            latest.named(),
            revision(&latest.entry),
            other.named(),
            other.entry.taken()?
        ))
    }

    fn good(&self, wanted: &Wanted, folder: &str) -> Vec<&Found> {
        self.in_place(wanted, folder).filter(|found| is_candidate(&found.entry)).collect()
    }
}

/// Returns the latest of each cluster, the one with the latest date first. Archives dated in the future count only if there are
/// no others at all.
fn newest<'a>(good: &[&'a Found], now: Timestamp) -> Vec<&'a Found> {
    let dated_well: Vec<&Found> =
        good.iter().copied().filter(|found| !found.entry.is_dated_after(now)).collect();
    let candidates = if dated_well.is_empty() { good } else { &dated_well };
    let mut of_each: BTreeMap<Option<&str>, &Found> = BTreeMap::new();
    let order = |found: &Found| (revision(&found.entry), found.entry.taken());
    for found in candidates.iter().copied() {
        let best = of_each.entry(found.entry.cluster()).or_insert(found);
        // Of equal ones the first: they are in the order of their dates and names.
        if order(found) > order(best) {
            *best = found;
        }
    }
    let mut newest: Vec<&Found> = of_each.into_values().collect();
    newest.sort_by(|one, other| other.entry.age_key().cmp(&one.entry.age_key()));
    newest
}

fn revision(entry: &Entry) -> i64 {
    entry.manifest.as_ref().map_or(0, |manifest| manifest.revision)
}

fn is_candidate(entry: &Entry) -> bool {
    entry.manifest.is_some() && entry.verified().is_some() && !entry.before_restore()
}

#[cfg(test)]
mod tests {
    use super::super::{At, Place, Which};
    use super::*;
    use crate::archive::manifest::Manifest;
    use crate::catalog::record::About;
    use crate::catalog::retention::Policy;
    use crate::store::local::Local;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    const NOW: i64 = 1000;

    fn manifest(cluster: &str, revision: i64, taken: Timestamp) -> Manifest {
        serde_json::from_value(serde_json::json!({
            "format": 1, "taken": taken.to_string(), "unit": null, "etcd_version": "3.5.16", "cluster_id": cluster,
            "member_id": "1", "member_name": "m1", "member_count": 1, "revision": revision, "keys": null,
            "total_keys": 1, "db_size": 1, "db_sha256": "", "content_hash": null
        }))
        .unwrap()
    }

    /// Archives of a cluster, with a revision and the hour they are dated, named by their place in the list.
    fn look(archives: &[(&str, i64, i64)]) -> (tempfile::TempDir, Look) {
        let dir = tempfile::tempdir().unwrap();
        let store = Box::new(Local::open(dir.path()).unwrap().unwrap());
        let keep = Policy::default();
        let place = Rc::new(Place { name: None, store, keep, waiting: BTreeMap::new() });
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let found = |(number, (cluster, revision, hour)): (usize, &(&str, i64, i64))| {
            let manifest = Some(manifest(cluster, *revision, at(*hour)));
            let record = About::of(1, manifest.as_ref()).record(Ok(None)).0;
            let (name, store) = (number.to_string(), dir.path().display().to_string());
            let entry = Entry {
                name,
                store,
                size: 1,
                modified: at(0),
                manifest,
                encrypted_for: Vec::new(),
                record,
                unread: None,
                waits_for: Vec::new(),
            };
            Found { place: Rc::clone(&place), entry }
        };
        let found = archives.iter().enumerate().map(found).collect();
        let look = Look { found, places: vec![place], unread: Vec::new(), now: at(NOW) };
        (dir, look)
    }

    fn wanted(look: &Look) -> Wanted {
        let at = At::Directory(look.places[0].store.shown().into());
        Wanted { at: Some(at), which: Which::Latest(String::new()) }
    }

    #[test]
    fn latest_is_the_highest_revision_and_never_of_the_future() {
        for (archives, latest, noted) in [
            // Dated by a clock that was months ahead.
            (&[("a", 10, 5000), ("a", 20, 900), ("a", 30, 950)][..], "2", Some("which is in the future")),
            // The same when that date has come.
            (&[("a", 10, 990), ("a", 20, 900), ("a", 30, 950)], "2", Some("the lower revision 10")),
            // Nothing was written in between.
            (&[("a", 10, 900), ("a", 10, 950)], "1", None),
            // Of several clusters the one that was backed up last.
            (&[("a", 500, 900), ("b", 7, 950)], "1", None),
            (&[("a", 500, 5000), ("b", 7, 950)], "1", Some("which is in the future")),
            // Better than none.
            (&[("a", 10, 5000), ("a", 20, 4000)], "1", Some("which is in the future")),
        ] {
            let (_dir, look) = look(archives);
            let found = look.latest(&wanted(&look), "").unwrap();
            assert_eq!(found.entry.name, latest, "{archives:?}");
            let note = look.passed_over(found);
            assert_eq!(note.is_some(), noted.is_some(), "{note:?}");
            assert!(noted.is_none_or(|words| note.is_some_and(|note| note.contains(words))), "{archives:?}");
        }
    }

    #[test]
    fn latest_of_a_cluster_is_of_what_it_is_now_before_what_it_was() {
        let lineage = Lineage {
            own: ["a", "b"].map(str::to_owned).into(),
            origins: ["c".to_owned()].into(),
            ..Lineage::default()
        };
        for (archives, current, latest) in [
            // Restored to an older revision: what it was before is not its latest.
            (&[("a", 500, 900), ("b", 7, 950)][..], Some("b"), "1"),
            (&[("a", 500, 990), ("b", 7, 950)], Some("b"), "1"),
            // Just restored, nothing taken yet.
            (&[("a", 500, 900), ("c", 900, 950)], Some("b"), "0"),
            (&[("c", 900, 950), ("d", 1, 960)], Some("b"), "0"),
            // etcd is down: the id that it has now is not known.
            (&[("a", 500, 900), ("b", 7, 950)], None, "1"),
            (&[("a", 500, 900), ("b", 7, 5000)], Some("b"), "0"),
            (&[("b", 7, 5000), ("c", 7, 900)], Some("b"), "0"),
        ] {
            let (_dir, look) = look(archives);
            let found = look.latest_of(&lineage, current, &wanted(&look), "").unwrap();
            assert_eq!(found.entry.name, latest, "{archives:?} {current:?}");
        }
        let (_dir, look) = look(&[("d", 1, 900), ("e", 1, 950)]);
        let refusal = look.latest_of(&lineage, None, &wanted(&look), "").unwrap_err();
        assert!(refusal.reason.ends_with("the latest of another cluster: 1, 0"), "{refusal}");
    }
}
