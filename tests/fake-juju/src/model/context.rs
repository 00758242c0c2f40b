//! What the hook tools of one hook see and change.

use super::hooks::Hook;
use super::{Databag, Model, application, non_empty};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The hook tools that [`call`] simulates.
pub const TOOLS: [&str; 7] = [
    "goal-state",
    "is-leader",
    "network-get",
    "relation-get",
    "relation-ids",
    "relation-list",
    "relation-set",
];

/// Exit status of a tool that was called wrongly, and of one that failed.
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// The state of one hook. It can be stored as JSON, between the process that runs the hook and its tools.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Context {
    unit: String,
    address: String,
    networks: BTreeMap<String, String>,
    leads: bool,
    goal_state: Value,
    /// The relation of the hook, if it has one.
    relation: Option<String>,
    relations: BTreeMap<String, Seen>,
}

/// A relation as a hook sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    number: u64,
    is_peer: bool,
    /// The application on the other side; our own in a peer relation.
    other: String,
    members: BTreeSet<String>,
    data: BTreeMap<String, Databag>,
    changes: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

impl Context {
    pub(super) fn new(model: &Model, name: &str, hook: &Hook) -> Self {
        let app = application(name);
        let status = |name: &String| {
            let unit = model.units.get(name);
            let status = unit.map_or("unknown", |unit| if unit.is_dying { "dying" } else { &unit.status });
            (name.clone(), json!({"status": status, "since": "2026-11-21 12:00:00Z"}))
        };
        let units: Map<String, Value> = model.units(app).iter().map(status).collect();
        let unit = model.units.get(name);
        let seen = |(number, relation): (&u64, &super::Relation)| {
            let other = relation.ends.keys().find(|other| relation.has_remote(app, other))?.clone();
            let members = unit.and_then(|unit| unit.progress.joined.get(number)).cloned().unwrap_or_default();
            let data = relation.data.clone();
            let (is_peer, changes) = (relation.is_peer(), BTreeMap::new());
            Some((
                relation.id(*number, app)?,
                Seen { number: *number, is_peer, other, members, data, changes },
            ))
        };
        // Until its agent has entered a relation, a unit does not see it.
        let entered = model.relations.iter().filter(|(_, relation)| relation.in_scope.contains(name));
        Self {
            unit: name.to_owned(),
            address: unit.map(|unit| unit.address.clone()).unwrap_or_default(),
            networks: unit.map(|unit| unit.networks.clone()).unwrap_or_default(),
            leads: model.leader(app) == Some(name),
            goal_state: json!({"units": units, "relations": {}}),
            relation: hook.relation.clone(),
            relations: entered.filter_map(seen).collect(),
        }
    }

    pub(super) fn has_application_changes(&self) -> bool {
        let app = application(&self.unit);
        self.relations.values().any(|relation| relation.changes.contains_key(app))
    }

    pub(super) fn changes_of(
        &self,
        number: u64,
    ) -> impl Iterator<Item = (&str, &BTreeMap<String, Option<String>>)> {
        let ours = self.relations.values().filter(move |relation| relation.number == number);
        ours.flat_map(|relation| relation.changes.iter()).map(|(entity, changes)| (entity.as_str(), changes))
    }

    /// Returns the relation that `-r` names, or the one of the hook.
    fn relation_id(&self, words: &Words<'_>) -> Result<String, Failure> {
        let id = words.option("-r").map(str::to_owned).or_else(|| self.relation.clone());
        let id = id.ok_or_else(|| usage("no relation id specified"))?;
        match self.relations.contains_key(&id) {
            true => Ok(id),
            false => Err(usage(format!("invalid value {id:?} for option -r: relation not found"))),
        }
    }

    fn relation_get(&self, words: &Words<'_>) -> Result<Value, Failure> {
        let relation = &self.relations[&self.relation_id(words)?];
        let (key, entity) = match words.plain[..] {
            [key, entity] => (key, entity),
            [_] | [] => return Err(usage("no unit or application specified")),
            _ => return Err(usage("unrecognized args")),
        };
        let own = application(&self.unit);
        let is_application = words.has("--app");
        let allowed = match is_application {
            // Members of a peer relation read the data of their application; in other relations only the leader may.
            true => entity == relation.other || entity == own && (self.leads || relation.is_peer),
            false => [relation.other.as_str(), own].contains(&application(entity)) && entity.contains('/'),
        };
        if !allowed
            || (!relation.is_peer && !is_application && application(entity) == own && entity != self.unit)
        {
            return Err(failed("permission denied"));
        }
        let mut data = relation.data.get(entity).cloned().unwrap_or_default();
        for (key, value) in relation.changes.get(entity).into_iter().flatten() {
            match value {
                Some(value) => data.insert(key.clone(), value.clone()),
                None => data.remove(key),
            };
        }
        Ok(match key {
            "-" => json!(data),
            key => data.get(key).map_or(Value::Null, |value| json!(value)),
        })
    }

