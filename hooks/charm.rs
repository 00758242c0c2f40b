//! All programs of the charm in one, for its package: it is the one that it is called by the name of.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::by_name()
}
