//! The charm with several units: certificates by relation, growth and shrinkage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fake_juju::model::Databag;
use serde_json::{Value, json};

use super::charm::empty;
use super::db_client::{self, DbClient};
use super::deployment::Deployment;
use super::easyrsa::Easyrsa;
use super::machine::Machine;
use super::network::Network;
use super::test_bed::TestBed;
use crate::{command, etcd, workspace};

const HEALTHY: &str = "active 1 member, healthy";
/// The addresses that [`super::network::connect`] gives to machines.
pub(super) const ADDRESSES: [&str; 3] = ["10.9.9.1", "10.9.9.2", "10.9.9.3"];
pub(super) const TLS: &str = "/etc/etcd/relation-tls";
/// The files of a removed unit. A new unit is usually on a new machine.
const OF_EARLIER_UNIT: [&str; 9] = [
    "/var/lib/etcd",
    "/etc/etcd",
    "/etc/default/etcd",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/etcd.service.d",
    "/usr/local/bin/etcd",
    "/usr/local/bin/etcdctl",
    "/usr/local/bin/etcdutl",
    "/var/lib/juju",
];

/// Returns a deployment without units, with a certificate provider and a client. Its machines boot into `network`.
pub(super) fn deployment_on<'m>(network: &'m Network<'m>) -> Result<Deployment<'m>> {
    let mut deployment = deployment_with_client()?;
    deployment.boot_with(Box::new(move |machine| network.boot(machine)));
    Ok(deployment)
}

/// Returns a deployment without units, with a certificate provider and a client.
pub(super) fn deployment_with_client<'m>() -> Result<Deployment<'m>> {
    let mut deployment = Deployment::new()?;
    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    deployment.provide(easyrsa);
    deployment.client = Some(DbClient::relate(&mut deployment.model));
    Ok(deployment)
}

/// One unit gets certificates from a relation: etcd listens on the network, a renewed certificate is used without a restart,
/// and no key is in an argument, a status or a log.
pub fn certificates(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    let release = release(machine.path("/root")?.as_path())?;
    let mut deployment = Deployment::new()?;
    let unit = deployment.add_unit(test_bed, &machine, "10.9.9.1", &release)?;
    deployment.settle()?;
    deployment.check_status(&unit, &[HEALTHY])?;
    super::charm::check_listens_on_loopback_only(&machine)?;
    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    deployment.settle()?;
    deployment.check_status(&unit, &["waiting waiting for certificates from easyrsa"])?;
    deployment.provide(easyrsa);
    deployment.update_status(&unit)?;
    deployment.settle()?;
    deployment.check_status(&unit, &[HEALTHY])?;
    etcdctl(&machine, "10.9.9.1", &["put", "key", "value"]).err().context("there is no such address yet")?;
    etcdctl(&machine, "127.0.0.1", &["put", "key", "value"])?;
    let ports = fs::read_to_string(machine.path("/var/lib/juju/agents/unit-etcd-0/ports")?)?;
    ensure!(ports.trim() == "2379/tcp", "the port was not opened: {ports}");

    let before = (super::charm::pid(&machine)?, certificate(&machine)?);
    // Another address: the provider issues another certificate.
    deployment.model.move_unit(&unit, "127.0.0.2");
    deployment.settle()?;
    deployment.check_status(&unit, &[HEALTHY])?;
    ensure!(certificate(&machine)? != before.1, "the new certificate was not placed");
    etcdctl(&machine, "127.0.0.2", &["get", "key"])?;
    check_keys_are_secret(&machine)?;

    // Clients have a network of their own.
    deployment.client = Some(DbClient::relate(&mut deployment.model));
    deployment.model.set_network(&unit, "db", "127.0.0.3");
    deployment.settle()?;
    deployment.check_status(&unit, &[HEALTHY])?;
    let text = client(&deployment)?.check(&deployment.model, &["127.0.0.3"])?;
    use_as_client(&machine, &text)?;
    check_keys_are_secret(&machine)?;
    Ok("certificates placed, and renewed for another address; clients have a network of their own".to_owned())
}

/// Returns the certificate of the server.
pub(super) fn certificate(machine: &Machine) -> Result<String> {
    Ok(fs::read_to_string(machine.path(&format!("{TLS}/server.crt"))?)?)
}

