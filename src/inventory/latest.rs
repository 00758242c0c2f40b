//! Selects the archive that `latest` means.
//!
//! Within one cluster that is the archive with the highest revision: etcd counts revisions, and a clock may be wrong.
//! An archive dated in the future is never chosen if there is another. Backups taken by `restore` are never `latest`.

use super::entry::Entry;
use super::listing::{Listing, StoredSnapshot};
use super::selector::Selector;
use crate::archive::name::taken;
use crate::error::Refusal;
use crate::exchange::Lineage;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl Listing {
    /// Returns the latest good archive in a folder of the selected repository, of any cluster.
    ///
    /// # Errors
    /// Refuses if the folder has no good archive.
    pub(super) fn latest(&self, selector: &Selector, folder: &str) -> Result<&StoredSnapshot, Refusal> {
        let latest = latest_of_each_cluster(&self.good(selector, folder), self.now).into_iter().next();
        latest.ok_or_else(|| self.no_good_snapshot(selector, folder))
    }

    /// Returns the latest good archive of the cluster that the local data belongs to, which has the id `current`. If
    /// this cluster has no archive, as just after a restore, returns the latest of the clusters that the data belonged
    /// to before, then of those that it was restored from. Otherwise, or if the cluster is unknown, returns the latest
    /// of the only cluster in the folder.
    ///
    /// # Errors
    /// Refuses if the folder has no good archive, or has archives of several other clusters.
    pub fn latest_of(
        &self,
        lineage: &Lineage,
        current: Option<&str>,
        selector: &Selector,
        folder: &str,
    ) -> Result<&StoredSnapshot, Refusal> {
        self.require_readable(selector)?;
        let good = self.good(selector, folder);
        let latest_among = |is_meant: &dyn Fn(&str) -> bool| {
            let is_ours = |snapshot: &&StoredSnapshot| snapshot.entry.cluster().is_some_and(is_meant);
            let ours: Vec<_> = good.iter().copied().filter(is_ours).collect();
            latest_of_each_cluster(&ours, self.now).into_iter().next()
        };
        let known = |ids: &BTreeSet<String>| latest_among(&|id| ids.contains(id));
        let present = latest_among(&|id| current == Some(id));
        let present = present.filter(|snapshot| !snapshot.entry.is_dated_after(self.now));
        let own = present.or_else(|| known(&lineage.own)).or_else(|| known(&lineage.origins));
        if let Some(snapshot) = own {
            return Ok(snapshot);
        }
        match latest_of_each_cluster(&good, self.now).as_slice() {
            [snapshot] => Ok(*snapshot),
            [] => Err(self.no_good_snapshot(selector, folder)),
            several => {
                let names: Vec<String> = several.iter().map(|snapshot| snapshot.selector()).collect();
                Err(Refusal::new(
                    format!("each of these is the latest of another cluster: {}", names.join(", ")),
                    "select one of them: from=NAME",
                ))
            }
        }
    }

    /// Explains why `latest` is not the archive with the latest date, if it is not: a later one is damaged, the clock was wrong
    /// once, or the cluster was restored to an older revision by other means.
    pub fn passed_over(&self, latest: &StoredSnapshot) -> Option<String> {
        let reasons = [self.damaged_after(latest), self.dated_after(latest)];
        let reasons: Vec<String> = reasons.into_iter().flatten().collect();
        let (name, revision) = (latest.selector(), revision(&latest.entry));
        (!reasons.is_empty())
            .then(|| format!("latest is {name}, revision {revision}; {}", reasons.join("; ")))
    }

    /// Describes the newest damaged archive that was taken after `latest` in its folder, if there is one.
    fn damaged_after(&self, latest: &StoredSnapshot) -> Option<String> {
        let is_same_cluster =
            |entry: &Entry| entry.manifest.is_none() || entry.cluster() == latest.entry.cluster();
        let is_later = |other: &&StoredSnapshot| {
            let entry = &other.entry;
            other.folder() == latest.folder()
                && entry.record.damage.is_some()
                && is_same_cluster(entry)
                && !entry.before_restore()
                && (date(entry).is_some_and(|date| date <= self.now) && date(entry) > latest.entry.taken())
        };
        let other = self.snapshots.iter().filter(is_later).max_by_key(|snapshot| date(&snapshot.entry))?;
        Some(format!("{} is newer, but damaged", other.selector()))
    }

    /// Describes the good archive with the latest date, if that is after `latest`.
    fn dated_after(&self, latest: &StoredSnapshot) -> Option<String> {
        let is_later = |other: &&StoredSnapshot| {
            Rc::ptr_eq(&other.repository, &latest.repository)
                && is_candidate(&other.entry)
                && (other.entry.cluster() == latest.entry.cluster() || other.entry.is_dated_after(self.now))
                && other.entry.taken() > latest.entry.taken()
        };
        let other = self.snapshots.iter().filter(is_later).max_by_key(|snapshot| snapshot.entry.taken())?;
        let why = match other.entry.is_dated_after(self.now) {
            true => "which is in the future".to_owned(),
            false => format!("but has the lower revision {}", revision(&other.entry)),
        };
        Some(format!("{} is dated {}, {why}", other.selector(), other.entry.taken()?))
    }

    fn good(&self, selector: &Selector, folder: &str) -> Vec<&StoredSnapshot> {
        self.in_folder(selector, folder).filter(|snapshot| is_candidate(&snapshot.entry)).collect()
    }
}

