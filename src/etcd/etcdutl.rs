//! Runs `etcdutl` (`etcdctl` before etcd 3.5) on snapshot files: reads their structure and restores a member directory.
//!
//! Must never judge a snapshot by the tool alone: `trailer` checks the checksum, and a private boot shows the content.

use super::backend::{Backend, Comparison, remove_stale_members, same_records};
use super::timeouts;
use super::tools::Tools;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::process::{STDIN, fd_path};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fs::File;
use std::time::Duration;

/// The space in bytes that a restored member and its booted copy need in addition to their databases: a preallocated write-ahead log
/// of 64 MB each, the next one, which etcd creates as soon as it runs, and a reserve. Not every file system keeps the copy of a
/// preallocated file sparse. If the disk were full, the live etcd would end itself at its next write.
pub const MEMBER_OVERHEAD: u64 = 208 << 20;

/// The name of the database in a member directory.
const DB: &str = "db";

/// The output of `snapshot status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The revision of the last record; 0 if the store never held a key.
    pub revision: i64,
    /// The size of the database in bytes, without the trailer.
    pub total_size: u64,
}

/// The options of `snapshot restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOptions<'a> {
    /// The name of the member.
    pub name: &'a str,
    /// The peer URLs of the member, separated by commas. The member is the whole initial cluster.
    pub peer_urls: &'a str,
    /// The token that distinguishes this cluster from every other one, including its predecessor.
    pub token: &'a str,
    /// The number by which to raise the revision; all earlier history is then marked as compacted. 0 leaves the
    /// revision.
    pub bump: i64,
    /// Whether the snapshot must end in a valid SHA-256 trailer.
    pub hash_check: bool,
}

/// Returns the output of `snapshot status`, which includes bbolt's own consistency check. An error from `watch` cancels
/// the program.
///
/// # Errors
/// Fails if the tool fails. That alone does not prove that the snapshot is damaged: [`super::backend::find_fault`]
/// does.
pub fn status(
    tools: &Tools,
    snapshot: File,
    watch: &mut dyn FnMut(Duration) -> Result<(), String>,
) -> Result<SnapshotStatus> {
    let timeout = timeout_for(&snapshot)?;
    let program =
        tools.snapshot_tool().stdin_file(snapshot).args(["snapshot", "status", STDIN, "--write-out=json"]);
    let output = program.start().and_then(|running| running.finish(timeout, watch));
    output.and_then(|output| output.json()).context("reading the snapshot's structure")
}

/// Restores the snapshot file `name` in `dir` into the member directory `into/member`, without the members of the
/// snapshot's cluster. `into` must not exist in `dir`. The caller must [compare the records](compare_restored) before etcd
/// starts on them.
///
/// # Errors
/// Fails if the tool fails, or if its result cannot be read or written.
pub fn restore(tools: &Tools, dir: &Dir, name: &str, into: &str, options: &RestoreOptions<'_>) -> Result<()> {
    let RestoreOptions { name: member, peer_urls, token, bump, hash_check } = options;
    let member = name_in_initial_cluster(member);
    let cluster: Vec<String> = peer_urls.split(',').map(|url| format!("{member}={url}")).collect();
    let program = tools.snapshot_tool().cwd(fd_path(dir)).deadline(timeout_for(&dir.read(name)?)?);
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
    let database = dir.handle(into).join("member/snap").join(DB);
    let made = program.run().map_err(anyhow::Error::from).and_then(|_| {
        let exists = database.try_exists().context("looking for the database")?;
        ensure!(exists, "{} succeeded but created no database", tools.snapshot_tool_path().display());
        Ok(())
    });
    made.context("restoring a member directory from the snapshot")?;
    remove_stale_members(&Backend::open_in(dir, name)?, &restored_dir(dir, into)?)
}

/// Compares the records of the snapshot file `name` in `dir` with those that were [restored](restore) to `into`. Returns
/// the snapshot's database. etcd must not have run on the restored data.
///
/// # Errors
/// Fails if the records differ or cannot be read, or on a signal.
pub fn compare_restored(dir: &Dir, name: &str, into: &str) -> Result<Backend> {
    let snapshot = Backend::open_in(dir, name)?;
    let restored = Backend::open_in(&restored_dir(dir, into)?, DB)?;
    match same_records(&snapshot, &restored, &interrupt::check)? {
        Comparison::Differs { at } => bail!("the restored data differs from the snapshot: {at}"),
        Comparison::Same { .. } => Ok(snapshot),
    }
}

/// Opens the directory of the database that was restored to `into`.
fn restored_dir(dir: &Dir, into: &str) -> Result<Dir> {
    dir.child(into)?.child("member")?.child("snap")
}

/// Returns the name of a member as a restore can write it. `--initial-cluster` cannot hold an empty name, or one with
/// `=` or `,` (etcd, client/pkg/types/urlsmap.go, `parse`). etcd replaces the name by its own when it starts on the data
/// (server/etcdserver/server.go, `publishV3`), and the id of a member does not depend on its name.
fn name_in_initial_cluster(name: &str) -> &str {
    if name.is_empty() || name.contains(['=', ',']) { "default" } else { name }
}

fn timeout_for(snapshot: &File) -> Result<Duration> {
    Ok(timeouts::for_database(snapshot.metadata().context("reading the size of the snapshot")?.len()))
}
