//! The home of Charmed Kubernetes' snap: its paths, its unit's name, its certificates, and root; Debian's programs.

use anyhow::{Result, ensure};

use super::machine::Machine;
use super::{Stage, certificates, scenario};

const COMMON: &str = "/var/snap/etcd/common";
const UNIT: &str = "\
[Service]
ExecStart=/snap/etcd/current/bin/etcd --config-file=/var/snap/etcd/common/etcd.conf.yml
WorkingDirectory=/var/snap/etcd/230
[Install]
WantedBy=multi-user.target
";
/// The machine's address to others. The charm has the server's certificate name this and the host, and not the loopback.
const ADDRESS: &str = "10.7.0.4";
/// As the older etcd charm writes it.
const CONFIG: &str = "\
name: etcd0
data-dir: /var/snap/etcd/current
listen-client-urls: https://0.0.0.0:2379
advertise-client-urls: https://10.7.0.4:2379
listen-peer-urls: http://127.0.0.1:2380
initial-advertise-peer-urls: http://127.0.0.1:2380
initial-cluster: etcd0=http://127.0.0.1:2380
client-transport-security:
  cert-file: /var/snap/etcd/common/server.crt
  key-file: /var/snap/etcd/common/server.key
  client-cert-auth: true
  trusted-ca-file: /var/snap/etcd/common/ca.crt
";

/// With TLS, where the server's pair is for servers only and does not name the loopback, without and with authentication.
pub fn tls(stage: &Stage) -> Result<String> {
    let mut machine = home(stage, CONFIG)?;
    let site = scenario::action(&machine, "site", &[])?;
    let endpoint = scenario::text(&site, &["site", "endpoint"])?;
    ensure!(endpoint == "https://10.7.0.4:2379", "{site}");
    scenario::tell_twice(&mut machine)
}

/// With the port without TLS besides, which the charm opens by its option `bind_with_insecure_http`.
pub fn open(stage: &Stage) -> Result<String> {
    let config = CONFIG.replace("https://0.0.0.0:2379", "http://127.0.0.1:4001,https://0.0.0.0:2379");
    let mut machine = home(stage, &config)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "endpoint"])? == "http://127.0.0.1:4001", "{site}");
    scenario::tell_twice(&mut machine)
}

/// With its data on the storage that Juju attached, and the link that the snap's own directory then is not.
pub fn storage(stage: &Stage) -> Result<String> {
    let config = CONFIG.replace("data-dir: /var/snap/etcd/current", "data-dir: /media/etcd/data");
    let machine = home(stage, &config)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "data-dir"])? == "/media/etcd/data", "{site}");
    scenario::tell(&machine)
}

fn home(stage: &Stage, config: &str) -> Result<Machine> {
    let mut machine = stage.unit()?;
    machine.ip(&["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"])?;
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    for dir in ["/snap/etcd/230/bin", "/snap/bin", COMMON, "/var/snap/etcd/230", "/media/etcd/data"] {
        machine.run(&["mkdir", "-p", dir])?;
    }
    machine.run(&["ln", "-s", "230", "/snap/etcd/current"])?;
    machine.run(&["ln", "-s", "230", "/var/snap/etcd/current"])?;
    machine.run(&["mv", "/usr/bin/etcd", "/usr/bin/etcdctl", "/snap/etcd/230/bin/"])?;
    machine.run(&["ln", "-s", "/snap/etcd/current/bin/etcdctl", "/snap/bin/etcd.etcdctl"])?;
    machine.run(&["ln", "-s", "/snap/bin/etcd.etcdctl", "/usr/local/sbin/etcdctl"])?;
    certificates::write(&machine, COMMON, &[ADDRESS, "etcd-0"], "client")?;
    machine.write("/var/snap/etcd/common/etcd.conf.yml", config)?;
    machine.write("/etc/systemd/system/snap.etcd.etcd.service", UNIT)?;
    machine.run(&["systemctl", "enable", "--now", "snap.etcd.etcd.service"])?;
    certificates::use_them(&mut machine, COMMON, "client", &format!("https://{ADDRESS}:2379"));
    scenario::wait_until_healthy(&machine)?;
    Ok(machine)
}
