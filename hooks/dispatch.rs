//! The program that Juju starts for every hook and action. It executes the program that does the work.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::dispatch()
}
