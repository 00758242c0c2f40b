//! The packed charm on a machine without etcd, as an operator of Juju lives with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::machine::Machine;
use super::unit::Unit;
use super::{Stage, root, scenario};
use crate::{command, debian, etcd, workspace};

pub(super) const HEALTHY: &str = "active 1 member, healthy";
pub(super) const DATA: &str = "/var/lib/etcd/default";

/// A machine from which etcd was removed with all that is its own.
pub(super) fn empty(stage: &Stage) -> Result<Machine> {
    let machine = Machine::boot(&stage.root)?;
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    machine.run(&["dpkg", "--purge", "etcd-server", "etcd-client"])?;
    machine.run(&["rm", "-rf", "/var/lib/etcd", "/etc/default/etcd", "/etc/etcd"])?;
    Ok(machine)
}

/// Installation, though the network comes late; options; snapshot and restore; a boot, an upgrade, the end.
pub fn life(stage: &Stage) -> Result<String> {
    let mut machine = empty(stage)?;
    sources(&machine, "http://127.0.0.1:9/debian stable main")?;
    let unit = Unit::deploy(&machine)?;
    unit.hook("install", &["blocked installing etcd: apt-get", "127.0.0.1"])?;
    unit.hook("start", &["blocked installing etcd: apt-get"])?;
    offer_packages(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(!unit.told("version")?.is_empty(), "the workload's version was not told");
    listens_on_loopback_alone(&machine)?;
    options(&machine, &unit)?;

    scenario::fill(&machine)?;
    let before = scenario::digest(&machine)?;
    let saved = unit.action("snapshot", json!({}))?;
    let path = saved["snapshot.path"].as_str().context("no path")?.to_owned();
    ensure!(saved["copy.cmd"] == json!(format!("juju scp etcd/0:{path} .")), "{saved:?}");
    scenario::wreck(&machine)?;
    unit.attach("snapshot", "snapshot.tar.gz", Some(&machine.path(&path)?))?;
    let restored = unit.action("restore", json!({}))?;
    ensure!(scenario::digest(&machine)? == before, "the keys are not those of the snapshot");
    unit.hook("update-status", &[HEALTHY])?;

    machine.reboot()?;
    let unit = Unit::again(&machine);
    unit.hook("start", &[HEALTHY])?;
    ensure!(scenario::digest(&machine)? == before, "after a reboot the keys are others");
    let pid = pid(&machine)?;
    unit.upgrade()?;
    unit.hook("upgrade-charm", &[HEALTHY])?;
    unit.hook("config-changed", &[HEALTHY])?;
    ensure!(self::pid(&machine)? == pid, "etcd was restarted without need");
    let health = unit.action("health", json!({}))?;
    ensure!(
        health["output"].as_str().is_some_and(|output| output.contains("cluster is healthy")),
        "{health:?}"
    );

    by_the_clock(&machine, &unit)?;
    unit.hook("stop", &["maintenance etcd is stopped", DATA])?;
    ensure!(timer(&machine)? != "active", "the timer outlived the unit");
    unit.hook("remove", &["maintenance etcd is stopped"])?;
    ensure!(machine.attempt(&["systemctl", "is-active", "etcd"])?.status.code() == Some(3), "etcd runs");
    ensure!(machine.path(&format!("{DATA}/member/snap/db"))?.exists(), "the data went with the unit");
    again(&machine, unit)?;
    let downtime = restored["restore.downtime"].as_str().unwrap_or_default().to_owned();
    Ok(format!("installed, restored with etcd down for {downtime}, rebooted, upgraded, removed"))
}

/// Hooks have the timer be what the settings say, and the status tells of the backups. It is left in place.
fn by_the_clock(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let write = |text: &str| machine.write("/etc/etcd-charm/backup.yaml", text);
    write("schedule: {when: 0 25 * * *}\n")?;
    unit.hook("update-status", &["blocked the schedule cannot be used", "\"25\" is no hour"])?;
    write("schedule: {when: every 12h}\n")?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    ensure!(timer(machine)? == "active", "the timer was not put in");
    machine.run(&["systemctl", "start", "etcd-backup.service"])?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    write("")?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(timer(machine)? != "active", "the timer was not taken away");
    write("schedule: {when: every 12h}\n")?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    ensure!(timer(machine)? == "active", "the timer was not put in again");
    Ok(())
}

fn timer(machine: &Machine) -> Result<String> {
    let said = machine.attempt(&["systemctl", "is-active", "etcd-backup.timer"])?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The next unit on the same machine takes over nothing of the one that is gone, and serves when that is out of its way.
fn again(machine: &Machine, unit: Unit<'_>) -> Result<()> {
    let unit = unit.called("etcd/1")?;
    unit.hook("install", &["blocked the data in /var/lib/etcd/default belongs to unit etcd/0", "move"])?;
    machine.run(&["mv", &format!("{DATA}/member"), "/srv/old-member"])?;
    unit.hook("start", &[HEALTHY, "empty"])
}

/// A wrong option changes nothing; another one restarts etcd, once.
fn options(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let first = pid(machine)?;
    unit.configure(&[("election-timeout", json!(1))])?;
    unit.hook("config-changed", &["blocked option election-timeout is 1", "juju config"])?;
    ensure!(pid(machine)? == first, "etcd was restarted for a wrong option");
    unit.configure(&[("snapshot-count", json!(5000))])?;
    unit.hook("config-changed", &[HEALTHY])?;
    let second = pid(machine)?;
    ensure!(second != first, "etcd was not restarted for another option");
    unit.hook("config-changed", &[HEALTHY])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(pid(machine)? == second, "etcd was restarted again");
    ensure!(unit.told("status")?.lines().count() == 1, "the status flaps: {}", unit.told("status")?);
    let configured = fs::read_to_string(machine.path("/etc/etcd/etcd.conf.yml")?)?;
    ensure!(configured.contains("initial-cluster-state: existing"), "etcd would begin anew: {configured}");
    machine.run(&["systemctl", "stop", "etcd"])?;
    unit.hook("update-status", &["blocked etcd is not running", "systemctl start etcd.service"])?;
    unit.hook("start", &[HEALTHY])
}

/// etcd out of the resource, its data on the storage; files that are no release first.
pub fn release(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    unit.store("/srv/data")?;
    sources(&machine, "http://127.0.0.1:9/debian stable main")?;
    unit.attach("etcd", "etcd.tar.gz", None)?;
    unit.hook("data-storage-attached", &["blocked installing etcd: apt-get"])?;
    let wrong = workspace::home()?.join("LICENSE");
    unit.attach("etcd", "etcd.tar.gz", Some(&wrong))?;
    unit.hook("install", &["blocked the resource etcd is not an etcd release", "juju attach-resource"])?;
    let tarball = tarball(machine.path("/root")?.as_path())?;
    unit.attach("etcd", "etcd.tar.gz", Some(&tarball))?;
    machine.run(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/usr/local/bin"])?;
    unit.hook(
        "update-status",
        &["blocked installing etcd: ", "No space left on device", "the next hook retries"],
    )?;
    ensure!(
        machine.run(&["ls", "-A", "/usr/local/bin"])?.is_empty(),
        "half a program is left on a full disk"
    );
    machine.run(&["umount", "/usr/local/bin"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.told("version")?.starts_with("3.5"), "another version: {}", unit.told("version")?);
    ensure!(machine.path("/srv/data/etcd/member")?.exists(), "the data is not on the storage");
    listens_on_loopback_alone(&machine)?;
    let told = scenario::tell(&machine)?;
    unit.hook("data-storage-detaching", &["maintenance etcd is stopped, its storage is being detached"])?;
    Ok(told)
}

/// With certificates etcd listens to the network, for clients that show one; with some of them nothing changes.
pub fn certificates(stage: &Stage) -> Result<String> {
    let mut machine = empty(stage)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    unit.hook("install", &[HEALTHY])?;
    let first = pid(&machine)?;
    let made = tempfile::tempdir()?;
    make_certificates(made.path())?;
    machine.copy_in(&made.path().join("ca.crt"), "/etc/etcd/tls/ca.crt")?;
    unit.hook("update-status", &["blocked the certificates in /etc/etcd/tls are incomplete", "client.key"])?;
    ensure!(pid(&machine)? == first && unit.told("ports")?.is_empty(), "half a set of certificates was used");
    for name in ["server.crt", "server.key", "client.crt", "client.key"] {
        machine.copy_in(&made.path().join(name), &format!("/etc/etcd/tls/{name}"))?;
    }
    machine.run(&["chown", "-R", "etcd:", "/etc/etcd/tls"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.told("ports")?.trim() == "2379/tcp", "the port was not opened: {}", unit.told("ports")?);
    ensure!(listens_on_loopback_alone(&machine).is_err(), "etcd listens on loopback alone");
    let stranger = machine.attempt(&["etcdctl", "--endpoints=http://127.0.0.1:2379", "get", "x"])?;
    ensure!(!stranger.status.success(), "etcd answers in clear");
    let peer = machine.attempt(&[
        "bash",
        "-c",
        "exec 3<>/dev/tcp/127.0.0.1/2380 && printf 'GET /members HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
    ])?;
    ensure!(!String::from_utf8_lossy(&peer.stdout).contains("peerURLs"), "the peers' port answers in clear");
    let saved = unit.action("snapshot", json!({}))?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    let second = self::pid(&machine)?;
    for name in ["server.key", "client.key"] {
        machine.copy_in(&made.path().join("other.key"), &format!("/etc/etcd/tls/{name}"))?;
        unit.configure(&[("snapshot-count", json!(4000))])?;
        let cause = format!("the key /etc/etcd/tls/{name} does not belong to the certificate");
        unit.hook("config-changed", &["blocked the certificates cannot be used", &cause])?;
        machine.copy_in(&made.path().join(name), &format!("/etc/etcd/tls/{name}"))?;
        ensure!(self::pid(&machine)? == second, "etcd was restarted with a key of another pair");
    }
    unit.hook("config-changed", &[HEALTHY])?;
    let packed = unit.action("package-client-credentials", json!({}))?;
    let path = packed["credentials.path"].as_str().context("no path")?;
    machine.run(&["tar", "xzf", path, "-C", "/tmp"])?;
    for (name, file) in [("CACERT", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
        machine.set(&format!("ETCDCTL_{name}"), &format!("/tmp/{file}"));
    }
    machine.run(&["etcdctl", "--endpoints=https://127.0.0.1:2379", "endpoint", "health"])?;
    let unit = Unit::again(&machine);
    machine.run(&["rm", "-r", "/etc/etcd/tls"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.told("ports")?.is_empty(), "the port was not closed");
    listens_on_loopback_alone(&machine)?;
    Ok("etcd listened to the network only with all of them".to_owned())
}

/// One authority, a server for the loopback that is nothing else, a client; and a key of no pair, as older programs write
/// it. RSA, as most operators have it.
fn make_certificates(dir: &Path) -> Result<()> {
    let openssl = |name: &str, more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(dir).args(["req", "-x509", "-newkey", "rsa:2048"]);
        openssl.args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &format!("{name}.key"),
        ]);
        command::output(openssl.args(["-out", &format!("{name}.crt")]).args(more)).map(drop)
    };
    let signed = ["-CA", "ca.crt", "-CAkey", "ca.key"];
    openssl("ca", &[])?;
    let server = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth"];
    openssl("server", &[&signed[..], &server].concat())?;
    openssl("client", &[&signed[..], &["-addext", "extendedKeyUsage=clientAuth"]].concat())?;
    let mut other = Command::new("openssl");
    other.current_dir(dir).args(["genrsa", "-traditional", "-out", "other.key", "2048"]);
    command::output(&mut other).map(drop)
}

/// A unit that came after another touches nothing. When the other has gone, it begins anew, and says so.
pub fn heir(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?.called("etcd/1")?;
    unit.has_neighbours(&["etcd/0"])?;
    for hook in ["install", "config-changed", "start", "update-status"] {
        unit.hook(hook, &["blocked only one unit is supported", "etcd/0 runs etcd"])?;
    }
    for file in ["/usr/bin/etcd", "/etc/etcd", DATA] {
        ensure!(!machine.path(file)?.exists(), "a second unit made {file}");
    }
    unit.has_neighbours(&[])?;
    unit.hook("cluster-relation-departed", &[HEALTHY, "empty: all earlier units were removed", "restore"])?;
    scenario::fill(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(!unit.told("status")?.contains("empty"), "it has keys: {}", unit.told("status")?);
    Ok("it touched nothing, and then began anew and said so".to_owned())
}

/// No room for etcd's data, and a storage that another unit has left.
pub fn trouble(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    machine.run(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/srv/data"])?;
    unit.store("/srv/data")?;
    unit.hook("install", &["blocked etcd does not start", "no space left on device", "journalctl -u etcd"])?;
    unit.hook("update-status", &["blocked"])?;
    machine.run(&["mount", "-o", "remount,size=400m", "/srv/data"])?;
    unit.hook("update-status", &[HEALTHY])?;

    machine.run(&["systemctl", "stop", "etcd"])?;
    let record = "/srv/data/etcd/.etcd-charm.json";
    let ours = fs::read_to_string(machine.path(record)?)?;
    machine.write(record, &ours.replace("etcd/0", "old/7"))?;
    unit.hook("start", &["blocked the data in /srv/data/etcd belongs to unit old/7", "move"])?;
    ensure!(
        machine.attempt(&["systemctl", "is-active", "etcd"])?.status.code() == Some(3),
        "etcd runs on it"
    );
    machine.write(record, &ours)?;
    machine.run(&["mv", "/srv/data/etcd/member", "/srv/data/moved"])?;
    unit.hook("start", &["blocked the data in /srv/data/etcd is gone", "restore a snapshot"])?;
    // As at a boot, before any hook.
    let _ = machine.attempt(&["systemctl", "start", "etcd"])?;
    machine.run(&["systemctl", "stop", "etcd"])?;
    ensure!(
        !machine.path("/srv/data/etcd/member/wal")?.exists(),
        "etcd began anew where its data was missing"
    );
    machine.run(&["rm", "-rf", "/srv/data/etcd/member"])?;
    machine.run(&["mv", "/srv/data/moved", "/srv/data/etcd/member"])?;
    unit.hook("start", &[HEALTHY])?;
    Ok("each was blocked with what to do, and served when that was done".to_owned())
}

pub(super) fn pid(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "--property=MainPID", "etcd.service"])
}

/// Every address that anything listens at, IPv4 and IPv6 (proc(5), `/proc/net/tcp`, state 0A).
pub(super) fn listens_on_loopback_alone(machine: &Machine) -> Result<()> {
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in machine.run(&["cat", file])?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = fields.as_slice() else { continue };
            let loopback = ["0100007F:", "00000000000000000000000001000000:"];
            ensure!(
                *state != "0A" || loopback.iter().any(|address| local.starts_with(address)),
                "something listens to the network: {line}"
            );
        }
    }
    Ok(())
}

fn sources(machine: &Machine, line: &str) -> Result<()> {
    machine.run(&["rm", "-rf", "/etc/apt/sources.list.d"])?;
    machine.write("/etc/apt/sources.list", &format!("deb [trusted=yes] {line}\n"))
}

/// A machine has no network: the packages are in a directory of its own.
pub(super) fn offer_packages(machine: &Machine) -> Result<()> {
    let mut index = String::new();
    for deb in packages()? {
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&deb)?;
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let control = command::output(Command::new("dpkg-deb").arg("--field").arg(&deb))?;
        index +=
            &format!("{}\nFilename: ./{name}\nSize: {}\nSHA256: {hash}\n\n", control.trim(), bytes.len());
        machine.copy_in(&deb, &format!("/srv/debs/{name}"))?;
    }
    machine.write("/srv/debs/Packages", &index)?;
    sources(machine, "file:/srv/debs ./")
}

/// The packages for the machines' Debian, downloaded once.
fn packages() -> Result<Vec<PathBuf>> {
    let release = root::release()?;
    let shelf = workspace::target_directory()?.join("machines");
    let home = shelf.join(format!("debs-{release}"));
    if !home.is_dir() {
        let stage = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&shelf)?;
        debian::download(stage.path(), &release, &etcd::PACKAGES)?;
        fs::rename(stage.path().join("debs"), &home).context("keeping the packages")?;
    }
    let found: std::io::Result<Vec<_>> = fs::read_dir(&home)?.map(|entry| Ok(entry?.path())).collect();
    found.context("reading the packages")
}

/// A release as etcd's project lays it out, of the programs that the tests run.
fn tarball(at: &Path) -> Result<PathBuf> {
    let bin = etcd::ensure(&workspace::target_directory()?, &etcd::NEW)?;
    let path = at.join("etcd-v3.5-linux.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(&path).arg("--transform=s,^,etcd-v3.5-linux/,").arg("-C").arg(bin);
    command::output(tar.args(["etcd", "etcdctl", "etcdutl"]))?;
    Ok(path)
}
