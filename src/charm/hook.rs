//! The hooks that Juju runs, as far as they differ for us.

use crate::commands::Environment;
use std::ffi::OsStr;

/// A hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The unit begins its life.
    Install,
    /// The unit begins to serve: after its installation, and after every boot.
    Start,
    /// The charm is another one, or a resource was attached.
    UpgradeCharm,
    /// An option may have changed.
    ConfigChanged,
    /// The storage `data` is there. On a new unit this comes before `install`.
    StorageAttached,
    /// The storage `data` is about to go.
    StorageDetaching,
    /// The unit is about to go.
    Stop,
    /// The unit goes.
    Remove,
    /// Time has passed, or a neighbour came, went or said something.
    Look,
}

impl Hook {
    /// The hook that the environment speaks of; `None` for one that is nothing to us.
    pub fn of(environment: &Environment) -> Option<Self> {
        let said = |name: &str| environment.variable(name).and_then(OsStr::to_str);
        let name = match said("JUJU_DISPATCH_PATH") {
            Some(path) => path.strip_prefix("hooks/")?,
            None => said("JUJU_HOOK_NAME")?,
        };
        Self::named(name)
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "install" => Self::Install,
            "start" => Self::Start,
            "upgrade-charm" => Self::UpgradeCharm,
            "config-changed" => Self::ConfigChanged,
            "data-storage-attached" => Self::StorageAttached,
            "data-storage-detaching" => Self::StorageDetaching,
            "stop" => Self::Stop,
            "remove" => Self::Remove,
            "update-status" | "leader-elected" | "secret-changed" => Self::Look,
            _ if name.starts_with("cluster-relation-") => Self::Look,
            _ if name.starts_with("s3-parameters-relation-") => Self::Look,
            _ => return None,
        })
    }

    /// Whether an etcd that does not run is to be started: a storage that goes has it stopped. Not whenever time passes:
    /// somebody may have stopped it to work on its data. Nor for another charm, which never stops it: `juju attach-resource`
    /// looks the same, as an operator types it with etcd stopped and a restore to come.
    pub fn may_start(self) -> bool {
        matches!(self, Self::Install | Self::Start | Self::StorageAttached)
    }
}

#[cfg(test)]
mod tests {
    use super::Hook;
    use crate::commands::Environment;

    #[test]
    fn the_dispatch_path_names_the_hook_and_else_its_own_variable() {
        for (variables, expected) in [
            (
                &[("JUJU_DISPATCH_PATH", "hooks/install"), ("JUJU_HOOK_NAME", "start")][..],
                Some(Hook::Install),
            ),
            (&[("JUJU_HOOK_NAME", "config-changed")], Some(Hook::ConfigChanged)),
            (&[("JUJU_DISPATCH_PATH", "hooks/cluster-relation-departed")], Some(Hook::Look)),
            (&[("JUJU_DISPATCH_PATH", "hooks/data-storage-attached")], Some(Hook::StorageAttached)),
            (&[("JUJU_DISPATCH_PATH", "hooks/s3-parameters-relation-broken")], Some(Hook::Look)),
            (&[("JUJU_DISPATCH_PATH", "hooks/secret-changed")], Some(Hook::Look)),
            (&[("JUJU_DISPATCH_PATH", "hooks/collect-metrics")], None),
            (&[("JUJU_DISPATCH_PATH", "hooks/secret-rotate")], None),
            (&[("JUJU_DISPATCH_PATH", "actions/install")], None),
            (&[], None),
        ] {
            let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            assert_eq!(Hook::of(&Environment::of(variables)), expected);
        }
    }
}
