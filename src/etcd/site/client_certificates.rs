//! The certificates with which a client on this machine can talk to etcd.
//!
//! Must never use the network. Which files exist is looked up; whether they work is decided by `certificates`.

use super::options::Options;
use super::origin::{Origin, Sourced};
use super::rooted::under;
use crate::etcd::certificates::{check_key_matches, check_valid};
use crate::etcd::tls::Tls;
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// The directory in which the Charmed Kubernetes snap keeps its configuration and its certificates.
pub const SNAP_COMMON: &str = "/var/snap/etcd/common";
/// The directory in which an operator places certificates for the etcd of this charm.
pub const CHARM_TLS: &str = "/etc/etcd/tls";
/// The directory in which this charm places the certificates of a relation.
pub const RELATION_TLS: &str = "/etc/etcd/relation-tls";
/// The same directory for the snap.
pub const SNAP_RELATION_TLS: &str = "/var/snap/etcd/common/relation-tls";
/// The pairs of kubeadm that etcd accepts from a client, the most specific first.
const KUBEADM_PAIRS: [&str; 3] = [
    "/etc/kubernetes/pki/etcd/healthcheck-client",
    "/etc/kubernetes/pki/etcd/server",
    "/etc/kubernetes/pki/apiserver-etcd-client",
];

/// Returns the certificates for a client of an etcd with these options that serves at `endpoint`. Relative paths are
/// relative to `cwd`.
pub(super) fn from_options(options: &Options, endpoint: &str, cwd: &Path) -> Sourced<Tls> {
    if !endpoint.starts_with("https://") {
        return Sourced::new(Tls::default(), options.origin("listen-client-urls"));
    }
    if let Some(dir) = client_pair_dir(options, cwd) {
        let file = |name| Some(Path::new(dir).join(name));
        let tls = Tls { cacert: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };
        return Sourced::new(tls, Origin::Directory(dir.into()));
    }
    server_pair(options, cwd)
}

/// The etcd charms keep a client's pair next to the server's, which is valid for servers only.
fn client_pair_dir(options: &Options, cwd: &Path) -> Option<&'static str> {
    let in_snap = options.config_file(cwd).is_some_and(|file| file.starts_with(SNAP_COMMON));
    let authority = options.text("trusted-ca-file").and_then(|file| Path::new(file).parent());
    let dirs = [CHARM_TLS, RELATION_TLS, SNAP_RELATION_TLS];
    let charm_dir = dirs.into_iter().find(|dir| authority == Some(Path::new(dir)));
    charm_dir.or_else(|| in_snap.then_some(SNAP_COMMON))
}

/// Returns the server's certificates. etcd's gRPC gateway also uses them as a client.
fn server_pair(options: &Options, cwd: &Path) -> Sourced<Tls> {
    let file = |name| options.path(name, cwd).map(|file| file.value);
    let (cert, key, authority) = (file("cert-file"), file("key-file"), file("trusted-ca-file"));
    if options.is_on("auto-tls") && cert.is_none() && key.is_none() {
        // etcd then makes a certificate itself (etcd, server/embed/config.go, `ClientSelfCert`).
        let made = options.data_dir(cwd).join("fixtures/client/cert.pem");
        return Sourced::new(Tls { cacert: Some(made), ..Tls::default() }, options.origin("auto-tls"));
    }
    let origin = options.origin(if authority.is_some() { "trusted-ca-file" } else { "cert-file" });
    let wants_certificate = options.is_on("client-cert-auth") || authority.is_some();
    let pair = wants_certificate.then(|| cert.clone().zip(key)).flatten();
    let cacert = authority.or(cert);
    let (cert, key) = pair.unzip();
    Sourced::new(Tls { cacert, cert, key }, origin)
}

/// Returns the first existing pair of kubeadm.
pub(super) fn kubeadm_pair(root: &Path) -> Option<(PathBuf, PathBuf)> {
    kubeadm_pairs(root).next()
}

fn kubeadm_pairs(root: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let pairs = KUBEADM_PAIRS
        .map(|stem| (PathBuf::from(format!("{stem}.crt")), PathBuf::from(format!("{stem}.key"))));
    pairs.into_iter().filter(|(cert, key)| under(root, cert).exists() && under(root, key).exists())
}

