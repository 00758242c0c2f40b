//! The packed charm on a machine without etcd, through the life of a unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::machine::Machine;
use super::test_bed::TestBed;
use super::unit::Unit;
use super::{root, scenario};
use crate::{command, debian, etcd, workspace};

pub(super) const HEALTHY: &str = "active 1 member, healthy";
pub(super) const DATA: &str = "/var/lib/etcd/default";

/// Boots a machine, and removes etcd with all its files.
pub(super) fn empty(test_bed: &TestBed) -> Result<Machine> {
    let machine = Machine::boot(&test_bed.root)?;
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    machine.run(&["dpkg", "--purge", "etcd-server", "etcd-client"])?;
    machine.run(&["rm", "-rf", "/var/lib/etcd", "/etc/default/etcd", "/etc/etcd"])?;
    Ok(machine)
}

/// The life of a unit: installation with a late network, options, snapshot and restore, a boot, an upgrade, removal.
pub fn life(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    sources(&machine, "http://127.0.0.1:9/debian stable main")?;
    let unit = Unit::deploy(&machine)?;
    unit.hook("install", &["blocked ", "installing etcd failed", "apt-get", "127.0.0.1"])?;
    unit.hook("start", &["blocked ", "installing etcd failed", "apt-get"])?;
    offer_packages(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(!unit.trace("version")?.is_empty(), "the workload version was not set");
    check_listens_on_loopback_only(&machine)?;
    options(&machine, &unit)?;

    scenario::fill(&machine)?;
    let before = scenario::digest(&machine)?;
    let saved = unit.action("snapshot", json!({}))?;
    let path = saved["snapshot.path"].as_str().context("no path")?.to_owned();
    ensure!(saved["copy.cmd"] == json!(format!("juju scp etcd/0:{path} .\n")), "{saved:?}");
    scenario::damage(&machine)?;
    unit.attach("snapshot", "snapshot.tar.gz", Some(&machine.path(&path)?))?;
    let restored = unit.action("restore", json!({}))?;
    ensure!(scenario::digest(&machine)? == before, "the keys differ from those of the snapshot");
    unit.hook("update-status", &[HEALTHY])?;

    machine.reboot()?;
    let unit = Unit::existing(&machine);
    unit.hook("start", &[HEALTHY])?;
    ensure!(scenario::digest(&machine)? == before, "the keys changed after a reboot");
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

    scheduled_backups(&machine, &unit)?;
    unit.hook("stop", &["maintenance etcd is stopped", DATA])?;
    ensure!(timer(&machine)? != "active", "the timer is still active after the unit was stopped");
    unit.hook("remove", &["maintenance etcd is stopped"])?;
    ensure!(
        machine.attempt(&["systemctl", "is-active", "etcd"])?.status.code() == Some(3),
        "etcd is running"
    );
    ensure!(machine.path(&format!("{DATA}/member/snap/db"))?.exists(), "the data was removed with the unit");
    next_unit(&machine, unit)?;
    let downtime = restored["restore.downtime"].as_str().unwrap_or_default().to_owned();
    Ok(format!("installed, restored with etcd down for {downtime}, rebooted, upgraded, removed"))
}

/// Hooks install and remove the timer according to the settings, and the status reports the last backup. Leaves the timer
/// installed.
fn scheduled_backups(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let write = |text: &str| machine.write("/etc/etcd-backup/config.yaml", text);
    write("schedule: {when: 0 25 * * *}\n")?;
    unit.hook("update-status", &["blocked ", "the schedule cannot be used", "\"25\" is not a valid hour"])?;
    write("schedule: {when: every 12h}\n")?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    ensure!(timer(machine)? == "active", "the timer was not installed");
    machine.run(&["systemctl", "start", "etcd-backup.service"])?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    write("")?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(timer(machine)? != "active", "the timer was not removed");
    write("schedule: {when: every 12h}\n")?;
    unit.hook("update-status", &[HEALTHY, "the last good backup is"])?;
    ensure!(timer(machine)? == "active", "the timer was not installed again");
    Ok(())
}

fn timer(machine: &Machine) -> Result<String> {
    let output = machine.attempt(&["systemctl", "is-active", "etcd-backup.timer"])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The next unit on the same machine does not take over the data of the removed one, and serves once it is moved away.
fn next_unit(machine: &Machine, unit: Unit<'_>) -> Result<()> {
    let unit = unit.renamed("etcd/1")?;
    unit.hook("install", &["blocked ", "the data in /var/lib/etcd/default belongs to unit etcd/0", "move"])?;
    machine.run(&["mv", &format!("{DATA}/member"), "/srv/old-member"])?;
    unit.hook("start", &[HEALTHY, "empty"])
}

/// An invalid option changes nothing. A valid one restarts etcd once.
fn options(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let first = pid(machine)?;
    unit.configure(&[("election-timeout", json!(1))])?;
    unit.hook("config-changed", &["blocked ", "option election-timeout is 1", "juju config"])?;
    ensure!(pid(machine)? == first, "etcd was restarted for an invalid option");
    unit.configure(&[("snapshot-count", json!(5000))])?;
    unit.hook("config-changed", &[HEALTHY])?;
    let second = pid(machine)?;
    ensure!(second != first, "etcd was not restarted for a changed option");
    unit.hook("config-changed", &[HEALTHY])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(pid(machine)? == second, "etcd was restarted without a change");
    ensure!(
        unit.trace("status")?.lines().count() == 1,
        "the status was set more than once: {}",
        unit.trace("status")?
    );
    let configured = fs::read_to_string(machine.path("/etc/etcd/etcd.conf.yml")?)?;
    ensure!(
        configured.contains("initial-cluster-state: existing"),
        "etcd would start a new cluster: {configured}"
    );
    machine.run(&["systemctl", "stop", "etcd"])?;
    unit.hook("update-status", &["blocked ", "etcd is not running", "systemctl start etcd.service"])?;
    unit.hook("start", &[HEALTHY])
}

/// Installs etcd from the resource, with its data on a storage. First attaches files that are not a release.
pub fn release(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    unit.attach_storage("/srv/data")?;
    sources(&machine, "http://127.0.0.1:9/debian stable main")?;
    unit.attach("etcd", "etcd.tar.gz", None)?;
    unit.hook("data-storage-attached", &["blocked ", "installing etcd failed", "apt-get"])?;
    let wrong = workspace::root()?.join("LICENSE");
    unit.attach("etcd", "etcd.tar.gz", Some(&wrong))?;
    unit.hook("install", &["blocked ", "the resource etcd is not an etcd release", "juju attach-resource"])?;
    let tarball = tarball(machine.path("/root")?.as_path())?;
    unit.attach("etcd", "etcd.tar.gz", Some(&tarball))?;
    machine.run(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/usr/local/bin"])?;
    unit.hook(
        "update-status",
        &["blocked ", "installing etcd failed", "No space left on device", "the next hook retries"],
    )?;
    ensure!(
        machine.run(&["ls", "-A", "/usr/local/bin"])?.is_empty(),
        "a partial program is left on a full disk"
    );
    machine.run(&["umount", "/usr/local/bin"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.trace("version")?.starts_with("3.5"), "wrong version: {}", unit.trace("version")?);
    ensure!(machine.path("/srv/data/etcd/member")?.exists(), "the data is not on the storage");
    check_listens_on_loopback_only(&machine)?;
    let summary = scenario::round_trip(&machine)?;
    unit.hook("data-storage-detaching", &["maintenance etcd is stopped, its storage is being detached"])?;
    Ok(summary)
}

/// With certificates, etcd listens on the network for clients with a certificate. With some of them, it does not.
pub fn certificates(test_bed: &TestBed) -> Result<String> {
    let mut machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    unit.hook("install", &[HEALTHY])?;
    let first = pid(&machine)?;
    let made = tempfile::tempdir()?;
    make_certificates(made.path())?;
    machine.copy_in(&made.path().join("ca.crt"), "/etc/etcd/tls/ca.crt")?;
    unit.hook(
        "update-status",
        &["blocked ", "the certificates in /etc/etcd/tls are incomplete", "client.key"],
    )?;
    ensure!(pid(&machine)? == first && unit.trace("ports")?.is_empty(), "incomplete certificates were used");
    for name in ["server.crt", "server.key", "client.crt", "client.key"] {
        machine.copy_in(&made.path().join(name), &format!("/etc/etcd/tls/{name}"))?;
    }
    machine.run(&["chown", "-R", "etcd:", "/etc/etcd/tls"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.trace("ports")?.trim() == "2379/tcp", "the port was not opened: {}", unit.trace("ports")?);
    ensure!(check_listens_on_loopback_only(&machine).is_err(), "etcd listens on loopback only");
    let plain = machine.attempt(&["etcdctl", "--endpoints=http://127.0.0.1:2379", "get", "x"])?;
    ensure!(!plain.status.success(), "etcd answers without TLS");
    let peer = machine.attempt(&[
        "bash",
        "-c",
        "exec 3<>/dev/tcp/127.0.0.1/2380 && printf 'GET /members HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3",
    ])?;
    ensure!(!String::from_utf8_lossy(&peer.stdout).contains("peerURLs"), "the peer port answers without TLS");
    let saved = unit.action("snapshot", json!({}))?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    let second = self::pid(&machine)?;
    for name in ["server.key", "client.key"] {
        machine.copy_in(&made.path().join("other.key"), &format!("/etc/etcd/tls/{name}"))?;
        unit.configure(&[("snapshot-count", json!(4000))])?;
        let cause = format!("the key /etc/etcd/tls/{name} does not belong to the certificate");
        unit.hook("config-changed", &["blocked ", "the certificates cannot be used", &cause])?;
        machine.copy_in(&made.path().join(name), &format!("/etc/etcd/tls/{name}"))?;
        ensure!(self::pid(&machine)? == second, "etcd was restarted with a key of another certificate");
    }
    unit.hook("config-changed", &[HEALTHY])?;
    let packed = unit.action("package-client-credentials", json!({}))?;
    let path = packed["credentials.path"].as_str().context("no path")?;
    machine.run(&["tar", "xzf", path, "-C", "/tmp"])?;
    for (name, file) in [("CACERT", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
        machine.set(&format!("ETCDCTL_{name}"), &format!("/tmp/{file}"));
    }
    machine.run(&["etcdctl", "--endpoints=https://127.0.0.1:2379", "endpoint", "health"])?;
    let unit = Unit::existing(&machine);
    machine.run(&["rm", "-r", "/etc/etcd/tls"])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.trace("ports")?.is_empty(), "the port was not closed");
    check_listens_on_loopback_only(&machine)?;
    Ok("etcd listened on the network only with all certificates".to_owned())
}

/// Creates an authority, a certificate for servers on loopback and one for clients; and a key without certificate, in the
/// older format. All are RSA, as most operators have.
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

/// A second unit starts no etcd. After the first is removed, it starts an empty etcd, and its status says so.
pub fn later_unit(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?.renamed("etcd/1")?;
    unit.set_other_units(&["etcd/0"])?;
    for hook in ["install", "config-changed", "start", "update-status"] {
        unit.hook(hook, &["waiting "])?;
    }
    for file in ["/etc/etcd/etcd.conf.yml", DATA] {
        ensure!(!machine.path(file)?.exists(), "the second unit created {file}");
    }
    unit.set_other_units(&[])?;
    unit.hook("cluster-relation-departed", &[HEALTHY, "empty: all earlier units were removed", "restore"])?;
    scenario::fill(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(
        !unit.trace("status")?.contains("empty"),
        "the status says empty, but there are keys: {}",
        unit.trace("status")?
    );
    Ok("it started no etcd; as the only unit it started an empty one and reported it".to_owned())
}

/// A full disk, and a storage with the data of another unit.
pub fn blocked(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    machine.run(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/srv/data"])?;
    unit.attach_storage("/srv/data")?;
    unit.hook(
        "install",
        &["blocked ", "etcd does not start", "no space left on device", "journalctl -u etcd"],
    )?;
    unit.hook("update-status", &["blocked"])?;
    machine.run(&["mount", "-o", "remount,size=400m", "/srv/data"])?;
    unit.hook("update-status", &[HEALTHY])?;

    machine.run(&["systemctl", "stop", "etcd"])?;
    let record = "/srv/data/etcd/.etcd-charm.json";
    let ours = fs::read_to_string(machine.path(record)?)?;
    machine.write(record, &ours.replace("etcd/0", "old/7"))?;
    unit.hook("start", &["blocked ", "the data in /srv/data/etcd belongs to unit old/7", "move"])?;
    ensure!(
        machine.attempt(&["systemctl", "is-active", "etcd"])?.status.code() == Some(3),
        "etcd is running with the data of another unit"
    );
    machine.write(record, &ours)?;
    machine.run(&["mv", "/srv/data/etcd/member", "/srv/data/moved"])?;
    unit.hook("start", &["blocked ", "the data in /srv/data/etcd is gone", "restore a snapshot"])?;
    // This happens at a boot, before any hook.
    let _ = machine.attempt(&["systemctl", "start", "etcd"])?;
    machine.run(&["systemctl", "stop", "etcd"])?;
    ensure!(
        !machine.path("/srv/data/etcd/member/wal")?.exists(),
        "etcd started a new cluster although its data was missing"
    );
    machine.run(&["rm", "-rf", "/srv/data/etcd/member"])?;
    machine.run(&["mv", "/srv/data/moved", "/srv/data/etcd/member"])?;
    unit.hook("start", &[HEALTHY])?;
    Ok("blocked with the next step each time, and served after it".to_owned())
}

pub(super) fn pid(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "--property=MainPID", "etcd.service"])
}

/// Checks that nothing listens on the network, on IPv4 or IPv6 (proc(5), `/proc/net/tcp`, state 0A).
pub(super) fn check_listens_on_loopback_only(machine: &Machine) -> Result<()> {
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in machine.run(&["cat", file])?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = fields.as_slice() else { continue };
            let loopback = ["0100007F:", "00000000000000000000000001000000:"];
            ensure!(
                *state != "0A" || loopback.iter().any(|address| local.starts_with(address)),
                "something listens on the network: {line}"
            );
        }
    }
    Ok(())
}

fn sources(machine: &Machine, line: &str) -> Result<()> {
    machine.run(&["rm", "-rf", "/etc/apt/sources.list.d"])?;
    machine.write("/etc/apt/sources.list", &format!("deb [trusted=yes] {line}\n"))
}

/// Copies the packages to the machine and makes apt use them: a machine has no network.
pub(super) fn offer_packages(machine: &Machine) -> Result<()> {
    let mut index = String::new();
    for deb in downloaded("debs", &etcd::PACKAGES)? {
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

/// Returns packages for the machines' Debian, which are kept in a directory `NAME-RELEASE`. They are downloaded once.
pub(super) fn downloaded(name: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let release = root::release()?;
    let dir = workspace::target_directory()?.join("machines");
    let home = dir.join(format!("{name}-{release}"));
    if !home.is_dir() {
        let work_dir = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&dir)?;
        debian::download(work_dir.path(), &release, packages)?;
        let renamed = fs::rename(work_dir.path().join("debs"), &home);
        // Another scenario may have downloaded them at the same time.
        renamed.or_else(|error| if home.is_dir() { Ok(()) } else { Err(error) })?;
    }
    let found: std::io::Result<Vec<_>> = fs::read_dir(&home)?.map(|entry| Ok(entry?.path())).collect();
    found.context("reading the packages")
}

/// Creates a release archive like those of the etcd project, from the programs that the tests run.
fn tarball(at: &Path) -> Result<PathBuf> {
    let bin = etcd::ensure(&workspace::target_directory()?, &etcd::NEW)?;
    let path = at.join("etcd-v3.5-linux.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(&path).arg("--transform=s,^,etcd-v3.5-linux/,").arg("-C").arg(bin);
    command::output(tar.args(["etcd", "etcdctl", "etcdutl"]))?;
    Ok(path)
}
