//! The peak memory of one program.
//!
//! The kernel reports the largest of all children that a process has waited for, so each program is run by a process of
//! its own: `xtask peak`.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::bench::measure::peak_memory;
use crate::command;

/// The interval between two looks at the program's own peak. The peak never decreases, so only growth in the last interval
/// is missed.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// The peak memory of a program, in MiB, and its time.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Of the program alone (`VmHWM`).
    pub own: f64,
    /// Of the largest process among the program and its children (`ru_maxrss`). Pages of a file that a child maps count.
    pub largest: f64,
    /// Seconds.
    pub seconds: f64,
}

/// Runs a program, and returns its peak memory. Its output goes to the file `stdout`.
pub fn measure(program: &Command, stdout: &Path) -> Result<Usage> {
    let shown = command::as_typed(program);
    let report = stdout.with_extension("report");
    // Not its path: cargo may have replaced the file since.
    let mut helper = Command::new("/proc/self/exe");
    helper.arg("peak").arg(&report).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => helper.env(name, value),
            None => helper.env_remove(name),
        };
    }
    let output = File::create(stdout)?;
    let status = helper.stdin(Stdio::null()).stdout(output).status().context("starting the measurement")?;
    crate::interrupt::check()?;
    ensure!(status.success(), "{shown} failed ({status}); see its output above");
    let report: Value = serde_json::from_str(&fs::read_to_string(&report)?)?;
    let number = |name: &str| report[name].as_f64().with_context(|| format!("the report has no {name}"));
    Ok(Usage { own: number("own")?, largest: number("largest")?, seconds: number("seconds")? })
}

/// Runs a program with this process's input and output, and writes its usage to the file `report`.
pub fn peak(report: &str, program: &str, arguments: &[&str]) -> Result<ExitCode> {
    let began = Instant::now();
    let mut child = Command::new(program).args(arguments).spawn().context("starting the program")?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut own = 0.0_f64;
    let status = loop {
        own = own.max(peak_memory(&fs::read_to_string(&status_file).unwrap_or_default()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        sleep(SAMPLE_INTERVAL);
    };
    let kibibytes = getrusage(UsageWho::RUSAGE_CHILDREN).context("reading the peak memory")?.max_rss();
    let seconds = began.elapsed().as_secs_f64();
    let usage = json!({"own": own, "largest": kibibytes as f64 / 1024.0, "seconds": seconds});
    fs::write(report, usage.to_string())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
