//! The project's own commands, `cargo xtask …`: `demo`, `test`, `machines`, `chaos`, `fuzz`, `buckets`, `bench`,
//! `pack`, `etcd`.
//!
//! A doorway: one match, one module per command. It must never do a command's work itself.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool talks to the terminal it was typed in"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the rooms that own processes, files and the environment are the product's, and this is not the product"
)]

mod bench;
mod buckets;
mod chaos;
mod command;
mod debian;
mod demo;
mod etcd;
mod fuzz;
mod interrupt;
mod machines;
mod moto;
mod pack;
mod page;
mod test;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  demo         start a throw-away etcd, snapshot it, damage it, restore it, and show each step
  test [ARGS]  fmt, clippy, the tests on real etcd servers, and the homes of etcd on whole machines;
               ARGS are passed on to cargo test, and then it runs no machines
  chaos [..]   strike the actions at every system call: [--action A] [--mode M] [--points all|smoke|N] [--list]
  fuzz [TARGET] [--seconds N]
               throw bytes at each reader of what others wrote, a minute long
  buckets [--server moto|s3s]
               the tests of buckets against two S3 servers that others wrote; both together write docs/explanation/buckets.md
  machines [NAME]
               the same on whole machines with systemd, booted in containers; NAME is a part of a scenario's name;
               all of them, or those named after --record, are written into docs/explanation/machines.md;
               --install gets the packages that this takes, and does no more
  pack [--twice] [ARCH]
               make the charm, target/etcd_ARCH.charm; ARCH is amd64 or arm64; --twice builds it again in another
               directory, and fails unless that gives the same bytes
  bench [--size MB] [--rounds N] [--no-plot]
               measure snapshot and restore against etcdctl, tar, gzip, pigz, igzip and zstd; writes docs/explanation/performance.md
  etcd         make sure that the etcd servers for the tests are here, and print where";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = interrupt::watch().and_then(|()| match words.as_slice() {
        ["demo"] => demo::run(),
        ["test", arguments @ ..] => test::run(arguments),
        ["chaos", arguments @ ..] => chaos::run(arguments),
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        ["buckets", arguments @ ..] => buckets::run(arguments),
        ["machines", wanted @ ..] => machines::run(wanted),
        ["pack", wanted @ ..] => pack::run(wanted),
        ["bench", arguments @ ..] => bench::run(arguments),
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
    done.unwrap_or_else(|error| {
        tell(&error);
        ExitCode::FAILURE
    })
}

/// Says what failed, then each cause on a line of its own: a tool's words may be several lines.
fn tell(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}
