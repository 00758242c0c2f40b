//! `etcd-backup`: every command in one program.
//!
//! Inside the charm, links to this program carry the names of the actions and hooks; the name it is called by selects one.

use etcd_backup::{charm, cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::called_as().as_str() {
        "dispatch" => charm::dispatch(),
        "reconcile" => charm::run_hook(),
        "serve-metrics" => charm::serve_metrics(),
        name => cli::run(name),
    }
}
