//! Whose a data directory is: a small record in it, written before the first data.
//!
//! A storage outlives its unit and can be attached to another one. Data without our record is somebody's.

use crate::exchange::MEMBER;
use crate::system::durable::Dir;
use crate::system::trust::is_roots;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Dotted: etcd ignores it, with a warning.
const NAME: &str = ".etcd-charm.json";

/// Whose data it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The unit.
    pub unit: String,
    /// The UUID of its model.
    pub model: String,
    /// Whether etcd has served here. From then on, missing data is lost data and not data to come.
    pub served: bool,
}

/// What is in a data directory, to one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing yet, and no record.
    Nothing,
    /// Ours, and etcd has not served here yet, as far as we know.
    New,
    /// Ours, and there.
    There,
    /// Ours it was: etcd has served, and now there is no member.
    Lost,
    /// Somebody's: whose, in words.
    Foreign(String),
}

impl Record {
    /// Tells the unit's cluster from every other.
    pub fn token(&self) -> String {
        format!("{} {}", self.unit, self.model)
    }

    /// Its path, for a person.
    pub fn file(data_dir: &Path) -> PathBuf {
        data_dir.join(NAME)
    }

    /// Writes it into `dir`.
    pub fn write(&self, dir: &Dir) -> Result<()> {
        dir.replace(NAME, &serde_json::to_vec(self)?)
    }

    /// What is in the data directory to the unit of this record.
    pub fn look(&self, dir: &Dir) -> Result<Data> {
        let has_member = dir.inode(MEMBER)?.is_some();
        let Some(text) = dir.read_small(NAME)? else {
            return Ok(match has_member {
                true => Data::Foreign("a cluster that this charm did not make".to_owned()),
                false => Data::Nothing,
            });
        };
        let file = Self::file(dir.path());
        let reading = || format!("the record {} cannot be read", file.display());
        // Whom etcd runs as owns the directory, and may put another one there.
        if !is_roots(&dir.read(NAME)?.metadata().with_context(reading)?) {
            return Ok(Data::Foreign(format!("whoever wrote {}, and that was not root", file.display())));
        }
        let found: Self = serde_json::from_slice(&text).with_context(reading)?;
        Ok(match (found.unit == self.unit && found.model == self.model, has_member) {
            (false, true) => Data::Foreign(format!("unit {} of model {}", found.unit, found.model)),
            (false, false) => Data::Nothing,
            (true, _) if !found.served => Data::New,
            (true, true) => Data::There,
            (true, false) => Data::Lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn data_is_ours_only_by_our_record() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let record = |unit: &str, served| Record { unit: unit.into(), model: "m".into(), served };
        let ours = record("etcd/0", false);
        assert_eq!(ours.look(&dir).unwrap(), Data::Nothing);
        dir.make_child(MEMBER, None).unwrap();
        assert!(matches!(ours.look(&dir).unwrap(), Data::Foreign(_)));
        ours.write(&dir).unwrap();
        assert_eq!(ours.look(&dir).unwrap(), Data::New);
        record("etcd/0", true).write(&dir).unwrap();
        assert_eq!(ours.look(&dir).unwrap(), Data::There);
        let Data::Foreign(whose) = record("etcd/1", false).look(&dir).unwrap() else { panic!("not foreign") };
        assert_eq!(whose, "unit etcd/0 of model m");
        dir.remove_tree(MEMBER).unwrap();
        assert_eq!(ours.look(&dir).unwrap(), Data::Lost);
        assert_eq!(record("etcd/1", false).look(&dir).unwrap(), Data::Nothing);
        ours.write(&dir).unwrap();
        assert_eq!(ours.look(&dir).unwrap(), Data::New);
        std::fs::set_permissions(home.path().join(NAME), Permissions::from_mode(0o666)).unwrap();
        let Data::Foreign(whose) = ours.look(&dir).unwrap() else { panic!("anybody's record was taken") };
        assert!(whose.contains("not root"), "{whose}");
    }
}
