//! The obstacles to a restore as data, and the one place that words them as refusals.

use crate::archive::human_size;
use crate::error::{Refusal, Subcommand, quoted};
use crate::etcd::paths::SITE_FILE;
use crate::etcd::site::Site;
use crate::etcd::versions::{Minor, versions_that_bump};
use std::path::{Path, PathBuf};

/// Returns the command that completes or rolls back an interrupted restore of `site`, also if it is typed in another shell.
pub fn recover_command(site: &Site) -> Subcommand {
    let is_default = match site.site_file() {
        Some(file) => file == Path::new(SITE_FILE),
        None => site.choice.is_none(),
    };
    let named = (!is_default).then(|| site.lasting_choice());
    Subcommand::new("restore").flag("recover").option_if_some("site", named)
}

/// The next step for a member without data.
///
/// etcd must not start without data in between: it would create a new cluster, and clients would use that.
fn join_or_restore_alone(stop: &Stop) -> String {
    format!(
        "if the other members serve, remove this one with `etcdctl member remove` on one of them and add it again with \
         `etcdctl member add`; if they are lost, stop etcd ({}), leave only this member in initial-cluster, and restore \
         again{}",
        stop.command,
        stop.last_step()
    )
}

/// How an operator stops etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The command, as typed.
    pub command: String,
    /// The active units that systemd stops with it. Only a restore that stops etcd itself starts them again.
    pub dependents: Vec<String>,
}

impl Stop {
    /// Returns the last step of an operator who has stopped etcd, as the end of a sentence.
    fn last_step(&self) -> String {
        match self.dependents.join(" ") {
            units if units.is_empty() => String::new(),
            units => format!("; after the restore: systemctl start {units}"),
        }
    }
}

