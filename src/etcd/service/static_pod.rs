//! A static pod: kubelet runs it as long as its manifest lies in a directory, and that is how it is stopped and started.
//!
//! The API server's manifest goes with etcd's and comes back after it. Manifests are moved and never written; wherever a
//! run dies, each lies whole in one of two places.

use crate::etcd::manifest::Container;
use crate::system::durable::Dir;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// What the directory beside the manifests is called while etcd is stopped. kubelet does not look there.
const PARKED: &str = "manifests-parked-by-restore";
/// The program of the pods that lose their store when etcd stops.
const API_SERVER: &str = "kube-apiserver";

/// Where the manifest of `manifest` lies while it is parked.
pub fn parked(manifest: &Path) -> PathBuf {
    let name = manifest.file_name().unwrap_or_default();
    parking(manifest).join(name)
}

fn parking(manifest: &Path) -> PathBuf {
    let home = manifest.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    home.join(PARKED)
}

/// Takes away etcd's manifest and those of API servers. kubelet ends the pods in its own time.
pub(super) fn stop(manifest: &Path) -> Result<()> {
    let (live, etcd) = live(manifest)?;
    let home = Dir::open(live.path().parent().unwrap_or(Path::new("/")))?;
    let parking = match home.inode(PARKED)? {
        Some(_) => home.child(PARKED)?,
        None => home.make_child(PARKED, None)?,
    };
    home.sync()?;
    for name in api_servers(&live)?.into_iter().chain([etcd]) {
        if live.inode(&name)?.is_some() {
            put(&parking, &live, &name)?;
        }
    }
    Ok(())
}

/// Puts etcd's manifest back.
pub(super) fn start(manifest: &Path) -> Result<()> {
    let (live, etcd) = live(manifest)?;
    match Dir::open(&parking(manifest)) {
        Ok(parking) if parking.inode(&etcd)?.is_some() => put(&live, &parking, &etcd),
        _ if live.inode(&etcd)?.is_some() => Ok(()),
        _ => bail!("there is no {}", manifest.display()),
    }
}

/// Puts back whatever is still parked, etcd's own manifest only with `etcd`: whoever had put it there before wants it there.
/// Does nothing where nothing is.
pub(super) fn release(manifest: &Path, etcd: bool) -> Result<()> {
    let (live, own) = live(manifest)?;
    let home = Dir::open(live.path().parent().unwrap_or(Path::new("/")))?;
    if home.inode(PARKED)?.is_none() {
        return Ok(());
    }
    let parking = home.child(PARKED)?;
    let (stay, go): (Vec<_>, Vec<_>) = parking.names()?.into_iter().partition(|name| !etcd && *name == own);
    for name in go {
        put(&live, &parking, &name)?;
    }
    if stay.is_empty() {
        home.remove_tree(PARKED)?;
        home.sync()?;
    }
    Ok(())
}

fn live(manifest: &Path) -> Result<(Dir, String)> {
    let name = manifest.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} names no manifest", manifest.display()))?;
    let dir = manifest.parent().unwrap_or(Path::new("/"));
    Ok((Dir::open(dir)?, name.to_owned()))
}

fn put(to: &Dir, from: &Dir, name: &str) -> Result<()> {
    if to.rename_noreplace(from, name, name).with_context(|| format!("moving the manifest {name}"))? {
        return Ok(());
    }
    bail!("the manifest {name} is in {} and in {}: remove one", from.path().display(), to.path().display())
}

fn api_servers(live: &Dir) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in live.names()?.into_iter().filter(|name| !name.starts_with('.')) {
        let Ok(Some(text)) = live.read_small(&name) else { continue };
        // What is no pod is not kubelet's, and not ours to judge.
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
    fn etcd_and_the_api_server_go_and_come_back_in_order() {
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

        // An etcd that somebody had stopped stays so.
        stop(&etcd).unwrap();
        release(&etcd, false).unwrap();
        assert_eq!(names(&manifests), ["apiserver.yml", "note.txt", "scheduler.yaml"]);
        assert_eq!(names(&parking), ["etcd.yaml"]);
    }

    #[test]
    fn a_manifest_that_somebody_wrote_anew_is_not_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let etcd = home.join("manifests/etcd.yaml");
        fs::create_dir(home.join("manifests")).unwrap();
        fs::write(&etcd, pod("etcd")).unwrap();
        stop(&etcd).unwrap();
        fs::write(&etcd, "new").unwrap();
        let error = format!("{:#}", start(&etcd).unwrap_err());
        assert!(error.contains("remove one"), "{error}");
        assert_eq!(fs::read_to_string(&etcd).unwrap(), "new");
        fs::remove_file(&etcd).unwrap();
        release(&etcd, true).unwrap();
        assert_eq!(fs::read_to_string(&etcd).unwrap(), pod("etcd"));
    }
}
