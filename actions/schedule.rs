//! The action `schedule`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("schedule", etcd_charm::commands::schedule::perform)
}
