//! Tests retention with tables and properties.

use super::*;
use crate::archive::damage::Damage;
use crate::archive::labels::Labels;
use crate::archive::manifest::Manifest;
use crate::inventory::record::{ArchiveIdentity, Record};
use proptest::prelude::*;
use proptest::sample::Index;

const OURS: &str = "c1";

fn entry(taken: &str, revision: i64, size: u64) -> Entry {
    let manifest = Manifest {
        format: 1,
        taken: taken.to_owned(),
        unit: None,
        etcd_version: "3.5.16".to_owned(),
        cluster_id: OURS.to_owned(),
        member_id: "2".to_owned(),
        member_name: "m1".to_owned(),
        member_count: 1,
        revision,
        keys: Some(3),
        total_keys: 4,
        db_size: 5,
        db_sha256: "6".to_owned(),
        before_restore: false,
        content_hash: None,
        kubernetes: None,
        labels: Labels::default(),
        note: None,
        included: None,
    };
    Entry {
        name: format!("{taken}-{revision}-{size}"),
        store: "/a".to_owned(),
        size,
        modified: Timestamp::UNIX_EPOCH,
        encrypted_for: Vec::new(),
        record: Record::empty(ArchiveIdentity::new(size, Some(&manifest))),
        unreadable: None,
        manifest: Some(manifest),
        pending_uploads: Vec::new(),
        made: None,
    }
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn hours_ago(hours: i64) -> Entry {
    entry(&(now() - SignedDuration::from_hours(hours)).to_string(), 1_000_000 - hours, 10)
}

fn this_cluster() -> Scope {
    Scope { clusters: [OURS.to_owned()].into(), ..Scope::default() }
}

fn refs(entries: &[Entry]) -> Vec<&Entry> {
    entries.iter().collect()
}

fn decide_ours(entries: &[Entry], policy: &Policy) -> Vec<Decision> {
    decide(&refs(entries), policy, &this_cluster(), now())
}

fn is_kept(decision: &Decision) -> bool {
    matches!(decision, Decision::Keep(_))
}

/// Returns the age in hours of each kept archive.
fn kept_of(hours: &[i64], policy: &Policy) -> Vec<i64> {
    let entries: Vec<Entry> = hours.iter().copied().map(hours_ago).collect();
    let decisions = decide_ours(&entries, policy);
    hours.iter().zip(decisions).filter(|(_, decision)| is_kept(decision)).map(|(hours, _)| *hours).collect()
}

#[test]
fn every_rule_keeps_what_its_name_says() {
    // 2026-11-20 is a Friday; it is noon.
    let hours = [0, 1, 2, 13, 25, 49, 100, 300, 1000];
    for (policy, kept) in [
        (Policy { last: 3, ..Policy::default() }, vec![0, 1, 2]),
        (Policy { within: Some(SignedDuration::from_hours(25)), ..Policy::default() }, vec![0, 1, 2, 13, 25]),
        (Policy { hourly: 2, ..Policy::default() }, vec![0, 1]),
        (Policy { daily: 3, ..Policy::default() }, vec![0, 13, 49]),
        (Policy { weekly: 2, ..Policy::default() }, vec![0, 300]),
        (Policy { monthly: 2, ..Policy::default() }, vec![0, 1000]),
        (Policy { last: 2, monthly: 2, ..Policy::default() }, vec![0, 1, 1000]),
        (Policy { max_size: Some(35), ..Policy::default() }, vec![0, 1, 2]),
        (Policy { last: 5, max_size: Some(35), ..Policy::default() }, vec![0, 1, 2]),
        (Policy { max_size: Some(1), ..Policy::default() }, vec![0]),
        (Policy { last: 100, ..Policy::default() }, hours.to_vec()),
        (Policy::default(), hours.to_vec()),
    ] {
        assert_eq!(kept_of(&hours, &policy), kept, "{policy:?}");
    }
}

#[test]
fn days_without_a_snapshot_cost_none_of_the_others() {
    assert_eq!(kept_of(&[0, 24, 240, 480], &Policy { daily: 3, ..Policy::default() }), [0, 24, 240]);
}

#[test]
fn a_clock_that_runs_ahead_and_weeks_without_a_backup_empty_no_store() {
    let entries: Vec<Entry> = (1..5).map(|days| hours_ago(24 * days)).collect();
    let policy = Policy { within: Some(SignedDuration::from_hours(72)), ..Policy::default() };
    let later = now() + SignedDuration::from_hours(24 * 365);
    assert!(decide(&refs(&entries), &policy, &this_cluster(), later).iter().all(is_kept));
}

#[test]
fn a_snapshot_of_the_future_stays_and_counts_for_nothing() {
    let entries = [hours_ago(-48), hours_ago(1), hours_ago(2)];
    let decisions = decide_ours(&entries, &Policy { last: 1, ..Policy::default() });
    let Decision::Keep(why) = &decisions[0] else { panic!("{decisions:?}") };
    assert!(why[0].contains("in the future"), "{why:?}");
    assert_eq!(decisions[1..].iter().map(is_kept).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_highest_revision_stays_when_the_date_of_a_wrong_clock_has_come() {
    // The first was taken months ago. Its clock was ahead, and its date has just passed.
    let ahead = entry(&now().to_string(), 5, 10);
    let entries = [ahead, hours_ago(6), hours_ago(12)];
    for policy in [Policy { last: 1, ..Policy::default() }, Policy { max_size: Some(1), ..Policy::default() }]
    {
        let decisions = decide_ours(&entries, &policy);
        assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, true, false], "{decisions:?}");
        let Decision::Keep(why) = &decisions[1] else { panic!("{decisions:?}") };
        assert!(why.contains(&"the highest revision verified".to_owned()), "{why:?}");
    }
}

#[test]
fn time_and_revision_decide_and_never_the_name_or_the_time_of_the_file() {
    let mut entries = [hours_ago(5), hours_ago(1), hours_ago(3)];
    for (entry, (name, modified)) in entries.iter_mut().zip([("z", 9), ("a", 1), ("m", 5)]) {
        entry.name = name.to_owned();
        entry.modified = Timestamp::from_second(modified).unwrap();
    }
    let decisions = decide_ours(&entries, &Policy { last: 1, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [false, true, false]);
    let same_second = ["9", "10"].map(|revision| entry("2026-11-20T11:00:00Z", revision.parse().unwrap(), 1));
    let decisions = decide_ours(&same_second, &Policy { last: 1, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_cannot_be_read_stays_and_counts_for_nothing() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3)];
    entries[0].unreadable = Some("its record cannot be read: x".to_owned());
    let decisions = decide_ours(&entries, &Policy { last: 1, ..Policy::default() });
    assert_eq!(decisions[0], Decision::Keep(vec!["its record cannot be read: x".to_owned()]));
    assert_eq!(decisions[1..].iter().map(is_kept).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn damaged_archives_push_out_no_good_one() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3), hours_ago(4)];
    for at in [0, 2] {
        entries[at].record.damage = Some(Damage::Trailer);
    }
    let decisions = decide_ours(&entries, &Policy { last: 1, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(decisions[2], Decision::Delete(format!("damaged: {}", Damage::Trailer)));
    let decisions = decide_ours(&entries, &Policy { last: 2, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, true, false, true]);
}

#[test]
fn a_size_limit_deletes_damaged_archives_before_good_ones() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3), hours_ago(4), hours_ago(5)];
    for at in [1, 2] {
        entries[at].record.damage = Some(Damage::Trailer);
    }
    entries[2].record.pinned = true;
    for rules in [Policy::default(), Policy { last: 9, ..Policy::default() }] {
        let decisions = decide_ours(&entries, &Policy { max_size: Some(40), ..rules.clone() });
        assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, false, true, true, true]);
        let decisions = decide_ours(&entries, &Policy { max_size: Some(30), ..rules });
        assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, false, true, true, false]);
    }
    // Also if no newer archive is verified.
    entries[0].record.damage = Some(Damage::Trailer);
    let decisions = decide_ours(&entries, &Policy { max_size: Some(30), last: 9, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [false, false, true, true, true]);
}

