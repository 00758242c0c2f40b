//! Runs programs, and prints them as a person would type them.
//!
//! Never uses a shell, and never hides the output of a program that failed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Variables that are printed once, as an `export`, and not in front of every command.
const EXPORTED: [&str; 2] = ["PATH", "ETCDCTL_ENDPOINTS"];

/// The size limit of a failed program's output in an error, in bytes.
const MAX_OUTPUT: usize = 2048;

/// Returns a command without the caller's variables for etcd and Juju. etcdctl refuses a flag that is also set by an
/// `ETCDCTL_` variable, and with `JUJU_` variables the actions behave as in a unit.
pub fn new(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ETCD") || text.starts_with("JUJU_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns cargo as a person would start it, without the variables by which cargo describes this program to itself. Build scripts
/// may depend on them, as that of ring does: each call would compile it again.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Prints the command as it would be typed.
pub fn print(command: &Command) {
    println!("$ {}", as_typed(command));
}

/// Returns the command as it would be typed.
pub fn as_typed(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        let name = name.to_string_lossy();
        let value = value.filter(|_| !EXPORTED.contains(&name.as_ref()))?;
        Some(format!("{name}={}", quote(&value.to_string_lossy())))
    });
    let program = short_path(Path::new(command.get_program()));
    let words = std::iter::once(program)
        .chain(command.get_args().map(|word| word.to_string_lossy().into_owned()))
        .map(|word| quote(&word));
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// Returns a path as a person in the current directory would type it.
pub fn short_path(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// Returns one word, quoted if a shell requires that.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints and runs the command, with this process's input and output. Returns its exit status, also if it failed.
pub fn run(command: &mut Command) -> Result<ExitStatus> {
    print(command);
    let status = command.status().with_context(|| start_error(command))?;
    interrupt::check()?;
    Ok(status)
}

/// Prints and runs the command as [`run`] does, and fails if the command fails.
pub fn run_checked(command: &mut Command) -> Result<()> {
    let status = run(command)?;
    if !status.success() {
        bail!("{} failed ({status}); see its output above", name(command));
    }
    Ok(())
}

/// Prints and runs the command, and both prints and returns its standard output. Fails if the command fails.
pub fn run_capturing(command: &mut Command) -> Result<String> {
    let (status, stdout) = run_capturing_status(command)?;
    if !status.success() {
        bail!("{} failed ({status}); see its output above", name(command));
    }
    Ok(stdout)
}

/// Prints and runs the command as [`run_capturing`] does. Returns its exit status, also if it failed.
pub fn run_capturing_status(command: &mut Command) -> Result<(ExitStatus, String)> {
    print(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| start_error(command))?;
    let mut captured = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("the output of {}", name(command)))?;
            println!("{line}");
            captured.push_str(&line);
            captured.push('\n');
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {}", name(command)))?;
    interrupt::check()?;
    Ok((status, captured))
}

/// Runs the command without printing it, and returns its standard output. An error contains the end of its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| start_error(command))?;
    interrupt::check()?;
    let Output { status, stdout, stderr } = output;
    if !status.success() {
        bail!("{} failed ({status}):\n{}", name(command), tail(&stderr, &stdout));
    }
    String::from_utf8(stdout).with_context(|| format!("the output of {} is not text", name(command)))
}

fn name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn start_error(command: &Command) -> String {
    format!("{} could not be started", command.get_program().to_string_lossy())
}

fn tail(stderr: &[u8], stdout: &[u8]) -> String {
    let output = if stderr.trim_ascii().is_empty() { stdout } else { stderr }.trim_ascii();
    let tail = &output[output.len().saturating_sub(MAX_OUTPUT)..];
    String::from_utf8_lossy(tail).lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_a_command_as_it_would_be_typed() {
        let mut command = Command::new("etcdctl");
        command.env("ETCD_SITE", "/tmp/a b/site.yaml").env_remove("HOME").args([
            "get",
            "",
            "--from-key",
            "it's",
        ]);
        assert_eq!(as_typed(&command), r"ETCD_SITE='/tmp/a b/site.yaml' etcdctl get '' --from-key 'it'\''s'");
    }

    #[test]
    fn an_error_has_the_exit_status_and_stderr() {
        let error = output(Command::new("ls").arg("/no/such/place")).unwrap_err().to_string();
        assert!(error.starts_with("ls failed (exit status: 2):\n    ls: "), "{error}");
    }
}
