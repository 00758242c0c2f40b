//! The action `prune-snapshots`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("prune-snapshots", etcd_charm::commands::snapshots::prune::perform)
}
