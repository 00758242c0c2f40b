//! The action `upload`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("upload", etcd_charm::commands::upload::perform)
}
