//! How much of the machine we take: etcd's clients come first.

use std::num::NonZero;

/// Enough that whatever serves goes first, and a machine with nothing else to do still gives us all of it.
const LATER: i32 = 10;

/// Lets the calling thread, and it alone, run behind what is not as patient; its disk reads and writes too, where the
/// disk's scheduler knows priorities (it derives them from this one).
pub fn go_behind() {
    // For Linux a thread is a process of its own here. Where it is not allowed, the work is done all the same.
    let _ = rustix::process::setpriority_process(None, LATER);
}

/// Half of the cores that we may run on, the other half being etcd's.
pub fn half() -> usize {
    (std::thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1)
}

/// How many threads of ours may work hard at a time: [`half`] of the cores. Two at least, for they [go
/// behind](go_behind).
pub fn share() -> usize {
    half().max(2)
}
