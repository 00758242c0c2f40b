//! The action `prune-snapshots`: what a policy keeps stays, the rest goes, and every verdict has its reason.

use super::table::table;
use super::{failed, lineage, of_destination, places, unread};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::human_size;
use crate::catalog::retention::{Policy, Scope, Verdict, parse_age, parse_size};
use crate::etcd::client::{Client, Status};
use crate::etcd::member::Member;
use crate::keeping::{At, Found, Judged, Look, Places};
use crate::stop::{Refusal, Stop, in_passing};
use anyhow::{Context, Result};
use std::rc::Rc;

const HEAD: [&str; 7] = ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERDICT", "WHY"];
/// For archives of every cluster.
const ANY: &str = "any";

/// Judges what is kept, and deletes what no rule keeps.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let places = places(call)?;
    crate::action::offsite::settings(call)?.check_target(&places.target)?;
    let given = given(call)?;
    let judged_places = which(call, &places, &given)?;
    let plan = call.params.flag("plan")?;
    let scope = scope(call)?;
    let look = Look::at(&places, &judged_places);
    let policy = |keep: &Policy| if given.is_empty() { keep.clone() } else { given.clone() };
    let judged = look.judged(&|place| policy(&place.keep), &scope, call.now);
    let mut failures = unread(&look.unread, results);
    let fates: Vec<Fate> = judged.iter().map(|one| Fate::of(one, plan, &mut failures)).collect();
    let rows: Vec<_> = judged.iter().zip(&fates).map(|(one, fate)| row(one, fate.in_a_word(plan))).collect();
    results.set(key!("snapshots"), if rows.is_empty() { "none".to_owned() } else { table(HEAD, rows) });
    let gone =
        || judged.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Gone).map(|(one, _)| one.found);
    results.set(if plan { key!("would-delete") } else { key!("deleted") }, gone().count().to_string());
    let freed = human_size(gone().map(|found| found.entry.size).sum());
    results.set(if plan { key!("would-free") } else { key!("freed") }, freed);
    for place in &look.places {
        let there = |found: &&Found| Rc::ptr_eq(&found.place, place);
        let (all, gone) = (look.found.iter().filter(there).count(), gone().filter(there).count());
        let word = Fate::Gone.in_a_word(plan);
        of_destination(results, place.name.as_deref(), format!("{gone} {word}, {} kept", all - gone));
    }
    failed(&failures, "the others were dealt with as the verdicts say", "mend the cause and run it again")
}

/// What became of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Kept,
    /// It went, or would if it were not only planned.
    Gone,
    /// It was to go and is still there.
    Failed,
}

impl Fate {
    /// Deletes what is to go, unless it is only planned.
    fn of(judged: &Judged<'_>, plan: bool, failures: &mut Vec<String>) -> Self {
        match judged.verdict {
            Verdict::Kept(_) => Self::Kept,
            Verdict::Deleted(_) if plan => Self::Gone,
            Verdict::Deleted(_) => match judged.carry_out() {
                Ok(()) => Self::Gone,
                Err(error) => {
                    failures.push(format!("{}: {}", judged.found.named(), in_passing(&error)));
                    Self::Failed
                }
            },
        }
    }

    fn in_a_word(self, plan: bool) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Gone if plan => "would go",
            Self::Gone => "deleted",
            Self::Failed => "NOT DELETED",
        }
    }
}

/// The rules that the caller gives.
fn given(call: &Call<'_>) -> Result<Policy, Stop> {
    let params = &call.params;
    Ok(Policy {
        last: params.number("keep")?,
        within: parse_age("keep-within", params.text("keep-within")?)?,
        hourly: params.number("keep-hourly")?,
        daily: params.number("keep-daily")?,
        weekly: params.number("keep-weekly")?,
        monthly: params.number("keep-monthly")?,
        max_size: parse_size("max-size", params.text("max-size")?)?,
    })
}

/// The places that are judged: the one that is named; or else, by rules that are given, the target, and by those that were
/// written down, every place that has some.
fn which(call: &Call<'_>, places: &Places, given: &Policy) -> Result<Vec<At>, Stop> {
    let named = call.params.text("destination")?;
    let all = match named {
        "" if given.is_empty() => places.everywhere(),
        "" => vec![At::Directory(places.target.clone())],
        name if places.destinations.has(name) => {
            vec![At::Destination(name.to_owned())]
        }
        name => {
            let known = places.destinations.names().collect::<Vec<_>>().join(", ");
            let next =
                if known.is_empty() { "write one down".to_owned() } else { format!("give one of {known}") };
            return Err(Refusal::new(format!("there is no destination {name:?}"), next).into());
        }
    };
    let has_rules = |at: &At| !given.is_empty() || !places.keep(at).is_empty();
    let all: Vec<At> = all.into_iter().filter(has_rules).collect();
    if all.is_empty() {
        return Err(Refusal::new(
            "no rule is given, and none is written down, and so everything stays",
            "write keep: {last: 7} or the like into the settings; or give some of keep, keep-within, keep-hourly, \
             keep-daily, keep-weekly, keep-monthly and max-size",
        )
        .into());
    }
    Ok(all)
}

/// Whose archives are meant: those that this member took of this cluster, by whatever ids that had before it was restored.
/// Those of a cluster that its data came from are not: it may be alive, and its members be called the same.
fn scope(call: &Call<'_>) -> Result<Scope, Stop> {
    match call.params.text("cluster")? {
        // What ours was called before is one with what it is called now, as far as that is known.
        ANY => Ok(Scope {
            clusters: crate::action::site(call).map(|site| lineage(&site, None).own).unwrap_or_default(),
            ..Scope::all()
        }),
        "" => {
            let site = crate::action::site(call)?;
            let client = Client::of(&site);
            let (own, status) = own_member(&client).map_err(|error| {
                let next = format!(
                    "{}, or name the cluster as list-snapshots format=yaml shows it: cluster=ID",
                    site.service.typed("status")
                );
                Stop::of(error.context("learning which cluster this is"), "nothing was deleted", next)
            })?;
            Ok(Scope { clusters: lineage(&site, Some(status)).own, others: false, member: Some(own.name) })
        }
        id => Ok(Scope { clusters: [id.to_ascii_lowercase()].into(), ..Scope::default() }),
    }
}

fn own_member(client: &Client) -> Result<(Member, Status)> {
    let status = client.status()?;
    let own = client.members()?.into_iter().find(|member| member.id == status.member_id);
    Ok((own.context("etcd does not list the member that answers")?, status))
}

fn row(judged: &Judged<'_>, word: &str) -> [String; 7] {
    let entry = &judged.found.entry;
    let why = match &judged.verdict {
        Verdict::Kept(reasons) => reasons.join("; "),
        Verdict::Deleted(reason) => reason.clone(),
    };
    let revision =
        entry.manifest.as_ref().map_or_else(|| "-".to_owned(), |manifest| manifest.revision.to_string());
    let created = entry.taken().unwrap_or(entry.modified).to_string();
    let name = entry.file_name().to_owned();
    [name, created, revision, human_size(entry.size), judged.found.folder(), word.to_owned(), why]
}
