//! The etcd of a static pod, by the manifest that kubelet reads, as kubeadm writes it.
//!
//! Must never use a manifest that users other than root can change.

use super::candidate::Candidate;
use super::client_certificates::kubeadm_pair;
use super::options::Options;
use super::origin::{Launcher, Origin};
use super::rooted::{read_text, under};
use crate::error::Refusal;
use crate::etcd::manifest::Container;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::{Service, static_pod::parked};
use crate::etcd::tls::Tls;
use crate::system::trust::check_below;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory in which kubeadm has kubelet look for manifests.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The configuration of kubelet, which may name another directory.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// Returns the etcds in manifests of static pods, on the machine with its files under `root`.
///
/// # Errors
/// A manifest starts etcd, but cannot be used.
pub(super) fn look(root: &Path) -> Result<Vec<Candidate>, Refusal> {
    let dir = manifests_dir(root);
    let mut found = Vec::new();
    for manifest in manifests(root, &dir) {
        let live = dir.join(manifest.file_name().unwrap_or_default());
        // A file that we may not read is found by its process. kubelet ignores a file that does not describe a pod.
        let Ok(text) = read_text(root, &manifest) else { continue };
        let Ok(Some(container)) = Container::with_program("etcd", &text) else { continue };
        check_below(root, &manifest).map_err(|distrust| distrust.refusal("the manifest"))?;
        found.extend(Pod { root, manifest: &manifest, container: &container }.candidate(&live)?);
    }
    Ok(found)
}

/// Returns the manifests in `dir`, and those that an interrupted restore has moved away.
fn manifests(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let parked = parked(&dir.join("x"));
    let mut all = files_in(root, dir);
    // kubelet reads only the manifests in its own directory.
    let is_live = |manifest: &PathBuf| all.iter().any(|live| live.file_name() == manifest.file_name());
    let parked = parked.parent().map(|dir| files_in(root, dir)).unwrap_or_default();
    let parked: Vec<PathBuf> = parked.into_iter().filter(|manifest| !is_live(manifest)).collect();
    all.extend(parked);
    all.sort();
    all
}

/// Returns the files in `dir` that kubelet would read: it ignores names that begin with a dot.
fn files_in(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(under(root, dir)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).map(|name| dir.join(name)).collect()
}

fn manifests_dir(root: &Path) -> PathBuf {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kubelet {
        static_pod_path: Option<PathBuf>,
    }
    let text = read_text(root, Path::new(KUBELET_CONFIG)).ok();
    let kubelet = text.and_then(|text| serde_yaml::from_str::<Kubelet>(&text).ok());
    kubelet.and_then(|kubelet| kubelet.static_pod_path).unwrap_or_else(|| PathBuf::from(MANIFESTS))
}

/// A static pod that runs etcd.
struct Pod<'a> {
    root: &'a Path,
    /// The current path of its manifest.
    manifest: &'a Path,
    container: &'a Container,
}

impl Pod<'_> {
    /// Returns its etcd, with the paths of the machine. `live` is the path of its manifest while etcd runs.
    fn candidate(&self, live: &Path) -> Result<Option<Candidate>, Refusal> {
        let launcher = Launcher::StaticPod(self.manifest.to_owned());
        let options = self.options(&launcher)?;
        let service = Service::StaticPod { manifest: live.to_owned() };
        let description = format!("static pod {}", self.manifest.display());
        let server = PathBuf::from("/usr/local/bin/etcd");
        let found = Candidate::new(&options, &launcher, Path::new("/"), description, server, service);
        let Some(mut candidate) = found else { return Ok(None) };
        let site = &mut candidate.site;
        site.data_dir.value = self.host_path(&site.data_dir, "data-dir")?;
        if let Some(dir) = &mut site.wal_dir {
            dir.value = self.host_path(dir, "wal-dir")?;
        }
        let on_host = |file: &Path| self.container.host_path(file);
        site.server_certificate = site.server_certificate.take().and_then(|mut file| {
            file.value = on_host(&file)?;
            Some(file)
        });
        if site.endpoint.starts_with("https://") {
            let authority = site.tls.cacert.as_deref().and_then(on_host);
            (site.tls.value, site.tls.origin) = match kubeadm_pair(self.root) {
                Some((cert, key)) => {
                    let dir = cert.parent().unwrap_or(Path::new("/")).to_owned();
                    (Tls { cacert: authority, cert: Some(cert), key: Some(key) }, Origin::Directory(dir))
                }
                None => {
                    let (cert, key) = (site.tls.cert.as_deref(), site.tls.key.as_deref());
                    let tls =
                        Tls { cacert: authority, cert: cert.and_then(on_host), key: key.and_then(on_host) };
                    (tls, site.tls.origin.clone())
                }
            };
        }
        Ok(Some(candidate))
    }

    /// Returns the options of its etcd, with the configuration file's path on the machine.
    fn options(&self, launcher: &Launcher) -> Result<Options, Refusal> {
        let words = self.container.words.iter().skip(1).map(String::as_str);
        let variables = self.container.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let options = Options::from_command(words, variables, launcher);
        let Some(mut file) = options.config_file(Path::new("/")) else { return Ok(options) };
        file.value = self.host_path(&file, "config-file")?;
        let unusable = |problem: &str| unusable(&file.value, problem);
        let text = read_text(self.root, &file.value).map_err(|error| unusable(&error.to_string()))?;
        Options::from_config_file(file.clone(), &text).map_err(|problem| unusable(&problem))
    }

    /// Returns the machine's path of the container's `path`.
    fn host_path(&self, path: &Path, option: &str) -> Result<PathBuf, Refusal> {
        self.container.host_path(&Path::new("/").join(path)).ok_or_else(|| {
            let problem = format!(
                "its {option} {} is inside the container only; it must be on a hostPath volume",
                path.display()
            );
            unusable(self.manifest, &problem)
        })
    }
}

