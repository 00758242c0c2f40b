//! The action `restore`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("restore", etcd_charm::action::restore::perform)
}
