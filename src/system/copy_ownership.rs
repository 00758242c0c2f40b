//! Copies owner, mode and extended attributes from one directory tree to another.
//!
//! This module must never change the content of a file.

use super::durable::Dir;
use super::owner::Owner;
use anyhow::{Context, Result};
use rustix::fs::{FileType, Mode, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr, fstat};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// The prefix of the attributes that hold access lists (acl(5)).
const ACCESS_LISTS: &[u8] = b"system.posix_acl_";

/// Gives every file and directory of the tree `new` the owner, mode and extended attributes (security labels, ACLs) of
/// its counterpart in `old`, so that etcd can use it as before.
///
/// The counterpart of a file has the same name, or else the same extension in the same directory. Without either, the
/// file gets the owner and attributes of that directory, but not its mode.
///
/// # Errors
/// Fails if something cannot be read or changed.
pub fn copy_ownership_and_mode(new: &Dir, old: &Dir) -> Result<()> {
    copy_metadata(&new.as_fd(), &old.as_fd(), true).with_context(|| describe(new.path(), old.path()))?;
    let old_names = old.names()?;
    for name in new.names()? {
        let stat = rustix::fs::statat(new, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("looking at {}", new.path().join(&name).display()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let counterpart = old.child(&name);
            copy_ownership_and_mode(&new.child(&name)?, counterpart.as_ref().unwrap_or(old))?;
        } else {
            copy_to_file(&new.read(&name)?, old, counterpart_of(&name, &old_names))
                .with_context(|| describe(&new.path().join(&name), old.path()))?;
        }
    }
    Ok(())
}

fn describe(new: &Path, old: &Path) -> String {
    format!("copying to {} the owner, mode and labels of {}", new.display(), old.display())
}

fn counterpart_of<'a>(name: &str, candidates: &'a [String]) -> Option<&'a str> {
    let extension = |name: &str| Path::new(name).extension().map(std::ffi::OsStr::to_owned);
    let wanted = extension(name);
    candidates
        .iter()
        .find(|candidate| *candidate == name)
        .or_else(|| candidates.iter().find(|other| wanted.is_some() && extension(other) == wanted))
        .map(String::as_str)
}

fn copy_to_file(file: &File, old: &Dir, counterpart: Option<&str>) -> Result<()> {
    match counterpart.map(|name| old.read(name)) {
        Some(Ok(template)) => copy_metadata(file, &template, true),
        _ => copy_metadata(file, &old.as_fd(), false),
    }
}

fn copy_metadata(new: &impl AsFd, template: &impl AsFd, with_mode: bool) -> Result<()> {
    let stat = fstat(template)?;
    Owner { uid: stat.st_uid, gid: stat.st_gid }.chown(new)?;
    if with_mode {
        fchmod(new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    copy_attributes(new, template, with_mode)
}

/// Copies the extended attributes. An access list extends the mode, so it is only copied together with the mode: a
/// directory's list does not fit a file. Does nothing on a file system without extended attributes.
fn copy_attributes(new: &impl AsFd, template: &impl AsFd, with_mode: bool) -> Result<()> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match flistxattr(template, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error).context("listing extended attributes"),
    };
    names.truncate(length);
    let wanted = |name: &&[u8]| !name.is_empty() && (with_mode || !name.starts_with(ACCESS_LISTS));
    for name in names.split(|byte| *byte == 0).filter(wanted) {
        let mut value = vec![0_u8; 64 << 10];
        let length = fgetxattr(template, name, &mut value).context("reading an extended attribute")?;
        value.truncate(length);
        fsetxattr(new, name, &value, XattrFlags::empty())
            .with_context(|| format!("setting attribute {}", String::from_utf8_lossy(name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counterpart_has_the_same_name_or_else_the_same_extension() {
        let old = ["0000-00.snap", "db", "other"].map(str::to_owned);
        assert_eq!(counterpart_of("db", &old), Some("db"));
        assert_eq!(counterpart_of("0001-ff.snap", &old), Some("0000-00.snap"));
        assert_eq!(counterpart_of("0-0.wal", &old), None);
        // Two names without an extension have no extension in common.
        assert_eq!(counterpart_of("db", &[".etcd-restore".to_owned()]), None);
    }
}
