//! Links between the documents: each must lead to a file, and to a heading in it if it names one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Directories with documents, besides those at the top.
const DIRECTORIES: [&str; 2] = ["docs", ".github"];

/// Returns every link that leads nowhere, with the file that has it. Links to other sites are not followed.
///
/// # Errors
/// Fails if a document cannot be read.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for page in pages(root)? {
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        for link in links(&text) {
            if !leads_somewhere(&page, link)? {
                broken.push(format!("{}: {link}", page.strip_prefix(root)?.display()));
            }
        }
    }
    Ok(broken)
}

fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = markdown(root, false)?;
    for directory in DIRECTORIES {
        pages.extend(markdown(&root.join(directory), true)?);
    }
    pages.sort();
    Ok(pages)
}

fn markdown(directory: &Path, below: bool) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && below {
            pages.extend(markdown(&path, below)?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(pages)
}

/// Returns the targets of the links in a page. Code is not searched.
fn links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    for line in prose(text) {
        for rest in line.split("](").skip(1) {
            links.extend(rest.split_once(')').map(|(link, _)| link));
        }
    }
    links
}

/// Returns the lines that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

fn leads_somewhere(page: &Path, link: &str) -> Result<bool> {
    if link.starts_with("https://") || link.starts_with("mailto:") {
        return Ok(true);
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().context("a page without a directory")?.join(file),
    };
    if !target.exists() || anchor.is_empty() {
        return Ok(target.exists());
    }
    let text = fs::read_to_string(&target)?;
    let headings = prose(&text).filter(|line| line.starts_with('#'));
    Ok(headings.map(anchor_of).any(|known| known == anchor))
}

/// Returns the anchor of a heading, by the rule of GitHub and mdBook.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_code_are_not_links() {
        assert_eq!(
            links("a [b](c.md) [d](e#f)\n```\n[x](y)\n```\n[z](https://z)\n"),
            ["c.md", "e#f", "https://z"]
        );
    }

    #[test]
    fn an_anchor_is_the_heading_in_lower_case_with_hyphens() {
        assert_eq!(anchor_of("## What etcd's `clients` notice"), "what-etcds-clients-notice");
    }

    #[test]
    fn a_link_to_a_missing_file_or_heading_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("a.md");
        fs::write(&page, "# One thing\n").unwrap();
        let works = |link| leads_somewhere(&page, link).unwrap();
        assert!(works("#one-thing") && works("a.md#one-thing") && works("https://x"));
        assert!(!works("#other") && !works("b.md") && !works("a.md#other"));
    }
}
