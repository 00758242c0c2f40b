//! Which unit a data directory belongs to: a small record in it, written before the first data.
//!
//! A storage outlives its unit and can be attached to another one. Data without a record of this unit belongs to someone
//! else.

use crate::exchange::MEMBER;
use crate::system::durable::Dir;
use crate::system::trust;
use crate::system::trust::only_root_can_write;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file name of the record. etcd ignores names that begin with a dot, with a warning.
const NAME: &str = ".etcd-charm.json";

/// The record of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// The name of the unit, such as `etcd/0`.
    pub unit: String,
    /// The UUID of its model.
    pub model: String,
    /// Whether etcd has served with this data. If so, missing data is lost, and not yet to be created.
    pub served: bool,
    /// The member whose data this is. Records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<RecordedMember>,
}

/// A member that has served with the data, and its cluster. Both ids are in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedMember {
    /// The id of the cluster.
    pub cluster: String,
    /// The id of the member.
    pub id: String,
}

/// The content of a data directory, from the view of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataState {
    /// The directory has no data and no record of this unit.
    Absent,
    /// There is a record of this unit; as far as is known, etcd has not served yet.
    New,
    /// There is a record of this unit and data.
    Present,
    /// etcd of this unit has served here, but now there is no member directory.
    Lost,
    /// The data belongs to someone else: this text describes the owner.
    Foreign(String),
    /// Users other than root can write the record, so the owner is not known.
    Untrusted,
}

impl UnitRecord {
    /// Returns a token that distinguishes the unit's cluster from every other.
    pub fn cluster_token(&self) -> String {
        format!("{} {}", self.unit, self.model)
    }

    /// Returns the path of the record in `data_dir`, for messages.
    pub fn path_in(data_dir: &Path) -> PathBuf {
        data_dir.join(NAME)
    }

    /// Reads the record of this unit in `dir`. `None` if there is none, or it is that of another unit.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn read_own(&self, dir: &Dir) -> Result<Option<Self>> {
        let Some(text) = dir.read_small(NAME)? else { return Ok(None) };
        let found: Self = serde_json::from_slice(&text)
            .with_context(|| format!("reading the record {}", Self::path_in(dir.path()).display()))?;
        Ok(Some(found).filter(|found| found.unit == self.unit && found.model == self.model))
    }

    /// Writes the record into `dir`.
    ///
    /// # Errors
    /// If the file cannot be written durably.
    pub fn write(&self, dir: &Dir) -> Result<()> {
        dir.replace(NAME, &serde_json::to_vec(self)?)
    }

    /// Returns the state of a data directory from the view of this unit.
    ///
    /// # Errors
    /// If the directory or a record in it cannot be read.
    pub fn data_state(&self, dir: &Dir) -> Result<DataState> {
        let has_member = dir.inode(MEMBER)?.is_some();
        let Some(text) = dir.read_small(NAME)? else {
            return Ok(match has_member {
                true => DataState::Foreign("a cluster that this charm did not create".to_owned()),
                false => DataState::Absent,
            });
        };
        let file = Self::path_in(dir.path());
        let reading = || format!("reading the record {}", file.display());
        // The user that etcd runs as owns the directory and can put another record there.
        if !only_root_can_write(&dir.read(NAME)?.metadata().with_context(reading)?) {
            return Ok(DataState::Untrusted);
        }
        let found: Self = serde_json::from_slice(&text).with_context(reading)?;
        Ok(match (found.unit == self.unit && found.model == self.model, has_member) {
            (false, true) => DataState::Foreign(format!("unit {} of model {}", found.unit, found.model)),
            (false, false) => DataState::Absent,
            (true, _) if !found.served => DataState::New,
            (true, true) => DataState::Present,
            (true, false) => DataState::Lost,
        })
    }
}

/// Opens the data directory at `path`, or returns `None` if it does not exist.
///
/// The user that etcd runs as may own a directory on the way and can replace an entry by a symlink. In that case no
/// symlink is followed: this process runs as root and changes the owner of what it finds.
///
/// # Errors
/// If the directory exists and cannot be opened, or a symlink must not be followed.
pub fn open_data_dir(path: &Path) -> Result<Option<Dir>> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let path = match path.parent() {
        Some(parent) => match trust::check(parent) {
            Ok(parent) => parent.join(path.file_name().unwrap_or_default()),
            Err(_) => path.to_owned(),
        },
        None => path.to_owned(),
    };
    Dir::open(&path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::owner::Owner;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn data_belongs_to_a_unit_only_by_its_record() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let record =
            |unit: &str, served| UnitRecord { unit: unit.into(), model: "m".into(), served, member: None };
        let own = record("etcd/0", false);
        assert_eq!(own.data_state(&dir).unwrap(), DataState::Absent);
        dir.make_child(MEMBER, None).unwrap();
        assert!(matches!(own.data_state(&dir).unwrap(), DataState::Foreign(_)));
        own.write(&dir).unwrap();
        assert_eq!(own.data_state(&dir).unwrap(), DataState::New);
        record("etcd/0", true).write(&dir).unwrap();
        assert_eq!(own.data_state(&dir).unwrap(), DataState::Present);
        let DataState::Foreign(owner) = record("etcd/1", false).data_state(&dir).unwrap() else {
            panic!("not foreign")
        };
        assert_eq!(owner, "unit etcd/0 of model m");
        dir.remove_tree(MEMBER).unwrap();
        assert_eq!(own.data_state(&dir).unwrap(), DataState::Lost);
        assert_eq!(record("etcd/1", false).data_state(&dir).unwrap(), DataState::Absent);
        own.write(&dir).unwrap();
        assert_eq!(own.data_state(&dir).unwrap(), DataState::New);
        std::fs::set_permissions(home.path().join(NAME), Permissions::from_mode(0o666)).unwrap();
        assert_eq!(own.data_state(&dir).unwrap(), DataState::Untrusted);
        std::fs::set_permissions(home.path().join(NAME), Permissions::from_mode(0o644)).unwrap();
        // As after `chown -R etcd:`. Only root can change an owner.
        let etcd = Owner { uid: 65534, gid: 65534 };
        if etcd.chown(&dir.read(NAME).unwrap()).is_ok() {
            assert_eq!(own.data_state(&dir).unwrap(), DataState::Untrusted);
        }
    }

    #[test]
    fn reads_its_own_record_also_one_of_an_earlier_version() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let own = UnitRecord { unit: "etcd/0".into(), model: "m".into(), served: false, member: None };
        assert_eq!(own.read_own(&dir).unwrap(), None);
        dir.replace(NAME, br#"{"unit":"etcd/0","model":"m","served":true}"#).unwrap();
        assert_eq!(own.read_own(&dir).unwrap(), Some(UnitRecord { served: true, ..own.clone() }));
        let member = Some(RecordedMember { cluster: "1a".into(), id: "8e".into() });
        let served = UnitRecord { served: true, member, ..own.clone() };
        served.write(&dir).unwrap();
        assert_eq!(own.read_own(&dir).unwrap(), Some(served));
        assert_eq!(UnitRecord { unit: "etcd/1".into(), ..own }.read_own(&dir).unwrap(), None);
    }

    #[test]
    fn does_not_follow_a_symlink_in_place_of_the_data_directory() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        assert!(open_data_dir(&real).unwrap().is_none());
        Dir::open(home.path()).unwrap().make_child("real", None).unwrap();
        symlink(&real, &link).unwrap();
        assert!(open_data_dir(&real).unwrap().is_some());
        assert!(open_data_dir(&link).is_err());
    }
}
