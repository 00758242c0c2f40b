//! Writes sections of the page: the figures of a part, and the machine and programs that they were measured with.
//!
//! Never changes the sections of parts that were not measured.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::options::Part;
use super::report::{Line, Row, svg, table};
use crate::{command, etcd, page, workspace};

const PAGE: &str = "docs/explanation/performance.md";
const PLOT: &str = "docs/explanation/performance.svg";

/// Writes the section of each part that has rows, and the plot if there are lines for one.
pub fn write(rounds: usize, rows: &[(Part, Row)], lines: Option<(Vec<Line>, Vec<Line>)>) -> Result<()> {
    let how = format!("{rounds} rounds; {}", machine()?);
    for part in Part::ALL {
        let rows: Vec<&Row> = rows.iter().filter(|(of, _)| *of == part).map(|(_, row)| row).collect();
        if !rows.is_empty() {
            page::replace(PAGE, part.name(), &how, &table(rows))?;
        }
    }
    if let Some((seconds, memory)) = &lines {
        fs::write(workspace::root()?.join(PLOT), svg(seconds, memory))
            .with_context(|| format!("writing {PLOT}"))?;
        let plot = "![Time and memory against the size of the database](performance.svg)\n";
        page::replace(PAGE, "plot", &how, plot)?;
    }
    Ok(())
}

/// Describes the machine and the programs in one line.
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
    Ok(format!(
        "{} {} SHA extensions, {} cores, load {} at the end; kernel {}; {}; {}",
        field("/proc/cpuinfo", "model name"),
        if has_sha { "with" } else { "without" },
        std::thread::available_parallelism()?,
        fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
        first_line("uname", &["-r"]),
        first_line(&etcd.to_string_lossy(), &["--version"]),
        tools.join("; ")
    ))
}
