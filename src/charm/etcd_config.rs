//! The text of the files that the charm writes for etcd and systemd. Pure: the same options give the same text.
//!
//! Must never make etcd listen on a network without TLS.

use super::options::Options;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The first line of every file that the charm writes. The charm recognizes its own files by it.
pub const HEADER: &str =
    "# Written by the etcd charm, which overwrites changes. Use `juju config` to change etcd's options.\n";

/// The contents of a member's configuration that are not options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of the member: the unit's name without its slash, as in the older charm.
    pub name: String,
    /// Distinguishes this cluster from every other.
    pub token: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How etcd listens on the network. Without it, etcd listens on loopback only.
    pub tls: Option<TlsListener>,
    /// The members of the cluster that this one joins, in the form of the option `initial-cluster`. Without it, it is the only
    /// member, or has data: then etcd does not read the value.
    pub joins: Option<String>,
}

/// How etcd listens on the network with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsListener {
    /// The directory of the certificates.
    pub certificate_dir: PathBuf,
    /// The address at which peers reach the unit.
    pub peer_address: IpAddr,
    /// The address at which clients reach the unit, perhaps in another network.
    pub client_address: IpAddr,
    /// Whether the certificates suffice for peers. Otherwise peers are served on loopback only.
    pub serves_peers: bool,
}

impl TlsListener {
    /// Returns the URL at which peers reach this unit.
    pub fn peer_url(&self, options: &Options) -> String {
        format!("https://{}", SocketAddr::new(self.peer_address, options.management_port))
    }

    /// Returns the URL at which clients reach this unit.
    pub fn client_url(&self, options: &Options) -> String {
        format!("https://{}", SocketAddr::new(self.client_address, options.port))
    }
}

/// Returns the URL at which etcd listens to be reached at `address`: on all addresses.
fn listen_url(address: IpAddr, port: u16) -> String {
    let all = if address.is_ipv6() { "[::]" } else { "0.0.0.0" };
    format!("https://{all}:{port}")
}

/// Returns etcd's configuration file.
///
/// # Errors
/// If it cannot be written as YAML.
pub fn render(options: &Options, member: &Member) -> Result<String> {
    // The peer port must require a certificate too: it gives write access without any check of the client port.
    let scheme = if member.tls.is_some() { "https" } else { "http" };
    let local_peer = format!("{scheme}://127.0.0.1:{}", options.management_port);
    let (peer, listen_peer) = match member.tls.as_ref().filter(|tls| tls.serves_peers) {
        Some(tls) => (tls.peer_url(options), listen_url(tls.peer_address, options.management_port)),
        None => (local_peer.clone(), local_peer),
    };
    let only_itself = format!("{}={peer}", member.name);
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("name", json!(member.name));
    put("data-dir", json!(member.data_dir));
    put("listen-peer-urls", json!(listen_peer));
    put("initial-advertise-peer-urls", json!(peer));
    put("initial-cluster", json!(member.joins.as_ref().unwrap_or(&only_itself)));
    put("initial-cluster-token", json!(member.token));
    put("initial-cluster-state", json!(if member.joins.is_some() { "existing" } else { "new" }));
    put("heartbeat-interval", json!(options.heartbeat_interval));
    put("election-timeout", json!(options.election_timeout));
    put("auto-compaction-mode", json!("periodic"));
    put("auto-compaction-retention", json!(options.auto_compaction_retention));
    put("logger", json!("zap"));
    // Serves only /metrics and /health (etcd, server/embed/etcd.go, `serveMetrics`).
    put("listen-metrics-urls", json!(format!("http://127.0.0.1:{}", options.metrics.etcd)));
    if let Some(count) = options.snapshot_count {
        put("snapshot-count", json!(count));
    }
    if let Some(bytes) = options.quota_backend_bytes {
        put("quota-backend-bytes", json!(bytes));
    }
    match &member.tls {
        None => {
            let client = format!("http://127.0.0.1:{}", options.port);
            put("listen-client-urls", json!(client));
            put("advertise-client-urls", json!(client));
        }
        Some(tls) => {
            let dir = &tls.certificate_dir;
            put("listen-client-urls", json!(listen_url(tls.client_address, options.port)));
            put("advertise-client-urls", json!(tls.client_url(options)));
            let security = json!({
                "trusted-ca-file": dir.join("ca.crt"),
                "cert-file": dir.join("server.crt"),
                "key-file": dir.join("server.key"),
                "client-cert-auth": true,
            });
            put("peer-transport-security", security.clone());
            put("client-transport-security", security);
        }
    }
    Ok(format!("{HEADER}{}", serde_yaml::to_string(&map)?))
}