/// Checks that no private key is readable by others, or in what the hook tools were called with, or in the journal.
pub(super) fn check_keys_are_secret(machine: &Machine) -> Result<()> {
    let readable = machine.run(&["find", TLS, "-name", "*.key", "-perm", "/077"])?;
    ensure!(readable.is_empty(), "others can read {readable}");
    let key = machine.run(&["grep", "-v", "-h", "--", "-----", &format!("{TLS}/server.key")])?;
    let secret = key.lines().next().context("the key is empty")?;
    let journal = machine.run(&["journalctl", "--no-pager"])?;
    ensure!(!journal.contains(secret), "the journal has a key");
    let agent = machine.path("/var/lib/juju/agents/unit-etcd-0")?;
    for trace in ["calls", "status", "log"] {
        let text = fs::read_to_string(agent.join(trace)).unwrap_or_default();
        ensure!(!text.contains(secret) && !text.contains("PRIVATE"), "{trace} has a key");
    }
    Ok(())
}

/// Runs etcdctl on the machine, with the client certificate of the charm, at this address.
pub(super) fn etcdctl(machine: &Machine, address: &str, words: &[&str]) -> Result<String> {
    let endpoint = format!("--endpoints=https://{address}:2379");
    let files = ["cacert=ca.crt", "cert=client.crt", "key=client.key"];
    let files: Vec<String> =
        files.iter().map(|file| format!("--{}", file.replace('=', &format!("={TLS}/")))).collect();
    let mut all = vec!["/usr/local/bin/etcdctl", "--dial-timeout=2s", &endpoint];
    all.extend(files.iter().map(String::as_str));
    all.extend(words);
    machine.run(&all)
}

/// Boots three machines without etcd on one network, at [`ADDRESSES`]. Also returns the path of a release of etcd.
pub(super) fn three_machines(test_bed: &TestBed) -> Result<([Machine; 3], PathBuf)> {
    let machines = three_empty_machines(test_bed)?;
    let release = release(machines[0].path("/root")?.as_path())?;
    Ok((machines, release))
}

/// Boots three machines without etcd on one network, at [`ADDRESSES`].
pub(super) fn three_empty_machines(test_bed: &TestBed) -> Result<[Machine; 3]> {
    let machines = [empty(test_bed)?, empty(test_bed)?, empty(test_bed)?];
    super::network::connect(&machines)?;
    Ok(machines)
}

/// Creates a release archive of the oldest etcd, that of Debian 12.
pub(super) fn release(at: &Path) -> Result<PathBuf> {
    release_of(&etcd::from_debian(&workspace::target_directory()?, &etcd::OLD)?, at)
}

/// Creates a release archive like those of the etcd project, from the programs in `bin`, in the directory `at`.
pub(super) fn release_of(bin: &Path, at: &Path) -> Result<PathBuf> {
    let path = at.join(format!("etcd-{}.tar.gz", etcd::version_of(bin)?));
    let mut tar = Command::new("tar");
    tar.arg("czf").arg(&path).arg("--transform=s,^,etcd-linux/,").arg("-C").arg(bin);
    let programs = ["etcd", "etcdctl", "etcdutl"].into_iter().filter(|program| bin.join(program).exists());
    command::output(tar.args(programs))?;
    Ok(path)
}

/// One unit grows to three and back to one. With authentication enabled, a new unit waits for the commands in its status.
pub fn grow_and_shrink(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = Deployment::new()?;
    let one = grow_to_three_and_shrink(test_bed, &mut deployment, &machines, &release)?;
    remove_files_of_earlier_unit(&machines[2])?;
    let three = deployment.add_unit(test_bed, &machines[2], ADDRESSES[2], &release)?;
    join_with_authentication(&mut deployment, [&one, &three])?;
    Ok("1, 2, 3 members, and back to 1; all keys on every member; refused with authentication, and joined after the \
        commands in the status"
        .to_owned())
}

