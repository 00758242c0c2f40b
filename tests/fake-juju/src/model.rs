//! A model with several units: their databags, leadership, goal-state, and the order of their hooks.
//!
//! Strict where a charm could be careless. A hook sees the databags as they were when it began, and its own changes. All its
//! changes are one transaction at its end: a hook that failed or was killed has changed nothing, and neither has a hook that
//! wrote data of the application and is no longer the leader's then. A unit gets no hook for what it wrote itself.

mod context;
mod hooks;

pub use context::{Context, TOOLS, call};
pub use hooks::Hook;

use std::collections::{BTreeMap, BTreeSet};

/// The data of a unit or an application in a relation.
pub type Databag = BTreeMap<String, String>;

/// A model. Applications exist as long as they have a unit or a relation.
#[derive(Debug, Default)]
pub struct Model {
    units: BTreeMap<String, Unit>,
    relations: BTreeMap<u64, Relation>,
    leaders: BTreeMap<String, String>,
    /// The highest number that a unit of an application had. Juju does not reuse numbers.
    numbers: BTreeMap<String, u64>,
}

/// A unit.
#[derive(Debug, Default)]
struct Unit {
    address: String,
    /// The addresses in the networks of endpoints that have one of their own.
    networks: BTreeMap<String, String>,
    is_dying: bool,
    /// The status that `goal-state` prints.
    status: String,
    progress: hooks::Progress,
}

/// A relation between two applications, or among the units of one.
#[derive(Debug, Default)]
struct Relation {
    /// Applications and their endpoints. A peer relation has one.
    ends: BTreeMap<String, String>,
    data: BTreeMap<String, Databag>,
    /// How often the data of a unit or an application has changed.
    versions: BTreeMap<String, u64>,
    /// The units whose agents have joined the relation. Other units see only these.
    in_scope: BTreeSet<String>,
}

impl Relation {
    fn is_peer(&self) -> bool {
        self.ends.len() == 1
    }

    /// Returns the relation's name from the view of `app`, such as `cluster:0`.
    fn id(&self, number: u64, app: &str) -> Option<String> {
        Some(format!("{}:{number}", self.ends.get(app)?))
    }

    fn has_remote(&self, app: &str, other: &str) -> bool {
        self.ends.contains_key(other) && (self.is_peer() || app != other)
    }

    fn change(&mut self, entity: &str, changes: &BTreeMap<String, Option<String>>) {
        let before = self.data.entry(entity.to_owned()).or_default();
        let mut after = before.clone();
        for (key, value) in changes {
            match value {
                Some(value) => after.insert(key.clone(), value.clone()),
                None => after.remove(key),
            };
        }
        if after != *before {
            *before = after;
            *self.versions.entry(entity.to_owned()).or_default() += 1;
        }
    }
}

/// Returns the application of a unit.
pub fn application(unit: &str) -> &str {
    unit.rsplit_once('/').map_or(unit, |(app, _)| app)
}

impl Model {
    /// Creates the peer relation of `app`.
    pub fn add_peers(&mut self, app: &str, endpoint: &str) {
        self.relate(&[(app, endpoint)]);
    }

    /// Relates applications by their endpoints, and returns the number of the relation.
    pub fn relate(&mut self, ends: &[(&str, &str)]) -> u64 {
        let number = self.relations.keys().max().map_or(0, |last| last + 1);
        let ends = ends.iter().map(|(app, endpoint)| ((*app).to_owned(), (*endpoint).to_owned())).collect();
        self.relations.insert(number, Relation { ends, ..Relation::default() });
        number
    }

    /// Adds a unit with this address, and returns its name. The first unit of an application leads it.
    pub fn add_unit(&mut self, app: &str, address: &str) -> String {
        let number = self.numbers.entry(app.to_owned()).and_modify(|number| *number += 1).or_default();
        let name = format!("{app}/{number}");
        let unit = Unit { address: address.to_owned(), status: "waiting".into(), ..Unit::default() };
        self.units.insert(name.clone(), unit);
        self.leaders.entry(app.to_owned()).or_insert_with(|| name.clone());
        name
    }

