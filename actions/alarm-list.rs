//! The action `alarm-list`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("alarm-list", etcd_charm::action::upkeep::alarm_list)
}
