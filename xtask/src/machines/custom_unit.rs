//! etcd in a systemd unit that an operator wrote: any name, configured by flags.

use anyhow::{Result, ensure};

use super::certificates::{Authority, Use, configure_etcdctl};
use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;

const UNIT: &str = "\
[Service]
ExecStart=/usr/bin/etcd --name=db1 --data-dir=/srv/db/etcd --listen-client-urls=http://127.0.0.1:12379 \
  --advertise-client-urls=http://127.0.0.1:12379 --listen-peer-urls=http://127.0.0.1:12380 \
  --initial-advertise-peer-urls=http://127.0.0.1:12380 --initial-cluster=db1=http://127.0.0.1:12380
";

/// Configured by flags only, running as root.
pub fn flags(test_bed: &TestBed) -> Result<String> {
    round_trip(test_bed, UNIT, "http")
}

/// With a self-signed certificate that etcd creates itself.
pub fn auto_tls(test_bed: &TestBed) -> Result<String> {
    let unit = UNIT
        .replace("http://127.0.0.1:12379", "https://127.0.0.1:12379")
        .replace("--name", "--auto-tls --name");
    round_trip(test_bed, &unit, "https")
}

fn round_trip(test_bed: &TestBed, unit: &str, scheme: &str) -> Result<String> {
    let mut machine = test_bed.boot_with_programs()?;
    machine.set("ETCDCTL_ENDPOINTS", &format!("{scheme}://127.0.0.1:12379"));
    if scheme == "https" {
        machine.set("ETCDCTL_CACERT", "/srv/db/etcd/fixtures/client/cert.pem");
    }
    start(&machine, unit)?;
    scenario::round_trip_with_and_without_auth(&mut machine)
}

/// Starts etcd by this systemd unit instead of that of the package.
fn start(machine: &Machine, unit: &str) -> Result<()> {
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    machine.write("/etc/systemd/system/config-store.service", unit)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    scenario::wait_until_healthy(machine)
}

/// With a certificate that names only the host, as companies' authorities often issue, and a listener on IPv6 only.
pub fn host_name_only(test_bed: &TestBed) -> Result<String> {
    let mut machine = test_bed.boot_with_programs()?;
    machine.ip(&["address", "add", "fd00::4/128", "dev", "lo", "nodad"])?;
    machine.run(&["sh", "-c", "echo 'fd00::4 db1.example' >>/etc/hosts"])?;
    let authority = Authority::create(&machine, "/srv/pki")?;
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
    configure_etcdctl(&mut machine, "/srv/pki", "server", "https://db1.example:12379");
    start(&machine, &unit)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "endpoint"])? == "https://db1.example:12379", "{site}");
    ensure!(scenario::text(&site, &["site", "endpoint-from"])?.contains("does not name [fd00::4]"), "{site}");
    scenario::round_trip(&machine)
}

/// With the write-ahead log in another directory. The restore is refused, and works after the commands in the refusal.
pub fn separate_wal(test_bed: &TestBed) -> Result<String> {
    let mut machine = test_bed.boot_with_programs()?;
    machine.set("ETCDCTL_ENDPOINTS", "http://127.0.0.1:12379");
    start(&machine, &UNIT.replace("--name", "--wal-dir=/srv/log --name"))?;
    scenario::fill(&machine)?;
    let (before, archive) = (scenario::digest(&machine)?, scenario::snapshot(&machine)?);
    scenario::damage(&machine)?;
    let damaged = scenario::digest(&machine)?;
    let copy = "cp -aT /srv/log /srv/db/etcd/member/wal";
    let parts = ["/srv/log", "systemctl stop config-store.service", copy, "remove wal-dir"];
    scenario::refused(&machine, "restore", &[&format!("snapshot={archive}")], &parts)?;

    machine.run(&["systemctl", "stop", "config-store.service"])?;
    machine.run(&copy.split(' ').collect::<Vec<_>>())?;
    start(&machine, UNIT)?;
    ensure!(scenario::digest(&machine)? == damaged, "the data changed when the log was moved");
    scenario::action(&machine, "restore", &[&format!("snapshot={archive}")])?;
    ensure!(scenario::digest(&machine)? == before, "the keys differ from those of the snapshot");
    Ok("refused; restored after the commands in the refusal".to_owned())
}

