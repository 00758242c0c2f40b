//! Owns running a program and showing it as a person would type it.
//!
//! It must never go through a shell, and never swallow a program's own words when it failed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::{interrupt, workspace};

/// Variables that whoever sets them shows once, as an `export`, and not in front of every command.
const EXPORTED: [&str; 2] = ["PATH", "ETCDCTL_ENDPOINTS"];

/// How many bytes of a failed program's last words an error carries.
const LAST_WORDS: usize = 2048;

/// A command that sees nothing of the caller's etcd or Juju: etcdctl refuses a flag that an
/// `ETCDCTL_` variable shadows, and the actions take `JUJU_` variables for a unit.
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

/// Prints the command as it would be typed.
pub fn show(command: &Command) {
    println!("$ {}", typed(command));
}

/// The command as it would be typed.
pub fn typed(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        let name = name.to_string_lossy();
        let value = value.filter(|_| !EXPORTED.contains(&name.as_ref()))?;
        Some(format!("{name}={}", quoted(&value.to_string_lossy())))
    });
    let program = workspace::short(Path::new(command.get_program()));
    let words = std::iter::once(program)
        .chain(command.get_args().map(|word| word.to_string_lossy().into_owned()))
        .map(|word| quoted(&word));
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// One word, in quotes where a shell would need them.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows and runs it with our own input and output. The status is the caller's to judge.
pub fn run(command: &mut Command) -> Result<ExitStatus> {
    show(command);
    let status = command.status().with_context(|| not_started(command))?;
    interrupt::check()?;
    Ok(status)
}

/// Shows and runs it with our own input and output, and fails if it does.
pub fn run_well(command: &mut Command) -> Result<()> {
    let status = run(command)?;
    if !status.success() {
        bail!("{} failed ({status}); its own words are above", name(command));
    }
    Ok(())
}

/// Shows and runs it, printing its standard output as it comes, and returns that too. Fails if it does.
pub fn run_and_keep(command: &mut Command) -> Result<String> {
    let (status, kept) = run_and_hear(command)?;
    if !status.success() {
        bail!("{} failed ({status}); its own words are above", name(command));
    }
    Ok(kept)
}

/// The same; the status is the caller's to judge.
pub fn run_and_hear(command: &mut Command) -> Result<(ExitStatus, String)> {
    show(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| not_started(command))?;
    let mut kept = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("the output of {}", name(command)))?;
            println!("{line}");
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {}", name(command)))?;
    interrupt::check()?;
    Ok((status, kept))
}

/// Runs it in silence and returns its standard output; an error has its last words.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| not_started(command))?;
    interrupt::check()?;
    let Output { status, stdout, stderr } = output;
    if !status.success() {
        bail!("{} failed ({status}):\n{}", name(command), last_words(&stderr, &stdout));
    }
    String::from_utf8(stdout).with_context(|| format!("the output of {} is not text", name(command)))
}

fn name(command: &Command) -> String {
    Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn not_started(command: &Command) -> String {
    format!("{} could not be started", command.get_program().to_string_lossy())
}

fn last_words(stderr: &[u8], stdout: &[u8]) -> String {
    let said = if stderr.trim_ascii().is_empty() { stdout } else { stderr }.trim_ascii();
    let tail = &said[said.len().saturating_sub(LAST_WORDS)..];
    String::from_utf8_lossy(tail).lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("etcdctl");
        command.env("ETCD_SITE", "/tmp/a b/site.yaml").env_remove("HOME").args([
            "get",
            "",
            "--from-key",
            "it's",
        ]);
        assert_eq!(typed(&command), r"ETCD_SITE='/tmp/a b/site.yaml' etcdctl get '' --from-key 'it'\''s'");
    }

    #[test]
    fn an_error_has_the_status_and_the_last_words() {
        let error = output(Command::new("ls").arg("/no/such/place")).unwrap_err().to_string();
        assert!(error.starts_with("ls failed (exit status: 2):\n    ls: "), "{error}");
    }
}
