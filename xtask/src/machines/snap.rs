//! The etcd snap of Charmed Kubernetes: its paths, systemd unit and certificates, running as root; with Debian's programs.

use anyhow::{Result, ensure};

use super::machine::Machine;
use super::test_bed::TestBed;
use super::{certificates, scenario};

const COMMON: &str = "/var/snap/etcd/common";
const UNIT: &str = "\
[Service]
ExecStart=/snap/etcd/current/bin/etcd --config-file=/var/snap/etcd/common/etcd.conf.yml
WorkingDirectory=/var/snap/etcd/230
[Install]
WantedBy=multi-user.target
";
/// The machine's address. In Charmed Kubernetes the server's certificate names this and the host, but not loopback.
const ADDRESS: &str = "10.7.0.4";
/// The configuration as the older etcd charm writes it.
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

/// With TLS, where the server's certificate is for servers only and does not name loopback.
pub fn tls(test_bed: &TestBed) -> Result<String> {
    let mut machine = set_up(test_bed, CONFIG)?;
    let site = scenario::action(&machine, "site", &[])?;
    let endpoint = scenario::text(&site, &["site", "endpoint"])?;
    ensure!(endpoint == "https://10.7.0.4:2379", "{site}");
    scenario::round_trip_with_and_without_auth(&mut machine)
}

/// With an additional port without TLS, which the charm opens with its option `bind_with_insecure_http`.
pub fn open(test_bed: &TestBed) -> Result<String> {
    let config = CONFIG.replace("https://0.0.0.0:2379", "http://127.0.0.1:4001,https://0.0.0.0:2379");
    let mut machine = set_up(test_bed, &config)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "endpoint"])? == "http://127.0.0.1:4001", "{site}");
    scenario::round_trip_with_and_without_auth(&mut machine)
}

/// With the data on a Juju storage, outside the snap's directory.
pub fn storage(test_bed: &TestBed) -> Result<String> {
    let config = CONFIG.replace("data-dir: /var/snap/etcd/current", "data-dir: /media/etcd/data");
    let machine = set_up(test_bed, &config)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "data-dir"])? == "/media/etcd/data", "{site}");
    scenario::round_trip(&machine)
}

fn set_up(test_bed: &TestBed, config: &str) -> Result<Machine> {
    let mut machine = test_bed.boot_with_programs()?;
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
    certificates::create_all(&machine, COMMON, &[ADDRESS, "etcd-0"], "client")?;
    machine.write("/var/snap/etcd/common/etcd.conf.yml", config)?;
    machine.write("/etc/systemd/system/snap.etcd.etcd.service", UNIT)?;
    machine.run(&["systemctl", "enable", "--now", "snap.etcd.etcd.service"])?;
    certificates::configure_etcdctl(&mut machine, COMMON, "client", &format!("https://{ADDRESS}:2379"));
    scenario::wait_until_healthy(&machine)?;
    Ok(machine)
}
