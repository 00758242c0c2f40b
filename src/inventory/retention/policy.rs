//! The rules of retention: a pure function of entries, policy and time.
//!
//! Rules apply to archives with our manifest and of the given cluster and member, by the time and revision in the
//! manifest and never by name. They never delete a pinned archive or the newest good one, and a wrong clock cannot make
//! them delete all.

use super::super::entry::Entry;
use super::units;
use crate::archive::labels::{Label, Labels};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Retention rules. An archive is kept if at least one rule keeps it, and without rules all are kept. After that,
/// `max_size` deletes the oldest ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Policy {
    /// Number of newest archives to keep. 0 disables the rule, also below.
    pub last: u64,
    /// The time before the newest archive within which all are kept.
    #[serde(deserialize_with = "units::deserialize_age")]
    pub within: Option<SignedDuration>,
    /// Number of hours (UTC) with an archive of which to keep the newest one each.
    pub hourly: u64,
    /// The same for days.
    pub daily: u64,
    /// The same for weeks, which begin on Monday.
    pub weekly: u64,
    /// The same for months.
    pub monthly: u64,
    /// The most bytes that all archives together may take.
    #[serde(deserialize_with = "units::deserialize_size")]
    pub max_size: Option<u64>,
    /// Archives with one of these labels are always kept, as if they were pinned. This alone deletes no other archive.
    pub labels: Vec<Label>,
}

impl Policy {
    /// Returns whether it has neither a rule nor a size limit. Such a policy keeps everything, also if it has labels.
    pub fn is_empty(&self) -> bool {
        !self.has_rules() && self.max_size.is_none()
    }

    /// Returns this policy with the labels of `settings` added: rules of a command line replace those of the settings,
    /// but an archive that the settings protect stays protected.
    #[must_use]
    pub fn with_labels_of(mut self, settings: &Self) -> Self {
        self.labels.extend(settings.labels.iter().cloned());
        self
    }

    /// Returns the first label of this policy that an archive has.
    fn label_of(&self, entry: &Entry) -> Option<&Label> {
        let labels = &entry.manifest.as_ref()?.labels;
        self.labels.iter().find(|label| labels.has(label))
    }

    fn has_rules(&self) -> bool {
        self.within.is_some()
            || [self.last, self.hourly, self.daily, self.weekly, self.monthly].iter().any(|count| *count > 0)
    }
}

/// The cluster and the member whose archives a policy applies to. Each member is counted separately. Otherwise each of
/// three members that share a bucket would keep a third of the requested number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The ids of the cluster, in hex. A restored cluster has had several, which count as one.
    pub clusters: BTreeSet<String>,
    /// Whether archives of other clusters are included. Each cluster is counted separately.
    pub others: bool,
    /// The name of the member. `None` includes all members.
    pub member: Option<String>,
    /// The labels that an archive must have.
    pub labels: Labels,
}

impl Scope {
    /// Returns whether a policy applies to an archive.
    pub fn covers(&self, entry: &Entry) -> bool {
        entry.manifest.as_ref().is_some_and(|manifest| {
            (self.others || self.clusters.contains(&manifest.cluster_id))
                && self.member.as_ref().is_none_or(|member| *member == manifest.member_name)
                && manifest.labels.has_all(&self.labels)
        })
    }

    /// Covers all members of all clusters.
    pub fn all() -> Self {
        Self { others: true, ..Self::default() }
    }
}

/// The decision about an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Keep it, for these reasons.
    Keep(Vec<String>),
    /// Delete it, for this reason.
    Delete(String),
}

/// Decides about each of `entries`, which are all those of one repository, in their order.
pub(super) fn decide(entries: &[&Entry], policy: &Policy, scope: &Scope, now: Timestamp) -> Vec<Decision> {
    let mut reasons: Vec<Vec<String>> = entries.iter().map(|entry| exempt(entry, scope, now)).collect();
    let groups = groups(entries, scope, &reasons);
    for group in &groups {
        for kind in &group.kinds {
            protect(entries, policy, kind, &mut reasons);
            if policy.has_rules() {
                apply_rules(entries, policy, &kind.good, now, &mut reasons);
            } else {
                kind.all.iter().for_each(|index| reasons[*index].extend(without_rules(policy)));
            }
        }
    }
    let mut decisions: Vec<Decision> = reasons.into_iter().zip(entries).map(conclude).collect();
    for group in &groups {
        limit_size(entries, policy, group, &mut decisions);
    }
    decisions
}