    /// Makes the next unit of an application have the number after `last`, as if units up to that one had been removed.
    pub fn set_last_number(&mut self, app: &str, last: u64) {
        self.numbers.insert(app.to_owned(), last);
    }

    /// Runs `juju remove-unit`: the unit is dying until its last hook has run.
    pub fn remove_unit(&mut self, name: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.is_dying = true;
        }
    }

    /// Runs `juju remove-unit --force` for a machine that is gone: no further hook of the unit runs.
    pub fn remove_unit_by_force(&mut self, name: &str) {
        self.forget(name);
    }

    /// Makes a unit the leader of its application.
    pub fn lead(&mut self, name: &str) {
        self.leaders.insert(application(name).to_owned(), name.to_owned());
    }

    /// Returns the leader of an application.
    pub fn leader(&self, app: &str) -> Option<&str> {
        self.leaders.get(app).map(String::as_str)
    }

    /// Boots the machine of a unit. Juju runs `start` then.
    pub fn boot(&mut self, name: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.progress.forget_start();
        }
    }

    /// Sets the address of a unit. Juju runs `config-changed` then.
    pub fn move_unit(&mut self, name: &str, address: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.address = address.to_owned();
            unit.progress.forget_config();
        }
    }

    /// Sets the address of a unit in the network of an endpoint. Juju runs `config-changed` then.
    pub fn set_network(&mut self, name: &str, endpoint: &str, address: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.networks.insert(endpoint.to_owned(), address.to_owned());
            unit.progress.forget_config();
        }
    }

    /// Changes an option of an application: all its units run `config-changed`.
    pub fn change_config(&mut self, app: &str) {
        let units = self.units.iter_mut().filter(|(name, _)| application(name) == app);
        units.for_each(|(_, unit)| unit.progress.forget_config());
    }

    /// Sets the status that `goal-state` prints for a unit.
    pub fn set_status(&mut self, name: &str, kind: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.status = kind.to_owned();
        }
    }

    /// Returns the units of an application, also the dying ones.
    pub fn units(&self, app: &str) -> Vec<String> {
        self.units.keys().filter(|name| application(name) == app).cloned().collect()
    }

    /// Returns the data of a unit or an application in a relation.
    pub fn data(&self, relation: u64, entity: &str) -> Databag {
        let relation = self.relations.get(&relation);
        relation.and_then(|relation| relation.data.get(entity)).cloned().unwrap_or_default()
    }

    /// Sets data as a unit does that is not simulated, such as the provider of certificates. An empty value removes a key.
    pub fn set_data(&mut self, relation: u64, entity: &str, pairs: &[(&str, &str)]) {
        let Some(relation) = self.relations.get_mut(&relation) else { return };
        let changes = pairs.iter().map(|(key, value)| ((*key).to_owned(), non_empty(value))).collect();
        if entity.contains('/') {
            relation.in_scope.insert(entity.to_owned());
        }
        relation.change(entity, &changes);
    }

    /// Returns the relations of an application's endpoint, by their numbers.
    pub fn relation(&self, app: &str, endpoint: &str) -> Option<u64> {
        let mut all = self.relations.iter();
        all.find(|(_, relation)| relation.ends.get(app).is_some_and(|end| end == endpoint)).map(|(id, _)| *id)
    }

    fn forget(&mut self, name: &str) {
        self.units.remove(name);
        for relation in self.relations.values_mut() {
            relation.in_scope.remove(name);
        }
        let app = application(name).to_owned();
        if self.leaders.get(&app).is_some_and(|leader| leader == name) {
            let next = self.units.keys().find(|other| application(other) == app).cloned();
            match next {
                Some(next) => self.leaders.insert(app, next),
                None => self.leaders.remove(&app),
            };
        }
    }
}

fn non_empty(value: &str) -> Option<String> {
    Some(value.to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
