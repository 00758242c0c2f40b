//! etcd in a static pod, as kubeadm sets it up, with an API server that must not run while etcd is being restored.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::certificates::{Authority, Use};
use super::machine::Machine;
use super::test_bed::TestBed;
use super::{certificates, scenario};
use crate::etcd;

const PKI: &str = "/etc/kubernetes/pki/etcd";
const KUBELET: &str = include_str!("kubelet.sh");
const KUBELET_UNIT: &str = "\
[Service]
ExecStart=/usr/local/sbin/kubelet
KillMode=mixed
[Install]
WantedBy=multi-user.target
";
/// The manifest as kubeadm writes it, without image and probes. The data is on another disk, as on many machines.
const ETCD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://127.0.0.1:2379
    - --cert-file=/etc/kubernetes/pki/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --initial-advertise-peer-urls=http://127.0.0.1:2380
    - --initial-cluster=cp1=http://127.0.0.1:2380
    - --key-file=/etc/kubernetes/pki/etcd/server.key
    - --listen-client-urls=https://127.0.0.1:2379
    - --listen-peer-urls=http://127.0.0.1:2380
    - --name=cp1
    - --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
    image: etcd
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
      type: DirectoryOrCreate
    name: etcd-certs
  - hostPath:
      path: /mnt/disk/etcd
      type: DirectoryOrCreate
    name: etcd-data
";
const API_SERVER: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    image: kube-apiserver
";

/// A round trip on the newer etcd, with TLS. At first the machine has no etcdctl outside the pod.
pub fn kubeadm(test_bed: &TestBed) -> Result<String> {
    let mut machine = control_plane(test_bed, ETCD)?;
    let pid = etcd_pid(&machine)?;
    let advice = format!("install -t /usr/local/bin /proc/{pid}/root/usr/local/bin/etcd");
    scenario::refused(&machine, "snapshot", &[], &["etcdctl", &advice])?;
    // The command in the refusal.
    machine.run(&["sh", "-c", &format!("{advice}*")])?;
    scenario::wait_until_healthy(&machine)?;

    let summary = scenario::round_trip(&machine)?;
    // kubelet notices the API server's manifest shortly after the restore has ended.
    let script = "until tail -n 1 /var/log/kubelet.log | grep -q apiserver; do sleep 0.1; done; cat /var/log/kubelet.log";
    let log = machine.run(&["timeout", "10", "sh", "-c", script])?;
    let events: Vec<&str> = log.lines().skip(2).collect();
    let (stops, starts) = events.split_at_checked(2).context("too few events")?;
    ensure!(
        stops.iter().all(|event| event.starts_with("stopped"))
            && starts == ["started etcd", "started kube-apiserver"],
        "the pods were stopped and started in the wrong order: {events:?}"
    );
    let manifests = machine.run(&["ls", "/etc/kubernetes", "/etc/kubernetes/manifests"])?;
    ensure!(
        !manifests.contains("parked") && manifests.contains("kube-apiserver.yaml"),
        "manifests:\n{manifests}"
    );

    scenario::enable_auth(&mut machine)?;
    let archive = scenario::snapshot(&machine)?;
    let before = scenario::digest(&machine)?;
    scenario::damage(&machine)?;
    let arguments = [format!("snapshot={archive}"), "bump-revision=off".to_owned()];
    let restored = scenario::action(&machine, "restore", &arguments.each_ref().map(String::as_str))?;
    ensure!(
        scenario::digest(&machine)? == before,
        "with authentication, the keys differ from those of the snapshot"
    );
    let warning = scenario::text(&restored, &["restore", "warning"])?;
    let restarts = [
        "kube-apiserver is restarted with etcd",
        "stop its clients before it starts (kube-controller-manager, kube-scheduler,",
    ];
    ensure!(restarts.iter().all(|part| warning.contains(part)), "{warning}");
    with_an_expired_certificate(&machine)?;
    Ok(format!(
        "{summary}, and with authentication; reported what to restart; connected despite an expired certificate"
    ))
}

/// Round trips without TLS, without and with authentication, as on machines whose etcd listens only on loopback.
pub fn plain(test_bed: &TestBed) -> Result<String> {
    let manifest: String = ETCD
        .lines()
        .filter(|line| !line.contains("-file=") && !line.contains("--client-cert-auth"))
        .map(|line| line.replace("https://", "http://") + "\n")
        .collect();
    let mut machine = control_plane(test_bed, &manifest)?;
    etcd_pid(&machine)?;
    machine.run(&["sh", "-c", "install -t /usr/local/bin /opt/image/*"])?;
    scenario::wait_until_healthy(&machine)?;
    let summary = scenario::round_trip_with_and_without_auth(&mut machine)?;
    with_a_rewritten_api_server_manifest(&machine)?;
    Ok(summary)
}

/// An operator, or kubeadm, writes the API server's manifest while the old one is moved away, so it is unknown which of the
/// two is meant. etcd is serving the restored data then, but the restore fails until the API server can be started.
fn with_a_rewritten_api_server_manifest(machine: &Machine) -> Result<()> {
    let archive = scenario::snapshot(machine)?;
    let before = scenario::digest(machine)?;
    scenario::damage(machine)?;
    let [parked, live] = ["-parked-by-restore", ""]
        .map(|which| format!("/etc/kubernetes/manifests{which}/kube-apiserver.yaml"));
    let script = format!("until test -e {parked}; do :; done; cp {parked} {live}");
    let mut operator = machine.start(&["sh", "-c", &script])?;
    let parts = ["remove one", "etcd is serving the restored, verified data", "restore --recover"];
    scenario::failed(machine, "restore", &[&format!("snapshot={archive}")], &parts)?;
    operator.wait()?;
    ensure!(scenario::digest(machine)? == before, "the keys differ from those of the snapshot");
    machine.run(&["rm", &parked])?;
    let recovered = scenario::action(machine, "restore", &["--recover"])?;
    let outcome = scenario::text(&recovered, &["restore", "recovered"])?;
    ensure!(outcome.contains("was completed"), "{outcome}");
    ensure!(scenario::digest(machine)? == before, "the recovery changed the keys");
    scenario::check_nothing_is_left(machine)
}

