//! The action `check`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("check", etcd_charm::commands::check::perform)
}
