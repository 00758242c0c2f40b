//! Measures the time, processor time, memory and disk space of a chain of programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};

/// The interval between two samples of memory and disk.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// The unit of `/proc/stat` (`USER_HZ`) on x86 and ARM, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// The cost of a chain of programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds from the first start to the last exit.
    pub wall: f64,
    /// Processor time in seconds, including children.
    pub cpu: f64,
    /// Processor time of the whole machine in seconds, for example of etcd.
    pub machine_cpu: f64,
    /// Peak memory of the last program without its children, in MiB.
    pub memory: f64,
    /// Peak size of the files in the watched directory, in MiB.
    pub disk: f64,
}

/// Runs the programs one after the other. Returns their cost and the stdout of the last one. Pending writes of other
/// programs are flushed to disk first.
pub fn chain(programs: &mut [Command], watched: Option<&Path>) -> Result<(Cost, String)> {
    nix::unistd::sync();
    let (began, before, machine_before) = (Instant::now(), processor_seconds()?, machine_seconds()?);
    let mut cost = Cost::default();
    let mut printed = String::new();
    for program in programs {
        crate::interrupt::check()?;
        printed = run_measured(program, watched, &mut cost)?;
    }
    cost.wall = began.elapsed().as_secs_f64();
    cost.cpu = processor_seconds()? - before;
    cost.machine_cpu = machine_seconds()? - machine_before;
    Ok((cost, printed))
}

fn run_measured(program: &mut Command, watched: Option<&Path>, cost: &mut Cost) -> Result<String> {
    let shown = crate::command::as_typed(program);
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = program.spawn().with_context(|| format!("starting {shown}"))?;
    let status = format!("/proc/{}/status", child.id());
    let (done, is_running) = mpsc::channel::<()>();
    let output = thread::scope(|scope| {
        if let Some(watched) = watched {
            cost.memory = 0.0;
            // Not too often, because sampling slows down the measured program.
            scope.spawn(move || {
                while is_running.recv_timeout(SAMPLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    let status = fs::read_to_string(&status).unwrap_or_default();
                    cost.memory = cost.memory.max(peak_memory(&status));
                    cost.disk = cost.disk.max(size_of(watched) as f64 / MIB);
                }
            });
        }
        let output = child.wait_with_output();
        drop(done);
        output
    })?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} failed ({}):\n{stderr}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number of bytes in a MiB.
pub const MIB: f64 = 1_048_576.0;

/// Returns the peak memory in `/proc/PID/status`, in MiB; 0 if there is none.
pub fn peak_memory(status: &str) -> f64 {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    kilobytes.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Returns the size of the files in a directory, in bytes. Files that are removed at the same time are not counted.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

fn processor_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the processor time")?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Returns the seconds that the processors of this machine have worked since it started (proc_stat(5)). Waiting for a
/// disk is not work, and neither is time that the hypervisor gave to another machine.
fn machine_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("reading the work of all processors")?;
    let line = stat.strip_prefix("cpu ").and_then(|rest| rest.lines().next());
    let counts: Vec<f64> =
        line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = counts[..] else {
        bail!("/proc/stat begins with {:?}", stat.lines().next());
    };
    Ok((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// Returns the minimum, the median and the maximum of some values.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    [at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_costs_the_sum_of_its_programs() {
        let mut sleeps = [Command::new("sleep"), Command::new("sleep")];
        for sleep in &mut sleeps {
            sleep.arg("0.05");
        }
        let (cost, _) = chain(&mut sleeps, None).unwrap();
        assert!(cost.wall >= 0.1, "{cost:?}");
        assert!(chain(&mut [Command::new("false")], None).is_err());
    }

    #[test]
    fn the_work_of_the_machine_includes_ours() {
        let mut work = Command::new("sh");
        work.args(["-c", "n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done"]);
        let (cost, _) = chain(&mut [work], None).unwrap();
        // It is counted in clock ticks.
        assert!(cost.cpu > 0.05 && cost.machine_cpu > cost.cpu - 0.03, "{cost:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
    }
}
