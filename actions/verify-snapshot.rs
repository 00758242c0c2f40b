//! The action `verify-snapshot`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("verify-snapshot", etcd_charm::commands::snapshots::verify::perform)
}