fn unusable(file: &Path, problem: &str) -> Refusal {
    let file = file.display();
    Refusal::new(
        format!("etcd's static pod cannot be used: {file}: {problem}"),
        format!("correct {file}, or describe etcd in {SITE_FILE}"),
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::super::processes::tests::{machine, set_mode};
    use super::*;

    /// A manifest as kubeadm writes it, shortened.
    const POD: &str = "\
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://10.0.0.4:2379
    - --cert-file=/etc/kubernetes/pki/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --key-file=/etc/kubernetes/pki/etcd/server.key
    - --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.4:2379
    - --name=cp1
    - --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
    volumeMounts:
    - {mountPath: /var/lib/etcd, name: data}
    - {mountPath: /etc/kubernetes/pki/etcd, name: certs}
  volumes:
  - {name: data, hostPath: {path: /mnt/etcd}}
  - {name: certs, hostPath: {path: /etc/kubernetes/pki/etcd}}
";

    fn on(files: &[(&str, &str)]) -> Result<Vec<Candidate>, Refusal> {
        let root = machine();
        for (file, text) in files {
            let path = under(root.path(), Path::new(file));
            for dir in path
                .ancestors()
                .skip(1)
                .take_while(|dir| *dir != root.path())
                .collect::<Vec<_>>()
                .iter()
                .rev()
            {
                fs::create_dir_all(dir).unwrap();
                set_mode(dir, 0o755);
            }
            fs::write(&path, text).unwrap();
            set_mode(&path, if file.contains("open") { 0o666 } else { 0o600 });
        }
        look(root.path())
    }

    #[test]
    fn reads_the_manifest_of_kubeadm_also_while_it_is_parked() {
        for place in ["/etc/kubernetes/manifests", "/etc/kubernetes/manifests-parked-by-restore"] {
            let file = format!("{place}/etcd.yaml");
            let found =
                on(&[(&file, POD), (&format!("{place}/scheduler.yaml"), "spec: {containers: []}")]).unwrap();
            let [Candidate { site, .. }] = &found[..] else { panic!("{found:?}") };
            assert_eq!(*site.data_dir, Path::new("/mnt/etcd"));
            assert_eq!(
                site.data_dir.origin.to_string(),
                format!("the flag --data-dir in the static pod {file}")
            );
            assert_eq!(*site.endpoint, "https://127.0.0.1:2379");
            assert_eq!(site.tls.cacert.as_deref(), Some(Path::new("/etc/kubernetes/pki/etcd/ca.crt")));
            assert_eq!(site.tls.cert.as_deref(), Some(Path::new("/etc/kubernetes/pki/etcd/server.crt")));
            let manifest = PathBuf::from("/etc/kubernetes/manifests/etcd.yaml");
            assert_eq!(*site.service, Service::StaticPod { manifest });
        }
    }

    #[test]
    fn a_manifest_in_both_places_is_one_etcd() {
        let [live, parked] = ["manifests", "manifests-parked-by-restore"]
            .map(|dir| format!("/etc/kubernetes/{dir}/etcd.yaml"));
        let found = on(&[(&live, POD), (&parked, POD)]).unwrap();
        let [Candidate { site, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(site.description, format!("static pod {live}"));
    }

    #[test]
    fn prefers_the_certificate_of_a_client_to_the_servers() {
        let pki = |name: &str| format!("/etc/kubernetes/pki/{name}");
        let mut files = vec![("/etc/kubernetes/manifests/etcd.yaml".to_owned(), POD)];
        for stem in ["apiserver-etcd-client", "etcd/server", "etcd/healthcheck-client"] {
            files.push((pki(&format!("{stem}.crt")), ""));
            files.push((pki(&format!("{stem}.key")), ""));
            let files: Vec<_> = files.iter().map(|(file, text)| (file.as_str(), *text)).collect();
            let found = on(&files).unwrap();
            assert_eq!(found[0].site.tls.cert, Some(PathBuf::from(pki(&format!("{stem}.crt")))));
        }
    }

    #[test]
    fn looks_in_the_directory_that_kubelet_is_configured_with() {
        let found =
            on(&[("/var/lib/kubelet/config.yaml", "staticPodPath: /k/pods\n"), ("/k/pods/e", POD)]).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn refuses_a_manifest_that_others_can_change_and_data_inside_the_container() {
        let refusal = on(&[("/etc/kubernetes/manifests/open.yaml", POD)]).unwrap_err();
        assert!(refusal.reason.contains("users other than root can change it"), "{refusal}");
        let inside = POD.replace("--data-dir=/var/lib/etcd", "--data-dir=/data");
        let refusal = on(&[("/etc/kubernetes/manifests/etcd.yaml", &inside)]).unwrap_err();
        assert!(
            refusal.reason.contains("data-dir /data") && refusal.reason.contains("hostPath"),
            "{refusal}"
        );
    }
}