/// An obstacle to a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// `bump-revision` is not `auto`, `off` or a number in range.
    BumpNotUnderstood {
        /// The value that was given.
        given: String,
        /// The highest number that can be given.
        max: i64,
    },
    /// A plan must not change anything, but an earlier restore has to be completed or rolled back first.
    UnfinishedRestore {
        /// The command that does it.
        recover: Subcommand,
    },
    /// etcd keeps its write-ahead log outside of its data directory.
    SeparateLog {
        /// The directory of the log.
        log: PathBuf,
        /// The data directory.
        data: PathBuf,
        /// Whether it has an older log, which etcd does not use.
        has_old_log: bool,
        /// The command that stops etcd.
        stop: String,
        /// The command that starts etcd.
        start: String,
    },
    /// A restarted etcd would use another configuration than the running one.
    ConfigurationChanged {
        /// The difference.
        drift: String,
    },
    /// The etcd program that would boot the restored data is missing.
    NoServerProgram {
        /// The path of the program.
        program: PathBuf,
        /// How to get the program.
        remedy: String,
    },
    /// An etcd has the data open but does not answer.
    NotAnswering {
        /// The reason, as etcd reports it.
        reason: String,
        /// How an operator stops etcd.
        stop: Stop,
    },
    /// etcd is stopped and its data is damaged.
    DamagedData {
        /// The damage.
        reason: String,
        /// The data directory.
        data_dir: String,
        /// How an operator stops etcd.
        stop: Stop,
    },
    /// etcd is stopped and its data could not be read. The data may still be intact.
    DataNotReadable {
        /// The reason.
        reason: String,
        /// The command that starts etcd.
        start: String,
    },
    /// The member directory has no write-ahead log.
    WithoutLog {
        /// The data directory.
        data_dir: String,
        /// How an operator stops etcd.
        stop: Stop,
    },
    /// The etcd that answers does not use this data directory.
    OfAnotherEtcd {
        /// The data directory.
        data_dir: String,
        /// Whether another etcd has it open.
        is_open: bool,
    },
    /// The member has no data, and its configuration names other members.
    EmptyMember {
        /// The data directory.
        data_dir: String,
        /// The names of the other members.
        others: Vec<String>,
        /// The unit, manifest or file that names them.
        source: String,
        /// How an operator stops etcd.
        stop: Stop,
    },
    /// The only member is a learner.
    OnlyLearner {
        /// The member.
        member: String,
    },
    /// The only member has not started yet.
    NotStarted {
        /// The command that starts etcd.
        start: String,
    },
    /// etcd lists no members.
    NoMembers,
    /// The cluster has more than one member.
    SeveralMembers {
        /// The members.
        members: Vec<String>,
        /// The commands that lead to a restored cluster.
        way: String,
    },
    /// The file does not have the SHA-256 that the request expects.
    UnexpectedSha256 {
        /// The snapshot.
        source: String,
        /// The SHA-256 of the file.
        found: String,
        /// The SHA-256 in the request.
        expected: String,
    },
    /// The snapshot has no SHA-256 trailer.
    WithoutTrailer {
        /// The snapshot.
        source: String,
        /// The command that repeats the restore.
        command: Subcommand,
    },
    /// The snapshot belongs to another cluster than the data that it would replace.
    ForeignCluster {
        /// The cluster of the snapshot.
        cluster: String,
        /// The member that the snapshot was taken from.
        member: String,
        /// The clusters of the existing data, starting with the current one.
        own: Vec<String>,
        /// The number of keys in the existing data, or the reason why they could not be counted.
        keys: Result<u64, String>,
        /// The command that repeats the restore.
        command: Subcommand,
    },
    /// The programs cannot raise a revision.
    CannotRaiseRevision {
        /// The version of the programs.
        version: String,
    },
    /// The raised revision would exceed the range of etcd.
    RevisionTooHigh {
        /// The snapshot's revision.
        revision: i64,
        /// The requested bump.
        bump: i64,
        /// The highest revision that is accepted.
        limit: i64,
        /// The command that repeats the restore.
        command: Subcommand,
        /// The programs to restart if the revision is not raised.
        restarts: &'static str,
    },
    /// The snapshot's revision leaves no room for writes.
    NoRevisionsLeft {
        /// The snapshot.
        source: String,
        /// Its revision.
        revision: i64,
    },
    /// etcd would refuse writes to the restored database.
    QuotaTooSmall {
        /// Bytes of the restored database.
        size: u64,
        /// etcd's quota in bytes.
        quota: u64,
        /// The source of the quota.
        set_by: String,
        /// Number of bytes that must stay free.
        headroom: u64,
        /// The next step.
        remedy: String,
    },
    /// The existing data holds keys of the v2 API, which a snapshot does not contain.
    V2Keys {
        /// The keys.
        keys: String,
        /// The command that repeats the restore.
        command: Subcommand,
    },
    /// The running etcd reports a version that cannot be parsed.
    UnknownServerVersion {
        /// The reported version.
        reported: String,
    },
    /// The existing data is of a version of etcd whose data the programs cannot read.
    DataOfOtherEtcd {
        /// The version that last served it.
        data: Minor,
        /// The program that could not read it.
        program: String,
        /// The reason.
        reason: String,
        /// How to get programs of that version.
        remedy: String,
    },
    /// The snapshot holds data of a newer etcd.
    SnapshotOfNewerEtcd {
        /// The snapshot.
        source: String,
        /// The version of its data.
        data: Minor,
        /// The version of the etcd that it was taken from, if that is recorded.
        taken_from: Option<String>,
        /// The program that does not support the data.
        program: String,
        /// How to downgrade the data instead, if that is possible.
        downgrade: Option<String>,
    },
    /// The database in the snapshot was not written by etcd.
    NotOfEtcd {
        /// The snapshot.
        source: String,
    },
    /// The snapshot cannot be opened.
    CannotOpen {
        /// Its path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A refusal of another module.
    Other(Refusal),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Self {
        Self::Other(refusal)
    }
}

