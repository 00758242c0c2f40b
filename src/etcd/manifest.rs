//! The manifest of a static pod: which program runs in it, with which options, on which files of the machine.
//!
//! Reads text and never the machine, and only the parts of a manifest that concern etcd.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The command and its arguments.
    pub words: Vec<String>,
    /// The image that it is created from.
    pub image: Option<String>,
    /// The environment in the manifest, as names and values.
    pub variables: Vec<(String, String)>,
    /// The machine's directories in it: the path in the container, and the path on the machine.
    mounts: Vec<(PathBuf, PathBuf)>,
}

impl Container {
    /// Returns the container of the pod in `text` that runs the program `name`, if there is one.
    ///
    /// # Errors
    /// The text is not YAML, or does not describe a pod.
    pub fn with_program(name: &str, text: &str) -> Result<Option<Self>, serde_yaml::Error> {
        let spec = serde_yaml::from_str::<Pod>(text)?.spec;
        let runs = |container: &&Contained| {
            container
                .command
                .first()
                .is_some_and(|word| Path::new(word).file_name().is_some_and(|it| it == name))
        };
        Ok(spec.containers.iter().find(runs).map(|container| container.with_volumes(&spec.volumes)))
    }

    /// Returns the path on the machine of the container's `path`; `None` if it exists only inside the container.
    pub fn host_path(&self, path: &Path) -> Option<PathBuf> {
        let under =
            self.mounts.iter().filter_map(|(inside, host)| Some((path.strip_prefix(inside).ok()?, host)));
        // The innermost mount hides the others.
        let (rest, host) = under.min_by_key(|(rest, _)| rest.components().count())?;
        Some(if rest == Path::new("") { host.clone() } else { host.join(rest) })
    }
}

#[derive(Debug, Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Spec {
    containers: Vec<Contained>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Contained {
    image: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    volume_mounts: Vec<Mount>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    /// `None` if the value comes from elsewhere, such as the address of the pod.
    value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: PathBuf,
    sub_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    host_path: Option<HostPath>,
}

#[derive(Debug, Deserialize)]
struct HostPath {
    path: PathBuf,
}

impl Contained {
    fn with_volumes(&self, volumes: &[Volume]) -> Container {
        let host_path = |mount: &Mount| {
            let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
            let path = &volume.host_path.as_ref()?.path;
            Some(mount.sub_path.as_ref().map_or_else(|| path.clone(), |below| path.join(below)))
        };
        let variables =
            self.env.iter().filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?)));
        let mounts =
            self.volume_mounts.iter().filter_map(|mount| Some((mount.mount_path.clone(), host_path(mount)?)));
        Container {
            image: self.image.clone(),
            words: self.command.iter().chain(&self.args).cloned().collect(),
            variables: variables.collect(),
            mounts: mounts.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: etcd, namespace: kube-system}
spec:
  containers:
  - command: [etcd, --data-dir=/var/lib/etcd]
    args: [--name=cp1]
    env:
    - {name: ETCD_QUOTA_BACKEND_BYTES, value: '8589934592'}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    image: registry.example/etcd:3.5.16-0
    volumeMounts:
    - {mountPath: /var/lib/etcd, name: etcd-data}
    - {mountPath: /var/lib/etcd/member/wal, name: fast, subPath: wal}
    - {mountPath: /cache, name: cache}
  hostNetwork: true
  volumes:
  - {name: etcd-data, hostPath: {path: /mnt/disk/etcd, type: DirectoryOrCreate}}
  - {name: fast, hostPath: {path: /mnt/fast}}
  - {name: cache, emptyDir: {}}
";

    #[test]
    fn finds_the_container_by_its_program() {
        let etcd = Container::with_program("etcd", POD).unwrap().unwrap();
        assert_eq!(etcd.image.as_deref(), Some("registry.example/etcd:3.5.16-0"));
        assert_eq!(etcd.words, ["etcd", "--data-dir=/var/lib/etcd", "--name=cp1"]);
        assert_eq!(etcd.variables, [("ETCD_QUOTA_BACKEND_BYTES".to_owned(), "8589934592".to_owned())]);
        assert_eq!(Container::with_program("kube-apiserver", POD).unwrap(), None);
        let by_path = POD.replace("[etcd,", "[/usr/local/bin/etcd,");
        assert!(Container::with_program("etcd", &by_path).unwrap().is_some());
        for text in ["", "kind: List\n", "spec: {containers: no}\n", "spec: ["] {
            assert!(Container::with_program("etcd", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn translates_paths_of_the_container_to_the_machine() {
        let etcd = Container::with_program("etcd", POD).unwrap().unwrap();
        for (inside, outside) in [
            ("/var/lib/etcd", Some("/mnt/disk/etcd")),
            ("/var/lib/etcd/member", Some("/mnt/disk/etcd/member")),
            ("/var/lib/etcd/member/wal", Some("/mnt/fast/wal")),
            ("/cache/x", None),
            ("/etc", None),
        ] {
            assert_eq!(etcd.host_path(Path::new(inside)).as_deref(), outside.map(Path::new), "{inside}");
        }
    }
}
