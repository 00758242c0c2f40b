//! The action `health`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("health", etcd_charm::commands::upkeep::health)
}