/// Returns the configuration for an etcd that has served. With it, etcd does not start without its data, for example at a
/// boot before any hook has run. An etcd with data starts either way.
pub fn with_existing_cluster(text: &str) -> String {
    text.replace("\ninitial-cluster-state: new\n", "\ninitial-cluster-state: existing\n")
}

/// Returns whether two configurations differ only in the values that etcd does not read once it has data: the members at its
/// start, and whether the cluster was new.
pub fn differ_only_in_start(one: &str, other: &str) -> bool {
    let is_read = |line: &&str| {
        !["initial-cluster: ", "initial-cluster-state: ", "initial-advertise-peer-urls: "]
            .iter()
            .any(|key| line.starts_with(key))
    };
    one != other && one.lines().filter(is_read).eq(other.lines().filter(is_read))
}

/// Returns the port for peers in a configuration file of the charm, if peers are served on the network.
pub fn network_peer_port_in(text: &str) -> Option<u16> {
    let url = string_value(text, "listen-peer-urls")?;
    let (address, port) = url.rsplit_once(':')?;
    port.parse().ok().filter(|_| !address.ends_with("//127.0.0.1"))
}

/// Returns the URL at which clients on this machine reach the etcd of a configuration file of the charm.
pub fn local_endpoint_in(text: &str) -> Option<String> {
    let url = string_value(text, "listen-client-urls")?;
    let (scheme, port) = (url.split_once("://")?.0, url.rsplit_once(':')?.1);
    Some(format!("{scheme}://127.0.0.1:{port}"))
}

/// Returns a systemd drop-in that delays the start until the storage of the data is mounted.
pub fn mount_drop_in(data_dir: &Path) -> String {
    let path = data_dir.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("{HEADER}[Unit]\nRequiresMountsFor=\"{path}\"\n")
}

/// Returns a systemd drop-in that prevents the start as long as the file `drop_in` exists.
///
/// It guards an installation: a package starts its etcd at once, and after a power failure systemd starts it at boot. That
/// etcd would have another configuration and data directory than the charm's.
pub fn install_guard(drop_in: &Path) -> String {
    format!(
        "{HEADER}# etcd is being installed. It must not start before its configuration is written.\n[Unit]\nConditionPathExists=!{}\n",
        drop_in.display()
    )
}

/// Whether `text` is that of an [`install_guard`].
pub fn is_install_guard(text: &str) -> bool {
    is_written_by_charm(text) && text.contains("\nConditionPathExists=!")
}

/// Whether `text` is that of a file which the charm wrote.
pub fn is_written_by_charm(text: &str) -> bool {
    text.starts_with(HEADER)
}

/// Whether `text` is the charm's configuration of the cluster with this `token`. A machine may still have the one of a
/// removed unit.
pub fn has_cluster_token(text: &str, token: &str) -> bool {
    is_written_by_charm(text)
        && string_value(text, "initial-cluster-token").is_some_and(|found| found == token)
}

/// Returns the data directory in a configuration file of the charm.
pub fn data_dir_in(text: &str) -> Option<PathBuf> {
    string_value(text, "data-dir").map(PathBuf::from)
}

fn string_value(text: &str, name: &str) -> Option<String> {
    let map: Map<String, Value> = serde_yaml::from_str(text).ok()?;
    map.get(name)?.as_str().map(str::to_owned)
}

