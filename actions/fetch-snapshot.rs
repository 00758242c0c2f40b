//! The action `fetch-snapshot`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("fetch-snapshot", etcd_charm::commands::snapshots::fetch::perform)
}
