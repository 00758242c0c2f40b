//! Members that no unit has announced, because an operator has added them: units go on or report why not, and never remove them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::deployment::{APPLICATION, Deployment};
use super::easyrsa::Easyrsa;
use super::failures;
use super::machine::Machine;
use super::network::{self, Network};
use super::scaling::{check_cluster, etcdctl, healthy, release};
use super::test_bed::TestBed;

/// The name of the operator's member. It begins as those of units do.
const NAME: &str = "etcd100";
/// The certificates of the operator's member on its machine.
const TLS: &str = "/root/stranger-tls";
/// The remark in the status of each unit.
const REMARK: &str = "members that belong to no unit, and are never removed: ";

/// An operator's member is first only added, and then runs, while units join, leave, and are removed by force. Their numbers are
/// 1 and 10 and higher.
pub fn never_removed(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release(&hub.path("/root")?)?;
    let mut deployment = Deployment::new()?;
    deployment.boot_with(Box::new(|machine| network.boot(machine)));
    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    easyrsa.issue_to(&hub, TLS, &network::address(0))?;
    deployment.provide(easyrsa);
    let mut units = Vec::new();
    for (place, last) in [(0, 0), (1, 9)] {
        deployment.model.set_last_number(APPLICATION, last);
        units.push(deployment.add_unit(test_bed, &machines[place], &network.address(place), &release)?);
        deployment.settle()?;
    }
    ensure!(units == ["etcd/1", "etcd/10"], "the units are {units:?}");
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the operator's member"])?;
    let url = format!("https://{}:2380", network::address(0));
    let third = join_after_learner(test_bed, &mut deployment, &machines, &units, &release)?;
    units.push(third);
    check_cluster(&deployment, &sorted(&units))?;
    update(&mut deployment)?;
    check_statuses(&deployment, &units, &[&healthy(3)])?;

    // A voter that runs: units leave, join, and are removed by force.
    add(&machines[0], &[&format!("--peer-urls={url}")])?;
    update(&mut deployment)?;
    check_statuses(&deployment, &units, &["active voter, 4 members, no answer from", REMARK, &url])?;
    let mut stranger = start(&hub, &machines[0], &url)?;
    std::thread::sleep(Duration::from_secs(7));
    update(&mut deployment)?;
    check_statuses(&deployment, &units, &["active voter, 4 members", REMARK, NAME])?;
    deployment.model.remove_unit(&units[1]);
    deployment.settle()?;
    check_names(&machines[0], &[NAME, &units[0], &units[2]])?;
    let lost = units.remove(2);
    machines[2].switch_off()?;
    deployment.stop_agent(&lost);
    deployment.model.remove_unit_by_force(&lost);
    deployment.settle()?;
    for _ in 0..2 {
        update(&mut deployment)?;
        std::thread::sleep(Duration::from_secs(5));
    }
    check_names(&machines[0], &[NAME, &units[0]])?;
    deployment.check_status(&units[0], &["active voter, 2 members: none may fail", REMARK, NAME])?;
    etcdctl(&machines[0], "127.0.0.1", &["member", "remove", &id_of(&machines[0], &url)?])?;
    update(&mut deployment)?;
    deployment.check_status(&units[0], &[&healthy(1)])?;
    stranger.kill()?;
    stranger.wait()?;
    Ok("never removed, and named by every unit; a unit waited for a learner that was only added, with the way out; with a \
        voter that runs, units left and were removed by force; etcd/1, etcd/10 and etcd100 were not confused"
        .to_owned())
}

