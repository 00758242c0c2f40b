//! The action `pin-snapshot`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("pin-snapshot", etcd_charm::commands::snapshots::pin::pin)
}