/// The certificate for health checks has expired, and the server's is for servers only. The API server's still works.
fn with_an_expired_certificate(machine: &Machine) -> Result<()> {
    for ending in ["crt", "key"] {
        let (expired, first) =
            (format!("{PKI}/expired.{ending}"), format!("{PKI}/healthcheck-client.{ending}"));
        machine.run(&["mv", &expired, &first])?;
    }
    let site = scenario::action(machine, "site", &[])?;
    ensure!(scenario::text(&site, &["site", "answers"])? == "true", "{site}");
    scenario::snapshot(machine).map(drop)
}

/// The power fails while the manifests are moved away: kubelet alone would start neither etcd nor the API server. The next boot
/// rolls the restore back without an operator.
pub fn power_lost(test_bed: &TestBed) -> Result<String> {
    let machine = control_plane(test_bed, ETCD)?;
    etcd_pid(&machine)?;
    machine.run(&["sh", "-c", "install -t /usr/local/bin /opt/image/*"])?;
    scenario::wait_until_healthy(&machine)?;
    scenario::fill(&machine)?;
    let (archive, before) = (scenario::snapshot(&machine)?, scenario::digest(&machine)?);
    let action = format!("{}/actions/restore", scenario::CHARM);
    let mut restore = machine.start(&[&action, &format!("snapshot={archive}"), "skip-backup=true"])?;
    let parked = "/etc/kubernetes/manifests-parked-by-restore/etcd.yaml";
    while !machine.path(parked)?.exists() {
        ensure!(restore.try_wait()?.is_none(), "the restore ended before it moved the manifest away");
        sleep(Duration::from_millis(1));
    }
    machine.reboot()?;
    restore.wait()?;
    let recovered = scenario::recovered_at_boot(&machine)?;
    scenario::wait_until_healthy(&machine)?;
    ensure!(scenario::digest(&machine)? == before, "the keys are not those of the old data");
    let manifests = machine.run(&["ls", "/etc/kubernetes", "/etc/kubernetes/manifests"])?;
    ensure!(
        !manifests.contains("parked") && manifests.contains("kube-apiserver.yaml"),
        "manifests:\n{manifests}"
    );
    scenario::check_nothing_is_left(&machine)?;
    ensure!(recovered.contains("was rolled back"), "{recovered}");
    Ok("the boot rolled the restore back, and started etcd and the API server".to_owned())
}

/// Boots a machine as kubeadm sets it up, with a fake kubelet.
fn control_plane(test_bed: &TestBed, manifest: &str) -> Result<Machine> {
    let mut machine = test_bed.boot_with_programs()?;
    machine.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    machine.run(&["rm", "/usr/bin/etcd", "/usr/bin/etcdctl"])?;
    machine.run(&["mkdir", "-p", "-m", "700", "/mnt/disk/etcd"])?;
    let programs = etcd::ensure(&test_bed.target, &etcd::NEW)?;
    for program in ["etcd", "etcdctl", "etcdutl"] {
        machine.copy_in(&programs.join(program), &format!("/opt/image/{program}"))?;
    }
    make_certificates(&machine)?;
    machine.write("/etc/kubernetes/manifests/etcd.yaml", manifest)?;
    machine.write("/etc/kubernetes/manifests/kube-apiserver.yaml", API_SERVER)?;
    machine.write("/usr/local/sbin/kubelet", KUBELET)?;
    machine.run(&["chmod", "755", "/usr/local/sbin/kubelet"])?;
    machine.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT)?;
    machine.run(&["systemctl", "enable", "--now", "kubelet.service"])?;
    if manifest == ETCD {
        certificates::configure_etcdctl(&mut machine, PKI, "healthcheck-client", "https://127.0.0.1:2379");
    }
    Ok(machine)
}

fn make_certificates(machine: &Machine) -> Result<()> {
    let authority = Authority::create(machine, PKI)?;
    authority.sign(machine, "server", &certificates::LOOPBACK, &[Use::ServerAuth], 365)?;
    for (name, days) in [("healthcheck-client", 365), ("apiserver-etcd-client", 365), ("expired", 0)] {
        authority.sign(machine, name, &[], &[Use::ClientAuth], days)?;
    }
    for ending in ["crt", "key"] {
        let name = format!("{PKI}/apiserver-etcd-client.{ending}");
        machine.run(&["mv", &name, "/etc/kubernetes/pki/"])?;
    }
    Ok(())
}

fn etcd_pid(machine: &Machine) -> Result<String> {
    let unshare = "/run/kubelet/etcd";
    let script = format!(
        "until [ -s {unshare} ]; do sleep 0.1; done; sleep 1; p=$(cat {unshare}); cat /proc/$p/task/$p/children"
    );
    Ok(machine.run(&["timeout", "20", "sh", "-c", &script])?.trim().to_owned())
}
