//! The harness: everything that the tests share and that is not itself the subject of a test.
//!
//! - `world` starts throw-away etcds, each in a temporary directory; `service` starts and stops them,
//!   `client` reads and writes their keys, `cluster` joins three of them, `tls` makes their certificates.
//! - `command` runs our programs and holds what they printed; `tools` puts stand-ins before etcd's own
//!   programs.
//! - `unit` plays a Juju unit, with stand-ins for Juju's hook tools.
//! - `s3` starts a real S3 server, with a proxy before it that injects faults.
//! - `tracer` stops a program at its system calls; `process_tracer` follows all of its children.
//!
//! Nothing here decides whether a test passes, except for the tests of the harness itself (`harness_etcd`,
//! `unit_holds`).

pub mod client;
pub mod cluster;
pub mod command;
pub mod deadlines;
pub mod fs_util;
mod harness_etcd;
pub mod mount;
pub mod ports;
pub mod process_tracer;
pub mod s3;
pub mod service;
pub mod tls;
pub mod tools;
pub mod tracer;
pub mod unit;
mod unit_holds;
pub mod world;
