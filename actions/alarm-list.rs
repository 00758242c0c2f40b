//! The action `alarm-list`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("alarm-list", etcd_charm::commands::upkeep::alarm_list)
}