/// One unit that was deployed without certificates becomes a member on the network; two more join it, one after the other; the
/// first and the last of them leave again. Returns the unit that is left.
pub(super) fn grow_to_three_and_shrink<'m>(
    test_bed: &TestBed,
    deployment: &mut Deployment<'m>,
    machines: &'m [Machine; 3],
    release: &Path,
) -> Result<String> {
    let [first, second, third] = machines;
    let zero = deployment.add_unit(test_bed, first, ADDRESSES[0], release)?;
    deployment.settle()?;
    deployment.check_status(&zero, &[HEALTHY])?;
    let one = deployment.add_unit(test_bed, second, ADDRESSES[1], release)?;
    deployment.settle()?;
    deployment.check_status(&one, &["blocked ", "needs certificates to join etcd/0", "juju integrate"])?;
    deployment.client = Some(DbClient::relate(&mut deployment.model));
    deployment.settle()?;
    deployment
        .check_status(&zero, &["blocked ", db_client::NAME, "without certificates", "juju integrate"])?;
    first.run(&["/usr/local/bin/etcdctl", "put", "before", "certificates"])?;

    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    deployment.provide(easyrsa);
    deployment.settle()?;
    check_cluster(deployment, &[&zero, &one])?;
    deployment.check_status(&zero, &["active voter, 2 members: none may fail"])?;
    let two = deployment.add_unit(test_bed, third, ADDRESSES[2], release)?;
    deployment.settle()?;
    check_cluster(deployment, &[&zero, &one, &two])?;
    for unit in [&zero, &one, &two] {
        deployment.update_status(unit)?;
        deployment.check_status(unit, &["active voter, 3 members, healthy"])?;
    }
    client(deployment)?.check(&deployment.model, &ADDRESSES)?;
    client(deployment)?.check_published_before_joining(&two, ADDRESSES[2])?;
    let pids: Vec<String> = machines.iter().map(super::charm::pid).collect::<Result<_>>()?;
    fill(first)?;

    // The unit with the first member leaves; the others have all keys.
    deployment.model.remove_unit(&zero);
    deployment.settle()?;
    check_cluster(deployment, &[&one, &two])?;
    ensure!(
        super::charm::pid(second)? == pids[1] && super::charm::pid(third)? == pids[2],
        "etcd was restarted"
    );
    deployment.model.remove_unit(&two);
    deployment.settle()?;
    check_cluster(deployment, &[&one])?;
    // No hook of the other units runs after a unit has left.
    deployment.update_status(&one)?;
    deployment.check_status(&one, &[HEALTHY])?;
    let text = client(deployment)?.check(&deployment.model, &ADDRESSES[1..2])?;
    use_as_client(third, &text)?;

    Ok(one)
}

/// Enables authentication on the only member. A new unit is `blocked` until the commands in its status were typed.
fn join_with_authentication(deployment: &mut Deployment<'_>, units: [&String; 2]) -> Result<()> {
    let machine = deployment.machine(units[0])?;
    for words in ["user add root:canary", "user grant-role root root", "auth enable"] {
        etcdctl(machine, "127.0.0.1", &words.split(' ').collect::<Vec<_>>())?;
    }
    deployment.settle()?;
    for unit in units {
        deployment.update_status(unit)?;
        deployment.check_status(unit, &["blocked etcd's user client needs the role root"])?;
    }
    // etcdctl asks for the password on a terminal only.
    let commands = deployment.commands_in_status(units[1])?.replace("--user=root ", "--user=root:canary ");
    deployment.machine(units[1])?.run(&["sh", "-ec", &commands])?;
    for unit in units {
        deployment.update_status(unit)?;
    }
    deployment.settle()?;
    check_cluster(deployment, &units)
}

/// One unit grows to three and shrinks again: clients restart twice. Restored from the snapshot, it grows to three again: all
/// keys are those of the snapshot, and no address of an earlier member is left.
pub fn restore_and_grow(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = deployment_with_client()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    deployment.settle()?;
    client(&deployment)?.check(&deployment.model, &ADDRESSES[..1])?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "snapshot"])?;
    let saved = deployment.action(&zero, "snapshot", json!({}))?;
    let archive = saved["snapshot.path"].as_str().context("the archive has no path")?.to_owned();

    let others = add_two(test_bed, &mut deployment, &machines, &release)?;
    check_cluster(&deployment, &[&zero, &others[0], &others[1]])?;
    client(&deployment)?.check(&deployment.model, &ADDRESSES)?;
    etcdctl(&machines[1], "127.0.0.1", &["put", "after", "snapshot"])?;
    let restore = json!({"snapshot": archive, "skip-backup": true});
    let (refusal, _) = deployment.attempt_action(&zero, "restore", restore.clone())?;
    for part in ["juju remove-unit etcd/1 etcd/2", "juju run etcd/0 restore", "juju add-unit etcd -n 2"] {
        ensure!(refusal.contains(part), "the refusal has no {part:?}: {refusal}");
    }
    for other in &others {
        deployment.model.remove_unit(other);
    }
    deployment.settle()?;
    client(&deployment)?.check(&deployment.model, &ADDRESSES[..1])?;
    let changes = client(&deployment)?.changes(&zero);
    ensure!(changes <= 3, "from 1 unit to 3 and back, the data for clients changed {changes} times");

    let restored = deployment.action(&zero, "restore", restore)?;
    deployment.update_status(&zero)?;
    deployment.check_status(&zero, &[HEALTHY])?;
    let others = add_two(test_bed, &mut deployment, &machines, &release)?;
    check_cluster(&deployment, &[&zero, &others[0], &others[1]])?;
    for machine in &machines {
        let later = etcdctl(machine, "127.0.0.1", &["get", "after"])?;
        ensure!(later.is_empty(), "a key is there that was written after the snapshot");
    }
    let text = client(&deployment)?.check(&deployment.model, &ADDRESSES)?;
    use_as_client(&machines[2], &text)?;
    let downtime = restored["restore.downtime"].as_str().unwrap_or_default().trim().to_owned();
    Ok(format!(
        "refused on 3 with the way; restored on 1 (down for {downtime}), 3 members with its keys; data for clients \
         changed {changes} times over 1, 3, 1"
    ))
}

