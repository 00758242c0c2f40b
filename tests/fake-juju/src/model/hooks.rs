//! The order of a unit's hooks (`internal/worker/uniter/resolver.go` and `relation/resolver.go` of Juju 3.6), and their
//! transaction.

use super::context::Context;
use super::{Model, Relation, application};
use std::collections::{BTreeMap, BTreeSet};

/// A hook that a unit has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name, such as `cluster-relation-changed`.
    pub name: String,
    /// The relation that it is about, from the view of the unit.
    pub relation: Option<String>,
    /// The unit or the application that it is about.
    pub remote: Option<String>,
    done: Done,
}

/// What a unit has done when a hook has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Installed,
    Created(u64),
    Elected,
    Configured,
    Started,
    Joined(u64, String),
    Seen(u64, String, u64),
    Departed(u64, String),
    Broken(u64),
    Stopped,
    Removed,
    Nothing,
}

/// How far a unit has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    is_installed: bool,
    is_elected: bool,
    is_configured: bool,
    is_started: bool,
    is_stopped: bool,
    created: BTreeSet<u64>,
    /// The units that this unit knows in its relations.
    pub(super) joined: BTreeMap<u64, BTreeSet<String>>,
    /// The version of each databag that a hook has announced.
    seen: BTreeMap<(u64, String), u64>,
}

impl Progress {
    pub(super) fn forget_config(&mut self) {
        self.is_configured = false;
    }

    pub(super) fn forget_start(&mut self) {
        self.is_started = false;
    }
}

impl Hook {
    fn plain(name: &str, done: Done) -> Self {
        Self { name: name.to_owned(), relation: None, remote: None, done }
    }

    /// The hook that Juju runs every five minutes.
    pub fn update_status() -> Self {
        Self::plain("update-status", Done::Nothing)
    }

    /// The hook that Juju runs after a refresh of the charm, and after a resource was attached.
    pub fn upgrade_charm() -> Self {
        Self::plain("upgrade-charm", Done::Nothing)
    }

    /// A hook of the storage `data`: `attached` or `detaching`.
    pub fn of_storage(event: &str) -> Self {
        Self::plain(&format!("data-storage-{event}"), Done::Nothing)
    }

    fn of_relation(id: &str, event: &str, remote: Option<&str>, done: Done) -> Self {
        let endpoint = id.split(':').next().unwrap_or_default();
        Self {
            name: format!("{endpoint}-relation-{event}"),
            relation: Some(id.to_owned()),
            remote: remote.map(str::to_owned),
            done,
        }
    }

    /// Returns the variables that Juju sets for the hook.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("JUJU_HOOK_NAME", self.name.clone())];
        all.extend(self.relation.clone().map(|id| ("JUJU_RELATION_ID", id)));
        if let Some(id) = &self.relation {
            all.push(("JUJU_RELATION", id.split(':').next().unwrap_or_default().to_owned()));
        }
        if let Some(remote) = &self.remote {
            all.push(("JUJU_REMOTE_APP", application(remote).to_owned()));
            all.push(("JUJU_REMOTE_UNIT", if remote.contains('/') { remote.clone() } else { String::new() }));
        }
        all
    }
}

impl Model {
    /// Returns the next hook of a unit, or `None` if it has nothing to do.
    pub fn next_hook(&self, name: &str) -> Option<Hook> {
        let unit = self.units.get(name)?;
        let (progress, app) = (&unit.progress, application(name));
        let ours: Vec<(u64, &Relation, String)> = {
            let all = self.relations.iter();
            let mut ours: Vec<_> =
                all.filter_map(|(number, one)| Some((*number, one, one.id(*number, app)?))).collect();
            // Peer relations come last.
            ours.sort_by_key(|(number, one, _)| (one.is_peer(), *number));
            ours
        };
        if progress.is_installed && !unit.is_dying {
            let created = ours.iter().find(|(number, ..)| !progress.created.contains(number));
            if let Some((number, _, id)) = created {
                return Some(Hook::of_relation(id, "created", None, Done::Created(*number)));
            }
            if self.leader(app) == Some(name) && !progress.is_elected {
                return Some(Hook::plain("leader-elected", Done::Elected));
            }
        }
        if unit.is_dying {
            return Some(Self::last_hooks(progress, &ours));
        }
        if !progress.is_installed {
            return Some(Hook::plain("install", Done::Installed));
        }
        if !progress.is_configured {
            return Some(Hook::plain("config-changed", Done::Configured));
        }
        if !progress.is_started {
            return Some(Hook::plain("start", Done::Started));
        }
        ours.iter().find_map(|(number, relation, id)| self.relation_hook(name, *number, relation, id))
    }

    /// Returns the next hook of a dying unit: it leaves its relations, stops, and is removed.
    fn last_hooks(progress: &Progress, ours: &[(u64, &Relation, String)]) -> Hook {
        for (number, relation, id) in ours {
            if let Some(remote) = progress.joined.get(number).and_then(BTreeSet::first) {
                return Hook::of_relation(
                    id,
                    "departed",
                    Some(remote),
                    Done::Departed(*number, remote.clone()),
                );
            }
            if !relation.is_peer() && progress.created.contains(number) {
                return Hook::of_relation(id, "broken", None, Done::Broken(*number));
            }
        }
        match progress.is_stopped {
            false => Hook::plain("stop", Done::Stopped),
            true => Hook::plain("remove", Done::Removed),
        }
    }