/// Stopped, with the data directory set by a drop-in. No process has it open; only systemd knows it.
pub fn stopped(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
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
    scenario::damage(&machine)?;
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "data-dir"])? == "/srv/moved", "{site}");
    scenario::action(&machine, "restore", &[&format!("snapshot={archive}")])?;
    machine.run(&["systemctl", "start", "etcd.service"])?;
    ensure!(scenario::digest(&machine)? == before, "the keys differ from those of the snapshot");
    Ok("found through systemd, and restored".to_owned())
}

/// A drop-in was added, but etcd was not restarted: a restore would start it with another data directory.
pub fn changed_since_start(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    let archive = scenario::snapshot(&machine)?;
    machine.write(
        "/etc/systemd/system/etcd.service.d/moved.conf",
        "[Service]\nEnvironment=ETCD_DATA_DIR=/srv/moved\n",
    )?;
    machine.run(&["systemctl", "daemon-reload"])?;
    let both = ["/var/lib/etcd/default", "/srv/moved", "has changed since it started"];
    scenario::refused(&machine, "restore", &[&format!("snapshot={archive}")], &both)?;
    let site = scenario::action(&machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "warning"])?.contains("/srv/moved"), "{site}");
    let saved = scenario::action(&machine, "snapshot", &[])?;
    ensure!(scenario::text(&saved, &["snapshot", "warning"])?.contains("/srv/moved"), "{saved}");
    Ok("restore refused, naming both directories; site and snapshot warned".to_owned())
}

/// Two etcds on one machine: actions refuse until one is chosen with `site=`.
pub fn two(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    machine.write("/etc/systemd/system/config-store.service", UNIT)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "config-store.service"])?;
    let both = ["2 etcds", "etcd.service", "config-store.service", "/srv/db/etcd", "site="];
    scenario::refused(&machine, "snapshot", &[], &both)?;
    let mut archives = Vec::new();
    for (choice, data) in
        [("config-store", "/srv/db/etcd"), ("/var/lib/etcd/default", "/var/lib/etcd/default")]
    {
        let choice = format!("site={choice}");
        let site = scenario::action(&machine, "site", &[&choice])?;
        ensure!(scenario::text(&site, &["site", "data-dir"])? == data, "{site}");
        let saved = scenario::action(&machine, "snapshot", &[&choice])?;
        archives.push(scenario::text(&saved, &["snapshot", "path"])?);
    }
    // The one that does not run may be the one to restore.
    machine.run(&["systemctl", "stop", "config-store.service"])?;
    let parts = [
        "another etcd that does not run: config-store.service",
        "/srv/db/etcd",
        "site=/var/lib/etcd/default",
    ];
    scenario::refused(&machine, "restore", &["snapshot=latest"], &parts)?;
    for choice in ["site=/srv/db/etcd", "site=config-store"] {
        scenario::action(&machine, "restore", &[&format!("snapshot={}", archives[0]), choice])?;
    }
    recover_chosen(&machine, &archives[0])?;
    Ok("refused, naming both; each was used when chosen; a restore is refused if one does not run".to_owned())
}

/// The restore of the etcd that does not run was killed. A recovery of the one that runs is refused, and names the command for
/// the other one.
fn recover_chosen(machine: &Machine, archive: &str) -> Result<()> {
    let restore =
        format!("{}/actions/restore snapshot={archive} site=config-store skip-backup=true", scenario::CHARM);
    let journal = "/srv/db/etcd/.etcd-restore/journal.json";
    let script = format!("{restore} & until test -e {journal}; do :; done; kill -KILL $!; test -e {journal}");
    machine.run(&["sh", "-c", &script])?;
    machine.run(&["systemctl", "stop", "config-store.service"])?;
    let parts = ["the restore of another etcd was interrupted", "restore --recover --site=/srv/db/etcd"];
    scenario::refused(machine, "restore", &["--recover"], &parts)?;
    let recovered = scenario::action(machine, "restore", &["--recover", "--site=/srv/db/etcd"])?;
    let outcome = scenario::text(&recovered, &["restore", "recovered"])?;
    ensure!(outcome.contains("an interrupted restore was"), "{outcome}");
    machine.run(&["test", "!", "-e", journal]).map(drop)
}

/// A unit that requires etcd's.
const API: &str =
    "[Unit]\nRequires=etcd.service\nAfter=etcd.service\n[Service]\nExecStart=/bin/sleep infinity\n";
