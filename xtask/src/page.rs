//! Generated sections of the pages in `docs`: the text between two marks, with the date and the commit of the run.
//!
//! Never changes anything outside the marks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// Replaces the section `mark` of `page`, a path in this project, by `text`. `command` names the command that made it.
pub fn replace(page: &str, mark: &str, command: &str, text: &str) -> Result<()> {
    replace_in(&workspace::root()?.join(page), mark, command, text)
}

fn replace_in(page: &Path, mark: &str, command: &str, text: &str) -> Result<()> {
    let heading = format!("{}, commit {}, {command}\n\n", today()?, commit()?);
    update_in(page, mark, |_| heading + text)
}

/// Replaces the section `mark` of `page` by what `update` returns for its present text.
pub fn update(page: &str, mark: &str, update: impl FnOnce(&str) -> String) -> Result<()> {
    update_in(&workspace::root()?.join(page), mark, update)
}

fn update_in(page: &Path, mark: &str, update: impl FnOnce(&str) -> String) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
    let parts = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let Some((before, (between, after))) = parts else {
        bail!("{} has no section {mark}", page.display());
    };
    std::fs::write(page, format!("{before}{begin}{}{end}{after}", update(between)))
        .with_context(|| format!("writing {}", page.display()))
}

/// Returns the current commit, with `+` if there are uncommitted changes outside `docs`.
pub fn commit() -> Result<String> {
    let commit = command::output(Command::new("git").args(["rev-parse", "--short", "HEAD"]))?;
    let changes = command::output(Command::new("git").args([
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":!docs",
    ]))?;
    Ok(format!("{}{}", commit.trim(), if changes.trim().is_empty() { "" } else { "+" }))
}

/// Returns today's date, in UTC.
pub fn today() -> Result<String> {
    Ok(command::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_the_text_between_the_marks() {
        let page = tempfile::NamedTempFile::new().unwrap();
        let marks = ["<!-- counts: begin -->\n", "<!-- counts: end -->\n"];
        std::fs::write(page.path(), format!("# Page\n{}old\n{}end\n", marks[0], marks[1])).unwrap();
        replace_in(page.path(), "counts", "all", "new\n").unwrap();
        let text = std::fs::read_to_string(page.path()).unwrap();
        assert!(text.starts_with("# Page\n") && text.ends_with("-->\nend\n"), "{text}");
        assert!(text.contains(", all\n\nnew\n") && !text.contains("old"), "{text}");
        assert!(replace_in(page.path(), "none", "all", "new\n").is_err());
    }
}
