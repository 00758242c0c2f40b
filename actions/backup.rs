//! The action `backup`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("backup", etcd_charm::action::backup::perform)
}
