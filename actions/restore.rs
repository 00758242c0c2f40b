//! The action `restore`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("restore", etcd_charm::commands::restore::perform)
}