#[test]
fn every_cluster_keeps_its_own_newest_and_what_is_pinned() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3), hours_ago(4)];
    entries[1].manifest.as_mut().unwrap().cluster_id = "c2".to_owned();
    entries[2].record.pinned = true;
    let why = reasons_to_keep(&refs(&entries), &Policy::default(), &Scope::all(), now());
    assert_eq!(why[0], ["the newest verified"]);
    assert_eq!(why[1], ["the newest verified"]);
    assert_eq!(why[2], ["pinned"]);
    assert!(why[3].is_empty());
}

#[test]
fn what_a_restore_replaced_does_not_push_out_what_was_restored() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3), hours_ago(4)];
    for at in [0, 2] {
        entries[at].manifest.as_mut().unwrap().before_restore = true;
    }
    let decisions = decide_ours(&entries, &Policy { last: 1, ..Policy::default() });
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, true, false, false]);
    let why = reasons_to_keep(&refs(&entries), &Policy::default(), &Scope::all(), now());
    assert_eq!(
        (&*why[0][0], &*why[1][0]),
        ("the newest verified of those saved before a restore", "the newest verified")
    );
}

#[test]
fn archives_of_others_are_touched_only_when_told_and_count_by_themselves() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3), hours_ago(4), hours_ago(5)];
    for at in [1, 3] {
        entries[at].manifest.as_mut().unwrap().cluster_id = "c2".to_owned();
    }
    entries[2].manifest = None;
    let policy = Policy { last: 1, ..Policy::default() };
    let kept = |scope: &Scope| {
        let decisions = decide(&refs(&entries), &policy, scope, now());
        decisions.iter().map(is_kept).collect::<Vec<_>>()
    };
    assert_eq!(kept(&this_cluster()), [true, true, true, true, false]);
    assert_eq!(kept(&Scope::all()), [true, true, true, false, false]);
    // A restored cluster and its predecessor count as one cluster.
    let lineage = Scope { clusters: ["c1", "c2"].map(str::to_owned).into(), ..Scope::default() };
    assert_eq!(kept(&lineage), [true, false, true, false, false]);
}

