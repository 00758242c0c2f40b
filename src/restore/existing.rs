//! The data that a restore finds, and the facts that were read from it.

use crate::etcd::client::Status;
use crate::etcd::member::Member;

/// The existing data.
#[derive(Debug, Clone)]
pub enum ExistingData {
    /// etcd serves it.
    Served {
        /// The status that the member reports.
        status: Status,
        /// The members of the cluster.
        members: Vec<Member>,
    },
    /// No etcd has it open. A private etcd was booted on a copy of it.
    Stopped {
        /// The revision that it starts at.
        revision: i64,
        /// The members of the cluster.
        members: Vec<Member>,
    },
    /// The data directory holds no member, so a restore cannot lose data.
    Empty,
    /// An etcd has the data open but does not answer. Holds the reason.
    NotAnswering(String),
    /// No etcd has it open, and reading its files found damage. Holds the reason.
    Damaged(String),
    /// No etcd has it open, and its members could not be read. Holds the reason. The data may still be intact: the
    /// disk, the program or the machine may be at fault.
    NotReadable(String),
    /// The member directory has no write-ahead log: it is lost, or stored elsewhere. An etcd that starts without its
    /// log creates a new cluster of one member, and is healthy.
    WithoutLog,
    /// The etcd that answers at the endpoint does not serve this data directory.
    OfAnotherEtcd {
        /// Whether another etcd has it open.
        is_open: bool,
    },
}

impl ExistingData {
    /// Returns the revision of the data, if it could be read.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Served { status, .. } => Some(status.revision),
            Self::Stopped { revision, .. } => Some(*revision),
            Self::Empty
            | Self::NotAnswering(_)
            | Self::Damaged(_)
            | Self::NotReadable(_)
            | Self::WithoutLog
            | Self::OfAnotherEtcd { .. } => None,
        }
    }
}