/// An operator adds a learner that does not start. A unit that joins waits until the operator has removed it. Returns the unit.
fn join_after_learner<'m>(
    test_bed: &TestBed,
    deployment: &mut Deployment<'m>,
    machines: &'m [Machine; 3],
    units: &[String],
    release: &Path,
) -> Result<String> {
    let url = format!("https://{}:2380", network::address(0));
    // A learner that has not started: etcd accepts no other one.
    add(&machines[0], &["--learner", &format!("--peer-urls={url}")])?;
    update(deployment)?;
    check_statuses(deployment, units, &["active voter, 2 members", REMARK, &url])?;
    let third = deployment.add_unit(test_bed, &machines[2], &network::address(3), release)?;
    deployment.settle()?;
    update(deployment)?;
    let id = id_of(&machines[0], &url)?;
    deployment.check_status(&third, &["blocked ", "belongs to no unit", &url])?;
    let commands = deployment.commands_in_status(&third)?;
    let typed = commands.strip_prefix("promote it, or if it is not needed: ");
    let typed = typed.with_context(|| format!("no command in {commands:?}"))?;
    ensure!(typed.ends_with(&format!("member remove {id}")), "not the command: {typed}");
    machines[2].run(&["sh", "-ec", typed])?;
    update(deployment)?;
    Ok(third)
}

fn sorted(units: &[String]) -> Vec<&String> {
    let mut units: Vec<&String> = units.iter().collect();
    units.sort();
    units
}

/// Runs two rounds of `update-status`: the first one may publish what the second one needs.
fn update(deployment: &mut Deployment<'_>) -> Result<()> {
    for _ in 0..2 {
        deployment.update_and_settle()?;
    }
    Ok(())
}

fn check_statuses(deployment: &Deployment<'_>, units: &[String], parts: &[&str]) -> Result<()> {
    units.iter().try_for_each(|unit| deployment.check_status(unit, parts))
}

/// Adds the operator's member with these options.
fn add(machine: &Machine, options: &[&str]) -> Result<()> {
    // Some versions accept a change only when the members have been connected for 5 s.
    std::thread::sleep(Duration::from_secs(6));
    etcdctl(machine, "127.0.0.1", &[&["member", "add", NAME], options].concat()).map(drop)
}

/// Starts the operator's member on its machine.
fn start(hub: &Machine, member: &Machine, url: &str) -> Result<std::process::Child> {
    let all = members(member)?;
    let all = all["members"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cluster: Vec<String> = all
        .iter()
        .map(|member| match text(&member["name"]) {
            name if name.is_empty() => format!("{NAME}={url}"),
            name => format!("{name}={}", text(&member["peerURLs"][0])),
        })
        .collect();
    let client = url.replace("2380", "2379");
    let mut words = vec!["etcd".to_owned(), format!("--name={NAME}"), "--data-dir=/root/stranger".to_owned()];
    words.extend(["listen-peer-urls", "initial-advertise-peer-urls"].map(|name| format!("--{name}={url}")));
    words.extend(["listen-client-urls", "advertise-client-urls"].map(|name| format!("--{name}={client}")));
    words.push(format!("--initial-cluster={}", cluster.join(",")));
    words.push("--initial-cluster-state=existing".to_owned());
    for side in ["", "peer-"] {
        words.extend(
            [("cert-file", "server.crt"), ("key-file", "server.key"), ("trusted-ca-file", "ca.crt")]
                .map(|(name, file)| format!("--{side}{name}={TLS}/{file}")),
        );
        words.push(format!("--{side}client-cert-auth"));
    }
    hub.start_service(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn members(machine: &Machine) -> Result<Value> {
    let printed = etcdctl(machine, "127.0.0.1", &["member", "list", "--write-out=json"])?;
    Ok(serde_json::from_str(&printed)?)
}

/// Returns the id of the member at this URL, in hex as etcdctl takes it.
fn id_of(machine: &Machine, url: &str) -> Result<String> {
    let all = members(machine)?;
    let all = all["members"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|member| member["peerURLs"][0] == url).map(|member| member["ID"].as_u64());
    match found.flatten() {
        Some(id) => Ok(format!("{id:x}")),
        None => anyhow::bail!("no member is at {url}: {all:?}"),
    }
}

/// Checks that exactly the members of these names are listed. Names of units are those in Juju.
fn check_names(machine: &Machine, names: &[&str]) -> Result<()> {
    let all = members(machine)?;
    let all = all["members"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<&str> = all.iter().filter_map(|member| member["name"].as_str()).collect();
    found.sort_unstable();
    let mut expected: Vec<String> = names.iter().map(|name| name.replace('/', "")).collect();
    expected.sort();
    ensure!(found == expected, "the members are {found:?}, not {expected:?}");
    Ok(())
}