impl From<Obstacle> for anyhow::Error {
    fn from(obstacle: Obstacle) -> Self {
        Refusal::from(obstacle).into()
    }
}

impl From<Obstacle> for Refusal {
    fn from(obstacle: Obstacle) -> Self {
        if let Obstacle::Other(refusal) = obstacle {
            return refusal;
        }
        Self::new(obstacle.reason(), obstacle.next())
    }
}

impl Obstacle {
    /// The reason, a clause without a full stop.
    #[expect(clippy::too_many_lines, reason = "a table: one sentence for each obstacle, all in one place")]
    fn reason(&self) -> String {
        match self {
            Self::BumpNotUnderstood { given, .. } => format!("bump-revision={given} is not a valid value"),
            Self::UnfinishedRestore { .. } => {
                "an interrupted restore must be completed or rolled back first, and a plan does not \
                 change any data"
                    .to_owned()
            }
            Self::SeparateLog { log, .. } => format!(
                "etcd keeps its write-ahead log outside of its data directory, in {} (wal-dir), so the two cannot be \
                 exchanged in one step",
                log.display()
            ),
            Self::ConfigurationChanged { drift } => {
                format!("etcd's configuration has changed since it started: {drift}")
            }
            Self::NoServerProgram { program, .. } => {
                format!(
                    "the program {} is missing on this machine, and restore needs it to boot the restored data",
                    program.display()
                )
            }
            Self::NotAnswering { reason, .. } => {
                format!("the members of the cluster could not be learned: {reason}")
            }
            Self::DamagedData { reason, .. } => format!(
                "etcd is stopped, and the members of its cluster cannot be read, because its data is damaged: {reason}"
            ),
            Self::DataNotReadable { reason, .. } => {
                format!("etcd is stopped, and the members of its cluster could not be learned: {reason}")
            }
            Self::WithoutLog { data_dir, .. } => format!(
                "the write-ahead log is missing in {data_dir}/member/wal: it is lost, or stored elsewhere (wal-dir)"
            ),
            Self::OfAnotherEtcd { data_dir, is_open: false } => {
                format!("an etcd answers at the endpoint, but no process has {data_dir} open")
            }
            Self::OfAnotherEtcd { data_dir, is_open: true } => {
                format!(
                    "the etcd that answers at the endpoint does not serve {data_dir}: another etcd has it open"
                )
            }
            Self::EmptyMember { data_dir, others, source, .. } => format!(
                "{data_dir} has no data, and etcd's configuration ({source}) names other members: {}; if they serve, a \
                 restored etcd here would be a second cluster",
                others.join(", ")
            ),
            Self::OnlyLearner { member } => format!("the only member, {member}, is a learner"),
            Self::NotStarted { .. } => "the only member has not started yet".to_owned(),
            Self::NoMembers => {
                "the members of the cluster could not be learned: etcd lists no members".to_owned()
            }
            Self::SeveralMembers { members, .. } => format!(
                "the cluster has {} members: {}; restore works only on a cluster of one",
                members.len(),
                members.join(", ")
            ),
            Self::UnexpectedSha256 { source, found, expected } => {
                format!("the SHA-256 of {source} is {found} instead of the expected {expected}")
            }
            Self::WithoutTrailer { source, .. } => format!(
                "{source} has no SHA-256 trailer: archives of the older etcd charm and copies of a live database have \
                 none"
            ),
            Self::ForeignCluster { cluster, member, own, keys, .. } => {
                let keys = match keys {
                    Ok(keys) => format!("{keys} keys"),
                    Err(reason) => format!("data of which the keys could not be counted ({reason})"),
                };
                format!(
                    "the snapshot is of another cluster, {cluster} (member {member}), but this etcd, cluster {}, holds \
                     {keys}",
                    own.join(", formerly ")
                )
            }
            Self::CannotRaiseRevision { version } => {
                format!("etcd {version} cannot raise the revision of a snapshot")
            }
            Self::RevisionTooHigh { revision, bump, limit, .. } => format!(
                "raising the snapshot's revision {revision} by {bump} would exceed {limit}, half of the highest revision possible"
            ),
            Self::NoRevisionsLeft { source, revision } => format!(
                "the revision of {source} is {revision}, which leaves too few for further writes: etcd ends at {}",
                i64::MAX
            ),
            Self::QuotaTooSmall { size, quota, set_by, headroom, .. } => format!(
                "the restored database takes {}, but etcd's quota is {} ({set_by}), of which {} must stay free for new \
                 writes: etcd would raise the NOSPACE alarm and refuse every write",
                human_size(*size),
                human_size(*quota),
                human_size(*headroom)
            ),
            Self::V2Keys { keys, .. } => {
                format!(
                    "etcd holds {keys}; a v3 snapshot does not contain them, so a restore would remove them"
                )
            }
            Self::UnknownServerVersion { reported } => {
                format!("the running etcd reports {reported:?} as its version")
            }
            Self::DataOfOtherEtcd { data, program, reason, .. } => format!(
                "the existing data was last served by etcd {data}, but {program} and could not read it: {reason}"
            ),
            Self::SnapshotOfNewerEtcd { source, data, taken_from, program, .. } => {
                let taken =
                    taken_from.as_ref().map(|version| format!(" (taken from {version})")).unwrap_or_default();
                format!(
                    "{source} holds data of etcd {data}{taken}, and {program}, which does not support newer data"
                )
            }
            Self::NotOfEtcd { source } => format!("the database in {source} was not written by etcd"),
            Self::CannotOpen { path, reason } => {
                format!("the snapshot {} cannot be opened: {reason}", path.display())
            }
            Self::Other(refusal) => refusal.reason.clone(),
        }
    }

