//! Every hook of the charm: looks, decides, and makes the unit what it should be.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::run()
}
