//! Stops the etcd of a systemd unit without waiting for its clients.
//!
//! After SIGTERM, etcd 3.5.35, 3.6 and later refuse new requests at once, but wait up to 7 s for open watches
//! (`embed/etcd.go`, `stopServers`). A watch cannot write. etcd syncs its write-ahead log before it acknowledges a
//! write, so its data is complete whenever it ends. Must never be used for a unit that stops by a command of its own.

use crate::system::process::Program;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The time for a graceful stop that does not wait for clients. Requests that had been received are answered in milliseconds, and
/// the last writes are in the database after 100 ms (`--backend-batch-interval`).
pub(super) const SHORT_GRACE: Duration = Duration::from_secs(1);
/// The time for any graceful stop. etcd gives up its clients after 7 s, but 3.4.23 was seen to hang until systemd ended it after 90 s.
pub(super) const LONG_GRACE: Duration = Duration::from_secs(20);
/// The time for systemd to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Orders systemd to stop `unit`, waits until `has_ended` returns true, which is asked every `interval`, and ends its processes if
/// that takes longer than `grace`. The caller must wait for the unit afterwards, and learns of an error then.
///
/// The processes are ended by SIGHUP, which etcd does not handle. systemd takes it for a clean end, unlike SIGKILL: the
/// unit does not fail, and nothing is triggered by a failure. `Restart=` has no effect after the order to stop.
pub(super) fn stop_soon(unit: &str, grace: Duration, interval: Duration, has_ended: &dyn Fn() -> bool) {
    let systemctl = |words: &[&str]| {
        let program = Program::new("systemctl").args(["--no-ask-password"]).args(words);
        program.deadline(RESPONSE_TIMEOUT).run()
    };
    let may_signal = systemctl(&["show", "--property=LoadState,KillMode,ExecStop", "--", unit])
        .is_ok_and(|shown| stops_by_signal(&shown.text()));
    if !may_signal || systemctl(&["stop", "--no-block", "--", unit]).is_err() {
        return;
    }
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline {
        if has_ended() {
            return;
        }
        sleep(interval);
    }
    let _ = systemctl(&["kill", "--signal=HUP", "--", unit]);
}

/// Runs systemctl and returns its output; `None` if systemd is missing.
pub fn systemctl(words: &[&str]) -> Option<String> {
    let output = Program::new("systemctl").args(words).deadline(RESPONSE_TIMEOUT).run().ok()?;
    Some(output.text())
}

/// Returns whether systemd stops a unit with these properties by a signal alone.
fn stops_by_signal(shown: &str) -> bool {
    let has = |line: &str| shown.lines().any(|shown| shown == line);
    has("LoadState=loaded")
        // With `process`, as k3s and RKE2 have it, the unit's other processes outlive it, and a signal would reach them too.
        && (has("KillMode=control-group") || has("KillMode=mixed"))
        && !shown.lines().any(|line| line.starts_with("ExecStop="))
}

#[cfg(test)]
mod tests {
    use super::stops_by_signal;

    #[test]
    fn a_unit_with_a_stop_command_does_not_stop_by_a_signal() {
        let stop = "ExecStop={ path=/bin/sleep ; argv[]=/bin/sleep 2 ; ignore_errors=no }";
        for (shown, expected) in [
            ("KillMode=control-group\nLoadState=loaded\n".to_owned(), true),
            ("KillMode=mixed\nLoadState=loaded\n".to_owned(), true),
            (format!("KillMode=control-group\n{stop}\nLoadState=loaded\n"), false),
            ("KillMode=none\nLoadState=loaded\n".to_owned(), false),
            ("KillMode=process\nLoadState=loaded\n".to_owned(), false),
            ("KillMode=control-group\nLoadState=not-found\n".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(stops_by_signal(&shown), expected, "{shown}");
        }
    }
}
