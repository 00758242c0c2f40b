//! Writes the backup settings from Juju to files for the actions: the option `backup` and the relation `s3-parameters`.
//!
//! If one of the two is invalid, its part of the files stays as it was, and the unit's status gives the reason. Must never write a
//! secret anywhere but to the credentials file, keep that file after its relation, or change the files of another unit.

use super::etcd_config::HEADER;
use super::files::{open_or_create_dir, remove_if_exists, split_path, write_if_changed};
use super::relation_overrides::{DESTINATION, RelationOverrides};
use super::s3_relation::{self, CA_CERTIFICATES, CREDENTIALS, RelationBucket};
use super::unit_record::UnitRecord;
use crate::error::Refusal;
use crate::juju::{Juju, Scope, Status};
use crate::settings::{DESTINATIONS_KEY, Settings};
use crate::system::durable::{PRIVATE, PUBLIC};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The endpoint in `metadata.yaml`.
const ENDPOINT: &str = "s3-parameters";
/// The option in `config.yaml` that contains the text of a settings file.
const OPTION: &str = "backup";
/// The beginning of the line in the settings file that names its unit.
const OWNER_LINE: &str = "# Owned by unit ";

/// The state of the relation.
enum Relation {
    /// There is no relation.
    None,
    /// The other application, named here, has not provided a bucket yet.
    Waiting(String),
    /// The data of the relation cannot be used.
    Invalid(Refusal),
    /// Juju could not be asked.
    Unknown(anyhow::Error),
    /// The relation provides a bucket.
    Bucket(Box<RelationBucket>),
}

/// Which unit writes the settings, and whether it owns the machine's etcd.
#[derive(Debug)]
pub struct Ownership<'a> {
    /// The record of this unit.
    pub own: &'a UnitRecord,
    /// Whether the machine's etcd belongs to this unit. `None` if a site file describes the etcd.
    pub owns_etcd: Option<bool>,
}

impl Ownership<'_> {
    fn owner_line(&self) -> String {
        format!("{OWNER_LINE}{} of model {}.\n", self.own.unit, self.own.model)
    }

    /// Returns the owner of `file` if this unit must not write it: because another unit has written it, or because the
    /// machine's etcd belongs to another unit.
    fn other_owner(&self, file: &Path) -> Option<String> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let owner_line = text.lines().find_map(|line| line.strip_prefix(OWNER_LINE));
        match (self.owns_etcd, owner_line.map(|line| line.trim_end_matches('.'))) {
            (Some(true), _) | (None, None) => None,
            (_, Some(_)) if text.contains(&self.owner_line()) => None,
            (_, Some(owner)) => Some(format!("unit {owner}")),
            (Some(false), None) => Some("the unit whose etcd this is".to_owned()),
        }
    }
}

/// Writes the present settings from Juju to `file`. Returns a status if something is wrong with them.
///
/// `broken_relation` is the id of a relation that is being removed. `is_removed` is true if the unit is being removed.
///
/// # Errors
/// If Juju cannot be asked for the relation, or the files cannot be written.
pub fn reconcile(
    juju: &Juju,
    file: &Path,
    ownership: &Ownership<'_>,
    broken_relation: Option<&str>,
    is_removed: bool,
) -> Result<Option<Status>> {
    if let Some(owner) = ownership.other_owner(file) {
        return Ok(status_of_other_owner(juju, file, &owner));
    }
    let written = read_written(file);
    let option = if is_removed { Ok(BackupOption::default()) } else { BackupOption::read(juju) };
    let written_destination = written.get(DESTINATIONS_KEY).and_then(|all| all.get(DESTINATION)).cloned();
    let overrides = match &option {
        Ok(option) => option.overrides.clone(),
        Err(_) => written_destination.as_ref().map(RelationOverrides::from_destination).unwrap_or_default(),
    };
    let relation = match is_removed {
        true => Relation::None,
        false => read_relation(juju, file, broken_relation, &overrides).unwrap_or_else(Relation::Unknown),
    };
    let mut wanted = match &option {
        Ok(option) => option.settings.clone(),
        Err(_) => without_relation(&written),
    };
    let destination = match &relation {
        Relation::Bucket(bucket) => Some(overrides.destination(bucket.description.clone())),
        Relation::None => None,
        _ => written_destination.map(|destination| overrides.replace_in(&destination)),
    };
    if let Some(destination) = destination {
        let all = wanted.entry(DESTINATIONS_KEY).or_insert_with(|| json!({}));
        if let Value::Object(all) = all {
            all.insert(DESTINATION.to_owned(), destination);
        }
    }
    write(juju, file, ownership, &wanted, &relation)?;
    match (relation, option) {
        (Relation::Unknown(error), _) => Err(error),
        (_, Err(refusal)) | (Relation::Invalid(refusal), _) => {
            Ok(Some(Status::blocked(&refusal.reason, &refusal.next)))
        }
        (Relation::Waiting(app), _) => {
            Ok(Some(Status::new("waiting", format!("waiting for {app} to provide a bucket for backups"))))
        }
        (Relation::None | Relation::Bucket(_), _) => Ok(None),
    }
}