#[test]
fn a_label_of_the_policy_protects_like_a_pin_and_deletes_no_other_archive() {
    let mut entries = [1, 2, 3, 4].map(hours_ago);
    for at in [2, 3] {
        let value = if at == 2 { "forever" } else { "a-week" };
        entries[at].manifest.as_mut().unwrap().labels = Labels::parse(&format!("keep={value}")).unwrap();
    }
    let labels = vec![Label::parse("keep=forever").unwrap()];
    let kept = |policy: Policy| {
        assert_eq!(policy.is_empty(), policy.last == 0 && policy.max_size.is_none());
        decide_ours(&entries, &policy).iter().map(is_kept).collect::<Vec<_>>()
    };
    let of_labels = || Policy { labels: labels.clone(), ..Policy::default() };
    assert_eq!(kept(of_labels()), [true; 4]);
    assert_eq!(kept(Policy { last: 1, ..of_labels() }), [true, false, true, false]);
    assert_eq!(kept(Policy { max_size: Some(1), ..of_labels() }), [true, false, true, false]);
    assert_eq!(
        kept(Policy { last: 1, ..Policy::default() }.with_labels_of(&of_labels())),
        [true, false, true, false],
    );
    let reasons = &decide_ours(&entries, &Policy { last: 1, ..of_labels() })[2];
    assert_eq!(*reasons, Decision::Keep(vec!["has the label keep=forever".to_owned()]));
}

#[test]
fn a_policy_for_a_label_touches_and_counts_no_other_archive() {
    let mut entries = [1, 2, 3, 4].map(hours_ago);
    for at in [1, 3] {
        entries[at].manifest.as_mut().unwrap().labels = Labels::parse("job=hourly,a=b").unwrap();
    }
    let scope = Scope { labels: Labels::parse("job=hourly").unwrap(), ..this_cluster() };
    let decisions = decide(&refs(&entries), &Policy { last: 1, ..Policy::default() }, &scope, now());
    assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(decisions[0], Decision::Keep(vec!["without the label job=hourly".to_owned()]));
}