/// Returns the environment file that makes the Debian systemd unit read the configuration file. With it, etcd ignores all
/// other settings in the environment.
pub fn environment_file(config_file: &Path) -> String {
    format!("{HEADER}ETCD_CONFIG_FILE={}\n", config_file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::cos_relation::MetricsPorts;

    fn options() -> Options {
        Options {
            port: 2379,
            management_port: 2380,
            metrics: MetricsPorts { etcd: 2381, backups: 2382 },
            channel: "3.4/stable".into(),
            heartbeat_interval: 100,
            election_timeout: 1000,
            snapshot_count: None,
            quota_backend_bytes: None,
            auto_compaction_retention: "0".into(),
        }
    }

    fn member() -> Member {
        Member { name: "etcd0".into(), token: "t".into(), data_dir: "/d".into(), tls: None, joins: None }
    }

    #[test]
    fn listens_on_loopback_only_without_certificates() {
        let text = render(&options(), &member()).unwrap();
        let map: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        for (name, value) in map.iter().filter(|(name, _)| name.contains("urls")) {
            assert!(value.as_str().unwrap().starts_with("http://127.0.0.1:"), "{name}: {value}");
        }
        assert!(is_written_by_charm(&text) && !is_written_by_charm("name: etcd0\n"));
        assert!(
            has_cluster_token(&text, "t")
                && !has_cluster_token(&text, "another")
                && !has_cluster_token("initial-cluster-token: t\n", "t")
        );
        let guard = install_guard(Path::new("/x.conf"));
        assert!(
            is_install_guard(&guard)
                && !is_install_guard(&mount_drop_in(Path::new("/d")))
                && !is_install_guard(&guard[1..])
        );
        assert_eq!(data_dir_in(&text), Some("/d".into()));
        assert_eq!(local_endpoint_in(&text).as_deref(), Some("http://127.0.0.1:2379"));
        assert!(!text.contains("snapshot-count") && !text.contains("quota"), "{text}");
    }

    #[test]
    fn requires_certificates_of_clients_and_peers_if_there_are_any() {
        let tls = Some(TlsListener {
            certificate_dir: "/etc/etcd/tls".into(),
            peer_address: "fd00::1".parse().unwrap(),
            client_address: "fd00::1".parse().unwrap(),
            serves_peers: false,
        });
        let text = render(&options(), &Member { tls, ..member() }).unwrap();
        let map: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        assert_eq!(map["listen-client-urls"], "https://[::]:2379");
        assert_eq!(map["advertise-client-urls"], "https://[fd00::1]:2379");
        for side in ["client-transport-security", "peer-transport-security"] {
            assert_eq!(map[side]["client-cert-auth"], true, "{side}");
            assert_eq!(map[side]["trusted-ca-file"], "/etc/etcd/tls/ca.crt", "{side}");
        }
        assert_eq!(map["listen-peer-urls"], "https://127.0.0.1:2380");
        assert_eq!(local_endpoint_in(&text).as_deref(), Some("https://127.0.0.1:2379"));
        // Without TLS it serves metrics only, and on loopback only.
        assert_eq!(map["listen-metrics-urls"], "http://127.0.0.1:2381");
        assert_eq!(text.matches("http:").count(), 1, "{text}");
    }

    #[test]
    fn an_etcd_that_has_served_does_not_start_a_new_cluster() {
        let text = render(&options(), &member()).unwrap();
        let served = with_existing_cluster(&text);
        assert!(text.contains("\ninitial-cluster-state: new\n"), "{text}");
        assert!(served.contains("\ninitial-cluster-state: existing\n"), "{served}");
        assert_eq!(with_existing_cluster(&served), served);
        assert!(
            mount_drop_in(Path::new("/srv/a b%")).ends_with("[Unit]\nRequiresMountsFor=\"/srv/a b%%\"\n")
        );
    }

    #[test]
    fn a_member_of_a_cluster_serves_its_peers_on_the_network() {
        let tls = TlsListener {
            certificate_dir: "/etc/etcd/tls".into(),
            peer_address: "10.0.0.5".parse().unwrap(),
            client_address: "10.1.0.5".parse().unwrap(),
            serves_peers: true,
        };
        let alone = render(&options(), &Member { tls: Some(tls.clone()), ..member() }).unwrap();
        for line in [
            "advertise-client-urls: https://10.1.0.5:2379\n",
            "listen-peer-urls: https://0.0.0.0:2380\n",
            "initial-advertise-peer-urls: https://10.0.0.5:2380\n",
            "initial-cluster: etcd0=https://10.0.0.5:2380\n",
        ] {
            assert!(alone.contains(line), "{alone}");
        }
        let joins = Some("member-a=https://10.0.0.4:2380,etcd0=https://10.0.0.5:2380".to_owned());
        let joining = render(&options(), &Member { tls: Some(tls), joins, ..member() }).unwrap();
        assert!(joining.contains("initial-cluster-state: existing\n"), "{joining}");
        assert!(joining.contains("initial-cluster: member-a=https://10.0.0.4:2380,etcd0="), "{joining}");
        // Once it has data, etcd reads neither.
        assert!(differ_only_in_start(&joining, &with_existing_cluster(&alone)));
        assert!(!differ_only_in_start(&alone, &alone));
        assert!(!differ_only_in_start(&alone, &render(&options(), &member()).unwrap()));
        assert_eq!(network_peer_port_in(&alone), Some(2380));
        assert_eq!(network_peer_port_in(&render(&options(), &member()).unwrap()), None);
    }

    #[test]
    fn contains_the_options_that_are_set() {
        let set = Options {
            snapshot_count: Some(7),
            quota_backend_bytes: Some(1 << 33),
            auto_compaction_retention: "30m".into(),
            ..options()
        };
        let text = render(&set, &member()).unwrap();
        for line in
            ["snapshot-count: 7\n", "quota-backend-bytes: 8589934592\n", "auto-compaction-retention: 30m\n"]
        {
            assert!(text.contains(line), "{text}");
        }
    }
}
