//! The action `upload`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::action::run("upload", etcd_charm::action::upload::perform)
}
