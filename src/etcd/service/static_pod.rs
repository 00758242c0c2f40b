//! Stops and starts the etcd of a static pod. kubelet runs a static pod as long as its manifest is in a directory, so
//! the manifest is moved out of that directory ("parked") and back.
//!
//! The manifest of the API server is moved together with etcd's, and moved back after it. Must never write a
//! manifest: at whatever point a run is interrupted, each manifest is complete in one of the two places.

use crate::etcd::manifest::Container;
use crate::system::durable::Dir;
use anyhow::{Context, Result, anyhow, bail};
use std::path::{Path, PathBuf};

/// The directory for parked manifests, next to kubelet's, which does not read it.
const PARKED: &str = "manifests-parked-by-restore";
/// The program of the pods that need etcd.
const API_SERVER: &str = "kube-apiserver";

/// Returns the path of `manifest` while it is parked.
pub fn parked(manifest: &Path) -> PathBuf {
    let name = manifest.file_name().unwrap_or_default();
    parking_dir(manifest).join(name)
}

fn parking_dir(manifest: &Path) -> PathBuf {
    live_dir(manifest).parent().unwrap_or(Path::new("/")).join(PARKED)
}

/// Returns the directory of the manifest without symlinks: the directory of Kubernetes may be on another disk.
fn live_dir(manifest: &Path) -> PathBuf {
    let dir = manifest.parent().unwrap_or(Path::new("/"));
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

/// Parks the manifests of etcd and of API servers. kubelet stops their pods some time later.
pub(super) fn stop(manifest: &Path) -> Result<()> {
    let (live, etcd) = live(manifest)?;
    let home = Dir::open(live.path().parent().unwrap_or(Path::new("/")))?;
    let parking = match home.inode(PARKED)? {
        Some(_) => home.child(PARKED)?,
        None => home.make_child(PARKED, None)?,
    };
    home.sync()?;
    let mut names = api_servers(&live)?;
    names.push(etcd);
    // Before the first move: otherwise the API server would be stopped, and etcd could not be.
    for name in &names {
        if live.inode(name)?.is_some() && parking.inode(name)?.is_some() {
            return Err(in_both(name, &live, &parking));
        }
    }
    for name in names {
        if live.inode(&name)?.is_some() {
            put(&parking, &live, &name)?;
        }
    }
    Ok(())
}

/// Moves etcd's manifest back.
pub(super) fn start(manifest: &Path) -> Result<()> {
    let (live, etcd) = live(manifest)?;
    match Dir::open(&parking_dir(manifest)) {
        Ok(parking) if parking.inode(&etcd)?.is_some() => put(&live, &parking, &etcd),
        _ if live.inode(&etcd)?.is_some() => Ok(()),
        _ => bail!("the manifest {} does not exist", manifest.display()),
    }
}

/// Moves all parked manifests back, but keeps etcd's if `include_etcd` is false, because an operator had parked it.
/// Has no effect without parked manifests.
pub(super) fn release(manifest: &Path, include_etcd: bool) -> Result<()> {
    let (live, own) = live(manifest)?;
    let home = Dir::open(live.path().parent().unwrap_or(Path::new("/")))?;
    if home.inode(PARKED)?.is_none() {
        return Ok(());
    }
    let parking = home.child(PARKED)?;
    let (stay, go): (Vec<_>, Vec<_>) =
        parking.names()?.into_iter().partition(|name| !include_etcd && *name == own);
    let mut moved = Ok(());
    for name in go {
        // A manifest that cannot be moved must not keep the others parked.
        moved = moved.and(put(&live, &parking, &name));
    }
    moved?;
    if stay.is_empty() {
        home.remove_tree(PARKED)?;
        home.sync()?;
    }
    Ok(())
}

fn live(manifest: &Path) -> Result<(Dir, String)> {
    let name = manifest.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} is not the path of a manifest", manifest.display()))?;
    Ok((Dir::open(&live_dir(manifest))?, name.to_owned()))
}

fn put(to: &Dir, from: &Dir, name: &str) -> Result<()> {
    if to.rename_noreplace(from, name, name).with_context(|| format!("moving the manifest {name}"))? {
        return Ok(());
    }
    Err(in_both(name, from, to))
}

fn in_both(name: &str, one: &Dir, other: &Dir) -> anyhow::Error {
    let (one, other) = (one.path().display(), other.path().display());
    anyhow!("the manifest {name} is in both {one} and {other}: remove one of them")
}

