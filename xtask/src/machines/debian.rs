//! The home of Debian's and Ubuntu's package: `etcd.service` with `Type=notify` and a user of its own.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::certificates::{Authority, LOOPBACK, Use, use_them};
use super::machine::Machine;
use super::{Stage, scenario};

const TLS: &str = "/etc/etcd/pki";
const DEFAULT: &str = "\
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:2379
ETCD_CERT_FILE=/etc/etcd/pki/server.crt
ETCD_KEY_FILE=/etc/etcd/pki/server.key
ETCD_TRUSTED_CA_FILE=/etc/etcd/pki/ca.crt
ETCD_CLIENT_CERT_AUTH=true
";

/// As it is installed; what was restored outlives the machine's power.
pub fn plain(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    let told = scenario::tell_twice(&mut machine)?;
    let restored = scenario::digest(&machine)?;
    machine.reboot()?;
    scenario::wait_until_healthy(&machine)?;
    ensure!(scenario::digest(&machine)? == restored, "after a reboot the keys are others");
    let owners = machine.run(&["find", "/var/lib/etcd", "-printf", "%u:%g\n"])?;
    ensure!(owners.lines().all(|owner| owner == "etcd:etcd"), "not all files are etcd's own:\n{owners}");
    Ok(told)
}

/// With TLS, where the server's pair is a client's too; and what is said of certificates that are not what they should be.
pub fn tls(stage: &Stage) -> Result<String> {
    let mut machine = stage.unit()?;
    let authority = Authority::found(&machine, TLS)?;
    let both = [Use::ServerAuth, Use::ClientAuth];
    let server = |machine: &Machine, hosts: &[&str], uses: &[Use], days| {
        authority.sign(machine, "server", hosts, uses, days)?;
        machine.run(&["chown", "etcd:", &format!("{TLS}/server.key")]).map(drop)
    };
    server(&machine, &LOOPBACK, &both, 365)?;
    authority.sign(&machine, "client", &[], &[Use::ClientAuth], 365)?;
    machine.write("/etc/default/etcd", DEFAULT)?;
    machine.run(&["systemctl", "restart", "etcd.service"])?;
    use_them(&mut machine, TLS, "client", "https://127.0.0.1:2379");
    scenario::wait_until_healthy(&machine)?;
    let site = scenario::action(&machine, "site", &[])?;
    says(&site, "endpoint-from", &["the variable ETCD_LISTEN_CLIENT_URLS in /etc/default/etcd"])?;
    let told = scenario::tell_twice(&mut machine)?;

    // etcd reads its pair anew for every connection.
    server(&machine, &LOOPBACK, &both, 10)?;
    let site = scenario::action(&machine, "site", &[])?;
    says(&site, "warning", &["server.crt expires on"])?;
    scenario::action(&machine, "snapshot", &[]).and_then(|saved| {
        let warning = scenario::text(&saved, &["snapshot", "warning"])?;
        ensure!(warning.contains("server.crt expires on"), "{warning}");
        Ok(())
    })?;
    for (hosts, uses, days, words) in [
        (&LOOPBACK[..], &both[..], 0, "/etc/etcd/pki/server.crt expired on"),
        (&LOOPBACK, &[Use::ServerAuth], 365, "/etc/etcd/pki/server.crt is a certificate for servers only"),
        (&["192.0.2.1"], &both, 365, "/etc/etcd/pki/server.crt does not name 127.0.0.1"),
    ] {
        server(&machine, hosts, uses, days)?;
        let site = scenario::action(&machine, "site", &[])?;
        says(&site, "answers", &["false"])?;
        says(&site, "error", &[words])?;
        scenario::failed(&machine, "snapshot", &[], &[words, "State:", "Next:"])?;
    }
    Ok(format!("{told}; 4 wrong certificates told by their files"))
}

fn says(site: &Value, key: &str, words: &[&str]) -> Result<()> {
    let said = scenario::text(site, &["site", key]).with_context(|| format!("{site}"))?;
    ensure!(words.iter().all(|part| said.contains(part)), "site.{key} is {said:?} and not {words:?}");
    Ok(())
}
