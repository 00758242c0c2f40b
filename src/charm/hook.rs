//! The hooks that Juju runs, as far as the charm treats them differently.

use crate::commands::Environment;
use std::ffi::OsStr;

/// The endpoints in `metadata.yaml` whose hooks the charm runs.
const RELATIONS: [&str; 6] =
    ["cluster", "certificates", "cos-agent", "db", "nrpe-external-master", "s3-parameters"];

/// A hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The unit is new.
    Install,
    /// The unit starts to serve: after its installation, and after every boot.
    Start,
    /// The charm was refreshed, or a resource was attached.
    UpgradeCharm,
    /// An option may have changed.
    ConfigChanged,
    /// The storage `data` is attached. On a new unit this hook runs before `install`.
    StorageAttached,
    /// The storage `data` is about to be detached.
    StorageDetaching,
    /// The unit is about to be removed.
    Stop,
    /// The unit is being removed.
    Remove,
    /// Some minutes have passed, and no other hook was due.
    UpdateStatus,
    /// A relation, the leader or a secret has changed.
    Update,
}

impl Hook {
    /// Returns the hook that Juju's variables name, or `None` if the charm ignores it.
    pub fn from_environment(environment: &Environment) -> Option<Self> {
        let variable = |name: &str| environment.variable(name).and_then(OsStr::to_str);
        let name = match variable("JUJU_DISPATCH_PATH") {
            Some(path) => path.strip_prefix("hooks/")?,
            None => variable("JUJU_HOOK_NAME")?,
        };
        Self::from_name(name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "install" => Self::Install,
            "start" => Self::Start,
            "upgrade-charm" => Self::UpgradeCharm,
            "config-changed" => Self::ConfigChanged,
            "data-storage-attached" => Self::StorageAttached,
            "data-storage-detaching" => Self::StorageDetaching,
            "stop" => Self::Stop,
            "remove" => Self::Remove,
            "update-status" => Self::UpdateStatus,
            "leader-elected" | "secret-changed" => Self::Update,
            _ if RELATIONS.iter().any(|endpoint| is_of_relation(name, endpoint)) => Self::Update,
            _ => return None,
        })
    }

    /// Whether this hook starts a stopped etcd. `StorageAttached` does, because detaching the storage stopped it.
    ///
    /// `Update` and `UpdateStatus` do not: an operator may have stopped etcd to work on its data. `UpgradeCharm` does not either: a refresh
    /// never stops etcd, and `juju attach-resource` runs the same hook, often with etcd stopped before a restore.
    pub fn may_start(self) -> bool {
        matches!(self, Self::Install | Self::Start | Self::StorageAttached)
    }

    /// Whether this hook waits for another run on the data, because no later hook stops etcd before its storage is taken away.
    pub fn waits_for_data(self) -> bool {
        self.removes_unit() || self == Self::StorageDetaching
    }

    /// Whether the unit is being removed.
    pub fn removes_unit(self) -> bool {
        matches!(self, Self::Stop | Self::Remove)
    }
}

fn is_of_relation(hook: &str, endpoint: &str) -> bool {
    hook.strip_prefix(endpoint).is_some_and(|rest| rest.starts_with("-relation-"))
}

#[cfg(test)]
mod tests {
    use super::Hook;
    use crate::commands::Environment;

    #[test]
    fn reads_the_hook_from_the_dispatch_path_or_the_hook_name() {
        for (variables, expected) in [
            (
                &[("JUJU_DISPATCH_PATH", "hooks/install"), ("JUJU_HOOK_NAME", "start")][..],
                Some(Hook::Install),
            ),
            (&[("JUJU_HOOK_NAME", "config-changed")], Some(Hook::ConfigChanged)),
            (&[("JUJU_HOOK_NAME", "cos-agent-relation-created")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/cluster-relation-departed")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/data-storage-attached")], Some(Hook::StorageAttached)),
            (&[("JUJU_DISPATCH_PATH", "hooks/s3-parameters-relation-broken")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/certificates-relation-changed")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/db-relation-created")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/dbx-relation-created")], None),
            (&[("JUJU_DISPATCH_PATH", "hooks/update-status")], Some(Hook::UpdateStatus)),
            (&[("JUJU_DISPATCH_PATH", "hooks/secret-changed")], Some(Hook::Update)),
            (&[("JUJU_DISPATCH_PATH", "hooks/collect-metrics")], None),
            (&[("JUJU_DISPATCH_PATH", "hooks/secret-rotate")], None),
            (&[("JUJU_DISPATCH_PATH", "actions/install")], None),
            (&[], None),
        ] {
            let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            assert_eq!(Hook::from_environment(&Environment::of(variables)), expected);
        }
    }
}
