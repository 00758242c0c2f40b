//! Free ports for the etcds of tests. Never returns the same port twice in a process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Returns a port that is free now and was not returned before in this process. It is outside the range of
/// outgoing connections: one of those could take the port while a test has stopped etcd.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static COUNTER: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different ports.
    let start = u16::try_from(std::process::id().wrapping_mul(997) % u32::from(COUNT)).unwrap();
    loop {
        let step = COUNTER.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = LOWEST + (start + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
