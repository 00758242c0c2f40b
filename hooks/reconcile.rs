//! Runs every hook of the charm.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::run_hook()
}
