//! The action `defrag`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("defrag", etcd_charm::commands::upkeep::defrag)
}
