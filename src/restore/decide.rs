//! The decision: facts and request in, a plan or a refusal out. Pure: it looks at nothing and does nothing.

mod quota;
mod revision;
mod v2;

use super::Request;
use super::facts::{Facts, Old};
use super::stage::Snapshot;
use crate::archive::damage::Damage;
use crate::error::Refusal;
use crate::etcd::member::Member;
use crate::etcd::site::{InitialMember, Site};
use crate::etcd::trailer::Trailer;
use crate::exchange::Lineage;
use revision::{Doubt, Seen};

/// By how much to raise the restored revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// Where the old data is ahead of the snapshot, by enough to clear it.
    Auto,
    /// Not at all.
    Off,
    /// By this many revisions.
    By(i64),
}

impl Bump {
    /// Reads the parameter `bump-revision`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            number => match number.parse() {
                Ok(by @ 1..=MOST) => Ok(Self::By(by)),
                _ => Err(Refusal::new(
                    format!("bump-revision is {text:?}"),
                    format!("give auto, off, or a number from 1 to {MOST}"),
                )),
            },
        }
    }
}

/// A revision is 63 bits; a bump of a quarter of that leaves room for more of them.
const MOST: i64 = i64::MAX / 4;
/// What clients may write between the look and the stop: at etcd's fastest, a minute and more.
const HEADROOM: i64 = 1_000_000;

/// What etcd's and Kubernetes' own documents raise by where nobody knows: a week of 1500 writes a second.
const FAR: i64 = 1_000_000_000;

/// How far a revision is raised at most: the other half of what 63 bits count is for what is written then. etcdutl itself
/// counts on past the last one, to revisions below zero.
const HIGHEST: i64 = i64::MAX / 2;

/// How the existing data is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backup {
    /// Not: there is none, or it was not asked for.
    None,
    /// By a snapshot of the etcd that serves it.
    Online,
    /// By a snapshot of a private etcd on a copy of it.
    Stopped,
}

impl Backup {
    /// What will be done, in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::None => "the existing data is not saved",
            Self::Online => "the existing data is saved first, while etcd serves it",
            Self::Stopped => "the existing data is saved first, from a copy of its files",
        }
    }
}

/// The member that the restored data is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its peer URLs, comma-separated.
    pub peer_urls: String,
}

/// What will be done. It is the dry run too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The member that the restored data is for.
    pub member: Identity,
    /// By how much the revision is raised; 0 not at all.
    pub bump: i64,
    /// How the existing data is saved first.
    pub backup: Backup,
    /// Whether the snapshot must end in a right hash.
    pub hash_check: bool,
    /// The revision of the existing data, where there is any.
    pub old_revision: Option<i64>,
    /// How many revisions the existing data is ahead of the snapshot: what going back costs.
    pub loses: i64,
    /// How many revisions clients have seen beyond the snapshot: more than `loses` if an earlier restore went back.
    pub ahead: i64,
    /// The record of the clusters and revisions that the restored data comes after.
    pub lineage: Lineage,
    /// What the operator must know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The revision that the existing data must not have reached when it is stopped, where the restored data begins at
    /// `revision`: clients' watches would go back in time, and nobody has been told. Of data that was behind or level, clients
    /// may write past the snapshot meanwhile. `None` where that has been warned of, and where no revision was known.
    pub fn must_stay_below(&self, revision: i64) -> Option<i64> {
        self.old_revision?;
        match (self.bump, self.ahead) {
            (0, 0) => Some(revision.saturating_add(1)),
            (bump, ahead) => (bump > ahead).then_some(revision),
        }
    }
}

