//! The action `backup`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("backup", etcd_charm::commands::backup::perform)
}
