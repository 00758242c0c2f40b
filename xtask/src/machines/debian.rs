//! etcd from the package of Debian and Ubuntu: `etcd.service` with `Type=notify` and the user etcd.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::certificates::{Authority, LOOPBACK, Use, configure_etcdctl};
use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;

const TLS: &str = "/etc/etcd/pki";
const DEFAULT: &str = "\
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:2379
ETCD_CERT_FILE=/etc/etcd/pki/server.crt
ETCD_KEY_FILE=/etc/etcd/pki/server.key
ETCD_TRUSTED_CA_FILE=/etc/etcd/pki/ca.crt
ETCD_CLIENT_CERT_AUTH=true
";

/// etcd as the package installs it. The restored data survives a power failure.
pub fn plain(test_bed: &TestBed) -> Result<String> {
    let mut machine = test_bed.boot_with_programs()?;
    let summary = scenario::round_trip_with_and_without_auth(&mut machine)?;
    let restored = scenario::digest(&machine)?;
    machine.reboot()?;
    scenario::wait_until_healthy(&machine)?;
    ensure!(scenario::digest(&machine)? == restored, "the keys changed after a reboot");
    let owners = machine.run(&["find", "/var/lib/etcd", "-printf", "%u:%g\n"])?;
    ensure!(owners.lines().all(|owner| owner == "etcd:etcd"), "some files do not belong to etcd:\n{owners}");
    Ok(summary)
}

/// etcd with TLS, where the server's certificate is a client certificate too. Then: the reports about wrong certificates.
pub fn tls(test_bed: &TestBed) -> Result<String> {
    let mut machine = test_bed.boot_with_programs()?;
    let authority = Authority::create(&machine, TLS)?;
    let both = [Use::ServerAuth, Use::ClientAuth];
    let server = |machine: &Machine, hosts: &[&str], uses: &[Use], days| {
        authority.sign(machine, "server", hosts, uses, days)?;
        machine.run(&["chown", "etcd:", &format!("{TLS}/server.key")]).map(drop)
    };
    server(&machine, &LOOPBACK, &both, 365)?;
    authority.sign(&machine, "client", &[], &[Use::ClientAuth], 365)?;
    machine.write("/etc/default/etcd", DEFAULT)?;
    machine.run(&["systemctl", "restart", "etcd.service"])?;
    configure_etcdctl(&mut machine, TLS, "client", "https://127.0.0.1:2379");
    scenario::wait_until_healthy(&machine)?;
    let site = scenario::action(&machine, "site", &[])?;
    check_result(&site, "endpoint-from", &["the variable ETCD_LISTEN_CLIENT_URLS in /etc/default/etcd"])?;
    let summary = scenario::round_trip_with_and_without_auth(&mut machine)?;

    // etcd reads its certificate and key again for every connection.
    server(&machine, &LOOPBACK, &both, 10)?;
    let site = scenario::action(&machine, "site", &[])?;
    check_result(&site, "warning", &["server.crt expires on"])?;
    scenario::action(&machine, "snapshot", &[]).and_then(|saved| {
        let warning = scenario::text(&saved, &["snapshot", "warning"])?;
        ensure!(warning.contains("server.crt expires on"), "{warning}");
        Ok(())
    })?;
    for (hosts, uses, days, reason) in [
        (&LOOPBACK[..], &both[..], 0, "/etc/etcd/pki/server.crt expired on"),
        (&LOOPBACK, &[Use::ServerAuth], 365, "/etc/etcd/pki/server.crt is a certificate for servers only"),
        (&["192.0.2.1"], &both, 365, "/etc/etcd/pki/server.crt does not name 127.0.0.1"),
    ] {
        server(&machine, hosts, uses, days)?;
        let site = scenario::action(&machine, "site", &[])?;
        check_result(&site, "answers", &["false"])?;
        check_result(&site, "error", &[reason])?;
        scenario::failed(&machine, "snapshot", &[], &[reason, "State:", "Next:"])?;
    }
    Ok(format!("{summary}; 4 wrong certificates were named"))
}

fn check_result(site: &Value, key: &str, parts: &[&str]) -> Result<()> {
    let value = scenario::text(site, &["site", key]).with_context(|| format!("{site}"))?;
    ensure!(parts.iter().all(|part| value.contains(part)), "site.{key} is {value:?}, without {parts:?}");
    Ok(())
}
