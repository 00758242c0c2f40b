//! Changes of a cluster's membership: add a learner, promote, move, remove.
//!
//! etcd makes one change at a time, and only if a quorum answers before and after it. Must never add a voter: a voter that
//! does not start counts for the quorum.

use super::answers::RangeAnswer;
use super::{Client, DEFAULT_COMMAND_TIMEOUT, QUERY_TIMEOUT, Status};
use crate::etcd::member::Member;
use crate::etcd::site::Login;
use crate::etcd::tls::Tls;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::path::Path;

/// Why etcd refuses a change of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipRefusal {
    /// There is a learner already, which has to be promoted first.
    AnotherLearner,
    /// Not all voters have been connected for 5 s; or a majority, depending on the version.
    Unhealthy,
    /// The learner does not have enough of the data yet.
    NotInSync,
    /// The member is a voter already.
    IsVoter,
    /// There is no such member, or it was removed.
    NotFound,
    /// Too few of the remaining voters are running.
    NoQuorum,
}

impl MembershipRefusal {
    /// Recognizes the refusal in the error of a command (etcd, `api/v3rpc/rpctypes/error.go`).
    pub fn from_error(error: &anyhow::Error) -> Option<Self> {
        let text = format!("{error:#}");
        [
            ("too many learner members in cluster", Self::AnotherLearner),
            ("unhealthy cluster", Self::Unhealthy),
            ("member which is in sync with leader", Self::NotInSync),
            ("can only promote a learner member", Self::IsVoter),
            ("member not found", Self::NotFound),
            ("not enough started members", Self::NoQuorum),
        ]
        .into_iter()
        .find_map(|(words, refusal)| text.contains(words).then_some(refusal))
    }

    /// Whether waiting can change the answer.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::AnotherLearner | Self::Unhealthy | Self::NotInSync)
    }
}

/// The members of a cluster, as one of them lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentMembers {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The id of the member that has answered.
    pub member_id: u64,
    /// All members.
    pub members: Vec<Member>,
}

impl Client {
    /// Returns a client of the member at `endpoint`, by the program `etcdctl`.
    pub fn of_endpoint(etcdctl: &Path, endpoint: &str, tls: Tls, login: Option<Login>) -> Self {
        Self {
            etcdctl: etcdctl.to_owned(),
            endpoint: endpoint.to_owned(),
            tls,
            certificate_problems: Default::default(),
            login,
        }
    }

    /// Returns the members of the cluster, from a member that has a leader. A member that is cut off could still show a
    /// list that has changed.
    ///
    /// # Errors
    /// The member does not answer, or has no leader, or is a learner.
    pub fn current_members(&self) -> Result<CurrentMembers> {
        if !self.is_listening() {
            return Err(self.silence());
        }
        // Without a leader, a read fails only after its timeout.
        let Status { cluster_id, member_id, has_leader, .. } = self.status()?;
        ensure!(has_leader, "the member at {} has no leader", self.endpoint);
        // A member may not reach the leader that it has. A hook does not wait for that as long as a snapshot does.
        let words = ["get", "health", "--keys-only"];
        let _: RangeAnswer = self
            .ask_within(QUERY_TIMEOUT, DEFAULT_COMMAND_TIMEOUT, &words)
            .context("reading a key through etcd's leader")?;
        Ok(CurrentMembers { cluster_id, member_id, members: self.members()? })
    }

    /// Returns the error of a member at which nothing listens.
    pub fn silence(&self) -> anyhow::Error {
        anyhow!("nothing listens at {}", self.endpoint)
    }

    /// Adds a learner at this URL.
    ///
    /// # Errors
    /// etcd refuses, see [`MembershipRefusal`], or does not answer.
    pub fn add_learner(&self, name: &str, peer_url: &str) -> Result<()> {
        let url = format!("--peer-urls={peer_url}");
        self.change(&["add", name, "--learner", &url]).context("adding this unit to the cluster")
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// etcd refuses, see [`MembershipRefusal`], or does not answer.
    pub fn promote(&self, member: u64) -> Result<()> {
        self.change(&["promote", &format!("{member:x}")]).context("making a learner a voter")
    }

    /// Sets the URL at which its peers reach a voter. Must not be used for a learner: etcd before 3.5.31 would make it a
    /// voter.
    ///
    /// # Errors
    /// etcd refuses, see [`MembershipRefusal`], or does not answer.
    pub fn move_member(&self, member: u64, peer_url: &str) -> Result<()> {
        let url = format!("--peer-urls={peer_url}");
        self.change(&["update", &format!("{member:x}"), &url]).context("changing the URL of a member")
    }

    /// Removes a member. It stops serving, and its id never returns.
    ///
    /// # Errors
    /// etcd refuses, see [`MembershipRefusal`], or does not answer.
    pub fn remove_member(&self, member: u64) -> Result<()> {
        self.change(&["remove", &format!("{member:x}")]).context("removing a member")
    }

    fn change(&self, words: &[&str]) -> Result<()> {
        let _: Value = self.ask(&[&["member"], words].concat())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_the_refusals_of_etcd() {
        for (text, refusal) in [
            ("etcdserver: too many learner members in cluster", MembershipRefusal::AnotherLearner),
            ("etcdserver: unhealthy cluster", MembershipRefusal::Unhealthy),
            (
                "etcdserver: can only promote a learner member which is in sync with leader",
                MembershipRefusal::NotInSync,
            ),
            ("etcdserver: can only promote a learner member", MembershipRefusal::IsVoter),
            ("etcdserver: member not found", MembershipRefusal::NotFound),
            (
                "etcdserver: re-configuration failed due to not enough started members",
                MembershipRefusal::NoQuorum,
            ),
        ] {
            assert_eq!(MembershipRefusal::from_error(&anyhow!("Error: {text}")), Some(refusal), "{text}");
        }
        assert_eq!(MembershipRefusal::from_error(&anyhow!("context deadline exceeded")), None);
    }
}
