//! Ports for the etcds of tests. Must never give one out twice in a process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that is free now and that this process has not given out before. Not from the range of outgoing connections:
/// one of those could take it while a test has etcd stopped.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin in different places.
    let begin = u16::try_from(std::process::id().wrapping_mul(997) % u32::from(COUNT)).unwrap();
    loop {
        let step = GIVEN.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = LOWEST + (begin + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
