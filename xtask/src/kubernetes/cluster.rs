//! A Kubernetes control plane on a machine: etcd with TLS, kube-apiserver with RBAC and encryption at rest,
//! kube-controller-manager, and the observer, each a systemd service.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::observation::Observation;
use crate::machines::certificates::{Authority, LOOPBACK, Use, configure_etcdctl};
use crate::machines::machine::Machine;
use crate::machines::scenario;

const PKI: &str = "/etc/kubernetes/pki";
const ETCD_PKI: &str = "/etc/etcd/pki";
const ETCD_CONFIG: &str = "\
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:2379
ETCD_CERT_FILE=/etc/etcd/pki/server.crt
ETCD_KEY_FILE=/etc/etcd/pki/server.key
ETCD_TRUSTED_CA_FILE=/etc/etcd/pki/ca.crt
ETCD_CLIENT_CERT_AUTH=true
";
/// The address that the API server advertises. It may not be a loopback address.
const ADDRESS: &str = "10.9.9.1";
/// The users, with their tokens and groups. Everybody but the first is subject to RBAC.
const TOKENS: &str = "\
admin-token,admin,admin,system:masters
manager-token,system:kube-controller-manager,manager
observer-token,observer,observer
";
const ENCRYPTION: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
  - identity: {}
";
const API_SERVER: &str = "\
[Unit]
After=etcd.service
[Service]
Type=notify
ExecStart=/usr/local/bin/kube-apiserver --etcd-servers=https://127.0.0.1:2379 \
--etcd-cafile=/etc/etcd/pki/ca.crt --etcd-certfile=/etc/etcd/pki/client.crt --etcd-keyfile=/etc/etcd/pki/client.key \
--tls-cert-file=/etc/kubernetes/pki/server.crt --tls-private-key-file=/etc/kubernetes/pki/server.key \
--service-account-issuer=https://kubernetes.default.svc --service-account-key-file=/etc/kubernetes/pki/sa.crt \
--service-account-signing-key-file=/etc/kubernetes/pki/sa.key --service-cluster-ip-range=10.0.0.0/24 \
--authorization-mode=RBAC --token-auth-file=/etc/kubernetes/tokens.csv \
--encryption-provider-config=/etc/kubernetes/encryption.yaml --advertise-address=10.9.9.1 --secure-port=6443
Restart=always
RestartSec=1
";
const CONTROLLER_MANAGER: &str = "\
[Service]
ExecStart=/usr/local/bin/kube-controller-manager --kubeconfig=/etc/kubernetes/manager.conf \
--service-account-private-key-file=/etc/kubernetes/pki/sa.key --root-ca-file=/etc/kubernetes/pki/ca.crt \
--use-service-account-credentials=true --leader-elect=true
Restart=always
RestartSec=1
";
const OBSERVER: &str = "\
[Service]
ExecStart=/usr/local/bin/observer --kubeconfig=/etc/kubernetes/observer.conf \
--cacert=/etc/etcd/pki/ca.crt --cert=/etc/etcd/pki/client.crt --key=/etc/etcd/pki/client.key
StandardOutput=append:/var/log/observer
StandardError=journal
Restart=always
RestartSec=1
";
const LOG: &str = "/var/log/observer";
/// Time limit for the control plane to start.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// A running control plane. Dropping it ends the machine.
pub struct Cluster {
    machine: Machine,
}

impl Cluster {
    /// Boots a machine from the tree `root`, and starts everything on it. `product` is etcd-backup, and the others are
    /// the directories of the programs.
    pub fn start(root: &Path, product: &Path, etcd: &Path, kubernetes: &Path) -> Result<Self> {
        let mut machine = Machine::boot(root).context("booting a machine")?;
        machine.copy_in(product, "/usr/bin/etcd-backup")?;
        configure_etcdctl(&mut machine, ETCD_PKI, "client", "https://127.0.0.1:2379");
        start_etcd(&machine, etcd)?;
        for program in ["kube-apiserver", "kube-controller-manager", "kubectl", "observer"] {
            machine.copy_in(&kubernetes.join(program), &format!("/usr/local/bin/{program}"))?;
        }
        machine.ip(&["address", "add", &format!("{ADDRESS}/24"), "dev", "lo"])?;
        write_files(&machine)?;
        let cluster = Self { machine };
        cluster.machine.run(&["systemctl", "daemon-reload"])?;
        cluster.service("start", &["kube-apiserver"])?;
        cluster.wait_until("kube-apiserver is ready", || {
            cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })?;
        cluster.service("start", &["kube-controller-manager"])?;
        Ok(cluster)
    }

