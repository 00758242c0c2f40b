//! The upkeep of a member that serves: health, alarms, compaction, defragmentation, by `etcdctl`.
//!
//! Gives back what etcdctl prints, which its operators know. Must never be run on a member whose data somebody exchanges.

use super::client::Client;
use super::member::Member;
use super::timeouts;
use crate::system::process::{Output, ProcessError};
use anyhow::{Context, Result};
use serde::Deserialize;

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Its URL.
    pub endpoint: String,
    /// Whether it took a proposal, or denied it for want of a permission.
    #[serde(rename = "health")]
    pub healthy: bool,
    /// What is wrong with it, in etcd's words.
    #[serde(default)]
    pub error: String,
    /// The id of the member that answered there, where it is healthy.
    #[serde(skip)]
    pub member: Option<u64>,
}

/// How the members stand that have a vote. Learners have none, and serve no client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voters {
    /// How many there are.
    pub total: usize,
    /// Those of whom no endpoint answered, by their names, or ids where they have never started.
    pub unreachable: Vec<String>,
}

impl Voters {
    /// Counts them by who answered, not by how many endpoints did: a member may have several, and several may lead to one.
    pub fn count(members: &[Member], health: &[Health]) -> Self {
        let answered =
            |member: &&Member| health.iter().any(|one| one.healthy && one.member == Some(member.id));
        let voters: Vec<&Member> = members.iter().filter(|member| !member.is_learner).collect();
        let name = |member: &&Member| match &*member.name {
            "" => format!("{:x}", member.id),
            name => name.to_owned(),
        };
        let unreachable = voters.iter().filter(|member| !answered(member)).map(name).collect();
        Self { total: voters.len(), unreachable }
    }

    /// How many answered.
    pub fn reachable(&self) -> usize {
        self.total - self.unreachable.len()
    }

    /// Whether those that answered can go on without the others.
    pub fn have_quorum(&self) -> bool {
        self.reachable() > self.total / 2
    }
}

impl Client {
    /// The health of our member; of `all` members of the cluster, by the addresses that they advertise.
    pub fn health(&self, all: bool) -> Result<Vec<Health>> {
        let words: &[&str] = if all { &["endpoint", "health", "--cluster"] } else { &["endpoint", "health"] };
        let mut health: Vec<Health> =
            self.even_of_some(self.program().args(words)).context("asking etcd for its health")?;
        // Those that are unreachable would only be waited for once more.
        let answering: Vec<&str> =
            health.iter().filter(|one| one.healthy).map(|one| &*one.endpoint).collect();
        if answering.is_empty() {
            return Ok(health);
        }
        let member_ids = self.member_ids(&answering)?;
        for one in &mut health {
            let answer = member_ids.iter().find(|(endpoint, _)| *endpoint == one.endpoint);
            one.member = answer.map(|(_, member)| *member);
        }
        Ok(health)
    }

    /// The alarms, one a line: `memberID:1 alarm:NOSPACE`.
    pub fn alarms(&self) -> Result<String> {
        self.say(&["alarm", "list"], 0).context("asking etcd for its alarms")
    }

    /// Takes back every alarm of the cluster, and gives those that there were. etcd raises one again whose cause is still there.
    pub fn disarm(&self) -> Result<String> {
        self.say(&["alarm", "disarm"], 0).context("disarming etcd's alarms")
    }

    /// Forgets the history before `revision`; `physical` waits until it has gone from the database of `bytes`.
    pub fn compact(&self, revision: i64, physical: bool, bytes: u64) -> Result<String> {
        let (revision, physical) = (revision.to_string(), format!("--physical={physical}"));
        self.say(&["compact", &revision, &physical], bytes).context("compacting etcd's history")
    }

    /// Gives the room that is free in the database of `bytes` back to the disk. The member stands still meanwhile.
    pub fn defragment(&self, bytes: u64) -> Result<String> {
        self.say(&["defrag"], bytes).context("defragmenting etcd's database")
    }

    fn say(&self, words: &[&str], bytes: u64) -> Result<String, ProcessError> {
        let patience = timeouts::for_database(bytes);
        let program = self.program().env("ETCDCTL_COMMAND_TIMEOUT", format!("{}s", patience.as_secs()));
        program
            .args(words)
            .deadline(patience + patience / 4)
            .run()
            .as_ref()
            .map(Output::text)
            .map_err(|error| self.explained(error.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, Voters};
    use crate::etcd::member::Member;

    #[test]
    fn a_member_is_alive_by_its_own_answer_and_a_learner_has_no_vote() {
        let member = |id: u64, is_learner| Member {
            id,
            name: if id == 9 { String::new() } else { format!("m{id}") },
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            is_learner,
        };
        let answer = |healthy, member: u64| Health {
            endpoint: format!("http://{member}"),
            healthy,
            error: String::new(),
            member: Some(member),
        };
        let (three, learning) = ([1, 2, 3].map(|id| member(id, false)), [member(1, false), member(2, true)]);
        let unstarted = [member(1, false), member(9, false)];
        for (members, answers, alive, unreachable, quorum) in [
            (&three[..], &[(true, 1), (true, 2), (true, 3)][..], 3, &[][..], true),
            // Two URLs of one member speak for one.
            (&three, &[(true, 1), (true, 1), (true, 2), (false, 3)], 2, &["m3"], true),
            // As do three that a balancer leads to one.
            (&three, &[(true, 1), (true, 1), (true, 1)], 1, &["m2", "m3"], false),
            // One of its two is enough.
            (&three, &[(true, 1), (false, 1), (true, 2), (true, 3)], 3, &[], true),
            (&learning, &[(true, 1), (false, 2)], 1, &[], true),
            // And a learner's answer is nobody's vote.
            (&learning, &[(false, 1), (true, 2)], 0, &["m1"], false),
            (&unstarted, &[(true, 1)], 1, &["9"], false),
        ] {
            let health: Vec<Health> = answers.iter().map(|(healthy, id)| answer(*healthy, *id)).collect();
            let votes = Voters::count(members, &health);
            assert_eq!((votes.reachable(), votes.have_quorum()), (alive, quorum), "{answers:?}");
            assert_eq!(votes.unreachable, unreachable, "{answers:?}");
        }
    }

    #[test]
    fn an_unhealthy_endpoint_says_why() {
        let text = r#"[{"endpoint":"http://127.0.0.1:1","health":false,"took":"2s","error":"context deadline exceeded"},
            {"endpoint":"http://127.0.0.1:2","health":true,"took":"2ms"}]"#;
        let health: Vec<Health> = serde_json::from_str(text).unwrap();
        assert!(!health[0].healthy && health[0].error.contains("deadline"));
        assert!(health[1].healthy && health[1].error.is_empty());
    }
}
