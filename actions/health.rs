//! The action `health`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("health", etcd_charm::action::upkeep::health)
}
