//! The JSON that etcdctl prints. Must never treat an omitted field as an error: etcdctl omits zero values.

use crate::etcd::member::Member;
use serde::{Deserialize, Serialize};

/// The status of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The id of the cluster.
    pub cluster_id: u64,
    /// The id of the member.
    pub member_id: u64,
    /// The revision of its store; 1 if it is empty.
    pub revision: i64,
    /// The version of the server.
    pub version: String,
    /// The size of its backend file, in bytes.
    pub db_size: u64,
    /// The part of the backend file that is in use, in bytes.
    pub db_in_use: u64,
    /// Whether it knows a leader.
    pub has_leader: bool,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// The index of the last entry of the log of changes that it knows to be committed.
    pub raft_index: u64,
    /// The index of the last entry that it has applied to its data.
    pub raft_applied_index: u64,
    /// Its alarms and other problems, in etcd's words.
    pub errors: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct StatusAnswer {
    #[serde(default, rename = "Endpoint")]
    endpoint: String,
    #[serde(rename = "Status")]
    status: StatusBody,
}

#[derive(Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    cluster_id: u64,
    #[serde(default)]
    member_id: u64,
    #[serde(default)]
    pub revision: i64,
}

/// Every field is omitted if it is zero, false or empty.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusBody {
    header: Header,
    version: String,
    #[serde(default)]
    db_size: u64,
    #[serde(default)]
    db_size_in_use: u64,
    #[serde(default)]
    leader: u64,
    #[serde(default)]
    is_learner: bool,
    #[serde(default)]
    raft_index: u64,
    #[serde(default)]
    raft_applied_index: u64,
    #[serde(default)]
    errors: Vec<String>,
}

impl StatusAnswer {
    /// Returns the endpoint and the id of the member there.
    pub fn endpoint_and_member(self) -> (String, u64) {
        (self.endpoint, self.status.header.member_id)
    }
}

impl From<StatusAnswer> for Status {
    fn from(StatusAnswer { status, .. }: StatusAnswer) -> Self {
        Self {
            cluster_id: status.header.cluster_id,
            member_id: status.header.member_id,
            revision: status.header.revision,
            version: status.version,
            db_size: status.db_size,
            db_in_use: status.db_size_in_use,
            has_leader: status.leader != 0,
            is_learner: status.is_learner,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
            errors: status.errors,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct MembersAnswer {
    pub members: Vec<Member>,
}

/// etcd's hash over all keys and values of a store (CRC-32C), with the revision of its compaction. Only hashes with the
/// same compaction can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentHash {
    /// The hash.
    pub hash: u32,
    /// The revision below which history was compacted; -1 if it never was.
    pub compact_revision: i64,
}

#[derive(Deserialize)]
pub(super) struct HashAnswer {
    #[serde(rename = "HashKV")]
    pub hash_kv: HashBody,
}

#[derive(Deserialize)]
pub(super) struct HashBody {
    /// Contains the revision of the store when it was hashed.
    pub header: Header,
    #[serde(flatten)]
    pub hash: ContentHash,
}

#[derive(Deserialize)]
pub(super) struct RangeAnswer {
    #[serde(default)]
    pub count: u64,
}

/// Reads a text as each answer that etcdctl may give, for the fuzzer.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_all_answers(text: &str) {
    let answers = serde_json::from_str::<Vec<StatusAnswer>>(text).unwrap_or_default();
    let _: Vec<Status> = answers.into_iter().map(Status::from).collect();
    let _ = serde_json::from_str::<MembersAnswer>(text);
    let _ = serde_json::from_str::<Vec<HashAnswer>>(text);
    let _ = serde_json::from_str::<RangeAnswer>(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_status_without_its_empty_fields() {
        let text = r#"[{"Endpoint":"x","Status":{"header":{"cluster_id":16513419239228564786,"member_id":43,"revision":6,
            "raft_term":2},"version":"3.4.23","dbSize":20480,"raftIndex":4,"errors":["etcdserver: no leader"]}}]"#;
        let answer: Vec<StatusAnswer> = serde_json::from_str(text).unwrap();
        let status = Status::from(answer.into_iter().next().unwrap());
        assert_eq!((status.cluster_id, status.revision), (16513419239228564786, 6));
        assert_eq!((status.raft_index, status.raft_applied_index), (4, 0));
        assert!(!status.has_leader && !status.is_learner);
        assert_eq!(status.errors, ["etcdserver: no leader"]);
    }

    #[test]
    fn an_unstarted_member_has_no_name() {
        let text = r#"{"header":{},"members":[{"ID":15180468318221803243,"peerURLs":["http://10.0.0.2:2380"]},
            {"ID":2,"name":"m1","peerURLs":["http://10.0.0.1:2380"],"clientURLs":["x"],"isLearner":true}]}"#;
        let answer: MembersAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.members[0].id, 15180468318221803243);
        assert_eq!(answer.members[0].name, "");
        assert!(answer.members[1].is_learner);
    }
}
