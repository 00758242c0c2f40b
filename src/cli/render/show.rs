//! The outcome of `show`.

use super::table::{fields, table, warnings};
use super::{REPLACEMENT, Render, Style, included};
use crate::archive::human_size;
use crate::cli::results::Results;
use crate::commands::contents::show::{Alarm, Description, Member, Outcome, Usage, User};
use crate::system::text::replace_control;

/// The most lines of a table. A document has all of them.
const ROWS: usize = 20;

impl Render for Outcome {
    fn juju(&self) -> Results {
        Results::default()
    }

    fn text(&self, _: Style) -> String {
        let mut text = String::new();
        if let Some(archive) = &self.archive {
            text += &facts(archive);
            text += &tables(archive);
        }
        text + &warnings(&self.warnings)
    }
}

fn facts(archive: &Description) -> String {
    let manifest = archive.manifest.as_ref();
    let from = manifest.map(|manifest| {
        let unit = manifest.unit.as_ref().map(|unit| format!(", unit {unit}")).unwrap_or_default();
        format!(
            "etcd {}, member {}, cluster {}{unit}",
            manifest.etcd_version, manifest.member, manifest.cluster_id
        )
    });
    let kubernetes = manifest.and_then(|manifest| manifest.kubernetes.as_ref()).map(|data| {
        data.describe_keys().map_or_else(|| "yes".to_owned(), |keys| format!("values encrypted with {keys}"))
    });
    let history = match archive.compacted_revision {
        Some(revision) => format!("from revision {revision}, the last compaction"),
        None => "from the first revision, never compacted".to_owned(),
    };
    let total = &archive.keys.total;
    fields(&[
        ("archive", Some(archive.location.clone())),
        ("size", Some(human_size(archive.size_bytes))),
        ("sha256", Some(archive.sha256.clone())),
        ("created", archive.created.clone()),
        ("taken from", from),
        ("labels", manifest.map(|manifest| manifest.labels.to_string()).filter(|all| !all.is_empty())),
        ("note", manifest.and_then(|manifest| manifest.note.as_deref()).map(note)),
        ("includes", manifest.and_then(|manifest| manifest.included.as_ref()).map(included)),
        ("kubernetes", kubernetes),
        ("revision", Some(archive.revision.to_string())),
        ("history", Some(history)),
        ("newest change", archive.created.as_ref().map(|time| format!("not after {time}"))),
        ("keys", Some(format!("{}, {} with their values", total.keys, human_size(total.size_bytes)))),
        ("database", Some(format!("{}, {} records", human_size(archive.database_bytes), archive.records))),
        ("storage version", archive.storage_version.clone()),
        ("cluster version", archive.cluster_version.clone()),
        ("members", joined(archive.members.iter().map(member))),
        ("authentication", Some(if archive.auth_enabled { "on" } else { "off" }.to_owned())),
        ("users", joined(archive.users.iter().map(user))),
        ("roles", joined(archive.roles.iter().cloned())),
        ("leases", Some(leases(archive))),
        ("alarms", joined(archive.alarms.iter().map(alarm))),
    ])
}

fn note(text: &str) -> String {
    replace_control(text, REPLACEMENT)
}

fn joined(all: impl Iterator<Item = String>) -> Option<String> {
    let all: Vec<String> = all.collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn member(member: &Member) -> String {
    let name = if member.name.is_empty() { "unnamed" } else { &member.name };
    let learner = if member.is_learner { " (learner)" } else { "" };
    format!("{name} {} at {}{learner}", member.id, member.peer_urls.join(" "))
}

fn user(user: &User) -> String {
    match user.roles.as_slice() {
        [] => format!("{} (no role)", user.name),
        roles => format!("{} ({})", user.name, roles.join(" ")),
    }
}

fn alarm(alarm: &Alarm) -> String {
    format!("{} of member {}", alarm.name, alarm.member)
}

fn leases(archive: &Description) -> String {
    let leases = &archive.leases;
    let ttl = match (leases.shortest_ttl_seconds, leases.longest_ttl_seconds) {
        (Some(shortest), Some(longest)) if shortest == longest => format!(", of {shortest} s"),
        (Some(shortest), Some(longest)) => format!(", of {shortest} to {longest} s"),
        _ => String::new(),
    };
    format!("{}{ttl}; keys with a lease: {}", leases.count, archive.keys.with_lease)
}

fn tables(archive: &Description) -> String {
    let keys = &archive.keys;
    let prefixes: Vec<_> = keys.prefixes.iter().map(|one| (one.prefix.clone(), one.usage)).collect();
    let namespaces: Vec<_> = keys.namespaces.iter().map(|one| (one.namespace.clone(), one.usage)).collect();
    let mut text = usage("PREFIX", &prefixes, keys.other_prefixes);
    text += &usage("NAMESPACE", &namespaces, None);
    if !keys.largest.is_empty() {
        let rows = keys
            .largest
            .iter()
            .map(|one| [one.key.clone(), human_size(one.size_bytes), one.mod_revision.to_string()]);
        text += &format!("\n{}\n", table(["LARGEST KEYS", "SIZE", "REVISION"], rows));
    }
    text
}

/// A table of the largest groups, and one line for all others.
fn usage(head: &str, groups: &[(String, Usage)], more: Option<Usage>) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let row = |name: String, usage: &Usage| [name, usage.keys.to_string(), human_size(usage.size_bytes)];
    let name = |name: &String| if name.is_empty() { "(no slash)".to_owned() } else { name.clone() };
    let mut rows: Vec<[String; 3]> =
        groups.iter().take(ROWS).map(|(group, usage)| row(name(group), usage)).collect();
    let mut others = more.unwrap_or_default();
    for (_, usage) in groups.iter().skip(ROWS) {
        others.keys += usage.keys;
        others.size_bytes += usage.size_bytes;
    }
    if others.keys > 0 {
        rows.push(row("(others)".to_owned(), &others));
    }
    format!("\n{}\n", table([head, "KEYS", "SIZE"], rows))
}
