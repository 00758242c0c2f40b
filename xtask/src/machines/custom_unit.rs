//! A unit that somebody wrote: any name, etcd's flags in its command line.

use anyhow::{Result, ensure};

use super::certificates::{Authority, Use, use_them};
use super::machine::Machine;
use super::{Stage, scenario};

const UNIT: &str = "\
[Service]
ExecStart=/usr/bin/etcd --name=db1 --data-dir=/srv/db/etcd --listen-client-urls=http://127.0.0.1:12379 \
  --advertise-client-urls=http://127.0.0.1:12379 --listen-peer-urls=http://127.0.0.1:12380 \
  --initial-advertise-peer-urls=http://127.0.0.1:12380 --initial-cluster=db1=http://127.0.0.1:12380
";

/// With flags alone, run by root.
pub fn flags(stage: &Stage) -> Result<String> {
    by_hand(stage, UNIT, "http")
}

/// With a certificate that etcd makes itself and that nobody else vouches for.
pub fn auto_tls(stage: &Stage) -> Result<String> {
    let unit = UNIT
        .replace("http://127.0.0.1:12379", "https://127.0.0.1:12379")
        .replace("--name", "--auto-tls --name");
    by_hand(stage, &unit, "https")
}

fn by_hand(stage: &Stage, unit: &str, scheme: &str) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.set("ETCDCTL_ENDPOINTS", &format!("{scheme}://127.0.0.1:12379"));
    if scheme == "https" {
        machine.set("ETCDCTL_CACERT", "/srv/db/etcd/fixtures/client/cert.pem");
    }
    start(&machine, unit)?;
    scenario::tell_twice(&mut machine)
}

/// Starts etcd by this unit in place of the package's.
fn start(machine: &Machine, unit: &str) -> Result<()> {
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    machine.write("/etc/systemd/system/config-store.service", unit)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    scenario::wait_until_healthy(machine)
}

/// With a certificate that names the host alone, as many authorities of companies give it, and a listener on IPv6 alone.
pub fn named(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.ip(&["address", "add", "fd00::4/128", "dev", "lo", "nodad"])?;
    machine.run(&["sh", "-c", "echo 'fd00::4 db1.example' >>/etc/hosts"])?;
    let authority = Authority::found(&machine, "/srv/pki")?;
    authority.sign(&machine, "server", &["db1.example"], &[Use::ServerAuth, Use::ClientAuth], 365)?;
    let tls =
        "--cert-file=/srv/pki/server.crt --key-file=/srv/pki/server.key --trusted-ca-file=/srv/pki/ca.crt";
    let unit = UNIT
        .replace(
            "--listen-client-urls=http://127.0.0.1:12379",
            "--listen-client-urls=https://[fd00::4]:12379",
        )
        .replace("=http://127.0.0.1:12379", "=https://db1.example:12379")
        .replace("--name", &format!("{tls} --name"));
    use_them(&mut machine, "/srv/pki", "server", "https://db1.example:12379");
    start(&machine, &unit)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "endpoint"])? == "https://db1.example:12379", "{site}");
    ensure!(scenario::text(&site, &["site", "endpoint-from"])?.contains("does not name [fd00::4]"), "{site}");
    scenario::tell(&machine)
}

/// With its write-ahead log apart: refused, and what the refusal says to type is enough.
pub fn log_apart(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    machine.set("ETCDCTL_ENDPOINTS", "http://127.0.0.1:12379");
    start(&machine, &UNIT.replace("--name", "--wal-dir=/srv/log --name"))?;
    scenario::fill(&machine)?;
    let (before, archive) = (scenario::digest(&machine)?, scenario::snapshot(&machine)?);
    scenario::wreck(&machine)?;
    let wrecked = scenario::digest(&machine)?;
    let copy = "cp -a /srv/log /srv/db/etcd/member/wal";
    let words = ["/srv/log", "systemctl stop config-store.service", copy, "wal-dir out of"];
    scenario::refused(&machine, "restore", &[&format!("snapshot={archive}")], &words)?;

    machine.run(&["systemctl", "stop", "config-store.service"])?;
    machine.run(&copy.split(' ').collect::<Vec<_>>())?;
    start(&machine, UNIT)?;
    ensure!(scenario::digest(&machine)? == wrecked, "with its log moved, etcd has other data");
    scenario::action(&machine, "restore", &[&format!("snapshot={archive}")])?;
    ensure!(scenario::digest(&machine)? == before, "the keys are not those of the snapshot");
    Ok("refused by name; restored when done as it says".to_owned())
}

/// Stopped, with its data elsewhere by a drop-in: there is no process to ask, and systemd knows.
pub fn stopped(stage: &Stage) -> Result<String> {
    let machine = stage.unit()?;
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    machine.run(&["install", "-d", "-m", "700", "-o", "etcd", "-g", "etcd", "/srv/moved"])?;
    machine.write(
        "/etc/systemd/system/etcd.service.d/moved.conf",
        "[Service]\nEnvironment=ETCD_DATA_DIR=/srv/moved\n",
    )?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "etcd.service"])?;
    scenario::fill(&machine)?;
    let (before, archive) = (scenario::digest(&machine)?, scenario::snapshot(&machine)?);
    scenario::wreck(&machine)?;
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "data-dir"])? == "/srv/moved", "{site}");
    scenario::action(&machine, "restore", &[&format!("snapshot={archive}")])?;
    machine.run(&["systemctl", "start", "etcd.service"])?;
    ensure!(scenario::digest(&machine)? == before, "the keys are not those of the snapshot");
    Ok("found by systemd alone, and restored".to_owned())
}

/// A drop-in that nobody has restarted etcd for: a restore would start it on other data.
pub fn drifted(stage: &Stage) -> Result<String> {
    let machine = stage.unit()?;
    let archive = scenario::snapshot(&machine)?;
    machine.write(
        "/etc/systemd/system/etcd.service.d/moved.conf",
        "[Service]\nEnvironment=ETCD_DATA_DIR=/srv/moved\n",
    )?;
    machine.run(&["systemctl", "daemon-reload"])?;
    let both = ["/var/lib/etcd/default", "/srv/moved", "after a restart"];
    scenario::refused(&machine, "restore", &[&format!("snapshot={archive}")], &both)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "warning"])?.contains("/srv/moved"), "{site}");
    let saved = scenario::action(&machine, "snapshot", &[])?;
    ensure!(scenario::text(&saved, &["snapshot", "warning"])?.contains("/srv/moved"), "{saved}");
    Ok("restore refused with both directories; site and snapshot warn".to_owned())
}

/// Two etcds: none is taken, and one is by its name.
pub fn two(stage: &Stage) -> Result<String> {
    let machine = stage.unit()?;
    machine.write("/etc/systemd/system/config-store.service", UNIT)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    let both = ["2 etcds", "etcd.service", "config-store.service", "/srv/db/etcd", "site="];
    scenario::refused(&machine, "snapshot", &[], &both)?;
    for (choice, data) in
        [("config-store", "/srv/db/etcd"), ("/var/lib/etcd/default", "/var/lib/etcd/default")]
    {
        let choice = format!("site={choice}");
        let site = scenario::action(&machine, "site", &[&choice])?;
        ensure!(scenario::text(&site, &["site", "data-dir"])? == data, "{site}");
        scenario::action(&machine, "snapshot", &[&choice])?;
    }
    Ok("both named and refused; each by its name".to_owned())
}
