//! Users, roles, leases and alarms in etcd's buckets.
//!
//! Owns the shape of their records (`api/authpb/auth.proto`, `server/lease/leasepb/lease.proto`, `AlarmMember` in
//! `api/etcdserverpb/rpc.proto`). Must never return the hash of a password.

use super::Backend;
use crate::etcd::protobuf::{Malformed, MessageFields};
use anyhow::{Context, Result};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name. etcd accepts any bytes.
    pub name: Vec<u8>,
    /// The names of its roles.
    pub roles: Vec<Vec<u8>>,
}

/// The leases of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    /// The number of leases.
    pub count: u64,
    /// The shortest and the longest time to live, in seconds.
    pub ttl_seconds: Option<(i64, i64)>,
}

/// An alarm of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The id of the member.
    pub member: u64,
    /// The name of the alarm, such as `NOSPACE`.
    pub name: String,
}

/// The number of bytes that further records of a bucket may have.
pub(super) struct Room(usize);

impl Room {
    /// The room of a bucket that is held in memory: users, roles, alarms or members.
    pub const HELD: Self = Self(8 << 20);

    /// Takes the room of a record. Fails if the bucket is larger, which does not prove damage.
    pub fn take(&mut self, bucket: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let left = self.0.checked_sub(key.len() + value.len());
        self.0 = left.with_context(|| format!("bucket `{bucket}` is too large to be held in memory"))?;
        Ok(())
    }
}

impl Backend {
    /// Returns the users, sorted by name.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn users(&self) -> Result<Vec<User>> {
        let mut users = Vec::new();
        self.for_each("authUsers", Room::HELD, |name, record| {
            let mut roles = Vec::new();
            for field in MessageFields::new(record) {
                if let (3, role) = field? {
                    roles.push(role.bytes()?.to_vec());
                }
            }
            users.push(User { name: name.to_vec(), roles });
            Ok(())
        })?;
        Ok(users)
    }

    /// Returns the names of the roles, sorted.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn roles(&self) -> Result<Vec<Vec<u8>>> {
        let mut roles = Vec::new();
        self.for_each("authRoles", Room::HELD, |name, _| {
            roles.push(name.to_vec());
            Ok(())
        })?;
        Ok(roles)
    }

    /// Returns the leases.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn leases(&self) -> Result<Leases> {
        let mut leases = Leases::default();
        self.for_each("lease", Room(usize::MAX), |_, record| {
            let mut ttl = 0;
            for field in MessageFields::new(record) {
                if let (2, value) = field? {
                    ttl = value.integer()?.cast_signed();
                }
            }
            leases.count += 1;
            let (shortest, longest) = leases.ttl_seconds.unwrap_or((ttl, ttl));
            leases.ttl_seconds = Some((shortest.min(ttl), longest.max(ttl)));
            Ok(())
        })?;
        Ok(leases)
    }

    /// Returns the alarms.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn alarms(&self) -> Result<Vec<Alarm>> {
        let mut alarms = Vec::new();
        // The alarm is the key of the record.
        self.for_each("alarm", Room::HELD, |alarm, _| {
            let (mut member, mut kind) = (0, 0);
            for field in MessageFields::new(alarm) {
                match field? {
                    (1, value) => member = value.integer()?,
                    (2, value) => kind = value.integer()?,
                    _ => {}
                }
            }
            let name = match kind {
                1 => "NOSPACE".to_owned(),
                2 => "CORRUPT".to_owned(),
                other => format!("number {other}"),
            };
            alarms.push(Alarm { member, name });
            Ok(())
        })?;
        Ok(alarms)
    }

    /// Calls `visit` for each record of a bucket, if it exists.
    fn for_each(
        &self,
        bucket: &str,
        mut room: Room,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Malformed>,
    ) -> Result<()> {
        let Some(mut records) = self.records(bucket)? else { return Ok(()) };
        while let Some((key, record)) = records.next()? {
            room.take(bucket, key, record)?;
            visit(key, record)
                .with_context(|| format!("bucket `{bucket}`"))
                .with_context(|| self.context())?;
        }
        Ok(())
    }
}