/// Whether a restore can work on this site: on its data as a whole, and with somebody to stop and start etcd.
pub fn suits(site: &Site) -> Result<(), Refusal> {
    if let Some(wal_dir) = &site.wal_dir {
        let (log, data) = (wal_dir.display(), site.data_dir.display());
        return Err(Refusal::new(
            format!(
                "etcd keeps its write-ahead log apart from its data, in {log}: no one step exchanges both (wal-dir)"
            ),
            format!(
                "{}; cp -a {log} {data}/member/wal; take wal-dir out of etcd's configuration; {}; run restore again",
                site.service.stop_command(),
                site.service.start_command()
            ),
        ));
    }
    if let Some(drift) = &site.drift {
        return Err(Refusal::new(
            format!("after a restart this etcd would be another: {drift}"),
            "make its configuration say what is meant, restart etcd, and run restore again",
        ));
    }
    if !site.tools.etcd.is_file() {
        return Err(no_server(site));
    }
    site.service.check_supervisor()
}

/// The program `etcd` is in a container: restored data is booted before it goes live, and that takes one here.
fn no_server(site: &Site) -> Refusal {
    let server = site.tools.etcd.display();
    Refusal::new(
        format!("there is no program {server} on this machine to prove the restored data with"),
        site.how_to_get_programs(),
    )
}

/// Whether this etcd may be restored at all: a cluster of one voting member that has started, or none.
pub fn admit(facts: &Facts) -> Result<Identity, Refusal> {
    let stop = &facts.stop_command;
    match &facts.old {
        Old::Serving { members, .. } | Old::Stopped { members, .. } => alone(members),
        Old::Empty => Ok(initial(&facts.initial)),
        Old::Silent(why) => Err(Refusal::new(
            format!("the members of the cluster could not be learned: {why}"),
            format!("mend that; or stop etcd ({stop}) and run restore again, which then reads its files"),
        )),
        Old::Damaged(why) => Err(Refusal::new(
            format!(
                "etcd is stopped, and the members of its cluster cannot be read, because its data is damaged: {why}"
            ),
            format!(
                "if you have no better copy of this data, move {0}/member to {0}/member.broken and run restore again",
                facts.data_dir
            ),
        )),
        Old::Unknown(why) => Err(Refusal::new(
            format!("etcd is stopped, and the members of its cluster could not be learned: {why}"),
            format!(
                "start etcd ({}), see its log if it does not start, and run restore again",
                facts.start_command
            ),
        )),
        Old::NoLog => Err(Refusal::new(
            format!(
                "there is no write-ahead log in {}/member/wal: it is lost, or kept elsewhere (wal-dir)",
                facts.data_dir
            ),
            format!(
                "if it is lost, stop etcd ({stop}), move {0}/member to {0}/member.broken and run restore again; \
                 if it is elsewhere, stop etcd, copy it to {0}/member/wal, and have etcd find it there",
                facts.data_dir
            ),
        )),
        Old::Elsewhere => Err(Refusal::new(
            format!("an etcd answers, but none has its data in {}", facts.data_dir),
            "correct endpoint or data-dir in the site file; if the data was deleted, stop etcd first",
        )),
    }
}

/// The member that etcd's configuration would make, with what etcd takes for one that was told nothing (etcd,
/// server/embed/config.go).
fn initial(said: &InitialMember) -> Identity {
    let or = |said: &Option<String>, default: &str| said.clone().unwrap_or_else(|| default.to_owned());
    Identity { name: or(&said.name, "default"), peer_urls: or(&said.peer_urls, "http://localhost:2380") }
}

fn alone(members: &[Member]) -> Result<Identity, Refusal> {
    let names = || members.iter().map(called).collect::<Vec<_>>().join(", ");
    match members {
        [one] if one.is_learner => Err(Refusal::new(
            format!("the only member, {}, is a learner", called(one)),
            "run restore on a voting member",
        )),
        [one] if one.name.is_empty() => {
            Err(Refusal::new("the only member has not started yet", "start etcd, then run restore again"))
        }
        [one] => Ok(Identity { name: one.name.clone(), peer_urls: one.peer_urls.join(",") }),
        [] => Err(Refusal::new(
            "the members of the cluster could not be learned: etcd lists none",
            "read etcd's log",
        )),
        _ => Err(Refusal::new(
            format!("the cluster has {} members: {}; restore works only on one", members.len(), names()),
            "restore into a new deployment of one unit, or remove the other members first",
        )),
    }
}

