//! The action `snapshot`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("snapshot", etcd_charm::commands::snapshot::perform)
}
