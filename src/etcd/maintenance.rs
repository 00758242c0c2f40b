//! The maintenance of a running member through `etcdctl`: health, alarms, compaction, defragmentation.
//!
//! Returns the output of etcdctl, which operators know. Must never be used on a member during an exchange of its
//! data.

use super::client::Client;
use super::member::Member;
use super::timeouts;
use anyhow::{Context, Result};
use serde::Deserialize;

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Its URL.
    pub endpoint: String,
    /// Whether it accepted a proposal, or refused it only because a permission was missing.
    #[serde(rename = "health")]
    pub healthy: bool,
    /// Its problem, in etcd's words.
    #[serde(default)]
    pub error: String,
    /// The id of the member that answered, if it is healthy.
    #[serde(skip)]
    pub member: Option<u64>,
}

/// The voting members and whether they answer. Learners have no vote, and serve no clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    /// The number of voting members.
    pub total: usize,
    /// The members of which no endpoint answered, by their names, or by their ids if they have never started.
    pub unreachable: Vec<String>,
}

impl Voters {
    /// Counts members, not endpoints: a member may have several endpoints, and several may lead to one member.
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

    /// Returns the number of voting members that answered.
    pub fn reachable(&self) -> usize {
        self.total - self.unreachable.len()
    }

    /// Returns whether the members that answered are a majority.
    pub fn have_quorum(&self) -> bool {
        self.reachable() > self.total / 2
    }
}

impl Client {
    /// Returns the health of this member, or of `all` members of the cluster at the addresses that they advertise.
    ///
    /// # Errors
    /// etcdctl printed no answer.
    pub fn health(&self, all: bool) -> Result<Vec<Health>> {
        let words: &[&str] = if all { &["endpoint", "health", "--cluster"] } else { &["endpoint", "health"] };
        let mut health: Vec<Health> =
            self.partial_answers(self.program().args(words)).context("asking etcd for its health")?;
        // Asking the others again would only wait for another timeout.
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

    /// Returns the alarms, one per line: `memberID:1 alarm:NOSPACE`.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn alarms(&self) -> Result<String> {
        self.run(&["alarm", "list"], 0).context("asking etcd for its alarms")
    }

    /// Disarms every alarm of the cluster and returns them. etcd raises an alarm again if its cause remains.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn disarm(&self) -> Result<String> {
        self.run(&["alarm", "disarm"], 0).context("disarming etcd's alarms")
    }

    /// Removes the history before `revision`. With `physical`, waits until it is removed from the database of `bytes`.
    ///
    /// # Errors
    /// etcd refuses the revision, or does not answer.
    pub fn compact(&self, revision: i64, physical: bool, bytes: u64) -> Result<String> {
        let (revision, physical) = (revision.to_string(), format!("--physical={physical}"));
        self.run(&["compact", &revision, &physical], bytes).context("compacting etcd's history")
    }

    /// Returns the free pages of the database of `bytes` to the file system. The member does not serve until it is
    /// done.
    ///
    /// # Errors
    /// The member does not answer.
    pub fn defragment(&self, bytes: u64) -> Result<String> {
        self.run(&["defrag"], bytes).context("defragmenting etcd's database")
    }

    fn run(&self, words: &[&str], bytes: u64) -> Result<String> {
        let timeout = timeouts::for_database(bytes);
        let program = self.program().env("ETCDCTL_COMMAND_TIMEOUT", format!("{}s", timeout.as_secs()));
        program
            .args(words)
            .deadline(timeout + timeout / 4)
            .run()
            .map(|output| output.text())
            .map_err(|error| self.diagnose(error))
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, Voters};
    use crate::etcd::member::Member;

    #[test]
    fn counts_the_answers_of_voting_members() {
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
            // Two URLs of one member count once.
            (&three, &[(true, 1), (true, 1), (true, 2), (false, 3)], 2, &["m3"], true),
            // So do three URLs that a load balancer leads to one member.
            (&three, &[(true, 1), (true, 1), (true, 1)], 1, &["m2", "m3"], false),
            // One of its two URLs is enough.
            (&three, &[(true, 1), (false, 1), (true, 2), (true, 3)], 3, &[], true),
            (&learning, &[(true, 1), (false, 2)], 1, &[], true),
            // The answer of a learner does not count.
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
    fn reads_why_an_endpoint_is_unhealthy() {
        let text = r#"[{"endpoint":"http://127.0.0.1:1","health":false,"took":"2s","error":"context deadline exceeded"},
            {"endpoint":"http://127.0.0.1:2","health":true,"took":"2ms"}]"#;
        let health: Vec<Health> = serde_json::from_str(text).unwrap();
        assert!(!health[0].healthy && health[0].error.contains("deadline"));
        assert!(health[1].healthy && health[1].error.is_empty());
    }
}
