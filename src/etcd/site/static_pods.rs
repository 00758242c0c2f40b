//! The etcd of a static pod, by the manifest that kubelet reads: the home that kubeadm makes.
//!
//! Must never take a manifest that others than root can change: root is to believe it.

use super::Tls;
use super::discovery::Found;
use super::processes::below;
use super::settings::{Said, Settings, Told};
use crate::error::Refusal;
use crate::etcd::certificates::{check_key_matches, check_valid};
use crate::etcd::manifest::Container;
use crate::etcd::service::{Service, static_pod::parked};
use crate::system::durable::read_small_text;
use crate::system::trust::check_below;
use jiff::Timestamp;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Where kubeadm has kubelet look for manifests.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Where kubelet is told another place.
const KUBELET: &str = "/var/lib/kubelet/config.yaml";
/// The pairs of kubeadm that etcd takes for a client's, the most fitting first.
const PAIRS: [&str; 3] = [
    "/etc/kubernetes/pki/etcd/healthcheck-client",
    "/etc/kubernetes/pki/etcd/server",
    "/etc/kubernetes/pki/apiserver-etcd-client",
];

/// The etcds that manifests of static pods describe, on the machine whose files lie under `root`.
pub(super) fn look(root: &Path) -> Result<Vec<Found>, Refusal> {
    let manifests = directory(root);
    let mut found = Vec::new();
    for manifest in candidates(root, &manifests) {
        let live = manifests.join(manifest.file_name().unwrap_or_default());
        // A file that may not be read is told by what runs; one that is no pod is not kubelet's.
        let Ok(text) = read_small_text(&below(root, &manifest)) else { continue };
        let Ok(Some(container)) = Container::running("etcd", &text) else { continue };
        check_below(root, &manifest).map_err(|distrust| distrust.refusal("the manifest"))?;
        found.extend(pod(root, &live, &manifest, &container)?);
    }
    Ok(found)
}

/// The manifests, and those that a restore which died has put away.
fn candidates(root: &Path, manifests: &Path) -> Vec<PathBuf> {
    let away = parked(&manifests.join("x"));
    let dirs = [Some(manifests), away.parent()];
    let mut all: Vec<PathBuf> = dirs.into_iter().flatten().flat_map(|dir| named(root, dir)).collect();
    all.sort();
    all
}

/// The files in `dir` that kubelet would take: all but the dotted.
fn named(root: &Path, dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below(root, dir)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).map(|name| dir.join(name)).collect()
}

fn directory(root: &Path) -> PathBuf {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kubelet {
        static_pod_path: Option<PathBuf>,
    }
    let told = read_small_text(&below(root, Path::new(KUBELET))).ok();
    let told = told.and_then(|text| serde_yaml::from_str::<Kubelet>(&text).ok());
    told.and_then(|kubelet| kubelet.static_pod_path).unwrap_or_else(|| PathBuf::from(MANIFESTS))
}

/// What the etcd in `container` was told, in the machine's own paths.
fn pod(root: &Path, live: &Path, manifest: &Path, container: &Container) -> Result<Option<Found>, Refusal> {
    let words = container.words.iter().skip(1).map(String::as_str);
    let variables = container.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let told = Told::of(words, variables);
    let outside = |path: &Path, what: &str| {
        container.outside(&Path::new("/").join(path)).ok_or_else(|| {
            unusable(
                manifest,
                &format!("its {what} {} is not a directory of this machine (hostPath)", path.display()),
            )
        })
    };
    let config_file = told.config_file().map(|file| outside(Path::new(file), "config-file")).transpose()?;
    let settings = match &config_file {
        Some(file) => read(root, file)?,
        None => told.settings(),
    };
    let service = Service::StaticPod { manifest: live.to_owned() };
    let description = format!("static pod {}", manifest.display());
    let server = PathBuf::from("/usr/local/bin/etcd");
    let said = Said::new(told, config_file, settings);
    let Some(mut found) = Found::of(&said, Path::new("/"), description, server, service) else {
        return Ok(None);
    };
    found.data_dir = outside(&found.data_dir, "data-dir")?;
    found.server_certificate = found.server_certificate.and_then(|file| container.outside(&file));
    found.wal_dir = found.wal_dir.map(|dir| outside(&dir, "wal-dir")).transpose()?;
    if found.endpoint.starts_with("https://") {
        found.tls = certificates(root, &found.tls, container);
    }
    Ok(Some(found))
}

/// The pairs of kubeadm that are there.
fn pairs(root: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let pairs =
        PAIRS.map(|stem| (PathBuf::from(format!("{stem}.crt")), PathBuf::from(format!("{stem}.key"))));
    pairs.into_iter().filter(|(cert, key)| below(root, cert).exists() && below(root, key).exists())
}

/// Puts the first of kubeadm's pairs that etcd takes `now` in the place of one that it does not: they are renewed by and by,
/// and the one for health checks is the first to be forgotten.
pub(super) fn prefer_good(root: &Path, tls: &mut Tls, now: Timestamp) {
    if !pairs(root).any(|(cert, _)| Some(&cert) == tls.cert.as_ref()) {
        return;
    }
    let good = pairs(root).find(|(cert, key)| {
        let (cert, key) = (below(root, cert), below(root, key));
        check_valid(&cert, now).is_ok_and(|validity| validity.allows_client_auth)
            && check_key_matches(&key, &cert).is_ok()
    });
    // Where none is good, what is wrong is told of the first.
    if let Some((cert, key)) = good {
        (tls.cert, tls.key) = (Some(cert), Some(key));
    }
}

