//! Retention: which archives of a store a policy keeps, and why. A pure function of entries, policy and time.
//!
//! Judges archives with our manifest and of the cluster and member that are meant, by what the manifest says of time and
//! revision, never by name. Must never give up what is pinned, nor the newest that is known to be good, nor all for a wrong clock.

mod words;

pub use words::{parse_age, parse_size};

use super::entry::Entry;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Which archives to keep. An archive is kept where one of the rules keeps it; without any rule all are. `max_size` then
/// takes the oldest of them away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// The newest so many; 0 is no rule, here and below.
    pub last: u64,
    /// All that were taken within this time before the newest.
    #[serde(deserialize_with = "words::read_age")]
    pub within: Option<SignedDuration>,
    /// The newest of each of the last so many hours in which one was taken, in UTC.
    pub hourly: u64,
    /// The same for days.
    pub daily: u64,
    /// The same for weeks, which begin on Monday.
    pub weekly: u64,
    /// The same for months.
    pub monthly: u64,
    /// The bytes that all of them together may take.
    #[serde(deserialize_with = "words::read_size")]
    pub max_size: Option<u64>,
}

impl Policy {
    /// Whether it has a rule at all. One that has none deletes nothing.
    pub fn is_empty(&self) -> bool {
        !self.has_rules() && self.max_size.is_none()
    }

    fn has_rules(&self) -> bool {
        self.within.is_some()
            || [self.last, self.hourly, self.daily, self.weekly, self.monthly].iter().any(|count| *count > 0)
    }
}

/// Whose archives a policy is about. Those of each member are counted apart: members that share a bucket would else push out
/// each other's, and three of them keep a third of what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The ids, in hex, of the cluster that is meant. One that was restored has had others before: they count as one.
    pub clusters: BTreeSet<String>,
    /// Whether those of other clusters are meant as well, each of which is counted apart.
    pub others: bool,
    /// The member whose are meant; without one all members'.
    pub member: Option<String>,
}

impl Scope {
    /// Whether an archive is one of those that a policy is about.
    pub fn covers(&self, entry: &Entry) -> bool {
        entry.manifest.as_ref().is_some_and(|manifest| {
            (self.others || self.clusters.contains(&manifest.cluster_id))
                && self.member.as_ref().is_none_or(|member| *member == manifest.member_name)
        })
    }

    /// Everybody's.
    pub fn all() -> Self {
        Self { others: true, ..Self::default() }
    }
}

/// What becomes of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for these reasons.
    Kept(Vec<String>),
    /// It goes, for this reason.
    Deleted(String),
}

/// The verdict on each of `entries`, which are all of one store, in their order.
pub fn judge(entries: &[&Entry], policy: &Policy, scope: &Scope, now: Timestamp) -> Vec<Verdict> {
    let mut stays: Vec<Vec<String>> = entries.iter().map(|entry| untouched(entry, scope, now)).collect();
    let groups = groups(entries, scope, &stays);
    for group in &groups {
        for (ours, good) in &group.kinds {
            protect(entries, ours, good, &mut stays);
            if policy.has_rules() {
                apply_rules(entries, policy, good, now, &mut stays);
            } else {
                ours.iter().for_each(|at| stays[*at].extend(without_rules(policy)));
            }
        }
    }
    let mut verdicts: Vec<Verdict> = stays.into_iter().zip(entries).map(settled).collect();
    for group in &groups {
        cap(entries, policy, group, &mut verdicts);
    }
    verdicts
}

/// Why each of `entries`, which are all of one store, is kept; empty where nothing keeps it.
pub fn kept_because(entries: &[&Entry], policy: &Policy, scope: &Scope, now: Timestamp) -> Vec<Vec<String>> {
    let verdicts = judge(entries, policy, scope, now).into_iter();
    let reasons = verdicts.map(|verdict| match verdict {
        Verdict::Kept(reasons) => reasons,
        Verdict::Deleted(_) => Vec::new(),
    });
    reasons.map(|all| all.into_iter().filter(|reason| reason != NO_RULE).collect()).collect()
}

/// Why something stays where a policy has no rule.
const NO_RULE: &str = "no rule is about it";

fn without_rules(policy: &Policy) -> Vec<String> {
    match policy.max_size {
        Some(most) => vec![format!("fits into {}", words::size(most))],
        None => vec![NO_RULE.to_owned()],
    }
}

/// The archives of one member of one cluster, which a policy counts by themselves.
#[derive(Default)]
struct Group {
    /// Those of every day, and those that a restore replaced, which are counted apart: as the newest of all, they would push
    /// out what was restored. Of each all, and among them those that are good; the newest first.
    kinds: [(Vec<usize>, Vec<usize>); 2],
}

impl Group {
    /// The newest good one of each kind, and the one with the highest revision.
    fn newest(&self, entries: &[&Entry]) -> Vec<usize> {
        let of_each = |(_, good): &(Vec<usize>, Vec<usize>)| [good.first().copied(), highest(entries, good)];
        self.kinds.iter().flat_map(of_each).flatten().collect()
    }

    /// All, the newest first.
    fn all(&self, entries: &[&Entry]) -> Vec<usize> {
        let mut all: Vec<usize> = self.kinds.iter().flat_map(|(ours, _)| ours).copied().collect();
        all.sort_by_cached_key(|at| Reverse(entries[*at].age_key()));
        all
    }
}

