//! Writes the page: the figures, and the machine and programs that they were measured with.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::report::{Line, svg};
use crate::{command, etcd, page, workspace};

/// Writes docs/explanation/performance.md, and its plot if there are lines for one.
pub fn write(rounds: usize, table: &str, lines: Option<(Vec<Line>, Vec<Line>)>) -> Result<()> {
    let docs = workspace::root()?.join("docs/explanation");
    fs::create_dir_all(&docs)?;
    if let Some((seconds, memory)) = &lines {
        fs::write(docs.join("performance.svg"), svg(seconds, memory))?;
    }
    let mut plot = "![Time and memory against the size of the database](performance.svg)".to_owned();
    if lines.is_none() {
        plot.push_str("\n\nThe plot is from an earlier run.");
    }
    let page = include_str!("page.md")
        .replace("@PLOT@", &plot)
        .replace("@TABLE@", table.trim_end())
        .replace("@MACHINE@", &machine()?)
        .replace("@ROUNDS@", &rounds.to_string());
    fs::write(docs.join("performance.md"), page).context("writing docs/explanation/performance.md")
}

/// Describes the machine and the programs, as a Markdown list.
fn machine() -> Result<String> {
    let first_line = |program: &str, arguments: &[&str]| -> String {
        let text = command::output(Command::new(program).args(arguments)).unwrap_or_default();
        text.lines().next().unwrap_or("not installed").trim().to_owned()
    };
    let field = |path: &str, name: &str| -> String {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value).trim().to_owned()
    };
    let has_feature =
        |line: &str, feature: &str| field("/proc/cpuinfo", line).split(' ').any(|one| one == feature);
    // The lines of x86 and of ARM.
    let has_sha = has_feature("flags", "sha_ni") || has_feature("Features", "sha2");
    let tools = ["tar", "gzip", "pigz", "igzip", "zstd"].map(|tool| first_line(tool, &["--version"]));
    let etcd = etcd::ensure(&workspace::target_directory()?, &etcd::NEW)?.join("etcd");
    Ok([
        format!(
            "- {} {} SHA extensions, {} cores, {}",
            field("/proc/cpuinfo", "model name"),
            if has_sha { "with" } else { "without" },
            std::thread::available_parallelism()?,
            field("/proc/meminfo", "MemTotal")
        ),
        format!(
            "- kernel {}, load {} at the end",
            first_line("uname", &["-r"]),
            fs::read_to_string("/proc/loadavg")?.trim()
        ),
        format!("- {}; {}", first_line(&etcd.to_string_lossy(), &["--version"]), tools.join("; ")),
        format!("- commit {}, {}", page::commit()?, page::today()?),
    ]
    .join("\n"))
}
