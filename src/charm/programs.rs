//! All programs of the charm in one: the name that it is called by selects the program.
//!
//! The programs share nearly all of their code. As separate files they had 22.6 MB packed; a charm may have 15 MB.

use super::report::print_to_log;
use crate::commands::{
    Perform, backup, called, check, credentials, restore, run, schedule, site, snapshot, snapshots, upkeep,
    upload,
};
use std::process::ExitCode;

/// The actions, with the function that each program in `actions/` runs.
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

/// Runs the program whose name this process was called by.
pub fn by_name() -> ExitCode {
    let name = called();
    match name.as_str() {
        "dispatch" => super::dispatch::dispatch(),
        "reconcile" => super::reconcile::run_hook(),
        action => match ACTIONS.iter().find(|(name, _)| *name == action) {
            Some((name, perform)) => run(name, *perform),
            None => {
                print_to_log(&format!("the charm has no program {action:?}"));
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
    fn contains_every_action_of_actions_yaml() {
        let declared: serde_json::Map<String, serde_json::Value> =
            serde_yaml::from_str(include_str!("../../actions.yaml")).unwrap();
        let programs: BTreeSet<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(programs, declared.keys().map(String::as_str).collect());
    }
}