#[test]
fn members_that_share_a_store_push_out_none_of_each_others() {
    let mut entries = [1, 2, 3, 4, 5, 6].map(hours_ago);
    for at in [1, 3, 5] {
        entries[at].manifest.as_mut().unwrap().member_name = "m2".to_owned();
    }
    let scope = |member: Option<&str>| Scope { member: member.map(str::to_owned), ..this_cluster() };
    for policy in
        [Policy { last: 2, ..Policy::default() }, Policy { max_size: Some(20), ..Policy::default() }]
    {
        let kept = |member| {
            let decisions = decide(&refs(&entries), &policy, &scope(member), now());
            decisions.iter().map(is_kept).collect::<Vec<_>>()
        };
        assert_eq!(kept(Some("m1")), [true, true, true, true, false, true], "{policy:?}");
        assert_eq!(kept(None), [true, true, true, true, false, false], "{policy:?}");
    }
    let decisions =
        decide(&refs(&entries), &Policy { last: 1, ..Policy::default() }, &scope(Some("m1")), now());
    assert_eq!(decisions[5], Decision::Keep(vec!["of another member, m2".to_owned()]));
}

#[test]
fn what_is_still_to_be_uploaded_stays() {
    let mut entries = [hours_ago(1), hours_ago(2), hours_ago(3)];
    entries[2].pending_uploads = vec!["offsite".to_owned()];
    for policy in [Policy { last: 1, ..Policy::default() }, Policy { max_size: Some(1), ..Policy::default() }]
    {
        let decisions = decide_ours(&entries, &policy);
        assert_eq!(decisions.iter().map(is_kept).collect::<Vec<_>>(), [true, false, true], "{policy:?}");
        let Decision::Keep(why) = &decisions[2] else { panic!("{decisions:?}") };
        assert_eq!(why[0], "still to be uploaded to offsite");
    }
}

#[test]
fn a_list_says_what_keeps_each_and_nothing_where_nothing_does() {
    let entries = [hours_ago(1), hours_ago(2), hours_ago(3)];
    let because = |policy: Policy| reasons_to_keep(&refs(&entries), &policy, &Scope::all(), now());
    let two = because(Policy { last: 2, ..Policy::default() });
    assert_eq!(two[0], ["the newest verified", "among the newest 2"]);
    assert_eq!((&*two[1].concat(), &*two[2].concat()), ("among the newest 2", ""));
    let room = because(Policy { max_size: Some(20), ..Policy::default() });
    assert_eq!((&*room[1].concat(), &*room[2].concat()), ("fits into 20 bytes", ""));
    assert_eq!(because(Policy::default())[1..], [vec![], Vec::<String>::new()]);
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (-50_i64..3000, 0_i64..5, 1_u64..50, 0_u32..20);
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let entries = all.into_iter().enumerate().map(|(at, (hours, revision, size, fate))| {
            let mut entry = hours_ago(hours);
            entry.name = format!("{at}");
            entry.size = size;
            if let Some(manifest) = &mut entry.manifest {
                manifest.revision = revision;
                if fate == 0 {
                    manifest.cluster_id = "c2".to_owned();
                }
            }
            match fate {
                1 => entry.manifest = None,
                2 => entry.record.pinned = true,
                3 | 4 => entry.record.damage = Some(Damage::Trailer),
                _ => {}
            }
            entry
        });
        entries.collect()
    })
}

prop_compose! {
    fn policies()(
        counts in prop::array::uniform5(prop_oneof![Just(0_u64), 1_u64..6]),
        within in prop::option::of(1_i64..2000),
        max_size in prop::option::of(1_u64..1000),
    ) -> Policy {
        let [last, hourly, daily, weekly, monthly] = counts;
        let within = within.map(SignedDuration::from_hours);
        Policy { last, within, hourly, daily, weekly, monthly, max_size, labels: Vec::new() }
    }
}

/// Returns the good archives of this cluster, the newest first.
fn good(entries: &[Entry]) -> Vec<&Entry> {
    let touched = |entry: &&Entry| {
        let manifest = entry.manifest.as_ref();
        manifest.is_some_and(|manifest| manifest.cluster_id == OURS) && entry.taken() <= Some(now())
    };
    let mut good: Vec<&Entry> =
        entries.iter().filter(touched).filter(|entry| entry.record.damage.is_none()).collect();
    good.sort_by_key(|entry| std::cmp::Reverse(entry.age_key()));
    good
}