    /// The next step, a clause without a full stop.
    fn next(&self) -> String {
        match self {
            Self::BumpNotUnderstood { max, .. } => format!("give auto, off, or a number from 1 to {max}"),
            Self::UnfinishedRestore { recover } => recover.to_string(),
            Self::SeparateLog { log, data, has_old_log, stop, start } => {
                move_log(log, data, *has_old_log, (stop, start))
            }
            Self::ConfigurationChanged { .. } => {
                "correct the configuration, restart etcd, and restore again".to_owned()
            }
            Self::NoServerProgram { remedy, .. }
            | Self::QuotaTooSmall { remedy, .. }
            | Self::DataOfOtherEtcd { remedy, .. } => remedy.clone(),
            Self::NotAnswering { stop, .. } => format!(
                "correct that; or stop etcd ({}) and restore again, which then reads the files of etcd{}",
                stop.command,
                stop.last_step()
            ),
            Self::DamagedData { data_dir, stop, .. } => set_data_aside(data_dir, stop),
            Self::DataNotReadable { start, .. } => {
                format!("start etcd ({start}), read its log if it does not start, and restore again")
            }
            Self::WithoutLog { data_dir, stop } => find_log(data_dir, stop),
            Self::OfAnotherEtcd { is_open, .. } => {
                let deleted = if *is_open { "" } else { "; if the data was deleted, stop etcd first" };
                format!("correct endpoint or data-dir in the site file{deleted}")
            }
            Self::EmptyMember { stop, .. } => join_or_restore_alone(stop),
            Self::OnlyLearner { .. } => "restore on a voting member".to_owned(),
            Self::NotStarted { start } => format!("start etcd ({start}), then restore again"),
            Self::NoMembers => "etcdctl member list, and read etcd's log".to_owned(),
            Self::SeveralMembers { way, .. } => way.clone(),
            Self::UnexpectedSha256 { .. } => "fetch the right file, or correct expected-sha256".to_owned(),
            Self::WithoutTrailer { command, .. } => {
                format!("if you trust it: {}", command.clone().flag("allow-unhashed"))
            }
            Self::ForeignCluster { command, .. } => {
                format!("to replace the data of this cluster: {}", command.clone().flag("allow-foreign"))
            }
            Self::CannotRaiseRevision { .. } => {
                format!("leave bump-revision out, or install another etcd ({})", versions_that_bump())
            }
            Self::RevisionTooHigh { command, restarts, .. } => {
                format!("{}; then {restarts}", command.clone().option("bump-revision", "off"))
            }
            Self::NoRevisionsLeft { .. } => "choose another snapshot; list-snapshots shows them".to_owned(),
            Self::V2Keys { command, .. } => {
                let lose = command.clone().flag("allow-v2-loss");
                format!("to lose them and keep the old member directory: {lose}")
            }
            Self::UnknownServerVersion { .. } => "install a released version of etcd".to_owned(),
            Self::SnapshotOfNewerEtcd { data, downgrade, .. } => {
                let downgrade = downgrade.as_ref().map(|way| format!("; or {way}")).unwrap_or_default();
                format!("install etcd {data} and restore again{downgrade}")
            }
            Self::NotOfEtcd { .. } => "give an archive that the snapshot action made".to_owned(),
            Self::CannotOpen { .. } => "give the path of an archive that the snapshot action made".to_owned(),
            Self::Other(refusal) => refusal.next.clone(),
        }
    }
}

