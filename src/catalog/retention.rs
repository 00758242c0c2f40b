//! Retention: which archives of a store a policy keeps, and why. A pure function of entries, policy and time.
//!
//! Judges archives with our manifest and of the cluster that is meant, by what the manifest says of time and revision,
//! never by name. Must never give up what is pinned, nor the newest that is known to be good, nor all for a wrong clock.

mod words;

pub use words::{parse_age, parse_size};

use super::entry::Entry;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// Which archives to keep. An archive is kept where one of the rules keeps it; without any rule all are. `max_size` then
/// takes the oldest of them away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many; 0 is no rule, here and below.
    pub last: u64,
    /// All that were taken within this time before the newest.
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

/// Whose archives a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those of the cluster that has these ids, in hex: one that was restored has had others before.
    Cluster(BTreeSet<String>),
    /// Those of every cluster.
    All,
}

/// What becomes of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for these reasons.
    Kept(Vec<String>),
    /// It goes, for this reason.
    Deleted(String),
}

/// The verdict on each of `entries`, in their order.
pub fn judge(entries: &[&Entry], policy: &Policy, scope: &Scope, now: Timestamp) -> Vec<Verdict> {
    let mut stays: Vec<Vec<String>> = entries.iter().map(|entry| untouched(entry, scope, now)).collect();
    // What a restore replaced is counted apart: as the newest of all, it would push out what was restored.
    let kinds = [false, true].map(|before| {
        sorted(entries, |entry| entry.before_restore() == before && untouched(entry, scope, now).is_empty())
    });
    for (ours, good) in &kinds {
        protect(entries, ours, good, &mut stays);
        if policy.has_rules() {
            apply_rules(entries, policy, good, now, &mut stays);
        } else {
            ours.iter().for_each(|at| stays[*at].push("no rule is about it".to_owned()));
        }
    }
    let mut verdicts: Vec<Verdict> = stays.into_iter().zip(entries).map(settled).collect();
    let newest: Vec<usize> = kinds.iter().filter_map(|(_, good)| good.first().copied()).collect();
    cap(entries, policy, scope, now, &newest, &mut verdicts);
    verdicts
}

/// Why no policy at all takes an archive away; empty where one may. Each cluster keeps its own newest.
pub fn protections(entries: &[&Entry], now: Timestamp) -> Vec<Vec<String>> {
    let mut stays = vec![Vec::new(); entries.len()];
    let clusters: BTreeSet<&str> =
        entries.iter().filter_map(|entry| entry.manifest.as_ref()).map(|m| &*m.cluster_id).collect();
    for cluster in clusters {
        let scope = Scope::Cluster([cluster.to_owned()].into());
        for before in [false, true] {
            let (ours, good) = sorted(entries, |entry| {
                entry.before_restore() == before && untouched(entry, &scope, now).is_empty()
            });
            protect(entries, &ours, &good, &mut stays);
        }
    }
    stays
}

/// Those that a policy is about and, among them, those that are good; the newest first.
fn sorted(entries: &[&Entry], touched: impl Fn(&Entry) -> bool) -> (Vec<usize>, Vec<usize>) {
    let mut ours: Vec<usize> = (0..entries.len()).filter(|at| touched(entries[*at])).collect();
    ours.sort_by(|a, b| entries[*b].age_key().cmp(&entries[*a].age_key()));
    let good = ours.iter().copied().filter(|at| entries[*at].verified().is_some()).collect();
    (ours, good)
}

/// Why the policy is not about an archive at all; empty where it is.
fn untouched(entry: &Entry, scope: &Scope, now: Timestamp) -> Vec<String> {
    let why = match (&entry.manifest, entry.taken(), scope) {
        (None, ..) | (_, None, _) => "no manifest of ours".to_owned(),
        (Some(manifest), _, Scope::Cluster(ids)) if !ids.contains(&manifest.cluster_id) => {
            format!("of another cluster, {}", manifest.cluster_id)
        }
        // It would be the newest for years, and push out all that are new.
        (_, Some(taken), _) if taken > now => format!("taken at {taken}, which is still to come"),
        _ => return Vec::new(),
    };
    vec![why]
}

/// What no policy takes away.
fn protect(entries: &[&Entry], ours: &[usize], good: &[usize], stays: &mut [Vec<String>]) {
    for at in ours.iter().filter(|at| entries[**at].record.pinned) {
        stays[*at].push("pinned".to_owned());
    }
    if let Some(newest) = good.first() {
        let what = if entries[*newest].before_restore() { " of those saved before a restore" } else { "" };
        stays[*newest].push(format!("the newest verified{what}"));
    }
    // A broken one counts for no rule; it goes when something better is newer.
    for at in ours.iter().take_while(|at| Some(*at) != good.first()) {
        stays[*at].push("broken, but nothing newer is better".to_owned());
    }
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
    match (&entry.record.broken, reasons.is_empty()) {
        (_, false) => Verdict::Kept(reasons),
        (Some(why), true) => Verdict::Deleted(format!("broken: {why}")),
        (None, true) => Verdict::Deleted("no rule keeps it".to_owned()),
    }
}

/// Takes the oldest away until the rest fits into the size that is allowed.
fn cap(
    entries: &[&Entry],
    policy: &Policy,
    scope: &Scope,
    now: Timestamp,
    newest: &[usize],
    verdicts: &mut [Verdict],
) {
    let Some(most) = policy.max_size else { return };
    let (ours, _) = sorted(entries, |entry| untouched(entry, scope, now).is_empty());
    let kept: Vec<usize> = ours.into_iter().filter(|at| matches!(verdicts[*at], Verdict::Kept(_))).collect();
    let mut total: u64 = kept.iter().map(|at| entries[*at].size).sum();
    for at in kept.into_iter().rev() {
        if total <= most {
            return;
        }
        if entries[at].record.pinned || newest.contains(&at) {
            continue;
        }
        total -= entries[at].size;
        verdicts[at] = Verdict::Deleted(format!("more than {} in all", words::size(most)));
    }
}

#[cfg(test)]
mod tests;