/// Adds units on the second and third machine, which have nothing of an earlier unit.
pub(super) fn add_two<'m>(
    test_bed: &TestBed,
    deployment: &mut Deployment<'m>,
    machines: &'m [Machine; 3],
    release: &Path,
) -> Result<Vec<String>> {
    let mut units = Vec::new();
    for (machine, address) in machines.iter().zip(ADDRESSES).skip(1) {
        remove_files_of_earlier_unit(machine)?;
        units.push(deployment.add_unit(test_bed, machine, address, release)?);
    }
    deployment.settle()?;
    Ok(units)
}

/// Removes the files of a unit, as if its machine was new.
pub(super) fn remove_files_of_earlier_unit(machine: &Machine) -> Result<()> {
    machine.run(&[&["rm", "-rf"], &OF_EARLIER_UNIT[..]].concat())?;
    machine.run(&["systemctl", "daemon-reload"]).map(drop)
}

/// Returns the status of a unit in a cluster of so many members, all of which serve.
pub(super) fn healthy(count: usize) -> String {
    match count {
        1 => HEALTHY.to_owned(),
        2 => "active voter, 2 members: none may fail".to_owned(),
        count => format!("active voter, {count} members, healthy"),
    }
}

/// Returns the client application.
pub(super) fn client<'d>(deployment: &'d Deployment<'_>) -> Result<&'d DbClient> {
    deployment.client.as_ref().context("there is no client")
}

/// Writes and reads a key with what a client gets in the relation.
fn use_as_client(machine: &Machine, text: &Databag) -> Result<()> {
    let dir = "/root/cdk/etcd";
    for (key, file) in [("client_ca", "ca.pem"), ("client_cert", "cert.pem"), ("client_key", "key.pem")] {
        machine.write(&format!("{dir}/{file}"), &text[key])?;
    }
    let endpoints = format!("--endpoints={}", text["connection_string"]);
    let [ca, cert, key] = ["cacert=ca", "cert=cert", "key=key"]
        .map(|file| format!("--{}.pem", file.replace('=', &format!("={dir}/"))));
    let etcdctl = |words: &[&str]| {
        machine.run(&[&["/usr/local/bin/etcdctl", &endpoints, &ca, &cert, &key], words].concat())
    };
    etcdctl(&["put", "client", "was here"])?;
    let found = etcdctl(&["get", "client"])?;
    ensure!(found.contains("was here"), "the client reads {found:?}");
    Ok(())
}

/// Checks that exactly these units are voters, that their URLs are on the network, and that all have the same keys.
pub(super) fn check_cluster(deployment: &Deployment<'_>, units: &[&String]) -> Result<()> {
    let mut hashes = Vec::new();
    for unit in units {
        let machine = deployment.machine(unit)?;
        let listed: Value =
            serde_json::from_str(&etcdctl(machine, "127.0.0.1", &["member", "list", "--write-out=json"])?)?;
        let members = listed["members"].as_array().context("no members")?;
        let mut names: Vec<String> =
            members.iter().map(|member| member["name"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        let expected: Vec<String> = units.iter().map(|unit| unit.replace('/', "")).collect();
        ensure!(names == expected, "{unit} lists {names:?}, not {expected:?}: {:?}", deployment.statuses);
        for member in members {
            ensure!(member["isLearner"] != true, "a learner is left: {member}");
            let url = member["peerURLs"][0].as_str().unwrap_or_default();
            ensure!(url.starts_with("https://10.9.9."), "a peer URL is not on the network: {member}");
        }
        let keys = etcdctl(machine, "127.0.0.1", &["get", "", "--from-key", "--write-out=json"])?;
        let keys: Value = serde_json::from_str(&keys)?;
        hashes.push(keys["kvs"].to_string());
    }
    ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "the members have different keys");
    ensure!(hashes.iter().all(|keys| keys.contains("YmVmb3Jl")), "the key of the first member is missing");
    Ok(())
}

/// Writes keys through the first unit.
fn fill(machine: &Machine) -> Result<()> {
    for number in 0..20 {
        etcdctl(machine, "127.0.0.1", &["put", &format!("key-{number}"), "value"])?;
    }
    Ok(())
}