/// A member, to a person.
pub fn called(member: &Member) -> String {
    match (member.name.as_str(), member.is_learner) {
        ("", _) => format!("{:x} (not started)", member.id),
        (name, true) => format!("{name} (a learner)"),
        (name, false) => name.to_owned(),
    }
}

/// How the existing data will be saved.
pub(super) fn backup(request: &Request, facts: &Facts) -> Backup {
    match (&request.backup, &facts.old) {
        (None, _) => Backup::None,
        (Some(_), Old::Serving { .. }) => Backup::Online,
        (Some(_), Old::Stopped { .. }) => Backup::Stopped,
        (Some(_), _) => Backup::None,
    }
}

/// The plan for restoring `snapshot`.
pub fn decide(
    request: &Request,
    facts: &Facts,
    member: Identity,
    snapshot: &Snapshot,
) -> Result<Plan, Refusal> {
    if let Some(expected) = &request.expected_sha256
        && *expected != snapshot.contents.sha256
    {
        return Err(Refusal::new(
            format!("the snapshot's sha256 is {}, not the expected {expected}", snapshot.contents.sha256),
            "fetch the right file, or correct expected-sha256",
        ));
    }
    let hash_check = hash_check(request, snapshot)?;
    if !request.allow_foreign {
        not_a_strangers(facts, snapshot)?;
    }
    let old_revision = revision::revision(&facts.old);
    let loses = (old_revision.unwrap_or(0) - snapshot.revision).max(0);
    let seen = Seen::of(facts, snapshot);
    let ahead = seen.ahead_of(snapshot.revision);
    let (bump, mut warnings) = bump(request.bump, seen, snapshot, facts)?;
    warnings.extend(v2::allow(request, facts)?);
    warnings.extend(quota::suffices(request, facts, snapshot.size)?);
    can_be_raised(snapshot.last_record, bump, facts)?;
    if let Some(doubt) = seen.doubt.filter(|_| bump == 0) {
        warnings.push(unknown_watchers(doubt, facts));
    }
    warnings.extend(facts.versions.warning());
    if matches!(facts.old, Old::Empty) && facts.initial.peer_urls.is_none() {
        warnings.push(format!(
            "neither old data nor etcd's configuration (initial-advertise-peer-urls) tells the member's peer URL, so it is \
             {}: before members are added, set it \
             with etcdctl member update ID --peer-urls=URL",
            member.peer_urls
        ));
    }
    let lineage = seen.recorded(&facts.lineage, snapshot.revision, request.bump, bump);
    let backup = backup(request, facts);
    Ok(Plan { member, bump, backup, hash_check, old_revision, loses, ahead, lineage, warnings })
}

/// Refuses to put another cluster's data in the place of an etcd's own. One that holds no key has none of its own, and of
/// a snapshot without a manifest nobody knows whose it is.
fn not_a_strangers(facts: &Facts, snapshot: &Snapshot) -> Result<(), Refusal> {
    let holds_data = matches!(facts.old, Old::Serving { .. } | Old::Stopped { .. }) && facts.keys != Ok(0);
    let Some(manifest) = snapshot.contents.manifest.as_ref().filter(|_| holds_data) else { return Ok(()) };
    if facts.lineage.knows(&manifest.cluster_id) {
        return Ok(());
    }
    let known: Vec<&str> = facts.lineage.all().collect();
    let keys = match &facts.keys {
        Ok(keys) => format!("{keys} keys"),
        Err(why) => format!("data that could not be counted ({why})"),
    };
    Err(Refusal::new(
        format!(
            "the snapshot is of another cluster, {} (member {}), and this etcd, cluster {}, holds {keys}",
            manifest.cluster_id,
            manifest.member_name,
            known.join(", formerly "),
        ),
        "if that cluster's data is to replace this one's, run restore again with allow-foreign=true",
    ))
}