/// Those that the policy is about: the ones that nothing `stays` yet for.
fn groups(entries: &[&Entry], scope: &Scope, stays: &[Vec<String>]) -> Vec<Group> {
    let mut touched: Vec<usize> = (0..entries.len()).filter(|at| stays[*at].is_empty()).collect();
    touched.sort_by_cached_key(|at| Reverse(entries[*at].age_key()));
    let mut groups: BTreeMap<(&str, &str), Group> = BTreeMap::new();
    for at in touched {
        let Some(manifest) = &entries[at].manifest else { continue };
        let cluster = if scope.clusters.contains(&manifest.cluster_id) { "" } else { &*manifest.cluster_id };
        let group = groups.entry((cluster, &manifest.member_name)).or_default();
        let (ours, good) = &mut group.kinds[usize::from(manifest.before_restore)];
        ours.push(at);
        good.extend(entries[at].verified().map(|_| at));
    }
    groups.into_values().collect()
}

/// Why the policy is not about an archive at all; empty where it is.
fn untouched(entry: &Entry, scope: &Scope, now: Timestamp) -> Vec<String> {
    if let Some(why) = &entry.unread {
        return vec![why.clone()];
    }
    let (Some(manifest), Some(taken)) = (&entry.manifest, entry.taken()) else {
        return vec!["no manifest of ours".to_owned()];
    };
    let (cluster, member) = (&manifest.cluster_id, &manifest.member_name);
    let why = match &scope.member {
        _ if !scope.others && !scope.clusters.contains(cluster) => format!("of another cluster, {cluster}"),
        Some(meant) if meant != member => format!("of another member, {member}"),
        // It would be the newest for years, and push out all that are new.
        _ if taken > now => format!("taken at {taken}, which is still to come"),
        _ => return Vec::new(),
    };
    vec![why]
}

/// What no policy takes away.
fn protect(entries: &[&Entry], ours: &[usize], good: &[usize], stays: &mut [Vec<String>]) {
    for at in ours.iter().filter(|at| entries[**at].record.pinned) {
        stays[*at].push("pinned".to_owned());
    }
    for at in ours {
        stays[*at]
            .extend(entries[*at].waits_for.iter().map(|name| format!("still to be uploaded to {name}")));
    }
    if let Some(newest) = good.first() {
        let what = if entries[*newest].before_restore() { " of those saved before a restore" } else { "" };
        stays[*newest].push(format!("the newest verified{what}"));
    }
    if let Some(highest) = highest(entries, good).filter(|at| Some(at) != good.first()) {
        stays[highest].push("the highest revision verified".to_owned());
    }
    // A damaged archive counts for no rule. It is deleted once a newer one is verified.
    for at in ours.iter().take_while(|at| Some(*at) != good.first()) {
        stays[*at].push("damaged, but no newer one is verified".to_owned());
    }
}

/// Returns the one of the `good` archives with the highest revision in the cluster of the newest. It is another than the newest
/// if a clock was wrong once: a date that it wrote ahead looks true when its time has come.
fn highest(entries: &[&Entry], good: &[usize]) -> Option<usize> {
    let cluster = entries[*good.first()?].cluster();
    let revision = |at: usize| entries[at].manifest.as_ref().map(|manifest| manifest.revision);
    let same = good.iter().copied().filter(|at| entries[*at].cluster() == cluster);
    // Of equal ones the newest, which stands first.
    same.rev().max_by_key(|at| revision(*at))
}

fn apply_rules(
    entries: &[&Entry],
    policy: &Policy,
    good: &[usize],
    now: Timestamp,
    stays: &mut [Vec<String>],
) {
    let taken = |at: usize| entries[at].taken().unwrap_or(now);
    for at in good.iter().take(count(policy.last)) {
        stays[*at].push(format!("among the newest {}", policy.last));
    }
    // Counted from the newest: neither a clock that runs ahead nor weeks without a backup empty the store.
    if let (Some(within), Some(newest)) = (policy.within, good.first()) {
        let newest = taken(*newest);
        for at in good.iter().filter(|at| newest.duration_since(taken(**at)) <= within) {
            stays[*at].push(format!("taken within {}", words::age(within)));
        }
    }
    for (many, format, what) in [
        (policy.hourly, "%F %H:00", "hour"),
        (policy.daily, "%F", "day"),
        (policy.weekly, "%G-W%V", "week"),
        (policy.monthly, "%Y-%m", "month"),
    ] {
        let period = |at: usize| taken(at).to_zoned(TimeZone::UTC).strftime(format).to_string();
        let mut seen = BTreeSet::new();
        for at in good {
            if seen.len() < count(many) && seen.insert(period(*at)) {
                stays[*at].push(format!("the last of {what} {}", period(*at)));
            }
        }
    }
}

fn count(many: u64) -> usize {
    usize::try_from(many).unwrap_or(usize::MAX)
}

fn settled((reasons, entry): (Vec<String>, &&Entry)) -> Verdict {
    match (&entry.record.damage, reasons.is_empty()) {
        (_, false) => Verdict::Kept(reasons),
        (Some(why), true) => Verdict::Deleted(format!("damaged: {why}")),
        (None, true) => Verdict::Deleted("no rule keeps it".to_owned()),
    }
}

/// Takes the oldest of a group away until the rest fits into the size that is allowed.
fn cap(entries: &[&Entry], policy: &Policy, group: &Group, verdicts: &mut [Verdict]) {
    let Some(most) = policy.max_size else { return };
    let newest = group.newest(entries);
    let all = group.all(entries).into_iter();
    let kept: Vec<usize> = all.filter(|at| matches!(verdicts[*at], Verdict::Kept(_))).collect();
    let mut total: u64 = kept.iter().map(|at| entries[*at].size).sum();
    for at in kept.into_iter().rev() {
        if total <= most {
            return;
        }
        if entries[at].record.pinned || !entries[at].waits_for.is_empty() || newest.contains(&at) {
            continue;
        }
        total -= entries[at].size;
        verdicts[at] = Verdict::Deleted(format!("more than {} in all", words::size(most)));
    }
}

#[cfg(test)]
mod tests;
