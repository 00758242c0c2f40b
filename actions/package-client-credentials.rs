//! The action `package-client-credentials`, as Juju runs it and as a person types it.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::commands::run("package-client-credentials", etcd_charm::commands::credentials::perform)
}
