//! etcd's configuration file, as the charm writes it. Pure: the same settings give the same text.
//!
//! Must never make etcd listen to a network in clear.

use super::settings::Settings;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How the charm's files begin; by this it knows its own.
pub(super) const MARK: &str =
    "# Written by the etcd charm, which writes it anew: change it by `juju config`.\n";
/// The files that make certificates complete: for the server, for clients, and who vouches for both.
pub const CERTIFICATES: [&str; 5] = ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"];

/// What else than the settings goes into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The unit's name without its slash, as the older charm names members.
    pub name: String,
    /// Tells this cluster from every other.
    pub token: String,
    /// Where the data is.
    pub data_dir: PathBuf,
    /// The directory of the certificates and the address to be reached at, where there are certificates.
    pub open: Option<(PathBuf, IpAddr)>,
}

/// The whole file.
pub fn text(settings: &Settings, member: &Member) -> Result<String> {
    // Whoever reaches this port writes past all that the other one asks for.
    let scheme = if member.open.is_some() { "https" } else { "http" };
    let peer = format!("{scheme}://127.0.0.1:{}", settings.management_port);
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("name", json!(member.name));
    put("data-dir", json!(member.data_dir));
    put("listen-peer-urls", json!(peer));
    put("initial-advertise-peer-urls", json!(peer));
    put("initial-cluster", json!(format!("{}={peer}", member.name)));
    put("initial-cluster-token", json!(member.token));
    put("initial-cluster-state", json!("new"));
    put("heartbeat-interval", json!(settings.heartbeat));
    put("election-timeout", json!(settings.election));
    put("auto-compaction-mode", json!("periodic"));
    put("auto-compaction-retention", json!(settings.retention));
    put("logger", json!("zap"));
    if let Some(count) = settings.snapshot_count {
        put("snapshot-count", json!(count));
    }
    if let Some(bytes) = settings.quota {
        put("quota-backend-bytes", json!(bytes));
    }
    match &member.open {
        None => {
            let client = format!("http://127.0.0.1:{}", settings.port);
            put("listen-client-urls", json!(client));
            put("advertise-client-urls", json!(client));
        }
        Some((dir, address)) => {
            let port = settings.port;
            put("listen-client-urls", json!(format!("https://0.0.0.0:{port}")));
            put(
                "advertise-client-urls",
                json!(format!("https://{}", std::net::SocketAddr::new(*address, port))),
            );
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
    Ok(format!("{MARK}{}", serde_yaml::to_string(&map)?))
}

/// The same file once etcd has served: from then on it does not start where its data is missing, as at a boot before any
/// hook. It runs on with data either way.
pub fn served(text: &str) -> String {
    text.replace("\ninitial-cluster-state: new\n", "\ninitial-cluster-state: existing\n")
}

/// What keeps a systemd unit from starting before the storage of its data is mounted.
pub fn drop_in(data_dir: &Path) -> String {
    let path = data_dir.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("{MARK}[Unit]\nRequiresMountsFor=\"{path}\"\n")
}

/// What keeps a systemd unit from starting for as long as it is this that stands in `drop_in`: a package starts its etcd at
/// once, and a machine that loses its power at the next boot, with a configuration and in a place that are not ours.
pub fn guard(drop_in: &Path) -> String {
    format!(
        "{MARK}# It is being installed: without its configuration it does not start.\n[Unit]\nConditionPathExists=!{}\n",
        drop_in.display()
    )
}

/// Whether a drop-in of this text is such a guard.
pub fn is_guard(text: &str) -> bool {
    is_ours(text) && text.contains("\nConditionPathExists=!")
}

/// Whether a file of this text is the charm's.
pub fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Whether a configuration of this text is that of the cluster with this `token`: a machine may still have the one of a
/// unit that is gone.
pub fn is_of(text: &str, token: &str) -> bool {
    is_ours(text) && string_in(text, "initial-cluster-token").is_some_and(|found| found == token)
}

/// The data directory in a file of the charm's.
pub fn data_dir_in(text: &str) -> Option<PathBuf> {
    string_in(text, "data-dir").map(PathBuf::from)
}

fn string_in(text: &str, name: &str) -> Option<String> {
    let map: Map<String, Value> = serde_yaml::from_str(text).ok()?;
    map.get(name)?.as_str().map(str::to_owned)
}

/// What leads Debian's unit to the file: with it, etcd takes nothing from its environment.
pub fn pointer(config_file: &Path) -> String {
    format!("{MARK}ETCD_CONFIG_FILE={}\n", config_file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            port: 2379,
            management_port: 2380,
            channel: "3.4/stable".into(),
            heartbeat: 100,
            election: 1000,
            snapshot_count: None,
            quota: None,
            retention: "0".into(),
        }
    }

    fn member() -> Member {
        Member { name: "etcd0".into(), token: "t".into(), data_dir: "/d".into(), open: None }
    }

    #[test]
    fn without_certificates_nothing_listens_beyond_loopback() {
        let text = text(&settings(), &member()).unwrap();
        let map: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        for (name, value) in map.iter().filter(|(name, _)| name.contains("urls")) {
            assert!(value.as_str().unwrap().starts_with("http://127.0.0.1:"), "{name}: {value}");
        }
        assert!(is_ours(&text) && !is_ours("name: etcd0\n"));
        assert!(is_of(&text, "t") && !is_of(&text, "another") && !is_of("initial-cluster-token: t\n", "t"));
        let guard = guard(Path::new("/x.conf"));
        assert!(is_guard(&guard) && !is_guard(&drop_in(Path::new("/d"))) && !is_guard(&guard[1..]));
        assert_eq!(data_dir_in(&text), Some("/d".into()));
        assert!(!text.contains("snapshot-count") && !text.contains("quota"), "{text}");
    }

    #[test]
    fn with_certificates_every_client_and_peer_must_show_one() {
        let open = Some(("/etc/etcd/tls".into(), "fd00::1".parse().unwrap()));
        let text = text(&settings(), &Member { open, ..member() }).unwrap();
        let map: Map<String, Value> = serde_yaml::from_str(&text).unwrap();
        assert_eq!(map["listen-client-urls"], "https://0.0.0.0:2379");
        assert_eq!(map["advertise-client-urls"], "https://[fd00::1]:2379");
        for who in ["client-transport-security", "peer-transport-security"] {
            assert_eq!(map[who]["client-cert-auth"], true, "{who}");
            assert_eq!(map[who]["trusted-ca-file"], "/etc/etcd/tls/ca.crt", "{who}");
        }
        assert_eq!(map["listen-peer-urls"], "https://127.0.0.1:2380");
        assert!(!text.contains("http:"), "{text}");
    }

    #[test]
    fn once_etcd_has_served_it_does_not_begin_anew() {
        let text = text(&settings(), &member()).unwrap();
        let served = served(&text);
        assert!(text.contains("\ninitial-cluster-state: new\n"), "{text}");
        assert!(served.contains("\ninitial-cluster-state: existing\n"), "{served}");
        assert_eq!(super::served(&served), served);
        assert!(drop_in(Path::new("/srv/a b%")).ends_with("[Unit]\nRequiresMountsFor=\"/srv/a b%%\"\n"));
    }

    #[test]
    fn what_was_set_is_in_it() {
        let set =
            Settings { snapshot_count: Some(7), quota: Some(1 << 33), retention: "30m".into(), ..settings() };
        let text = text(&set, &member()).unwrap();
        for line in
            ["snapshot-count: 7\n", "quota-backend-bytes: 8589934592\n", "auto-compaction-retention: 30m\n"]
        {
            assert!(text.contains(line), "{text}");
        }
    }
}