/// Returns why each of `entries`, which are all those of one repository, is kept. Empty if it is not kept.
pub(super) fn reasons_to_keep(
    entries: &[&Entry],
    policy: &Policy,
    scope: &Scope,
    now: Timestamp,
) -> Vec<Vec<String>> {
    let reasons = decide(entries, policy, scope, now).into_iter().map(|decision| match decision {
        Decision::Keep(reasons) => reasons,
        Decision::Delete(_) => Vec::new(),
    });
    reasons.map(|all| all.into_iter().filter(|reason| reason != NO_RULE).collect()).collect()
}

/// The reason to keep an archive if the policy has no rules.
const NO_RULE: &str = "no rule applies to it";

fn without_rules(policy: &Policy) -> Vec<String> {
    match policy.max_size {
        Some(size) => vec![format!("fits into {}", units::format_size(size))],
        None => vec![NO_RULE.to_owned()],
    }
}

/// The archives of one member of one cluster, by their indices. A policy counts them separately.
#[derive(Default)]
struct Group {
    /// Ordinary backups, and those that `restore` took. The latter are counted separately: as the newest of all, they
    /// would displace the archives that were restored.
    kinds: [Kind; 2],
}

/// The archives of one kind in a group, the newest first.
#[derive(Default)]
struct Kind {
    all: Vec<usize>,
    /// Returns the archives that are not damaged.
    good: Vec<usize>,
}

impl Group {
    /// Returns the newest good archive of each kind, and the one with the highest revision.
    fn newest(&self, entries: &[&Entry]) -> Vec<usize> {
        let newest = |kind: &Kind| [kind.good.first().copied(), highest_revision(entries, &kind.good)];
        self.kinds.iter().flat_map(newest).flatten().collect()
    }

    /// Returns all archives, the newest first.
    fn all(&self, entries: &[&Entry]) -> Vec<usize> {
        let mut all: Vec<usize> = self.kinds.iter().flat_map(|kind| &kind.all).copied().collect();
        all.sort_by_cached_key(|index| Reverse(entries[*index].age_key()));
        all
    }
}

/// Groups the archives that the policy applies to, which have no `reasons` yet.
fn groups(entries: &[&Entry], scope: &Scope, reasons: &[Vec<String>]) -> Vec<Group> {
    let mut indices: Vec<usize> = (0..entries.len()).filter(|index| reasons[*index].is_empty()).collect();
    indices.sort_by_cached_key(|index| Reverse(entries[*index].age_key()));
    let mut groups: BTreeMap<(&str, &str), Group> = BTreeMap::new();
    for index in indices {
        let Some(manifest) = &entries[index].manifest else { continue };
        let cluster = if scope.clusters.contains(&manifest.cluster_id) { "" } else { &*manifest.cluster_id };
        let group = groups.entry((cluster, &manifest.member_name)).or_default();
        let kind = &mut group.kinds[usize::from(manifest.before_restore)];
        kind.all.push(index);
        kind.good.extend(entries[index].verified().map(|_| index));
    }
    groups.into_values().collect()
}

/// Returns why the policy does not apply to an archive. Empty if it does.
fn exempt(entry: &Entry, scope: &Scope, now: Timestamp) -> Vec<String> {
    if let Some(reason) = &entry.unreadable {
        return vec![reason.clone()];
    }
    let (Some(manifest), Some(taken)) = (&entry.manifest, entry.taken()) else {
        let damage = entry.record.damage.as_ref().map(|damage| format!("damaged: {damage}"));
        return vec![damage.unwrap_or_else(|| "no manifest of ours".to_owned())];
    };
    let (cluster, member) = (&manifest.cluster_id, &manifest.member_name);
    let reason = match &scope.member {
        _ if !scope.others && !scope.clusters.contains(cluster) => format!("of another cluster, {cluster}"),
        Some(own) if own != member => format!("of another member, {member}"),
        _ if !entry.has_labels(&scope.labels) => format!("without the label {}", scope.labels),
        // It would be the newest for years, and displace all new ones.
        _ if taken > now => format!("dated {taken}, which is in the future"),
        _ => return Vec::new(),
    };
    vec![reason]
}

