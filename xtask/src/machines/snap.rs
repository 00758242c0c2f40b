//! The home of Charmed Kubernetes' snap: its paths, its unit's name, its certificates, and root; Debian's programs.

use anyhow::Result;

use super::{Stage, certificates, story};

const COMMON: &str = "/var/snap/etcd/common";
const UNIT: &str = "\
[Service]
ExecStart=/snap/etcd/current/bin/etcd --config-file=/var/snap/etcd/common/etcd.conf.yml
WorkingDirectory=/var/snap/etcd/230
[Install]
WantedBy=multi-user.target
";
/// As the older etcd charm writes it.
const CONFIG: &str = "\
name: etcd0
data-dir: /var/snap/etcd/current
listen-client-urls: https://0.0.0.0:2379,http://127.0.0.1:4001
advertise-client-urls: https://127.0.0.1:2379
listen-peer-urls: http://127.0.0.1:2380
initial-advertise-peer-urls: http://127.0.0.1:2380
initial-cluster: etcd0=http://127.0.0.1:2380
client-transport-security:
  cert-file: /var/snap/etcd/common/server.crt
  key-file: /var/snap/etcd/common/server.key
  client-cert-auth: true
  trusted-ca-file: /var/snap/etcd/common/ca.crt
";

/// With TLS, where the server's pair is for servers only, and the port without it that the older charm opens.
pub fn open(stage: &Stage) -> Result<String> {
    home(stage, CONFIG)
}

/// With TLS alone.
pub fn tls(stage: &Stage) -> Result<String> {
    home(stage, &CONFIG.replace(",http://127.0.0.1:4001", ""))
}

fn home(stage: &Stage, config: &str) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    for dir in ["/snap/etcd/230/bin", "/snap/bin", COMMON, "/var/snap/etcd/230"] {
        machine.run(&["mkdir", "-p", dir])?;
    }
    machine.run(&["ln", "-s", "230", "/snap/etcd/current"])?;
    machine.run(&["ln", "-s", "230", "/var/snap/etcd/current"])?;
    machine.run(&["mv", "/usr/bin/etcd", "/usr/bin/etcdctl", "/snap/etcd/230/bin/"])?;
    machine.run(&["ln", "-s", "/snap/etcd/current/bin/etcdctl", "/snap/bin/etcd.etcdctl"])?;
    machine.run(&["ln", "-s", "/snap/bin/etcd.etcdctl", "/usr/local/sbin/etcdctl"])?;
    certificates::write(&machine, COMMON, "client")?;
    machine.write("/var/snap/etcd/common/etcd.conf.yml", config)?;
    machine.write("/etc/systemd/system/snap.etcd.etcd.service", UNIT)?;
    machine.run(&["systemctl", "enable", "--now", "snap.etcd.etcd.service"])?;
    certificates::use_them(&mut machine, COMMON, "client");
    story::wait_until_healthy(&machine)?;
    story::tell(&machine)
}
