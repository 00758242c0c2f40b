//! The state of the running etcd, for a comparison: a fresh snapshot that etcdctl saves.
//!
//! A snapshot is one consistent state, does not block writes, and is read by the same code as an archive. Ranged reads
//! would send every value through etcdctl as JSON. Must never keep the snapshot.

use super::{OpenDatabase, check_room, open_database};
use crate::archive;
use crate::commands::Call;
use crate::etcd::client::Client;
use crate::progress::Progress;
use crate::store::work_dir::WorkDir;
use crate::system::durable::Dir;
use crate::system::growing_file::growth_channel;
use crate::system::interrupt;
use anyhow::{Result, ensure};

/// The name that stands for the running etcd.
pub const LIVE: &str = "live";

/// Saves the state of the running etcd into a private directory in `home`.
///
/// # Errors
/// Fails if etcd does not answer, has no leader, or does not send a snapshot; refuses if the disk has too little space.
pub(super) fn save_live<'h>(call: &Call<'_>, client: &Client, home: &'h Dir) -> Result<OpenDatabase<'h>> {
    let status = client.status()?;
    ensure!(status.has_leader, "etcd answers but has no leader: {}", status.errors.join("; "));
    let stage = WorkDir::create(home)?;
    check_room(stage.dir(), status.db_size, "reading the running etcd")?;
    (call.progress())(Progress::Step("saving the state of the running etcd"));
    let (saving, _reader) = growth_channel();
    let mut progress = call.progress();
    let expected = Some(status.db_size).filter(|size| *size > 0);
    let mut watch = |done| {
        progress(Progress::Bytes { done, expected });
        interrupt::check().map_err(|error| format!("{error:#}"))
    };
    let saved = client.save(stage.dir(), archive::DB, status.db_size, &saving, &mut watch);
    // A child that was stopped by a signal is not a failure of etcd.
    interrupt::check()?;
    saved?;
    let backend = open_database(stage.dir(), "the snapshot of the running etcd")?;
    Ok(OpenDatabase { location: "the running etcd".to_owned(), backend, stage, archive: None })
}
