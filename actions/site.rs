//! The action `site`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("site", etcd_charm::commands::site::perform)
}