    fn relation_set(&mut self, words: &Words<'_>, input: &str) -> Result<Value, Failure> {
        let id = self.relation_id(words)?;
        let is_application = words.has("--app");
        if is_application && !self.leads {
            return Err(failed("cannot write relation settings"));
        }
        let mut pairs: BTreeMap<String, String> = match words.option("--file") {
            Some("-") => serde_yaml::from_str(input).map_err(|error| failed(error.to_string()))?,
            Some(_) => return Err(failed("this simulator reads only standard input")),
            None => BTreeMap::new(),
        };
        for word in &words.plain {
            let (key, value) =
                word.split_once('=').ok_or_else(|| usage(format!("expected \"key=value\", got {word:?}")))?;
            pairs.insert(key.to_owned(), value.to_owned());
        }
        let entity = if is_application { application(&self.unit).to_owned() } else { self.unit.clone() };
        if let Some(relation) = self.relations.get_mut(&id) {
            let before = relation.data.get(&entity).cloned().unwrap_or_default();
            let changes = relation.changes.entry(entity.clone()).or_default();
            changes.extend(pairs.into_iter().map(|(key, value)| (key, non_empty(&value))));
            // Juju compares: data that is set to what it was is no change.
            changes.retain(|key, value| before.get(key) != value.as_ref());
            if changes.is_empty() {
                relation.changes.remove(&entity);
            }
        }
        Ok(Value::Null)
    }

    fn network(&self, endpoint: &str) -> Value {
        let address = self.networks.get(endpoint).unwrap_or(&self.address);
        json!({
            "bind-addresses": [{"mac-address": "", "interface-name": "eth0",
                "addresses": [{"hostname": "", "value": address, "cidr": format!("{address}/24")}]}],
            "egress-subnets": [format!("{address}/32")],
            "ingress-addresses": [address],
        })
    }
}

/// The end of a tool that failed: its exit status, and the message after `ERROR`.
type Failure = (u8, String);

fn usage(message: impl Into<String>) -> Failure {
    (USAGE, message.into())
}

fn failed(message: impl Into<String>) -> Failure {
    (FAILED, message.into())
}

/// The arguments of a tool.
struct Words<'a> {
    options: BTreeMap<&'a str, &'a str>,
    flags: BTreeSet<&'a str>,
    plain: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn parse(tool: &str, words: &[&'a str]) -> Result<Self, Failure> {
        let (valued, flags): (&[&str], &[&str]) = match tool {
            "relation-list" | "relation-get" => (&["--format", "-r"], &["--app"]),
            "relation-set" => (&["--format", "-r", "--file"], &["--app"]),
            _ => (&["--format"], &[]),
        };
        let mut all = Self { options: BTreeMap::new(), flags: BTreeSet::new(), plain: Vec::new() };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            match name {
                "--" => {
                    all.plain.extend(words);
                    break;
                }
                _ if !name.starts_with('-') || name == "-" => all.plain.push(word),
                _ if flags.contains(&name) => drop(all.flags.insert(name)),
                _ if valued.contains(&name) => {
                    let missing = || usage(format!("option needs an argument: {name}"));
                    let value = value.or_else(|| words.next()).ok_or_else(missing)?;
                    all.options.insert(name, value);
                }
                _ => return Err(usage(format!("option provided but not defined: {name}"))),
            }
        }
        Ok(all)
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).copied()
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

/// Runs a hook tool, and returns what it prints. `input` is its standard input.
///
/// # Errors
/// Its exit status, and its message.
pub fn call(context: &mut Context, tool: &str, words: &[&str], input: &str) -> Result<String, (u8, String)> {
    let words = Words::parse(tool, words)?;
    if tool != "relation-set" && words.option("--format") != Some("json") {
        return Err(failed("this simulator prints only JSON"));
    }
    let value = match tool {
        "goal-state" => context.goal_state.clone(),
        "is-leader" => json!(context.leads),
        "network-get" => match words.plain[..] {
            [endpoint] => context.network(endpoint),
            _ => return Err(usage("no arguments specified")),
        },
        "relation-ids" => {
            let endpoint = words.plain.first().copied().unwrap_or_default();
            let ids = context.relations.keys().filter(|id| id.split(':').next() == Some(endpoint));
            json!(ids.collect::<Vec<_>>())
        }
        "relation-list" => {
            let relation = &context.relations[&context.relation_id(&words)?];
            match words.has("--app") {
                true => json!(relation.other),
                false => json!(relation.members),
            }
        }
        "relation-get" => context.relation_get(&words)?,
        "relation-set" => return context.relation_set(&words, input).map(|_| String::new()),
        _ => return Err(failed(format!("this simulator does not have {tool}"))),
    };
    Ok(format!("{value}\n"))
}
