//! A unit that somebody wrote: any name, etcd's flags in its command line.

use anyhow::Result;

use super::{Stage, story};

const UNIT: &str = "\
[Service]
ExecStart=/usr/bin/etcd --name=db1 --data-dir=/srv/db/etcd --listen-client-urls=http://127.0.0.1:12379 \
  --advertise-client-urls=http://127.0.0.1:12379 --listen-peer-urls=http://127.0.0.1:12380 \
  --initial-advertise-peer-urls=http://127.0.0.1:12380 --initial-cluster=db1=http://127.0.0.1:12380
";

/// With flags alone, run by root.
pub fn flags(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.set("ETCDCTL_ENDPOINTS", "http://127.0.0.1:12379");
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    machine.write("/etc/systemd/system/config-store.service", UNIT)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    machine.run(&["etcdctl", "endpoint", "health", "--dial-timeout=10s"])?;
    story::tell(&machine)
}
