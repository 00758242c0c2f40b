//! `site --write`: the site file of the etcd that was discovered.
//!
//! Must never replace a file that an operator wrote, unless that is asked for.

use crate::error::Refusal;
use crate::etcd::site::Site;
use crate::system::durable::{Dir, PUBLIC};
use crate::system::trust;
use anyhow::{Context, Result};
use rustix::fs::Mode;
use std::path::{Path, PathBuf};

/// The mode of a new directory for the file. The file holds paths, and no secret.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Writes the site file of `site` to `file`. It replaces another file only with `force`.
///
/// # Errors
/// Refuses if the file exists, if other users could change it, and an etcd that no site file can describe.
pub(super) fn write(site: &Site, file: &Path, force: bool) -> Result<PathBuf> {
    let text = site.to_site_file()?;
    let path = std::path::absolute(file).with_context(|| format!("finding {}", file.display()))?;
    let (parent, name) = split(&path)?;
    let dir = open_or_create(parent)?;
    if dir.inode(name)?.is_some() && !force {
        let shown = path.display();
        return Err(Refusal::new(
            format!("{shown} exists already"),
            format!("compare it with the lines above, then `sudo etcd-backup site --write --force`, or keep {shown}"),
        )
        .into());
    }
    dir.replace_for(name, text.as_bytes(), PUBLIC, None)?;
    Ok(path)
}

/// Opens the directory for the file. Only its last part may be missing, and is created.
fn open_or_create(parent: &Path) -> Result<Dir> {
    match trust::check(parent) {
        Ok(real) => Dir::open(&real),
        Err(distrust) if distrust.is_missing() => {
            let (above, name) = split(parent)?;
            let real = trust::check(above).map_err(|distrust| distrust.refusal("the directory"))?;
            Dir::open(&real)?.ensure_child(name, DIRECTORY, None)
        }
        Err(distrust) => Err(distrust.refusal("the directory").into()),
    }
}

/// Splits a path into its directory and its last part.
fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).with_context(|| format!("{} is not the path of a file", path.display()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::tests::site;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_only_if_that_is_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("etcd-backup/site.yaml");
        let site = site(Path::new("/d"), Service::Systemd { systemd: "etcd.service".to_owned() });
        assert_eq!(write(&site, &file, false).unwrap(), file);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), site.to_site_file().unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        std::fs::write(&file, "# mine\n").unwrap();
        assert!(write(&site, &file, false).unwrap_err().to_string().contains("exists already"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");
        write(&site, &file, true).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("endpoint: "));
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(write(&site, &file, true).unwrap_err().to_string().contains("every user can write"));
    }
}
