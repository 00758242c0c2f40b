//! The action `compact`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("compact", etcd_charm::commands::upkeep::compact)
}