/// Returns a status for a unit that has backup settings, but must not write them because `file` belongs to another unit.
fn status_of_other_owner(juju: &Juju, file: &Path, owner: &str) -> Option<Status> {
    let has_option = BackupOption::read(juju).map_or(true, |option| option != BackupOption::default());
    let has_relation = juju.relation_ids(ENDPOINT).is_ok_and(|ids| !ids.is_empty());
    let file = file.display();
    (has_option || has_relation).then(|| {
        Status::blocked(
            &format!("the backup settings in {file} belong to {owner}"),
            &format!("configure backups there; or, if that unit was removed: rm {file}"),
        )
    })
}

/// Reads the data of the relation. Also requests a bucket in it: some versions of the other side wait for that.
fn read_relation(
    juju: &Juju,
    file: &Path,
    broken_relation: Option<&str>,
    overrides: &RelationOverrides,
) -> Result<Relation> {
    let ids = juju.relation_ids(ENDPOINT)?;
    let Some(relation) = ids.into_iter().find(|id| Some(id.as_str()) != broken_relation) else {
        return Ok(Relation::None);
    };
    let app = juju.remote_application(&relation)?;
    request_bucket(juju, &relation)?;
    let data = juju.application_data(&relation, &app)?;
    let secret = s3_relation::secret_id(&data);
    // Until the other side has a bucket, its data is empty or repeats the request.
    if secret.is_none() && !data.contains_key("access-key") && !data.contains_key("endpoint") {
        return Ok(Relation::Waiting(app));
    }
    let keys = secret.map(|id| juju.secret(&id)).transpose();
    let keys = keys.with_context(|| format!("reading the secret of {app}"))?.unwrap_or_default();
    let dir = file.parent().context("the settings file has no directory")?;
    Ok(match RelationBucket::from_relation_data(&app, &data, &keys, dir, overrides) {
        Ok(bucket) => Relation::Bucket(Box::new(bucket)),
        Err(refusal) => Relation::Invalid(refusal),
    })
}

