//! Gathers the facts about the application's units and its etcd cluster. Changes nothing.

use super::databag::{ApplicationData, UnitData};
use super::facts::{ClusterFacts, Urls};
use crate::etcd::client::Client;
use crate::etcd::diagnose::is_permission_denied;
use crate::etcd::member::Member;
use crate::etcd::tls::Tls;
use crate::juju::Juju;
use crate::system::stderr;
use anyhow::{Context, Result, anyhow, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// The endpoint of the peers in `metadata.yaml`.
pub const PEER_ENDPOINT: &str = "cluster";

/// The endpoint of the provider of certificates in `metadata.yaml`.
pub const CERTIFICATES_ENDPOINT: &str = "certificates";

/// How long an etcd may take to connect to the other members after its address has changed.
const RECONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a hook waits for an election.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the facts from Juju and from the data of the other units. `urls` is where others reach this unit; the error is the problem with
/// certificates that cannot be used for peers. If the relation cannot be read, it counts as missing: a unit with data then
/// runs its etcd, and one without data waits.
///
/// # Errors
/// If goal-state fails or does not list this unit: then its answer is not trusted.
pub fn gather(juju: &Juju, unit: &str, urls: Result<Option<Urls>, String>) -> Result<ClusterFacts> {
    let units = juju.units()?;
    ensure!(units.contains_key(unit), "goal-state does not list {unit}");
    let (urls, certificate_problem) = match urls {
        Ok(urls) => (urls, None),
        Err(problem) => (None, Some(problem)),
    };
    let facts =
        ClusterFacts { unit: unit.to_owned(), units, urls, certificate_problem, ..ClusterFacts::default() };
    Ok(with_relation(juju, facts.clone()).unwrap_or_else(|error| {
        stderr::print(&format!("reading the relation {PEER_ENDPOINT}: {error:#}"));
        facts
    }))
}

/// Adds the published data of all units.
fn with_relation(juju: &Juju, mut facts: ClusterFacts) -> Result<ClusterFacts> {
    facts.has_certificate_provider = !juju.relation_ids(CERTIFICATES_ENDPOINT)?.is_empty();
    let Some(relation) = juju.relation_ids(PEER_ENDPOINT)?.into_iter().next() else { return Ok(facts) };
    let (application, _) = facts.unit.rsplit_once('/').context("the unit's name has no application")?;
    facts.is_leader = juju.is_leader()?;
    facts.application = ApplicationData::read(&juju.application_data(&relation, application)?);
    facts.own = UnitData::read(&juju.unit_data(&relation, &facts.unit)?);
    for other in juju.relation_units(&relation)? {
        let published = UnitData::read(&juju.unit_data(&relation, &other)?);
        facts.others.insert(other, published);
    }
    facts.relation = Some(relation);
    Ok(facts)
}

/// Returns clients of the voters that the other units have announced, which show the client certificate in `dir`.
pub fn announced_voters(facts: &ClusterFacts, etcdctl: &Path, dir: &Path) -> Vec<Client> {
    let urls = facts.others.values().filter_map(|published| published.client.as_deref());
    urls.map(|url| client(url, etcdctl, dir)).collect()
}

/// Returns clients of these voters, and of those that clients get to know: a unit that is being removed may have left the relation
/// already, while its etcd runs because no other one has the data.
pub fn voters_to_ask(facts: &ClusterFacts, etcdctl: &Path, dir: &Path) -> Vec<Client> {
    urls_to_ask(facts).into_iter().map(|url| client(url, etcdctl, dir)).collect()
}

fn urls_to_ask(facts: &ClusterFacts) -> BTreeSet<&str> {
    let published = facts.others.values().filter_map(|published| published.client.as_deref());
    let of_clients = facts.application.access.iter().flat_map(|access| access.endpoints.split(','));
    // Its etcd may not have been restarted with the present address or port.
    let own = [facts.urls.as_ref().map(|urls| urls.client.as_str()), facts.own.client.as_deref()];
    published.chain(of_clients).filter(|url| !own.contains(&Some(*url))).collect()
}

/// Returns clients of the voters of other units in `members`.
pub fn other_voters(facts: &ClusterFacts, members: &[Member], etcdctl: &Path, dir: &Path) -> Vec<Client> {
    let urls = facts.other_voters(members).into_iter().flat_map(|member| &member.client_urls);
    urls.map(|url| client(url, etcdctl, dir)).collect()
}

/// Returns those of these voters that are not of another cluster: another etcd may have got the address of a voter that is gone.
pub fn of_cluster(facts: &ClusterFacts, mut voters: Vec<Client>) -> Vec<Client> {
    let is_other = |voter: &Client| {
        let id = voter.status().map(|status| format!("{:x}", status.cluster_id));
        id.is_ok_and(|id| facts.is_other_cluster(&id))
    };
    voters.retain(|voter| !voter.is_listening() || !is_other(voter));
    voters
}

/// Checks that each of these voters serves.
///
/// # Errors
/// The error of the first one that does not.
pub fn check_serving(facts: &ClusterFacts, voters: &[&Member], etcdctl: &Path, dir: &Path) -> Result<()> {
    for voter in voters {
        let mut outcome = Err(anyhow!("the member {} has no URL for clients", voter.name));
        for url in facts.client_urls(voter) {
            outcome = match client(url, etcdctl, dir).current_members() {
                Ok(found) if found.member_id != voter.id => Err(anyhow!("another etcd answers at {url}")),
                Ok(_) => Ok(()),
                Err(error) if is_permission_denied(&error) => Ok(()),
                Err(error) => Err(error),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
    }
    Ok(())
}

/// Whether nothing listens at one of the voters in `members`, also one that no unit has announced.
pub fn has_silent_voter(members: &[Member], etcdctl: &Path, dir: &Path) -> bool {
    let listens =
        |voter: &&Member| voter.client_urls.iter().any(|url| client(url, etcdctl, dir).is_listening());
    !members.iter().filter(|member| !member.is_learner).all(|voter| listens(&voter))
}

/// Returns a client of the member at `url` that shows the client certificate in `dir`.
pub fn client(url: &str, etcdctl: &Path, dir: &Path) -> Client {
    let file = |name: &str| Some(dir.join(name));
    let tls = Tls { cacert: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };
    Client::of_endpoint(etcdctl, url, tls, None)
}

/// Whether the etcd of this unit reaches the other members, after its address has changed. One that has just received its new
/// certificate is waited for.
pub fn reaches_peers(own: &Client) -> bool {
    own.wait_until_serving(RECONNECTION_TIMEOUT, &mut || Ok(()))
        .map_or_else(|error| is_permission_denied(&error), |_| serves(own))
}

/// Whether a member serves. One that refuses the charm, because authentication is enabled, serves too.
pub fn serves(member: &Client) -> bool {
    member.current_members().map_or_else(|error| is_permission_denied(&error), |_| true)
}

/// Whether the etcd of this unit or one of these voters has a leader, so that the cluster serves. Waits for the end of an
/// election, which takes up to two times `election_timeout` (in milliseconds), and more if votes are split.
pub fn is_served(own: &Client, voters: &[Client], election_timeout: u64) -> bool {
    let timeout = Duration::from_millis(3 * election_timeout).clamp(RECONNECTION_TIMEOUT, ELECTION_TIMEOUT);
    if voters.iter().any(serves) {
        return true;
    }
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match own.wait_until_serving(left, &mut || Ok(())) {
            // Just after the loss of the leader, a member still reports one.
            Ok(_) if serves(own) => return true,
            Err(error) if is_permission_denied(&error) => return true,
            _ if left.is_zero() => return voters.iter().any(serves),
            _ => {}
        }
    }
}

/// Asks for the members of the cluster. The first of these voters that answers decides. An answer from another cluster does not count.
pub fn ask_for_members(facts: &mut ClusterFacts, voters: &[Client]) {
    facts.refuses_charm = false;
    facts.members = voters.iter().find_map(|voter| match voter.current_members() {
        Ok(found) if facts.is_other_cluster(&format!("{:x}", found.cluster_id)) => {
            stderr::print(&format!("another cluster answers: {}", voter.typed()));
            None
        }
        Ok(found) => {
            facts.etcdctl = voter.typed();
            Some(found.members)
        }
        Err(error) => {
            if is_permission_denied(&error) {
                facts.refuses_charm = true;
                facts.etcdctl = voter.typed();
            }
            stderr::print(&format!("asking a member of the cluster: {error:#}"));
            None
        }
    });
}

/// Returns the value of `initial-cluster` for a new member `name` at `url`. etcd compares the URLs of all members, but only
/// the name of the new one; members that have not started have none.
pub fn initial_cluster(members: &[Member], name: &str, url: &str) -> String {
    let entries = members.iter().flat_map(|member| {
        let is_own = member.peer_urls.iter().any(|peer| peer == url);
        let name = if is_own { name.to_owned() } else { format!("member-{:x}", member.id) };
        member.peer_urls.iter().map(move |peer| format!("{name}={peer}"))
    });
    entries.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::databag::{ClientAccess, ClientCredentials};
    use super::*;
    use crate::system::durable::{Dir, RUNNABLE};
    use crate::system::secret::Secret;

    #[test]
    fn finds_a_voter_whose_unit_has_left_the_relation() {
        let url = |number: u8| format!("https://10.0.0.{number}:2379");
        let credentials = ClientCredentials { ca: String::new(), cert: String::new(), key: Secret::new("") };
        let access =
            ClientAccess { endpoints: format!("{},{}", url(0), url(1)), version: String::new(), credentials };
        let mut facts = ClusterFacts {
            urls: Some(Urls { peer: String::new(), client: url(1) }),
            application: ApplicationData { access: Some(access), ..ApplicationData::default() },
            ..ClusterFacts::default()
        };
        assert_eq!(urls_to_ask(&facts), [url(0).as_str()].into());
        let published = UnitData { client: Some(url(2)), ..UnitData::default() };
        facts.others.insert("etcd/2".into(), published);
        assert_eq!(urls_to_ask(&facts), [url(0), url(2)].iter().map(String::as_str).collect());
    }

    #[test]
    fn ignores_another_cluster_at_the_address_of_a_voter_that_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let servers = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [own, other] = [0, 1].map(|number| format!("http://{}", servers[number].local_addr().unwrap()));
        let script = format!(
            "#!/bin/sh\ncluster=26\n[ $ETCDCTL_ENDPOINTS = {other} ] && cluster=43\ncase $1 in\n\
             endpoint) echo '[{{\"Status\":{{\"header\":{{\"cluster_id\":'$cluster'}},\"version\":\"3.5.16\",\"leader\":1}}}}]';;\n\
             get) echo '{{\"header\":{{}}}}';;\n\
             member) echo '{{\"members\":[{{\"ID\":'$cluster'}}]}}';;\nesac\n"
        );
        Dir::open(home.path()).unwrap().replace_for("etcdctl", script.as_bytes(), RUNNABLE, None).unwrap();
        let voter = |url: &String| {
            let tls = Tls { cacert: None, cert: None, key: None };
            Client::of_endpoint(&home.path().join("etcdctl"), url, tls, None)
        };
        let voters = [&other, &own].map(voter);
        let serving =
            UnitData { cluster: Some("1a".into()), member: Some("1".into()), ..UnitData::default() };
        let mut facts = ClusterFacts {
            unit: "etcd/1".into(),
            units: ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), Default::default())).into(),
            application: ApplicationData { cluster: Some("1a".into()), ..ApplicationData::default() },
            others: [("etcd/0".to_owned(), serving)].into(),
            ..ClusterFacts::default()
        };
        let ask = |facts: &mut ClusterFacts| {
            ask_for_members(facts, &voters);
            facts.members.as_ref().map(|members| members[0].id)
        };
        assert_eq!(ask(&mut facts), Some(26));
        let kept: Vec<String> = of_cluster(&facts, voters.to_vec()).iter().map(Client::typed).collect();
        assert!(kept.len() == 1 && kept[0].contains(&own), "{kept:?}");
        facts.application.cluster = None;
        assert_eq!(ask(&mut facts), Some(43));
    }

    #[test]
    fn a_member_that_refuses_the_charm_serves() {
        let home = tempfile::tempdir().unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = Dir::open(home.path()).unwrap();
        for (error, expected) in [("permission denied", true), ("no leader", false)] {
            let script = format!(
                "#!/bin/sh\n[ $1 = get ] && echo 'Error: etcdserver: {error}' >&2 && exit 1\n\
                 echo '[{{\"Status\":{{\"header\":{{}},\"version\":\"3.5.16\",\"leader\":1}}}}]'\n"
            );
            dir.replace_for("etcdctl", script.as_bytes(), RUNNABLE, None).unwrap();
            let tls = Tls { cacert: None, cert: None, key: None };
            let url = format!("http://{}", server.local_addr().unwrap());
            let member = Client::of_endpoint(&home.path().join("etcdctl"), &url, tls, None);
            assert_eq!(serves(&member), expected, "{error}");
        }
    }

    #[test]
    fn finds_a_voter_at_which_nothing_listens() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let voter = |urls: &[String]| Member {
            id: 1,
            name: "etcd0".into(),
            peer_urls: Vec::new(),
            client_urls: urls.to_vec(),
            is_learner: false,
        };
        let up = voter(&[format!("https://{}", server.local_addr().unwrap())]);
        let is_silent = |members: &[Member]| has_silent_voter(members, Path::new("etcdctl"), Path::new("/d"));
        assert!(!is_silent(std::slice::from_ref(&up)));
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let off = voter(&[format!("https://{}", closed.local_addr().unwrap())]);
        drop(closed);
        assert!(is_silent(&[up.clone(), off.clone()]));
        // One that an operator has only added, and a learner.
        assert!(is_silent(&[voter(&[])]));
        assert!(!is_silent(&[up, Member { is_learner: true, ..off }]));
    }

    #[test]
    fn lists_all_members_and_names_only_its_own() {
        let member = |id: u64, name: &str, url: &str| Member {
            id,
            name: name.into(),
            peer_urls: vec![url.to_owned()],
            client_urls: Vec::new(),
            is_learner: false,
        };
        let members = [member(10, "etcd0", "https://10.0.0.1:2380"), member(11, "", "https://10.0.0.2:2380")];
        assert_eq!(
            initial_cluster(&members, "etcd1", "https://10.0.0.2:2380"),
            "member-a=https://10.0.0.1:2380,etcd1=https://10.0.0.2:2380"
        );
    }
}
