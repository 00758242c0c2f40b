//! Whether a destination can store archives, found out with a small object.

use super::repository::Repository;
use crate::progress::Sink;
use crate::store::Deletion;
use crate::system::digest::sha256_of;
use crate::system::random;
use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{Seek, Write};

/// The content of the object.
const CONTENT: &[u8] =
    b"etcd-backup check-config wrote this file to find out whether it can. It may be deleted.\n";

impl Repository {
    /// Stores a small object as an archive is stored, reads it back, and deletes it. It is in no member's folder, so no
    /// listing shows it. Returns what remains of it, if anything does.
    ///
    /// # Errors
    /// Fails if the object cannot be stored or read back, or if the server refuses to delete it.
    pub fn probe(&self, progress: Sink<'_>) -> Result<Option<String>> {
        let name = format!("etcd-backup-check-{}", random::uuid()?);
        let memory = memfd_create("check", MemfdFlags::CLOEXEC).context("making a small object")?;
        let mut content = File::from(memory);
        content.write_all(CONTENT).and_then(|()| content.rewind()).context("making a small object")?;
        let sha256 = sha256_of(&mut content)?;
        self.store.put_if_absent(&name, &content, &sha256, progress).context("writing a small object")?;
        let found = self.store.head(&name)?.with_context(|| {
            format!("{name} was written to {}, but the server does not find it", self.url())
        })?;
        if let Some(lock) = &found.lock {
            return Ok(Some(format!("{name} stays: {lock}")));
        }
        let deleted = self.store.delete(&found).with_context(|| format!("{name} stays in {}", self.url()))?;
        Ok((deleted == Deletion::Hidden).then(|| format!("the bucket keeps {name} as an older version")))
    }
}