fn hash_check(request: &Request, snapshot: &Snapshot) -> Result<bool, Refusal> {
    let shown = request.source.shown();
    match snapshot.contents.db.trailer {
        Trailer::Valid => Ok(true),
        Trailer::Missing if request.allow_unhashed => Ok(false),
        Trailer::Missing => Err(Refusal::new(
            format!(
                "{shown} has no SHA-256 trailer: archives of the older etcd charm and copies of a live database never have one"
            ),
            "if you trust it, run restore again with allow-unhashed=true",
        )),
        Trailer::Invalid => Err(Damage::Trailer.of(shown).into()),
    }
}

fn bump(asked: Bump, seen: Seen, snapshot: &Snapshot, facts: &Facts) -> Result<(i64, Vec<String>), Refusal> {
    let ahead = seen.ahead_of(snapshot.revision);
    // What a bump must add before it clears anything.
    let gap = seen.ahead_of(snapshot.last_record);
    let warning = |why: &str| {
        format!("the revision goes back by {ahead} ({why}): {}", restarts(facts.takes_api_server))
    };
    match asked {
        Bump::By(_) if !facts.versions.programs.can_bump() => Err(Refusal::new(
            format!(
                "etcd {} cannot raise the revision of a snapshot",
                facts.versions.programs.snapshot_program().version
            ),
            "leave bump-revision out, or install etcd 3.4.27, 3.5.10 or later",
        )),
        Bump::By(by) if by <= ahead => Ok((by, vec![warning(&format!("a bump of {by} does not clear it"))])),
        Bump::By(by) => Ok((by, Vec::new())),
        // Already as far or farther.
        _ if ahead == 0 => Ok((0, Vec::new())),
        Bump::Off => Ok((0, vec![warning("bump-revision=off")])),
        Bump::Auto if !facts.versions.programs.can_bump() => Ok((
            0,
            vec![warning(&format!(
                "etcd {} cannot raise it",
                facts.versions.programs.snapshot_program().version
            ))],
        )),
        Bump::Auto if seen.doubt.is_some() => Ok((gap.saturating_add(FAR), Vec::new())),
        // A fifth without an end would use up all revisions in 155 restores of one snapshot.
        Bump::Auto => Ok((gap.saturating_add((gap / 5).min(FAR)).saturating_add(HEADROOM), Vec::new())),
    }
}

fn can_be_raised(revision: i64, bump: i64, facts: &Facts) -> Result<(), Refusal> {
    if bump == 0 || revision.checked_add(bump).is_some_and(|raised| raised <= HIGHEST) {
        return Ok(());
    }
    Err(Refusal::new(
        format!(
            "the snapshot's revision {revision} would be raised by {bump}, past {HIGHEST}, half of what etcd can count"
        ),
        format!("run restore again with bump-revision=off; {}", restarts(facts.takes_api_server)),
    ))
}

/// What is to be restarted where caches may be stale.
fn restarts(takes_api_server: bool) -> &'static str {
    if takes_api_server {
        "kube-apiserver is restarted with etcd; restart kube-controller-manager and kube-scheduler"
    } else {
        "restart every client that watches, such as kube-apiserver, kube-controller-manager and kube-scheduler"
    }
}

/// The warning if clients can have seen more than is known, and nothing clears it: they would go on with what they have.
fn unknown_watchers(doubt: Doubt, facts: &Facts) -> String {
    let instead = if facts.versions.programs.can_bump() {
        format!("; or restore again with bump-revision={FAR}, or more than was written since the snapshot")
    } else {
        String::new()
    };
    format!(
        "{}, so the last revision that clients saw is unknown; a client that saw a later one than the snapshot's serves \
         stale data without an error: {}{instead}",
        doubt.described(),
        restarts(facts.takes_api_server)
    )
}

#[cfg(test)]
mod tests;