    fn relation_hook(&self, name: &str, number: u64, relation: &Relation, id: &str) -> Option<Hook> {
        let (app, progress) = (application(name), &self.units.get(name)?.progress);
        let none = BTreeSet::new();
        let joined = progress.joined.get(&number).unwrap_or(&none);
        // A unit leaves the scope as soon as it is dying, while its own hooks still run.
        let is_here = |other: &&String| {
            relation.in_scope.contains(*other) && self.units.get(*other).is_none_or(|unit| !unit.is_dying)
        };
        if let Some(gone) = joined.iter().find(|other| !is_here(other)) {
            return Some(Hook::of_relation(id, "departed", Some(gone), Done::Departed(number, gone.clone())));
        }
        let version = |entity: &str| relation.versions.get(entity).copied().unwrap_or_default();
        let seen =
            |entity: &str| progress.seen.get(&(number, entity.to_owned())).copied().unwrap_or_default();
        for other in relation.ends.keys().filter(|other| relation.has_remote(app, other)) {
            let is_own = other == app && self.leader(app) == Some(name);
            if version(other) != seen(other) && !is_own {
                let done = Done::Seen(number, other.clone(), version(other));
                return Some(Hook::of_relation(id, "changed", Some(other), done));
            }
        }
        let others = relation.in_scope.iter();
        let mut others = others
            .filter(|other| *other != name && relation.has_remote(app, application(other)))
            .filter(is_here);
        others.find_map(|other| {
            if !joined.contains(other) {
                return Some(Hook::of_relation(
                    id,
                    "joined",
                    Some(other),
                    Done::Joined(number, other.clone()),
                ));
            }
            let done = Done::Seen(number, other.clone(), version(other));
            (version(other) != seen(other)).then(|| Hook::of_relation(id, "changed", Some(other), done))
        })
    }

    /// Begins a hook: returns what its tools see. The unit that has departed is no longer listed, and the one that joins is.
    pub fn begin(&mut self, name: &str, hook: &Hook) -> Context {
        match &hook.done {
            Done::Created(number) => self.enter(name, *number),
            Done::Joined(number, other) => self.see(name, *number, |joined| joined.insert(other.clone())),
            Done::Departed(number, other) => self.see(name, *number, |joined| joined.remove(other)),
            _ => {}
        }
        Context::new(self, name, hook)
    }

    /// Ends a hook that exited with status 0: stores all that it changed. Fails if the unit has written data of its
    /// application and no longer leads it: then nothing is stored, and the hook is run again.
    ///
    /// # Errors
    /// As Juju reports it.
    pub fn commit(&mut self, name: &str, hook: &Hook, context: &Context) -> Result<(), String> {
        let app = application(name);
        if context.has_application_changes() && self.leader(app) != Some(name) {
            return Err("committing requested changes failed: leadership lost".to_owned());
        }
        for (number, relation) in &mut self.relations {
            for (entity, changes) in context.changes_of(*number) {
                relation.change(entity, changes);
            }
        }
        self.finish(name, hook);
        Ok(())
    }

    /// Ends a hook that failed, was killed or was refused: it has changed nothing, and is the next one again.
    pub fn interrupt(&mut self, name: &str, hook: &Hook) {
        match &hook.done {
            Done::Joined(number, other) => self.see(name, *number, |joined| joined.remove(other)),
            Done::Departed(number, other) => self.see(name, *number, |joined| joined.insert(other.clone())),
            _ => {}
        }
    }

    /// Records a hook as run. A hook that failed or was killed is not recorded, so it is the next hook again.
    fn finish(&mut self, name: &str, hook: &Hook) {
        if hook.done == Done::Removed {
            self.forget(name);
            return;
        }
        let app = application(name);
        let leads = self.leader(app) == Some(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        let progress = &mut unit.progress;
        match hook.done.clone() {
            Done::Installed => progress.is_installed = true,
            Done::Elected => progress.is_elected = true,
            Done::Configured => progress.is_configured = true,
            Done::Started => progress.is_started = true,
            Done::Stopped => progress.is_stopped = true,
            Done::Created(number) => {
                progress.created.insert(number);
            }
            Done::Broken(number) => {
                progress.created.remove(&number);
            }
            Done::Seen(number, entity, version) => {
                progress.seen.insert((number, entity), version);
            }
            Done::Joined(..) | Done::Departed(..) | Done::Removed | Done::Nothing => {}
        }
        progress.is_elected &= leads;
        self.see_own_data(name);
    }

    /// Enters a unit into a relation, with the data that Juju sets.
    fn enter(&mut self, name: &str, number: u64) {
        let address = self.units.get(name).map(|unit| unit.address.clone()).unwrap_or_default();
        let keys = ["egress-subnets", "ingress-address", "private-address"];
        if let Some(relation) = self.relations.get_mut(&number) {
            relation.in_scope.insert(name.to_owned());
            relation.change(name, &keys.map(|key| (key.to_owned(), Some(address.clone()))).into());
        }
    }

    /// Changes the units that a unit knows in a relation.
    fn see(&mut self, name: &str, number: u64, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        if let Some(unit) = self.units.get_mut(name) {
            change(unit.progress.joined.entry(number).or_default());
        }
    }

    /// A leader gets no hook for the data of its application that it wrote itself, not even after it was deposed.
    fn see_own_data(&mut self, name: &str) {
        let app = application(name);
        if self.leader(app) != Some(name) {
            return;
        }
        let own = self.relations.iter().map(|(number, one)| (*number, one.versions.get(app).copied()));
        let own: Vec<(u64, u64)> = own.filter_map(|(number, version)| Some((number, version?))).collect();
        if let Some(unit) = self.units.get_mut(name) {
            for (number, version) in own {
                unit.progress.seen.insert((number, app.to_owned()), version);
            }
        }
    }
}
