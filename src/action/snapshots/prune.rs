//! The action `prune-snapshots`: what a policy keeps stays, the rest goes, and every verdict has its reason.

use super::table::table;
use super::{failed, lineage, stores, untouched};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::human_size;
use crate::catalog::entry::Entry;
use crate::catalog::retention::{Policy, Scope, Verdict, judge, parse_age, parse_size};
use crate::etcd::client::{Client, Status};
use crate::etcd::member::Member;
use crate::keeping::Look;
use crate::stop::{Refusal, Stop};
use anyhow::{Context, Result};

const HEAD: [&str; 6] = ["NAME", "CREATED", "REVISION", "SIZE", "VERDICT", "WHY"];
/// For archives of every cluster.
const ANY: &str = "any";

/// Judges what is kept, and deletes what no rule keeps.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let policy = policy(call)?;
    if policy.is_empty() {
        return Err(Refusal::new(
            "no rule is given, and so everything stays",
            "give some of keep, keep-within, keep-hourly, keep-daily, keep-weekly, keep-monthly and max-size",
        )
        .into());
    }
    let plan = call.params.flag("plan")?;
    let stores = stores(call, "")?;
    let look = Look::at(&stores);
    if let Some((store, error)) = look.unread.into_iter().next() {
        return Err(untouched(error.context(format!("reading {store}"))));
    }
    let scope = scope(call)?;
    let entries: Vec<&Entry> = look.found.iter().map(|found| &found.entry).collect();
    let verdicts = judge(&entries, &policy, &scope, call.now);
    let (mut freed, mut gone, mut failures, mut rows) = (0, 0, Vec::new(), Vec::new());
    for (found, verdict) in look.found.iter().zip(&verdicts) {
        let outcome = match verdict {
            Verdict::Deleted(_) if !plan => found.store.delete(&found.entry),
            _ => Ok(()),
        };
        if let (Verdict::Deleted(_), Ok(())) = (verdict, &outcome) {
            gone += 1;
            freed += found.entry.size;
        }
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
        rows.push(row(&found.entry, verdict, plan));
    }
    results.set(key!("snapshots"), if rows.is_empty() { "none".to_owned() } else { table(HEAD, rows) });
    results.set(if plan { key!("would-delete") } else { key!("deleted") }, gone.to_string());
    results.set(if plan { key!("would-free") } else { key!("freed") }, human_size(freed));
    failed(&failures, "the others were dealt with as the verdicts say", "mend the cause and run it again")
}

fn policy(call: &Call<'_>) -> Result<Policy, Stop> {
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

/// Whose archives are meant: those that this member took of this cluster, by whatever ids that had before it was restored.
fn scope(call: &Call<'_>) -> Result<Scope, Stop> {
    match call.params.text("cluster")? {
        ANY => Ok(Scope::all()),
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
            Ok(Scope {
                clusters: lineage(&site, Some(status)).clusters,
                others: false,
                member: Some(own.name),
            })
        }
        id => Ok(Scope { clusters: [id.to_ascii_lowercase()].into(), ..Scope::default() }),
    }
}

fn own_member(client: &Client) -> Result<(Member, Status)> {
    let status = client.status()?;
    let own = client.members()?.into_iter().find(|member| member.id == status.member_id);
    Ok((own.context("etcd does not list the member that answers")?, status))
}

fn row(entry: &Entry, verdict: &Verdict, plan: bool) -> [String; 6] {
    let (word, why) = match verdict {
        Verdict::Kept(reasons) => ("kept", reasons.join("; ")),
        Verdict::Deleted(reason) if plan => ("would go", reason.clone()),
        Verdict::Deleted(reason) => ("deleted", reason.clone()),
    };
    let revision =
        entry.manifest.as_ref().map_or_else(|| "-".to_owned(), |manifest| manifest.revision.to_string());
    let created = entry.taken().unwrap_or(entry.modified).to_string();
    [entry.name.clone(), created, revision, human_size(entry.size), word.to_owned(), why]
}