    /// Starts the observer, which needs rights and a namespace for its writes.
    pub fn start_observer(&self) -> Result<()> {
        let binding =
            ["create", "clusterrolebinding", "observer", "--clusterrole=cluster-admin", "--user=observer"];
        self.kubectl(&binding)?;
        self.kubectl(&["create", "namespace", "writes"])?;
        self.service("start", &["observer"])
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.machine.run(&[&["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"], arguments].concat())
    }

    /// Creates the objects of a list.
    pub fn create(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.machine.write("/root/objects.json", &list.to_string())?;
        self.kubectl(&["create", "--filename=/root/objects.json"]).map(drop)
    }

    /// Runs etcdctl.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        self.machine.run(&[&["etcdctl"], arguments].concat())
    }

    /// Runs etcd-backup, and returns its results.
    pub fn etcd_backup(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.machine.run(&[&["etcd-backup"], arguments, &["--json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("etcd-backup printed no JSON: {printed}"))
    }

    /// Runs a command of systemctl on services.
    pub fn service(&self, command: &str, names: &[&str]) -> Result<()> {
        let done = self.machine.run(&[&["systemctl", command], names].concat());
        done.map(drop).with_context(|| format!("the journal ends in:\n{}", self.journal()))
    }

    /// Waits until a condition holds, which `name` describes.
    pub fn wait_until(&self, name: &str, condition: impl Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        while !condition() {
            crate::interrupt::check()?;
            if began.elapsed() > START_TIMEOUT {
                bail!(
                    "after {} s it is not true that {name}; the journal ends in:\n{}",
                    START_TIMEOUT.as_secs(),
                    self.journal()
                );
            }
            sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Returns the last lines of the journal, for an error.
    fn journal(&self) -> String {
        self.machine.run(&["journalctl", "--lines=30", "--no-pager"]).unwrap_or_default()
    }

    /// Returns what the observer has printed so far.
    pub fn observation(&self) -> Result<Observation> {
        let log = fs::read_to_string(self.machine.path(LOG)?).context("reading the log of the observer")?;
        Observation::parse(&log)
    }
}

/// Returns the time in milliseconds since 1970, as the observer prints it.
pub fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Starts the etcd of the directory `bin` in place of the machine's own.
fn start_etcd(machine: &Machine, bin: &Path) -> Result<()> {
    machine.run(&["systemctl", "stop", "etcd.service"])?;
    machine.run(&["rm", "-rf", "/var/lib/etcd/default"])?;
    for program in ["etcd", "etcdctl", "etcdutl"] {
        match bin.join(program) {
            from if from.is_file() => machine.copy_in(&from, &format!("/usr/bin/{program}"))?,
            _ => machine.run(&["rm", "-f", &format!("/usr/bin/{program}")]).map(drop)?,
        }
    }
    let authority = Authority::create(machine, ETCD_PKI)?;
    authority.sign(machine, "server", &LOOPBACK, &[Use::ServerAuth, Use::ClientAuth], 365)?;
    authority.sign(machine, "client", &[], &[Use::ClientAuth], 365)?;
    machine.run(&["chown", "etcd:", &format!("{ETCD_PKI}/server.key")])?;
    machine.write("/etc/default/etcd", ETCD_CONFIG)?;
    machine.run(&["systemctl", "start", "etcd.service"])?;
    scenario::wait_until_healthy(machine)
}

/// Writes the certificates, kubeconfig files and units.
fn write_files(machine: &Machine) -> Result<()> {
    let authority = Authority::create(machine, PKI)?;
    let hosts = [&LOOPBACK[..], &["kubernetes.default.svc", ADDRESS]].concat();
    authority.sign(machine, "server", &hosts, &[Use::ServerAuth], 365)?;
    authority.sign(machine, "sa", &[], &[Use::ClientAuth], 365)?;
    machine.write("/etc/kubernetes/tokens.csv", TOKENS)?;
    machine.write("/etc/kubernetes/encryption.yaml", ENCRYPTION)?;
    for user in ["admin", "manager", "observer"] {
        let token = format!("{user}-token");
        ensure!(TOKENS.contains(&token), "{user} has no token");
        machine.write(&format!("/etc/kubernetes/{user}.conf"), &kubeconfig(&token).to_string())?;
    }
    for (name, unit) in [
        ("kube-apiserver", API_SERVER),
        ("kube-controller-manager", CONTROLLER_MANAGER),
        ("observer", OBSERVER),
    ] {
        machine.write(&format!("/etc/systemd/system/{name}.service"), unit)?;
    }
    Ok(())
}

fn kubeconfig(token: &str) -> Value {
    let server =
        json!({"server": "https://127.0.0.1:6443", "certificate-authority": format!("{PKI}/ca.crt")});
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    })
}
