//! Owns the part of a page in `docs` that a command writes: between two marks, with its date and its commit.
//!
//! It must never touch what stands outside of the marks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// Puts `text` in the place called `mark` of `page`, a path in this project; `by` says of which run it is.
pub fn put(page: &str, mark: &str, by: &str, text: &str) -> Result<()> {
    put_on(&workspace::home()?.join(page), mark, by, text)
}

fn put_on(page: &Path, mark: &str, by: &str, text: &str) -> Result<()> {
    let heading = format!("{}, commit {}, {by}\n\n", today()?, commit()?);
    change_on(page, mark, |_| heading + text)
}

/// Has `change` make what stands in the place called `mark` of `page` anew, out of what stands there.
pub fn change(page: &str, mark: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    change_on(&workspace::home()?.join(page), mark, change)
}

fn change_on(page: &Path, mark: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
    let parts = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let Some((before, (between, after))) = parts else {
        bail!("{} has no place for the {mark}", page.display());
    };
    std::fs::write(page, format!("{before}{begin}{}{end}{after}", change(between)))
        .with_context(|| format!("writing {}", page.display()))
}

/// The commit that is worked on; `+` means that what ran is not all in it.
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

/// The date, in UTC.
pub fn today() -> Result<String> {
    Ok(command::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_takes_the_place_of_what_was() {
        let page = tempfile::NamedTempFile::new().unwrap();
        let marks = ["<!-- counts: begin -->\n", "<!-- counts: end -->\n"];
        std::fs::write(page.path(), format!("# Page\n{}old\n{}end\n", marks[0], marks[1])).unwrap();
        put_on(page.path(), "counts", "all", "new\n").unwrap();
        let text = std::fs::read_to_string(page.path()).unwrap();
        assert!(text.starts_with("# Page\n") && text.ends_with("-->\nend\n"), "{text}");
        assert!(text.contains(", all\n\nnew\n") && !text.contains("old"), "{text}");
        assert!(put_on(page.path(), "none", "all", "new\n").is_err());
    }
}
