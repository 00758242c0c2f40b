//! The action `restore`: replaces the data of this machine's etcd with that of a snapshot.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_backup::cli::run("restore")
}