/// The authority that etcd was told, and the first of kubeadm's pairs that is there, else etcd's own.
fn certificates(root: &Path, own: &Tls, container: &Container) -> Tls {
    let outside = |path: &Option<PathBuf>| path.as_ref().and_then(|path| container.outside(path));
    let (cert, key) = match pairs(root).next() {
        Some((cert, key)) => (Some(cert), Some(key)),
        None => (outside(&own.cert), outside(&own.key)),
    };
    Tls { cacert: outside(&own.cacert), cert, key }
}

fn read(root: &Path, file: &Path) -> Result<Settings, Refusal> {
    let text = read_small_text(&below(root, file)).map_err(|error| unusable(file, &error.to_string()))?;
    Settings::of_file(&text).map_err(|error| unusable(file, &error.to_string()))
}

fn unusable(file: &Path, why: &str) -> Refusal {
    Refusal::new(
        format!("etcd's static pod cannot be used: {}: {why}", file.display()),
        "mend it, or write a site file and name it in ETCD_SITE",
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::super::processes::tests::{machine, set_mode};
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Use, KeyPair, date_time_ymd};

    /// As kubeadm writes it, shortened.
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

    fn on(files: &[(&str, &str)]) -> Result<Vec<Found>, Refusal> {
        let root = machine();
        for (file, text) in files {
            let path = below(root.path(), Path::new(file));
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
    fn kubeadms_manifest_says_all() {
        for place in ["/etc/kubernetes/manifests", "/etc/kubernetes/manifests-parked-by-restore"] {
            let file = format!("{place}/etcd.yaml");
            let found =
                on(&[(&file, POD), (&format!("{place}/scheduler.yaml"), "spec: {containers: []}")]).unwrap();
            let [found] = &found[..] else { panic!("{found:?}") };
            assert_eq!(found.data_dir, Path::new("/mnt/etcd"));
            assert_eq!(found.endpoint, "https://127.0.0.1:2379");
            assert_eq!(found.tls.cacert.as_deref(), Some(Path::new("/etc/kubernetes/pki/etcd/ca.crt")));
            assert_eq!(found.tls.cert.as_deref(), Some(Path::new("/etc/kubernetes/pki/etcd/server.crt")));
            let manifest = PathBuf::from("/etc/kubernetes/manifests/etcd.yaml");
            assert_eq!(found.service, Service::StaticPod { manifest });
        }
    }

    #[test]
    fn the_pair_for_clients_comes_before_the_servers() {
        let pki = |name: &str| format!("/etc/kubernetes/pki/{name}");
        let mut files = vec![("/etc/kubernetes/manifests/etcd.yaml".to_owned(), POD)];
        for stem in ["apiserver-etcd-client", "etcd/server", "etcd/healthcheck-client"] {
            files.push((pki(&format!("{stem}.crt")), ""));
            files.push((pki(&format!("{stem}.key")), ""));
            let files: Vec<_> = files.iter().map(|(file, text)| (file.as_str(), *text)).collect();
            let found = on(&files).unwrap();
            assert_eq!(found[0].tls.cert, Some(PathBuf::from(pki(&format!("{stem}.crt")))));
        }
    }

    /// A pair of 2026 for these uses, or with a key that is not its own.
    fn put_pair(root: &Path, stem: &str, until: i32, uses: &[Use], own_key: bool) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(until, 1, 1));
        params.extended_key_usages = uses.to_vec();
        let cert = params.self_signed(&key).unwrap();
        let key = if own_key { key } else { KeyPair::generate().unwrap() };
        let at = |ending: &str| below(root, Path::new(&format!("{stem}.{ending}")));
        fs::create_dir_all(at("crt").parent().unwrap()).unwrap();
        fs::write(at("crt"), cert.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn the_first_pair_that_etcd_takes_comes_before_one_that_it_does_not() {
        let [health, server, api] = PAIRS;
        let (client, both) = (&[Use::ClientAuth][..], &[Use::ServerAuth, Use::ClientAuth][..]);
        for (first, second, third, expected) in [
            ((2028, client, true), (2028, both, true), (2028, client, true), health),
            ((2027, client, true), (2028, both, true), (2028, client, true), server),
            ((2027, client, true), (2028, &[Use::ServerAuth], true), (2028, client, true), api),
            ((2028, client, false), (2027, both, true), (2028, client, true), api),
            // What is wrong is told of the first.
            ((2027, client, true), (2027, both, true), (2028, client, false), health),
        ] {
            let root = machine();
            for (stem, (until, uses, own_key)) in PAIRS.into_iter().zip([first, second, third]) {
                put_pair(root.path(), stem, until, uses, own_key);
            }
            let at = |ending: &str| Some(PathBuf::from(format!("{health}.{ending}")));
            let mut tls = Tls { cacert: None, cert: at("crt"), key: at("key") };
            prefer_good(root.path(), &mut tls, "2027-06-01T00:00:00Z".parse().unwrap());
            assert_eq!(tls.cert, Some(PathBuf::from(format!("{expected}.crt"))));
            assert_eq!(tls.key, Some(PathBuf::from(format!("{expected}.key"))));
            let own = Tls { cacert: None, cert: Some("/own.crt".into()), key: Some("/own.key".into()) };
            let mut kept = own.clone();
            prefer_good(root.path(), &mut kept, "2027-06-01T00:00:00Z".parse().unwrap());
            assert_eq!(kept, own);
        }
    }

    #[test]
    fn kubelet_says_where_manifests_are() {
        let found =
            on(&[("/var/lib/kubelet/config.yaml", "staticPodPath: /k/pods\n"), ("/k/pods/e", POD)]).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_manifest_that_others_can_change_or_with_data_in_the_pod_is_refused() {
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
