//! The action `compact`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("compact", etcd_charm::action::upkeep::compact)
}
