//! Snapshots on a machine with other work.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::report::{Limit, Row};
use super::{Bench, stream};

/// Processes that use a processor each until they are dropped. They share a session, as the threads of one service do: the
/// kernel divides the processors among sessions first.
pub struct BusyLoops(Option<Child>);

impl BusyLoops {
    /// Starts `number` loops.
    pub fn start(number: usize) -> Result<Self> {
        if number == 0 {
            return Ok(Self(None));
        }
        // Its children end with it: they are killed by the signal that ends the whole process group.
        let script = "for loop in $(seq \"$0\"); do (while :; do :; done) & done; wait";
        let mut shell = Command::new("setsid");
        shell.args(["sh", "-c", script, &number.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(Some(shell.spawn().context("starting busy loops")?)))
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        let Some(shell) = &mut self.0 else { return };
        if let Ok(pid) = i32::try_from(shell.id()) {
            // As the child of this process, setsid does not fork, and leads the group.
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = shell.wait();
    }
}

impl Bench {
    /// Compares a snapshot with the chain of an operator's commands, while `loops` other processes are busy.
    pub fn measure_busy(&self, loops: usize, rounds: usize) -> Result<Vec<Row>> {
        let db = self.megabytes()?;
        let _busy = BusyLoops::start(loops)?;
        let row = |what: String, limit| Row { what, limit, values: Vec::new() };
        let what = format!("{db} MB, {loops} busy loops");
        let mut rows = [
            row(format!("{what}: `save; status; tar; sha256sum` / ours"), Limit::AtLeast(2.0)),
            row(format!("{what}: etcd's stream is open / in a bare save"), Limit::AtMost(1.05)),
            row(format!("{what}: snapshot / `etcdctl snapshot save`"), Limit::None),
            row(format!("{what}: snapshot, s"), Limit::None),
        ];
        for round in 1..=rounds {
            println!("{what}, round {round} of {rounds}");
            let (save, open_alone) = stream::open_while(self.home.path(), || Ok(self.save()?.wall))?;
            let (ours, open) = stream::open_while(&self.path("target"), || Ok(self.snapshot()?.0.wall))?;
            let rival = self.by_hand("gzip")?.0.wall;
            let values = [rival / ours, open / open_alone, ours / save, ours];
            for (row, value) in rows.iter_mut().zip(values) {
                row.values.push(value);
            }
        }
        Ok(rows.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_loops_end_when_dropped() {
        let busy = BusyLoops::start(2).unwrap();
        let group = busy.0.as_ref().unwrap().id().to_string();
        let members = || {
            let listed = Command::new("ps").args(["-o", "pid=", "-g", &group]).output().unwrap();
            String::from_utf8_lossy(&listed.stdout).lines().count()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while members() < 3 {
            assert!(std::time::Instant::now() < deadline, "the loops do not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        drop(busy);
        while members() > 0 {
            assert!(std::time::Instant::now() < deadline, "the loops do not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
