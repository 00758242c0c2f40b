//! The test harness: code that the tests share and that is not under test itself.
//!
//! - `world` starts temporary etcds, each in its own directory. `service` starts and stops them, `client`
//!   reads and writes their keys through `gateway`, `cluster` joins several of them, and `tls` creates their certificates.
//! - `command` runs our programs and keeps their output. `tools` replaces the etcd tools by stand-ins.
//! - `unit` is a fake Juju unit, with fake hook tools.
//! - `s3` starts a real S3 server, and a proxy that injects faults. `clouds` starts an emulator of Azure or Google.
//! - `loopback` starts an HTTP server with answers that a test defines.
//! - `tracer` stops a program at its system calls. `process_tracer` follows all of its children.
//!
//! `harness_etcd` and `unit_holds` test the harness itself.

pub mod client;
pub mod clouds;
pub mod cluster;
pub mod command;
pub mod deadlines;
pub mod fs_util;
pub mod gateway;
mod harness_etcd;
pub mod loopback;
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