/// Requests a bucket in the terms of both versions of the interface. The older one needs the name of a bucket; a name
/// that its operator has configured takes precedence.
fn request_bucket(juju: &Juju, relation: &str) -> Result<()> {
    if !juju.is_leader()? {
        return Ok(());
    }
    let bucket = format!("relation-{}", relation.rsplit(':').next().unwrap_or_default());
    let request = [
        ("bucket", bucket.as_str()),
        ("lib-version", "1.0"),
        ("requested-secrets", r#"["access-key", "secret-key"]"#),
    ];
    let request = request.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    juju.set_relation_data(relation, Scope::Application, &request)
}

/// The parsed option `backup`.
#[derive(Debug, Default, PartialEq, Eq)]
struct BackupOption {
    /// The settings, without the destination of the relation.
    settings: Map<String, Value>,
    /// The settings for the destination of the relation.
    overrides: RelationOverrides,
}

impl BackupOption {
    fn read(juju: &Juju) -> Result<Self, Refusal> {
        let refuse = |reason: String| {
            let next = "correct the file, then: juju config APPLICATION backup=@backup.yaml";
            Refusal::new(format!("option {OPTION} cannot be used: {reason}"), next)
        };
        let options = juju.config().map_err(|error| refuse(format!("{error:#}")))?;
        let text = options.get(OPTION).and_then(Value::as_str).unwrap_or_default();
        let map: Option<Map<String, Value>> =
            serde_yaml::from_str(text).map_err(|error| refuse(format!("{error:#}")))?;
        let mut map = map.unwrap_or_default();
        let overrides = RelationOverrides::take(&mut map).map_err(&refuse)?;
        let settings: Settings = match overrides == RelationOverrides::default() {
            // Parse the original text, so that errors have its line numbers.
            true => Settings::parse(text),
            false => serde_yaml::to_string(&map).map_err(Into::into).and_then(|text| Settings::parse(&text)),
        }
        .map_err(|error| refuse(format!("{error:#}")))?;
        for (name, destination) in &settings.destinations {
            let checked = destination.location.check();
            checked.map_err(|refusal| refuse(format!("destination {name}: {}", refusal.reason)))?;
        }
        Ok(Self { settings: map, overrides })
    }
}

/// Returns the settings that were written earlier, or an empty map if they cannot be read.
fn read_written(file: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_yaml::from_str::<Option<_>>(&text).ok().flatten().unwrap_or_default()
}

fn without_relation(settings: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = settings.clone();
    if let Some(Value::Object(all)) = rest.get_mut(DESTINATIONS_KEY) {
        all.remove(DESTINATION);
    }
    rest
}

/// Writes all files. The files of a bucket are written before the settings that name them, and removed after them.
fn write(
    juju: &Juju,
    file: &Path,
    ownership: &Ownership<'_>,
    wanted: &Map<String, Value>,
    relation: &Relation,
) -> Result<()> {
    let (dir, name) = split_path(file)?;
    if wanted.is_empty() && !dir.exists() {
        return Ok(());
    }
    let dir = open_or_create_dir(dir)?;
    let mut changed = false;
    if let Relation::Bucket(bucket) = relation {
        changed |= write_if_changed(&dir, CREDENTIALS, bucket.credentials.reveal(), PRIVATE)?;
        if let Some(pem) = &bucket.ca_certificates {
            changed |= write_if_changed(&dir, CA_CERTIFICATES, pem, PUBLIC)?;
        }
    }
    changed |= match wanted.is_empty() {
        true => remove_if_exists(&dir, name)?,
        false => {
            let text = format!("{HEADER}{}{}", ownership.owner_line(), serde_yaml::to_string(wanted)?);
            write_if_changed(&dir, name, &text, PUBLIC)?
        }
    };
    changed |= match relation {
        Relation::None => remove_if_exists(&dir, CREDENTIALS)? | remove_if_exists(&dir, CA_CERTIFICATES)?,
        Relation::Bucket(bucket) if bucket.ca_certificates.is_none() => {
            remove_if_exists(&dir, CA_CERTIFICATES)?
        }
        _ => false,
    };
    match changed {
        true => juju.log_info(&format!("wrote the backup settings from Juju to {}", file.display())),
        false => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_settings_of_another_unit_unless_it_owns_etcd() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("juju.yaml");
        let unit = |name: &str| UnitRecord {
            unit: name.to_owned(),
            model: "m".to_owned(),
            served: false,
            member: None,
        };
        let (first, second) = (unit("etcd/0"), unit("etcd/1"));
        let may_write =
            |own: &UnitRecord, owns_etcd| Ownership { own, owns_etcd }.other_owner(&file).is_none();
        // Without a file, the owner of etcd decides, if it is known.
        assert!(may_write(&first, None) && may_write(&first, Some(true)) && !may_write(&first, Some(false)));
        // The same for a file that does not name its unit.
        std::fs::write(&file, HEADER).unwrap();
        assert!(may_write(&first, None) && may_write(&first, Some(true)) && !may_write(&first, Some(false)));
        let line = Ownership { own: &first, owns_etcd: None }.owner_line();
        std::fs::write(&file, format!("{}{line}keep: {{last: 7}}\n", HEADER)).unwrap();
        for owns_etcd in [None, Some(true), Some(false)] {
            assert!(may_write(&first, owns_etcd), "{owns_etcd:?}");
            // If this unit owns etcd, the unit that wrote the file was removed.
            assert_eq!(may_write(&second, owns_etcd), owns_etcd == Some(true));
        }
    }
}