/// A unit that is bound to that one.
const WEB: &str =
    "[Unit]\nBindsTo=api.service\nAfter=api.service\n[Service]\nExecStart=/bin/sleep infinity\n";
/// With this, etcd starts only on the data whose inode number is in the file `/srv/only`, if that exists.
const ONLY: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
Restart=always
RestartSec=1
ExecStartPre=/bin/sh -c 'test ! -e /srv/only || test $(stat -c %%i /var/lib/etcd/default/member) = $(cat /srv/only)'
";

/// Other units require etcd's: systemd stops them with it, but does not start them with it. They run again after a restore, also
/// if it was rolled back. systemd continues to start an etcd that failed at every start before.
pub fn required(test_bed: &TestBed) -> Result<String> {
    let machine = test_bed.boot_with_programs()?;
    for (name, text) in [("api.service", API), ("web.service", WEB), ("etcd.service.d/only.conf", ONLY)] {
        machine.write(&format!("/etc/systemd/system/{name}"), text)?;
    }
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "web.service"])?;
    scenario::fill(&machine)?;
    let (before, archive) = (scenario::digest(&machine)?, scenario::snapshot(&machine)?);
    let arguments = [&*format!("snapshot={archive}"), "skip-backup=true"];
    let all_run = || -> Result<()> {
        for unit in ["etcd.service", "api.service", "web.service"] {
            machine.run(&["systemctl", "is-active", unit])?;
        }
        Ok(())
    };

    scenario::damage(&machine)?;
    let damaged = scenario::digest(&machine)?;
    machine.run(&["sh", "-c", "stat -c %i /var/lib/etcd/default/member >/srv/only"])?;
    scenario::failed(&machine, "restore", &arguments, &["the existing data is live and complete"])?;
    ensure!(scenario::digest(&machine)? == damaged, "the old data is not live after the rollback");
    all_run()?;

    machine.run(&["sh", "-c", "echo 0 >/srv/only; systemctl kill etcd.service"])?;
    machine.run(&[
        "sh",
        "-c",
        "until systemctl show -p SubState etcd.service | grep -q auto-restart; do sleep 0.1; done",
    ])?;
    scenario::failed(&machine, "restore", &arguments, &["the existing data is live and complete"])?;
    machine.run(&["rm", "/srv/only"])?;
    scenario::wait_until_healthy(&machine)?;
    ensure!(scenario::digest(&machine)? == damaged, "the old data is not live after the second rollback");

    machine.run(&["systemctl", "start", "web.service"])?;
    roll_back_failed_etcd(&machine, &arguments)?;
    all_run()?;
    scenario::action(&machine, "restore", &arguments)?;
    ensure!(scenario::digest(&machine)? == before, "the keys differ from those of the snapshot");
    all_run()?;

    // One that can no longer be started does not keep the restore unfinished.
    machine.write("/etc/systemd/system/api.service.d/refuse.conf", "[Unit]\nRefuseManualStart=yes\n")?;
    machine.run(&["systemctl", "daemon-reload"])?;
    let parts = ["api.service", "etcd is serving the restored", "systemctl start api.service web.service"];
    scenario::failed(&machine, "restore", &arguments, &parts)?;
    scenario::check_nothing_is_left(&machine)?;
    Ok("they run again after a restore and after a rollback; systemd starts a failing etcd as before"
        .to_owned())
}

/// etcd has failed, and systemd does not start it again. The units that require it run on until a restore stops it.
fn roll_back_failed_etcd(machine: &Machine, restore: &[&str]) -> Result<()> {
    // Read after `only.conf`.
    let once = "/etc/systemd/system/etcd.service.d/without-restart.conf";
    machine.write(once, "[Service]\nRestart=no\n")?;
    machine.run(&["systemctl", "daemon-reload"])?;
    let script = "echo 0 >/srv/only; systemctl kill --signal=KILL etcd.service; \
                  until systemctl is-failed etcd.service; do sleep 0.1; done";
    machine.run(&["sh", "-c", script])?;
    let both_run = || machine.run(&["systemctl", "is-active", "api.service", "web.service"]);
    both_run()?;
    scenario::failed(machine, "restore", restore, &["the existing data is live and complete"])?;
    both_run()?;
    ensure!(machine.run(&["systemctl", "is-active", "etcd.service"]).is_err(), "etcd was started");
    machine.run(&["rm", "/srv/only", once])?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "start", "etcd.service"])?;
    scenario::wait_until_healthy(machine)
}