/// If `tls` contains a pair of kubeadm, replaces it with the first pair that etcd accepts `now`. They are renewed at
/// different times, and the pair for health checks is easily forgotten.
pub(super) fn prefer_valid_pair(root: &Path, tls: &mut Tls, now: Timestamp) {
    if !kubeadm_pairs(root).any(|(cert, _)| Some(&cert) == tls.cert.as_ref()) {
        return;
    }
    let valid = kubeadm_pairs(root).find(|(cert, key)| {
        let (cert, key) = (under(root, cert), under(root, key));
        check_valid(&cert, now).is_ok_and(|validity| validity.allows_client_auth)
            && check_key_matches(&key, &cert).is_ok()
    });
    // Without a valid pair, the problem of the first one is reported.
    if let Some((cert, key)) = valid {
        (tls.cert, tls.key) = (Some(cert), Some(key));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::super::options::tests::from_command;
    use super::super::processes::tests::machine;
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Use, KeyPair, date_time_ymd};
    use std::fs;

    #[test]
    fn a_client_uses_the_certificates_of_the_server() {
        let server = ["--cert-file=s.crt", "--key-file=/s.key"];
        let asking = [&server[..], &["--trusted-ca-file=/ca", "--client-cert-auth"]].concat();
        let trusting = [&server[..], &["--trusted-ca-file=/ca"]].concat();
        let auto = ["--data-dir=d", "--auto-tls"];
        let both = [&asking[..], &["--auto-tls"]].concat();
        let all = [Some("/ca"), Some("/home/s.crt"), Some("/s.key")];
        for (words, scheme, expected) in [
            (&asking[..], "https", all),
            (&trusting, "https", all),
            (&server, "https", [Some("/home/s.crt"), None, None]),
            (&asking, "http", [None, None, None]),
            (&auto, "https", [Some("/home/d/fixtures/client/cert.pem"), None, None]),
            (&both, "https", all),
        ] {
            let endpoint = format!("{scheme}://127.0.0.1:1");
            let tls = from_options(&from_command(words, &[]), &endpoint, Path::new("/home")).value;
            let found = [&tls.cacert, &tls.cert, &tls.key].map(|path| path.as_ref()?.to_str());
            assert_eq!(found, expected, "{words:?} {scheme}");
        }
    }

    /// Writes a pair of 2026 for these uses, or with the key of another certificate.
    fn put_pair(root: &Path, stem: &str, until: i32, uses: &[Use], own_key: bool) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(until, 1, 1));
        params.extended_key_usages = uses.to_vec();
        let cert = params.self_signed(&key).unwrap();
        let key = if own_key { key } else { KeyPair::generate().unwrap() };
        let at = |ending: &str| under(root, Path::new(&format!("{stem}.{ending}")));
        fs::create_dir_all(at("crt").parent().unwrap()).unwrap();
        fs::write(at("crt"), cert.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn replaces_a_pair_of_kubeadm_that_etcd_would_refuse() {
        let [health, server, api] = KUBEADM_PAIRS;
        let (client, both) = (&[Use::ClientAuth][..], &[Use::ServerAuth, Use::ClientAuth][..]);
        for (first, second, third, expected) in [
            ((2028, client, true), (2028, both, true), (2028, client, true), health),
            ((2027, client, true), (2028, both, true), (2028, client, true), server),
            ((2027, client, true), (2028, &[Use::ServerAuth], true), (2028, client, true), api),
            ((2028, client, false), (2027, both, true), (2028, client, true), api),
            // Without a valid pair, the problem of the first one is reported.
            ((2027, client, true), (2027, both, true), (2028, client, false), health),
        ] {
            let root = machine();
            for (stem, (until, uses, own_key)) in KUBEADM_PAIRS.into_iter().zip([first, second, third]) {
                put_pair(root.path(), stem, until, uses, own_key);
            }
            let at = |ending: &str| Some(PathBuf::from(format!("{health}.{ending}")));
            let mut tls = Tls { cacert: None, cert: at("crt"), key: at("key") };
            prefer_valid_pair(root.path(), &mut tls, "2027-06-01T00:00:00Z".parse().unwrap());
            assert_eq!(tls.cert, Some(PathBuf::from(format!("{expected}.crt"))));
            assert_eq!(tls.key, Some(PathBuf::from(format!("{expected}.key"))));
            let own = Tls { cacert: None, cert: Some("/own.crt".into()), key: Some("/own.key".into()) };
            let mut kept = own.clone();
            prefer_valid_pair(root.path(), &mut kept, "2027-06-01T00:00:00Z".parse().unwrap());
            assert_eq!(kept, own);
        }
    }
}
