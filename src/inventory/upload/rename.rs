//! Moves queued uploads to another destination, because theirs was renamed.

use super::outcome::PendingUpload;
use super::queue::{Queue, QueuedUpload};
use crate::system::durable::Dir;
use anyhow::Result;

/// Moves all uploads in the queue of `home` for the destination `from` to the destination `to`, and returns them as they
/// were. The new upload is durable before the old one is removed.
///
/// # Errors
/// Refuses while another run uploads. Fails if the queue cannot be read or written.
pub fn move_queued(home: &Dir, from: &str, to: &str) -> Result<Vec<PendingUpload>> {
    let Some(queue) = Queue::open(home)? else { return Ok(Vec::new()) };
    let _lock = queue.lock_or_refuse()?;
    let mut moved = Vec::new();
    for upload in queue.uploads()?.into_iter().filter(|upload| upload.destination == from) {
        queue.add(&QueuedUpload { destination: to.to_owned(), error: None, ..upload.clone() })?;
        queue.remove(&upload)?;
        moved.push(upload.into());
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::upload::list;
    use jiff::Timestamp;

    #[test]
    fn uploads_for_the_old_name_wait_for_the_new_one() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let queue = Queue::create(&dir).unwrap();
        for (archive, destination) in [("a", "old"), ("b", "old"), ("b", "new"), ("c", "other")] {
            let upload = QueuedUpload {
                archive: archive.to_owned(),
                sha256: "ab".to_owned(),
                destination: destination.to_owned(),
                remote: format!("c/u/{archive}"),
                since: Timestamp::UNIX_EPOCH,
                error: Some("no such bucket".to_owned()),
            };
            queue.add(&upload).unwrap();
        }
        assert_eq!(move_queued(&dir, "old", "new").unwrap().len(), 2);
        let mut waiting: Vec<String> = list(&dir).unwrap().iter().map(PendingUpload::selector).collect();
        waiting.sort();
        assert_eq!(waiting, ["new/a", "new/b", "other/c"]);
        assert!(list(&dir).unwrap().iter().any(|one| one.archive == "a" && one.error.is_none()));
        assert!(move_queued(&dir, "old", "new").unwrap().is_empty());
    }
}
