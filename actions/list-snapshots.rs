//! The action `list-snapshots`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("list-snapshots", etcd_charm::commands::snapshots::list::perform)
}
