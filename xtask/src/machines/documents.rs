//! Every command that the documents show in a `console` block, typed on a fresh machine. The output must be the one that the
//! page shows, except for numbers, hashes and the width of columns.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use crate::workspace;

/// The pages with such blocks. Each has a machine of its own, on which its commands run in order.
pub const PAGES: [&str; 4] =
    ["README.md", "docs/tutorial.md", "docs/how-to/monitoring.md", "docs/reference/config-file.md"];
/// The host name of the machine in the documents.
const HOST: &str = "vm";
/// A word of so many hexadecimal digits is a hash, or a cluster id.
const HASH_LENGTH: usize = 10;

/// Types every command, and compares what it prints with the page.
pub fn typed(test_bed: &TestBed) -> Result<String> {
    let mut commands = 0;
    for page in PAGES {
        let text = read(page)?;
        let new = retyped(test_bed, &text).with_context(|| page.to_owned())?;
        commands += text.lines().filter(|line| line.starts_with("$ ")).count();
        for (shown, printed) in comparable(&text).zip(comparable(&new)) {
            ensure!(shown == printed, "{page} shows\n  {shown}\nbut the command prints\n  {printed}");
        }
        ensure!(comparable(&text).count() == comparable(&new).count(), "{page} shows more or fewer lines");
    }
    Ok(format!("{commands} commands print what {} pages show", PAGES.len()))
}

/// Types every command of a page, and writes its output into the page.
pub fn write(test_bed: &TestBed, page: &str) -> Result<()> {
    let new = retyped(test_bed, &read(page)?)?;
    fs::write(workspace::root()?.join(page), new).with_context(|| format!("writing {page}"))
}

fn read(page: &str) -> Result<String> {
    fs::read_to_string(workspace::root()?.join(page)).with_context(|| format!("reading {page}"))
}

/// Returns the page with the output of its commands as a new machine prints it.
fn retyped(test_bed: &TestBed, text: &str) -> Result<String> {
    let machine = Machine::boot(&test_bed.root)?;
    machine.copy_in(&test_bed.programs.join("etcd-backup"), "/usr/bin/etcd-backup")?;
    scenario::wait_until_healthy(&machine)?;
    let mut terminal =
        Terminal { host: machine.run(&["hostname"])?.trim().to_owned(), machine, exports: String::new() };
    let mut page = String::new();
    let mut in_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_console = line == "```console";
        }
        match line.strip_prefix("$ ").filter(|_| in_console) {
            Some(command) => page += &format!("{line}\n{}", terminal.type_in(command)?),
            None if in_console && !line.starts_with("```") => {}
            None => page += &format!("{line}\n"),
        }
    }
    Ok(page)
}

/// A root shell on the machine.
struct Terminal {
    machine: Machine,
    host: String,
    /// The `export` commands typed so far.
    exports: String,
}

impl Terminal {
    /// Types a command and returns everything that it prints, whether it succeeds or not.
    fn type_in(&mut self, command: &str) -> Result<String> {
        if command.starts_with("export ") {
            self.exports += &format!("{command}\n");
            return Ok(String::new());
        }
        let script = format!("{}exec 2>&1\n{command}", self.exports);
        let output = self.machine.attempt(&["sh", "-c", &script])?;
        if output.status.code() == Some(127) {
            bail!("{command}: {}", String::from_utf8_lossy(&output.stdout).trim());
        }
        let printed = String::from_utf8_lossy(&output.stdout).replace(&self.host, HOST);
        Ok(printed.lines().map(|line| format!("{}\n", line.trim_end())).collect())
    }
}

/// Returns the lines of a page without what differs from run to run.
fn comparable(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| line.split_whitespace().map(without_numbers).collect::<Vec<_>>().join(" "))
}

/// Replaces each number, date, size and hash in a word.
fn without_numbers(word: &str) -> String {
    let mut plain = String::new();
    for part in word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (token, separator) = match part.char_indices().last() {
            Some((end, c)) if !c.is_ascii_alphanumeric() => part.split_at(end),
            _ => (part, ""),
        };
        let has_digit = token.bytes().any(|byte| byte.is_ascii_digit());
        let is_hash =
            has_digit && token.len() >= HASH_LENGTH && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        match has_digit {
            _ if is_hash => plain.push('#'),
            true => plain.extend(token.chars().filter(|c| !c.is_ascii_digit())),
            false => plain.push_str(token),
        }
        // Dots in numbers come and go (`1 s` and `1.1 s`), and so does the number after the name of an archive.
        if separator != "." && !(separator == "-" && plain.ends_with('-')) {
            plain.push_str(separator);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_hashes_and_widths_do_not_count() {
        let same = |a: &str, b: &str| assert_eq!(comparable(a).next(), comparable(b).next(), "{a} and {b}");
        same("sha256:  94d427ee32181bc6", "sha256: 12c0501d389038615b");
        same("etcd-snapshot-2026-11-20-20.49.17.tar.gz", "etcd-snapshot-2027-01-02-03.04.05.tar.gz");
        same("a-2026-11-20-20.49.17.tar.gz", "a-2026-11-20-20.49.17-2.tar.gz");
        same("downtime: 1.11s", "downtime: 2s");
    }

    #[test]
    fn words_count() {
        assert_ne!(comparable("verified: true").next(), comparable("verified: false").next());
        assert_ne!(comparable("deadbeef").next(), comparable("beefdead").next());
    }
}
