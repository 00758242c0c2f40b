//! Snapshot files at rest, through `etcdutl` (or `etcdctl`, before 3.5): structure read, member directory made.
//!
//! Judges nothing by itself: the seal is checked in `seal`, the content by a private boot.

use super::backend::{Backend, Comparison, same_records};
use super::patience;
use super::tools::Tools;
use crate::system::durable::Dir;
use crate::system::process::{STDIN, cwd_of};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fs::File;
use std::time::Duration;

/// What a restored member has besides its database, in bytes: a write-ahead log of 64 MB, preallocated, the next one, which etcd
/// makes as soon as it runs, and change.
pub const BESIDES: u64 = 144 << 20;

/// What `snapshot status` read in a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Structure {
    /// The revision of the last record; 0 in a store that never held a key.
    pub revision: i64,
    /// The records in it. etcd 3.4 and 3.5 count those of every bucket, history included; 3.6 counts live keys.
    pub total_key: u64,
    /// Its size in bytes, without the trailer.
    pub total_size: u64,
}

/// How a snapshot becomes a member directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Making<'a> {
    /// The member's name.
    pub name: &'a str,
    /// The member's peer URLs, comma-separated: the whole initial cluster.
    pub peer_urls: &'a str,
    /// What sets this cluster apart from every other, the one before included.
    pub token: &'a str,
    /// By how much to raise the revision, with all history below marked compacted; 0 not at all.
    pub bump: i64,
    /// Whether the file must end in a right SHA-256 trailer.
    pub hash_check: bool,
}

/// Reads the structure of a snapshot, whatever it is called: bbolt's own consistency check, and the counts. `watch` ends the
/// reading by an error.
///
/// # Errors
/// The tool failed. That alone proves nothing about the snapshot: [`super::backend::find_fault`] does.
pub fn structure(
    tools: &Tools,
    snapshot: File,
    watch: &mut dyn FnMut(Duration) -> Result<(), String>,
) -> Result<Structure> {
    let patience = patience_with(&snapshot)?;
    let program =
        tools.offline().input_from(snapshot).args(["snapshot", "status", STDIN, "--write-out=json"]);
    let output = program.start().and_then(|running| running.finish(patience, watch));
    output.and_then(|output| output.json()).context("reading the snapshot's structure")
}

/// Makes the member directory `into/member` from the snapshot file `name` in `dir`, and compares its records with the
/// snapshot's, which is given back. `into` must not exist there.
pub fn restore(tools: &Tools, dir: &Dir, name: &str, into: &str, making: &Making<'_>) -> Result<Backend> {
    let Making { name: member, peer_urls, token, bump, hash_check } = making;
    let cluster: Vec<String> = peer_urls.split(',').map(|url| format!("{member}={url}")).collect();
    let program = tools.offline().cwd(cwd_of(dir)).deadline(patience_with(&dir.read(name)?)?);
    let mut program = program.args([
        "snapshot".to_owned(),
        "restore".to_owned(),
        name.to_owned(),
        format!("--data-dir={into}"),
        format!("--name={member}"),
        format!("--initial-cluster={}", cluster.join(",")),
        format!("--initial-cluster-token={token}"),
        format!("--initial-advertise-peer-urls={peer_urls}"),
    ]);
    if *bump > 0 {
        program = program.args([format!("--bump-revision={bump}"), "--mark-compacted".to_owned()]);
    }
    if !hash_check {
        program = program.args(["--skip-hash-check"]);
    }
    let database = dir.handle(into).join("member/snap/db");
    let made = program.run().map_err(anyhow::Error::from).and_then(|_| {
        let is_there = database.try_exists().context("looking for the database")?;
        ensure!(is_there, "{} ended well and left no database", tools.offline_path().display());
        Ok(())
    });
    made.context("making a member directory from the snapshot")?;
    let snapshot = Backend::open(&dir.handle(name))?;
    let restored = Backend::open(&database)?;
    match same_records(&snapshot, &restored)? {
        Comparison::Differs { at } => bail!("the restored data is not the snapshot's: {at}"),
        Comparison::Same { .. } => Ok(snapshot),
    }
}

fn patience_with(snapshot: &File) -> Result<Duration> {
    Ok(patience::for_database(snapshot.metadata().context("measuring the snapshot")?.len()))
}
