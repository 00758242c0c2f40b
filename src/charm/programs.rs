//! The programs of the charm in one, which is the one whose name it is called by.
//!
//! They share nearly all of their code: packed apart from each other they had 22.6 MB, against the 15 MB that a charm may
//! have. Must never do anything of its own.

use crate::commands::{
    Perform, backup, called, check, credentials, restore, run, schedule, site, snapshot, snapshots, upkeep,
    upload,
};
use std::io::Write;
use std::process::ExitCode;

/// What each action does, as its own program in `actions/` does it.
const ACTIONS: [(&str, Perform); 20] = [
    ("snapshot", snapshot::perform),
    ("restore", restore::perform),
    ("list-snapshots", snapshots::list::perform),
    ("verify-snapshot", snapshots::verify::perform),
    ("fetch-snapshot", snapshots::fetch::perform),
    ("pin-snapshot", snapshots::pin::pin),
    ("unpin-snapshot", snapshots::pin::unpin),
    ("prune-snapshots", snapshots::prune::perform),
    ("delete-snapshot", snapshots::delete::perform),
    ("site", site::perform),
    ("health", upkeep::health),
    ("alarm-list", upkeep::alarm_list),
    ("alarm-disarm", upkeep::alarm_disarm),
    ("compact", upkeep::compact),
    ("defrag", upkeep::defrag),
    ("package-client-credentials", credentials::perform),
    ("backup", backup::perform),
    ("schedule", schedule::perform),
    ("check", check::perform),
    ("upload", upload::perform),
];

/// Runs the program that we are called by the name of.
pub fn by_name() -> ExitCode {
    let name = called();
    match name.as_str() {
        "dispatch" => super::dispatch(),
        "reconcile" => super::run(),
        action => match ACTIONS.iter().find(|(name, _)| *name == action) {
            Some((name, perform)) => run(name, *perform),
            None => {
                // Nothing can be done where even this cannot be said.
                let _ = writeln!(std::io::stderr(), "the charm has no program {action:?}");
                ExitCode::FAILURE
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::ACTIONS;
    use std::collections::BTreeSet;

    #[test]
    fn every_action_that_is_declared_is_in_it() {
        let declared: serde_json::Map<String, serde_json::Value> =
            serde_yaml::from_str(include_str!("../../actions.yaml")).unwrap();
        let ours: BTreeSet<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(ours, declared.keys().map(String::as_str).collect());
    }
}
