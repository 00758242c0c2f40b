//! The state of a supervisor: whether it is to run etcd, and which units systemd stops together with etcd's.
//!
//! Must never change anything.

use super::systemd_unit::systemctl;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a supervisor runs or is to run, before this program stops etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorState {
    /// Whether etcd is to run. Also true while the supervisor starts a failing etcd again and again.
    pub wants_etcd: bool,
    /// The active units that systemd stops together with etcd's, but does not start with it (`Requires=`).
    pub dependents: Vec<String>,
}

/// Returns whether `unit` is to run, and the active units that systemd stops together with it, directly or one through another.
pub(super) fn of_unit(unit: &str) -> SupervisorState {
    let etcd = UnitState::read(&[unit.to_owned()].into()).pop().unwrap_or_default();
    let mut state = SupervisorState { wants_etcd: etcd.is_to_run, dependents: Vec::new() };
    // The name in the site file may be an alias.
    let mut seen = BTreeSet::from([unit.to_owned(), etcd.id]);
    let mut next = etcd.stopped_with_it;
    loop {
        next.retain(|unit| seen.insert(unit.clone()));
        if next.is_empty() {
            return state;
        }
        for found in UnitState::read(&std::mem::take(&mut next)) {
            if found.is_to_run {
                state.dependents.push(found.id);
            }
            next.extend(found.stopped_with_it);
        }
    }
}

/// The properties of a unit that [`UnitState`] reads. A stop propagates along the last four (systemd.unit(5)).
const PROPERTIES: &str = "--property=Id,ActiveState,RequiredBy,RequisiteOf,BoundBy,ConsistsOf";

/// The state of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct UnitState {
    id: String,
    /// Whether it is active, or becomes active: a unit that is started again after a failure is "activating".
    is_to_run: bool,
    /// The units that are stopped with it.
    stopped_with_it: BTreeSet<String>,
}

impl UnitState {
    /// Reads the states of these units; none without systemd.
    fn read(units: &BTreeSet<String>) -> Vec<Self> {
        let mut words = vec!["show", PROPERTIES, "--"];
        words.extend(units.iter().map(String::as_str));
        systemctl(&words).iter().flat_map(|shown| shown.split("\n\n")).map(Self::parse).collect()
    }

    fn parse(shown: &str) -> Self {
        let mut state = Self::default();
        for (name, value) in shown.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "Id" => value.clone_into(&mut state.id),
                "ActiveState" => {
                    state.is_to_run = ["active", "activating", "reloading", "refreshing"].contains(&value);
                }
                _ => state.stopped_with_it.extend(value.split_whitespace().map(str::to_owned)),
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::UnitState;

    #[test]
    fn reads_the_state_of_a_unit() {
        let shown = "RequiredBy=api.service scheduler.service\nBoundBy=\nConsistsOf=web.service\nId=etcd.service\n\
            ActiveState=activating\n";
        let stopped_with_it = ["api.service", "scheduler.service", "web.service"].map(str::to_owned).into();
        let expected = UnitState { id: "etcd.service".to_owned(), is_to_run: true, stopped_with_it };
        assert_eq!(UnitState::parse(shown), expected);
        for stopped in ["inactive", "failed", "deactivating"] {
            assert!(!UnitState::parse(&format!("Id=etcd.service\nActiveState={stopped}\n")).is_to_run);
        }
    }
}
