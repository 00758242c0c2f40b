//! A request of the v2 API, as a raft entry holds it (`etcdserverpb.Request`).

use crate::etcd::protobuf::{FieldValue, Malformed, MessageFields};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Put,
    Post,
    Delete,
    /// Removes expired keys.
    Sync,
    /// Any other method. It does not change the store.
    Other,
}

/// A request. Values are kept as digests only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V2Request {
    pub method: Method,
    pub path: String,
    pub value: u64,
    /// Whether the value is not empty.
    pub has_value: bool,
    pub dir: bool,
    /// The digest of the value that the key must have.
    pub previous_value: Option<u64>,
    /// Whether the key must have been last modified at a certain index.
    pub has_previous_index: bool,
    pub previous_exists: Option<bool>,
    /// The expiry as Unix time in nanoseconds; 0 means never.
    pub expires: i64,
    pub recursive: bool,
    /// The time of the request as Unix time in nanoseconds.
    pub time: i64,
    pub refresh: bool,
}

/// Returns a digest that distinguishes one value from another.
pub(super) fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl V2Request {
    /// Returns the v2 request in an entry; `None` if it is a request of the v3 API.
    ///
    /// An entry is an `InternalRaftRequest` with a v2 request in field 2. An entry that cannot be decoded as
    /// such is a v2 request itself, which is how etcd 3.4 and 3.5 write them (`server.go` `applyEntryNormal`).
    ///
    /// # Errors
    /// Fails if the entry is neither. etcd would panic.
    pub fn from_entry(entry: &[u8]) -> Result<Option<Self>, Malformed> {
        Self::as_internal(entry).or_else(|Malformed| Self::parse(entry).map(Some))
    }

    fn as_internal(entry: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut found = None;
        for field in MessageFields::new(entry) {
            match field? {
                (1, FieldValue::Varint(_)) => {}
                (2, value) => found = Some(Self::parse(value.bytes()?)?),
                // Every other field is a message.
                (_, value) => drop(value.bytes()?),
            }
        }
        Ok(found)
    }

    fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            method: Method::Other,
            path: String::new(),
            value: digest(b""),
            has_value: false,
            dir: false,
            previous_value: None,
            has_previous_index: false,
            previous_exists: None,
            expires: 0,
            recursive: false,
            time: 0,
            refresh: false,
        };
        for field in MessageFields::new(message) {
            request.set(field?)?;
        }
        Ok(request)
    }

    fn set(&mut self, (number, value): (u64, FieldValue<'_>)) -> Result<(), Malformed> {
        match number {
            2 => {
                self.method = match value.bytes()? {
                    b"PUT" => Method::Put,
                    b"POST" => Method::Post,
                    b"DELETE" => Method::Delete,
                    b"SYNC" => Method::Sync,
                    _ => Method::Other,
                }
            }
            3 => self.path = String::from_utf8_lossy(value.bytes()?).into_owned(),
            4 => {
                let value = value.bytes()?;
                (self.value, self.has_value) = (digest(value), !value.is_empty());
            }
            5 => self.dir = value.integer()? != 0,
            6 => {
                let value = value.bytes()?;
                self.previous_value = (!value.is_empty()).then(|| digest(value));
            }
            7 => self.has_previous_index = value.integer()? != 0,
            8 => self.previous_exists = Some(value.integer()? != 0),
            9 => self.expires = value.integer()?.cast_signed(),
            12 => self.recursive = value.integer()? != 0,
            15 => self.time = value.integer()?.cast_signed(),
            17 => self.refresh = value.integer()? != 0,
            // The id, and options of reads. All of them are integers.
            1 | 10 | 11 | 13 | 14 | 16 => drop(value.integer()?),
            _ => {}
        }
        Ok(())
    }
}
