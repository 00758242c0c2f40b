//! Whether etcd has changed since the newest verified snapshot, so that a scheduled run need not take another one.
//!
//! Must never skip a snapshot if any of the facts is unknown.

use crate::archive::age::Recipient;
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::exchange::UnfinishedRestore;
use crate::inventory::{Entry, Repository, upload};
use crate::schedule::Timetable;
use crate::schedule::runs::last_results::LastResults;
use crate::settings::Settings;
use crate::snapshot::collect;
use crate::system::durable::Dir;
use jiff::{SignedDuration, Timestamp};

/// The present state of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    cluster_id: String,
    revision: i64,
}

/// Returns the newest verified snapshot in `home`, if the schedule allows to skip a run and etcd has not changed since.
/// Every destination must have received a snapshot since then, and no upload may be pending.
pub(super) fn find(
    site: &Site,
    home: &Dir,
    settings: &Settings,
    table: Option<&Timetable>,
    now: Timestamp,
) -> Option<Entry> {
    let table = table?;
    let longest = SignedDuration::from_secs(i64::try_from(table.skip_unchanged?).ok()?);
    let next_run = table.expected_after(now).ok()??.latest_start();
    if !matches!(UnfinishedRestore::find(&site.data_dir), Ok(None)) {
        return None;
    }
    let entries = Repository::open_directory(home.path()).ok()??.entries().ok()?;
    let results = LastResults::read(home).ok()?;
    let status = Client::new(site).status().ok()?;
    let present = Present { cluster_id: format!("{:x}", status.cluster_id), revision: status.revision };
    let newest = newest_if_unchanged(entries, &present, now)?;
    let taken = newest.taken()?;
    let has_received = |name: &String| {
        let last = results.uploads.get(name).and_then(|results| results.last_success);
        last.is_some_and(|last| last >= taken)
    };
    let is_known = |name: &str| settings.destinations.contains_key(name);
    let is_everywhere = matches!(upload::count_pending(home, is_known), Ok(0))
        && settings.destinations.keys().all(has_received);
    let is_young = taken.saturating_add(longest).is_ok_and(|end| next_run <= end);
    let has_recipients = newest.encrypted_for == recipients(&settings.encrypt_to);
    (is_everywhere && is_young && has_recipients && has_same_files(&newest, settings)).then_some(newest)
}

/// Returns whether the included files are those of the newest snapshot, too. They change without a change of etcd's
/// revision, as when certificates are renewed.
fn has_same_files(newest: &Entry, settings: &Settings) -> bool {
    let Ok(now) = settings.included().map(collect) else { return false };
    let before = newest.manifest.as_ref().and_then(|manifest| manifest.included.as_ref());
    now.is_ok_and(|now| now.as_ref().map(|now| &now.description) == before)
}

fn recipients(all: &[Recipient]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// Returns the newest verified snapshot if it has the data of etcd's present cluster and revision. A damaged or unreadable
/// one does not count, nor does one that is dated in the future or a backup that `restore` took.
fn newest_if_unchanged(entries: Vec<Entry>, present: &Present, now: Timestamp) -> Option<Entry> {
    let is_good = |entry: &Entry| {
        entry.manifest.is_some()
            && entry.unreadable.is_none()
            && entry.verified().is_some()
            && !entry.before_restore()
            && !entry.is_dated_after(now)
    };
    // Several can be of one second.
    let age = |entry: &Entry| (entry.taken(), entry.manifest.as_ref().map(|manifest| manifest.revision));
    let newest = entries.into_iter().filter(is_good).max_by_key(age)?;
    let manifest = newest.manifest.as_ref()?;
    let is_same = manifest.cluster_id == present.cluster_id && manifest.revision == present.revision;
    is_same.then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::damage::Damage;
    use crate::archive::manifest::Manifest;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3600).unwrap()
    }

    /// Makes a real listing of archives, each with a cluster, a revision and the hour of its date.
    fn entries(archives: &[(&str, i64, i64)]) -> Vec<Entry> {
        let entry = |(cluster, revision, hour): &(&str, i64, i64)| {
            let manifest: Manifest = serde_json::from_value(serde_json::json!({
                "format": 1, "taken": at(*hour).to_string(), "unit": null, "etcd_version": "3.5.16",
                "cluster_id": cluster, "member_id": "1", "member_name": "m1", "member_count": 1,
                "revision": revision, "keys": null, "total_keys": 1, "db_size": 1, "db_sha256": "",
                "content_hash": null
            }))
            .unwrap();
            Entry::for_tests(&hour.to_string(), manifest)
        };
        archives.iter().map(entry).collect()
    }

    fn found(entries: Vec<Entry>) -> Option<String> {
        let present = Present { cluster_id: "a".to_owned(), revision: 7 };
        newest_if_unchanged(entries, &present, at(100)).map(|entry| entry.name)
    }

    #[test]
    fn only_the_newest_verified_snapshot_of_this_cluster_and_revision_counts() {
        for (archives, expected) in [
            (&[("a", 7, 10), ("a", 7, 20)][..], Some("20")),
            (&[("a", 6, 10), ("a", 8, 20)], None),
            // The newest snapshot is of another revision or cluster.
            (&[("a", 7, 10), ("a", 6, 20)], None),
            (&[("a", 7, 10), ("b", 7, 20)], None),
            // Two are of one second.
            (&[("a", 7, 10), ("a", 6, 10)], Some("10")),
            (&[("a", 6, 10), ("a", 7, 10)], Some("10")),
            // It is dated in the future.
            (&[("a", 7, 10), ("a", 9, 200)], Some("10")),
            (&[], None),
        ] {
            assert_eq!(found(entries(archives)).as_deref(), expected, "{archives:?}");
        }
        let mut damaged = entries(&[("a", 7, 10)]);
        damaged[0].record.damage = Some(Damage::Trailer);
        assert_eq!(found(damaged), None);
        let mut unreadable = entries(&[("a", 7, 10)]);
        unreadable[0].unreadable = Some("a bad sector".to_owned());
        assert_eq!(found(unreadable), None);
    }
}