/// Adds the reasons that hold for every policy.
fn protect(entries: &[&Entry], policy: &Policy, kind: &Kind, reasons: &mut [Vec<String>]) {
    for index in kind.all.iter().filter(|index| entries[**index].record.pinned) {
        reasons[*index].push("pinned".to_owned());
    }
    for index in &kind.all {
        reasons[*index]
            .extend(policy.label_of(entries[*index]).map(|label| format!("has the label {label}")));
    }
    for index in &kind.all {
        let pending = entries[*index].pending_uploads.iter();
        reasons[*index].extend(pending.map(|name| format!("still to be uploaded to {name}")));
    }
    let newest = kind.good.first();
    if let Some(newest) = newest {
        let which = if entries[*newest].before_restore() { " of those saved before a restore" } else { "" };
        reasons[*newest].push(format!("the newest verified{which}"));
    }
    if let Some(highest) = highest_revision(entries, &kind.good).filter(|index| Some(index) != newest) {
        reasons[highest].push("the highest revision verified".to_owned());
    }
    // No rule counts a damaged archive. It is deleted once a newer one is verified.
    for index in kind.all.iter().take_while(|index| Some(*index) != newest) {
        reasons[*index].push("damaged, but no newer one is verified".to_owned());
    }
}

/// Returns the good archive with the highest revision in the cluster of the newest. It is not the newest if a clock was
/// wrong once: a date in the future looks right when its time has come.
fn highest_revision(entries: &[&Entry], good: &[usize]) -> Option<usize> {
    let cluster = entries[*good.first()?].cluster();
    let revision = |index: usize| entries[index].manifest.as_ref().map(|manifest| manifest.revision);
    let same = good.iter().copied().filter(|index| entries[*index].cluster() == cluster);
    // `max_by_key` returns the last of equal ones: reversed, that is the newest.
    same.rev().max_by_key(|index| revision(*index))
}

fn apply_rules(
    entries: &[&Entry],
    policy: &Policy,
    good: &[usize],
    now: Timestamp,
    reasons: &mut [Vec<String>],
) {
    let taken = |index: usize| entries[index].taken().unwrap_or(now);
    for index in good.iter().take(saturate(policy.last)) {
        reasons[*index].push(format!("among the newest {}", policy.last));
    }
    // The time counts from the newest archive, so a fast clock or weeks without a backup do not delete all archives.
    if let (Some(within), Some(newest)) = (policy.within, good.first()) {
        let newest = taken(*newest);
        for index in good.iter().filter(|index| newest.duration_since(taken(**index)) <= within) {
            reasons[*index].push(format!("taken within {}", units::format_age(within)));
        }
    }
    for (count, format, unit) in [
        (policy.hourly, "%F %H:00", "hour"),
        (policy.daily, "%F", "day"),
        (policy.weekly, "%G-W%V", "week"),
        (policy.monthly, "%Y-%m", "month"),
    ] {
        let period =
            |index: usize| taken(index).to_zoned_datetime(TimeZone::UTC).strftime(format).to_string();
        let mut seen = BTreeSet::new();
        for index in good {
            if seen.len() < saturate(count) && seen.insert(period(*index)) {
                reasons[*index].push(format!("the last of {unit} {}", period(*index)));
            }
        }
    }
}

fn saturate(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn conclude((reasons, entry): (Vec<String>, &&Entry)) -> Decision {
    match (&entry.record.damage, reasons.is_empty()) {
        (_, false) => Decision::Keep(reasons),
        (Some(damage), true) => Decision::Delete(format!("damaged: {damage}")),
        (None, true) => Decision::Delete("no rule keeps it".to_owned()),
    }
}

/// Deletes the damaged archives of a group and then the oldest ones, until the rest has the allowed size.
fn limit_size(entries: &[&Entry], policy: &Policy, group: &Group, decisions: &mut [Decision]) {
    let Some(max_size) = policy.max_size else { return };
    let newest = group.newest(entries);
    let all = group.all(entries).into_iter();
    let kept: Vec<usize> = all.filter(|index| matches!(decisions[*index], Decision::Keep(_))).collect();
    let mut total: u64 = kept.iter().map(|index| entries[*index].size).sum();
    let (good, damaged): (Vec<_>, Vec<_>) =
        kept.into_iter().rev().partition(|index| entries[*index].record.damage.is_none());
    for index in damaged.into_iter().chain(good) {
        if total <= max_size {
            return;
        }
        let entry = entries[index];
        let is_protected = entry.record.pinned || policy.label_of(entry).is_some();
        if is_protected || !entry.pending_uploads.is_empty() || newest.contains(&index) {
            continue;
        }
        total -= entry.size;
        decisions[index] = Decision::Delete(format!("more than {} in total", units::format_size(max_size)));
    }
}

#[cfg(test)]
mod tests;