fn survivors(entries: &[Entry], policy: &Policy) -> Vec<Entry> {
    let decisions = decide_ours(entries, policy);
    entries.iter().zip(decisions).filter(|(_, decision)| is_kept(decision)).map(|(e, _)| e.clone()).collect()
}

proptest! {
    #[test]
    fn what_must_stay_stays(entries in entries(), policy in policies()) {
        let survivors = survivors(&entries, &policy);
        for entry in &entries {
            let foreign = entry.manifest.as_ref().is_none_or(|manifest| manifest.cluster_id != OURS);
            if entry.record.pinned || foreign || entry.taken() > Some(now()) {
                prop_assert!(survivors.contains(entry), "{entry:?}");
            }
        }
        if let Some(newest) = good(&entries).first() {
            prop_assert!(survivors.contains(newest));
        }
    }

    #[test]
    fn the_order_of_the_listing_changes_nothing(
        entries in entries(), policy in policies(), swaps in prop::collection::vec(any::<(Index, Index)>(), 0..20)
    ) {
        let mut shuffled = entries.clone();
        for (a, b) in swaps.iter().filter(|_| !entries.is_empty()) {
            shuffled.swap(a.index(entries.len()), b.index(entries.len()));
        }
        let names = |entries: &[Entry]| {
            survivors(entries, &policy).into_iter().map(|entry| entry.name).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(names(&entries), names(&shuffled));
    }

    #[test]
    fn what_was_pruned_once_is_not_pruned_further(entries in entries(), policy in policies()) {
        let once = survivors(&entries, &policy);
        prop_assert_eq!(survivors(&once, &policy), once);
    }

    #[test]
    fn the_newest_so_many_stay_whatever_else_is_asked(entries in entries(), mut policy in policies()) {
        policy.max_size = None;
        let survivors = survivors(&entries, &policy);
        for entry in good(&entries).into_iter().take(saturate(policy.last)) {
            prop_assert!(survivors.contains(entry));
        }
    }

    #[test]
    fn a_policy_that_asks_for_more_deletes_no_more(entries in entries(), mut policy in policies()) {
        policy.max_size = None;
        let mut more = Policy { daily: policy.daily + 2, last: policy.last + 1, ..policy.clone() };
        more.within = policy.within.map(|within| within * 2);
        let more = survivors(&entries, &more);
        // A policy without a rule keeps all archives.
        if policy.has_rules() {
            for entry in survivors(&entries, &policy) {
                prop_assert!(more.contains(&entry));
            }
        }
    }

    #[test]
    fn what_is_over_the_size_goes_unless_it_must_stay(entries in entries(), policy in policies()) {
        let Some(most) = policy.max_size else { return Ok(()) };
        let good = good(&entries);
        let revision = |entry: &&&Entry| entry.manifest.as_ref().map(|manifest| manifest.revision);
        let highest = good.iter().rev().max_by_key(revision);
        let must_stay: Vec<&String> = good.first().into_iter().chain(highest).map(|entry| &entry.name).collect();
        let left = survivors(&entries, &policy);
        let ours = left.iter().filter(|entry| {
            entry.manifest.as_ref().is_some_and(|manifest| manifest.cluster_id == OURS)
                && entry.taken() <= Some(now())
        });
        let (mut total, mut spare) = (0, 0);
        for entry in ours {
            total += entry.size;
            spare += u64::from(!entry.record.pinned && !must_stay.contains(&&entry.name));
        }
        prop_assert!(total <= most || spare == 0, "{total} of {most}, {spare} could go");
    }

    #[test]
    fn every_decision_has_a_reason(entries in entries(), policy in policies()) {
        for decision in decide_ours(&entries, &policy) {
            match decision {
                Decision::Keep(reasons) => prop_assert!(!reasons.is_empty()),
                Decision::Delete(reason) => prop_assert!(!reason.is_empty() && !policy.is_empty()),
            }
        }
    }
}
