//! All programs of the charm in one, for its package. The name that it is called by selects the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_charm::charm::by_name()
}
