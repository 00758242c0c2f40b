//! The action `snapshot`: saves the data of this machine's etcd as a verified archive.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_backup::cli::run("snapshot")
}