/// Returns the latest archive of each cluster, the one with the latest date first. Archives dated in the future count
/// only without any other.
fn latest_of_each_cluster<'a>(good: &[&'a StoredSnapshot], now: Timestamp) -> Vec<&'a StoredSnapshot> {
    let past: Vec<_> = good.iter().copied().filter(|snapshot| !snapshot.entry.is_dated_after(now)).collect();
    let candidates = if past.is_empty() { good } else { &past };
    let mut by_cluster: BTreeMap<Option<&str>, &StoredSnapshot> = BTreeMap::new();
    let order = |snapshot: &StoredSnapshot| (revision(&snapshot.entry), snapshot.entry.taken());
    for snapshot in candidates.iter().copied() {
        let latest = by_cluster.entry(snapshot.entry.cluster()).or_insert(snapshot);
        // Of equal archives the first stays: they are sorted by date and name.
        if order(snapshot) > order(latest) {
            *latest = snapshot;
        }
    }
    let mut all: Vec<&StoredSnapshot> = by_cluster.into_values().collect();
    all.sort_by(|one, other| other.entry.age_key().cmp(&one.entry.age_key()));
    all
}

/// Returns when an archive was taken, by its manifest, or by its name if it has lost its manifest.
fn date(entry: &Entry) -> Option<Timestamp> {
    entry.taken().or_else(|| taken(entry.file_name()))
}

fn revision(entry: &Entry) -> i64 {
    entry.manifest.as_ref().map_or(0, |manifest| manifest.revision)
}

fn is_candidate(entry: &Entry) -> bool {
    entry.manifest.is_some() && entry.verified().is_some() && !entry.before_restore()
}

#[cfg(test)]
mod tests {
    use super::super::record::{ArchiveIdentity, Record};
    use super::super::repository::Repository;
    use super::super::selector::{RepositoryId, Selection};
    use super::*;
    use crate::archive::labels::Labels;
    use crate::archive::manifest::Manifest;

    const NOW: i64 = 1000;

    fn manifest(cluster: &str, revision: i64, taken: Timestamp) -> Manifest {
        serde_json::from_value(serde_json::json!({
            "format": 1, "taken": taken.to_string(), "unit": null, "etcd_version": "3.5.16", "cluster_id": cluster,
            "member_id": "1", "member_name": "m1", "member_count": 1, "revision": revision, "keys": null,
            "total_keys": 1, "db_size": 1, "db_sha256": "", "content_hash": null
        }))
        .unwrap()
    }

    /// Lists archives, each with a cluster, a revision and the hour of its date. Their names are their indices.
    fn listing(archives: &[(&str, i64, i64)]) -> (tempfile::TempDir, Listing) {
        let dir = tempfile::tempdir().unwrap();
        let repository = Rc::new(Repository::open_directory(dir.path()).unwrap().unwrap());
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let snapshot = |(index, (cluster, revision, hour)): (usize, &(&str, i64, i64))| {
            let manifest = Some(manifest(cluster, *revision, at(*hour)));
            let entry = Entry {
                name: index.to_string(),
                store: dir.path().display().to_string(),
                size: 1,
                modified: at(0),
                record: Record::empty(ArchiveIdentity::new(1, manifest.as_ref())),
                manifest,
                encrypted_for: Vec::new(),
                unreadable: None,
                pending_uploads: Vec::new(),
                made: None,
            };
            StoredSnapshot { repository: Rc::clone(&repository), entry }
        };
        let snapshots = archives.iter().enumerate().map(snapshot).collect();
        let listing =
            Listing { snapshots, repositories: vec![repository], unreadable: Vec::new(), now: at(NOW) };
        (dir, listing)
    }