/// Returns the commands that move the write-ahead log at `log` into the data directory, and its configuration.
fn move_log(log: &Path, data: &Path, has_old_log: bool, (stop, start): (&str, &str)) -> String {
    let log = quoted(log.as_os_str());
    let place = quoted(data.join("member/wal").as_os_str());
    let before = quoted(data.join("member/wal.before").as_os_str());
    let set_aside = if has_old_log { format!("mv -T {place} {before}; ") } else { String::new() };
    format!(
        "{stop}; {set_aside}cp -aT {log} {place}; remove wal-dir from etcd's configuration; {start}; restore again"
    )
}

/// Returns the commands that set damaged data aside. The supervisor may start etcd again and again, and without its data, etcd would create
/// a new cluster.
fn set_data_aside(data_dir: &str, stop: &Stop) -> String {
    format!(
        "if this etcd is the only member and you have no better copy of this data: stop etcd ({}), mv -T {} {}, and restore \
         again{}",
        stop.command,
        quoted(format!("{data_dir}/member").as_ref()),
        quoted(format!("{data_dir}/member.broken").as_ref()),
        stop.last_step()
    )
}

/// Returns what to do about data without its write-ahead log, which may be lost or elsewhere.
fn find_log(data_dir: &str, stop: &Stop) -> String {
    let command = &stop.command;
    format!(
        "if it is lost and this etcd is the only member, stop etcd ({command}), move {data_dir}/member to {data_dir}/member.broken and restore again; if it \
         is stored elsewhere, stop etcd, copy it to {data_dir}/member/wal, and remove wal-dir from etcd's configuration{}",
        stop.last_step()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::Origin;
    use crate::etcd::site::tests::site;

    #[test]
    fn the_command_of_a_recovery_names_the_same_etcd_later() {
        let command = |choice: Option<&str>, file: Option<&str>| {
            let mut site = site(Path::new("/data"), Service::Unknown { pid: 42 });
            site.choice = choice.map(str::to_owned);
            if let Some(file) = file {
                site.data_dir.origin = Origin::SiteFile(file.into());
            }
            recover_command(&site).to_string()
        };
        assert_eq!(command(None, None), "`sudo etcd-backup restore --recover`");
        assert_eq!(command(Some("42"), None), "`sudo etcd-backup restore --recover --site=/data`");
        assert_eq!(command(None, Some(SITE_FILE)), "`sudo etcd-backup restore --recover`");
        assert_eq!(command(None, Some("/x.yaml")), "`sudo etcd-backup restore --recover --site=/x.yaml`");
    }
}