fn api_servers(live: &Dir) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in live.names()?.into_iter().filter(|name| !name.starts_with('.')) {
        let Ok(Some(text)) = live.read_small(&name) else { continue };
        // kubelet ignores a file that does not describe a pod.
        if let Ok(Some(_)) = Container::with_program(API_SERVER, &String::from_utf8_lossy(&text)) {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use std::fs;

    fn pod(program: &str) -> String {
        format!("spec:\n  containers:\n  - command: [{program}]\n")
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn parks_etcd_with_the_api_server_and_moves_them_back_in_order() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let manifests = home.join("manifests");
        fs::create_dir(&manifests).unwrap();
        for (name, text) in [
            ("etcd.yaml", pod("etcd")),
            ("apiserver.yml", pod("/usr/bin/kube-apiserver")),
            ("scheduler.yaml", pod("kube-scheduler")),
            ("note.txt", "not a pod".to_owned()),
        ] {
            fs::write(manifests.join(name), text).unwrap();
        }
        let all = names(&manifests);
        let etcd = manifests.join("etcd.yaml");
        let parking = home.join(PARKED);

        stop(&etcd).unwrap();
        assert_eq!(names(&manifests), ["note.txt", "scheduler.yaml"]);
        assert_eq!(names(&parking), ["apiserver.yml", "etcd.yaml"]);
        assert_eq!(parked(&etcd), parking.join("etcd.yaml"));
        stop(&etcd).unwrap();
        start(&etcd).unwrap();
        start(&etcd).unwrap();
        assert_eq!(names(&parking), ["apiserver.yml"]);
        release(&etcd, true).unwrap();
        release(&etcd, true).unwrap();
        assert_eq!(names(&manifests), all);
        assert!(!parking.exists());

        // An etcd that an operator had stopped remains stopped.
        stop(&etcd).unwrap();
        release(&etcd, false).unwrap();
        assert_eq!(names(&manifests), ["apiserver.yml", "note.txt", "scheduler.yaml"]);
        assert_eq!(names(&parking), ["etcd.yaml"]);
    }

    #[test]
    fn parks_the_manifest_in_a_directory_behind_a_symlink() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("disk/manifests")).unwrap();
        std::os::unix::fs::symlink(home.join("disk"), home.join("kubernetes")).unwrap();
        std::os::unix::fs::symlink(home.join("disk/manifests"), home.join("manifests")).unwrap();
        fs::write(home.join("disk/manifests/etcd.yaml"), pod("etcd")).unwrap();
        for etcd in ["kubernetes/manifests/etcd.yaml", "manifests/etcd.yaml"].map(|path| home.join(path)) {
            stop(&etcd).unwrap();
            assert!(!etcd.exists() && parked(&etcd).exists());
            start(&etcd).unwrap();
            release(&etcd, true).unwrap();
            assert!(etcd.exists());
        }
        assert_eq!(names(&home.join("disk")), ["manifests"]);
    }

    #[test]
    fn a_manifest_in_both_places_stops_nothing_and_keeps_nothing_else_parked() {
        let home = tempfile::tempdir().unwrap();
        let (manifests, parking) = (home.path().join("manifests"), home.path().join(PARKED));
        fs::create_dir(&manifests).unwrap();
        fs::create_dir(&parking).unwrap();
        let etcd = manifests.join("etcd.yaml");
        for (file, text) in [
            (etcd.clone(), pod("etcd")),
            (parking.join("etcd.yaml"), pod("etcd")),
            (manifests.join("api.yaml"), pod("kube-apiserver")),
        ] {
            fs::write(file, text).unwrap();
        }
        let error = format!("{:#}", stop(&etcd).unwrap_err());
        assert!(error.contains("etcd.yaml is in both"), "{error}");
        assert_eq!(names(&manifests), ["api.yaml", "etcd.yaml"]);

        fs::rename(manifests.join("api.yaml"), parking.join("z-api.yaml")).unwrap();
        let error = format!("{:#}", release(&etcd, true).unwrap_err());
        assert!(error.contains("etcd.yaml is in both"), "{error}");
        assert_eq!(
            (names(&manifests), names(&parking)),
            (vec!["etcd.yaml".to_owned(), "z-api.yaml".to_owned()], vec!["etcd.yaml".to_owned()])
        );
    }

    #[test]
    fn does_not_overwrite_a_manifest_that_was_written_again() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let etcd = home.join("manifests/etcd.yaml");
        fs::create_dir(home.join("manifests")).unwrap();
        fs::write(&etcd, pod("etcd")).unwrap();
        stop(&etcd).unwrap();
        fs::write(&etcd, "new").unwrap();
        let error = format!("{:#}", start(&etcd).unwrap_err());
        assert!(error.contains("remove one of them"), "{error}");
        assert_eq!(fs::read_to_string(&etcd).unwrap(), "new");
        fs::remove_file(&etcd).unwrap();
        release(&etcd, true).unwrap();
        assert_eq!(fs::read_to_string(&etcd).unwrap(), pod("etcd"));
    }
}
