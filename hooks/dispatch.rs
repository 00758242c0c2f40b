//! What Juju runs for every hook and action: becomes the program that does the work.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::dispatch()
}