    fn selector(listing: &Listing) -> Selector {
        let repository = Some(RepositoryId::Directory(listing.repositories[0].url().into()));
        Selector { repository, selection: Selection::Latest(String::new()) }
    }

    #[test]
    fn latest_is_the_highest_revision_and_never_of_the_future() {
        for (archives, latest, noted) in [
            // The clock was months ahead when it was taken.
            (&[("a", 10, 5000), ("a", 20, 900), ("a", 30, 950)][..], "2", Some("which is in the future")),
            // The same after that date has passed.
            (&[("a", 10, 990), ("a", 20, 900), ("a", 30, 950)], "2", Some("the lower revision 10")),
            // No key was written in between.
            (&[("a", 10, 900), ("a", 10, 950)], "1", None),
            // Of several clusters, the last one that was backed up.
            (&[("a", 500, 900), ("b", 7, 950)], "1", None),
            (&[("a", 500, 5000), ("b", 7, 950)], "1", Some("which is in the future")),
            // The only archive is used even if its date is in the future.
            (&[("a", 10, 5000), ("a", 20, 4000)], "1", Some("which is in the future")),
        ] {
            let (_dir, listing) = listing(archives);
            let found = listing.latest(&selector(&listing), "").unwrap();
            assert_eq!(found.entry.name, latest, "{archives:?}");
            let note = listing.passed_over(found);
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
            // Restored to an older revision: archives from before the restore are not its latest.
            (&[("a", 500, 900), ("b", 7, 950)][..], Some("b"), "1"),
            (&[("a", 500, 990), ("b", 7, 950)], Some("b"), "1"),
            // Just restored, and not yet backed up.
            (&[("a", 500, 900), ("c", 900, 950)], Some("b"), "0"),
            (&[("c", 900, 950), ("d", 1, 960)], Some("b"), "0"),
            // etcd is down, so its current cluster id is unknown.
            (&[("a", 500, 900), ("b", 7, 950)], None, "1"),
            (&[("a", 500, 900), ("b", 7, 5000)], Some("b"), "0"),
            (&[("b", 7, 5000), ("c", 7, 900)], Some("b"), "0"),
        ] {
            let (_dir, listing) = listing(archives);
            let found = listing.latest_of(&lineage, current, &selector(&listing), "").unwrap();
            assert_eq!(found.entry.name, latest, "{archives:?} {current:?}");
        }
        let (_dir, listing) = listing(&[("d", 1, 900), ("e", 1, 950)]);
        let refusal = listing.latest_of(&lineage, None, &selector(&listing), "").unwrap_err();
        assert!(refusal.reason.ends_with("the latest of another cluster: 1, 0"), "{refusal}");
    }

    #[test]
    fn a_label_names_an_archive_unless_a_file_has_that_name() {
        let (_dir, mut listing) = listing(&[("a", 1, 900), ("a", 2, 950), ("a", 3, 960)]);
        let mut label = |index: usize, labels: &str| {
            listing.snapshots[index].entry.manifest.as_mut().unwrap().labels = Labels::parse(labels).unwrap();
        };
        label(0, "name=before-upgrade,team=storage");
        label(1, "name=0,team=storage");
        let named = |listing: &Listing, name: &str| {
            let selector = Selector { selection: Selection::Named(name.to_owned()), ..selector(listing) };
            let found = listing.select(&[selector])?;
            Ok::<_, Refusal>(found[0].entry.name.clone())
        };
        assert_eq!(named(&listing, "before-upgrade").unwrap(), "0");
        assert_eq!(named(&listing, "0").unwrap(), "0");
        assert!(named(&listing, "storage").is_err());
        let labels = Labels::parse("team=storage").unwrap();
        listing.retain_labeled(&labels).unwrap();
        assert_eq!(listing.latest(&selector(&listing), "").unwrap().entry.name, "1");
        listing.snapshots[1].entry.manifest.as_mut().unwrap().labels =
            Labels::parse("name=before-upgrade").unwrap();
        let refusal = named(&listing, "before-upgrade").unwrap_err();
        assert_eq!(refusal.reason, "2 snapshots are called before-upgrade: 0 and 1");
        let refusal = listing.retain_labeled(&Labels::parse("no=such").unwrap()).unwrap_err();
        assert_eq!(refusal.reason, "no snapshot there has the label no=such");
    }
}
