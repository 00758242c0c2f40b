//! The commands of the project's developers, `cargo xtask COMMAND`. Each command has a module; this file only selects it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool prints to the terminal")]
#![allow(
    clippy::disallowed_methods,
    reason = "the rules for processes and files are those of the product, and this is not part of it"
)]

mod azurite;
mod bench;
mod buckets;
mod ceph;
mod chaos;
mod command;
mod debian;
mod demo;
mod dist;
mod docs;
mod etcd;
mod fuzz;
mod go_server;
mod interrupt;
mod kubernetes;
mod machines;
mod memory;
mod moto;
mod pack;
mod page;
mod s3_server;
mod test;
mod versions;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Commands for developing etcd-backup and the etcd charm.

Usage: cargo xtask COMMAND [ARGUMENTS]

Everyday commands:
  test      Check format and lints, then run all tests: against real etcd servers, and on
            whole machines if this computer can boot them. With ARGUMENTS, pass them to
            `cargo test` instead, and do not boot machines.
  demo      Show a snapshot and a restore, step by step, on a temporary etcd.
  etcd      Download or build the etcd servers for the tests, and print where they are.
  pack      Build the charm: target/etcd_ARCH.charm.
              pack [--twice] [amd64|arm64]
              --twice   also build it in another directory, and compare the two byte by byte
  docs      Write the reference of the commands, check the links, and build the book.
              docs [--type]
              --type    also run the commands in the documents on new machines, and write their output
  dist      Build the Debian package and the tarball, with checksums and an SBOM: target/dist.
              dist [amd64|arm64]

Long-running checks:
  machines  Run scenarios on whole machines with systemd, booted in containers.
              machines [--record] [NAME...]
              machines --install
              NAME      run only scenarios whose name contains NAME (default: all)
              --record  write the results to docs/explanation (always done if all run)
              --install install the Debian packages that machines need, and exit
  kubernetes  Restore the etcd of a real Kubernetes API server, and check its lists, caches, watches and
            controllers; write docs/explanation/kubernetes.md. Needs root and Go.
              kubernetes [--etcd VERSION...]
  chaos     Interrupt the actions at every system call, and check the result.
              chaos [--action A] [--mode M] [--points all|smoke|N] [--jobs N] [--list]
              chaos --sabotage
  fuzz      Fuzz the parsers of untrusted input.
              fuzz [TARGET] [--seconds N]      (default: all targets, 60 seconds each)
  buckets   Run the tests of buckets on independent servers; write docs/explanation/buckets.md.
              buckets [--server moto|s3s|versitygw|minio|ceph|azurite|gcs]...
              --server  run on this server, and write only its column (default: all but minio)
  versions  Run the integration tests on each etcd from 3.4.23 to the newest; write
            docs/reference/versions.md. Needs Go, which builds what Debian does not have.
              versions [VERSION...]            (default: all)
  bench     Compare the speed with etcdctl, tar and compressors; write docs/explanation/performance.md.
              bench [--size MB] [--rounds N] [--busy N]... [--no-plot]
                    [--record] [snapshot|gardener|busy|latency|restore|upload]
              --record  write the section of the part that was measured (all parts: always)
              Uploads need rclone, and versitygw in VERSITYGW_BIN or Go. ETCD_3_6_BIN names the
              directory of etcd 3.6, and ETCDBRCTL_BIN gardener's program; both are measured too.
  memory    Measure the peak memory of the commands on a large database; needs five times its size on the
            disk, and Go, which builds etcd and versitygw.
              memory [--size MB] [--record]    (default: 8000 MB)
              --record  write the table to docs/explanation/performance.md

Nothing is installed on this computer, except by `machines --install`. Downloads go to
cargo's target directory.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = interrupt::watch().and_then(|()| match arguments.as_slice() {
        ["demo"] => demo::run(),
        ["test", arguments @ ..] => test::run(arguments),
        ["chaos", arguments @ ..] => chaos::run(arguments),
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        ["buckets", arguments @ ..] => buckets::run(arguments),
        ["machines", arguments @ ..] => machines::run(arguments),
        ["kubernetes", arguments @ ..] => kubernetes::run(arguments),
        ["pack", arguments @ ..] => pack::run(arguments),
        ["docs", arguments @ ..] => docs::run(arguments),
        ["dist", arguments @ ..] => dist::run(arguments),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["memory", arguments @ ..] => memory::run(arguments),
        // `memory` runs each program by it.
        ["peak", report, program, arguments @ ..] => memory::peak(report, program, arguments),
        ["versions", arguments @ ..] => versions::run(arguments),
        ["etcd"] => etcd::run(),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{HELP}");
            Ok(ExitCode::from(2))
        }
    });
    result.unwrap_or_else(|error| {
        print_error(&error);
        ExitCode::FAILURE
    })
}

/// Prints the error, then each cause on a line of its own. The output of a tool can have several lines.
fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
