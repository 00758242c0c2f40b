//! What Juju says of backups, written down for the actions: the option `backup` and the relation `s3-parameters`.
//!
//! A half that is wrong stays as it was, and why is the unit's status. Must never write a secret anywhere but into the
//! credentials file, nor keep that file when its relation has gone, nor touch what another unit has written down.

use super::besides::{Besides, DESTINATION};
use super::configuration;
use super::decide::{blocked, status};
use super::offered::{self, AUTHORITIES, CREDENTIALS, Offered, offered};
use super::perform::{ensure, split};
use super::record::Record;
use crate::error::Refusal;
use crate::juju::{Juju, Status};
use crate::settings::{At, DESTINATIONS, Settings};
use crate::system::durable::{Dir, PRIVATE, PUBLIC};
use anyhow::{Context, Result};
use rustix::fs::Mode;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The endpoint in `metadata.yaml`.
const ENDPOINT: &str = "s3-parameters";
/// The option that holds the text of a file of settings.
const OPTION: &str = "backup";
/// How the line begins that says whose file it is.
const WHOSE: &str = "# It is of unit ";

/// What the relation says.
enum Related {
    /// There is none.
    None,
    /// Nothing yet.
    Waiting(String),
    /// Something that cannot be used.
    Wrong(Refusal),
    /// Nobody knows: Juju could not be asked.
    Unknown(anyhow::Error),
    /// A bucket.
    Bucket(Box<Offered>),
}

/// Who asks, and by what right.
#[derive(Debug)]
pub struct Whose<'a> {
    /// The unit.
    pub ours: &'a Record,
    /// Whether the etcd of the machine is its own; nothing where a site file says which etcd that is.
    pub owns_etcd: Option<bool>,
}

impl Whose<'_> {
    fn line(&self) -> String {
        format!("{WHOSE}{} of model {}.\n", self.ours.unit, self.ours.model)
    }

    /// Whose `file` is, where it is not for this unit to write: another's, or any where etcd is.
    fn other(&self, file: &Path) -> Option<String> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let named =
            text.lines().find_map(|line| line.strip_prefix(WHOSE)).map(|line| line.trim_end_matches('.'));
        match (self.owns_etcd, named) {
            (Some(true), _) | (None, None) => None,
            (_, Some(_)) if text.contains(&self.line()) => None,
            (_, Some(named)) => Some(format!("unit {named}")),
            (Some(false), None) => Some("the unit whose etcd this is".to_owned()),
        }
    }
}

/// Writes down in `file` what Juju says now, and says what is wrong with it. `breaking` is a relation that is about to go,
/// and with `leaving` the unit is.
pub fn reconcile(
    juju: &Juju,
    file: &Path,
    whose: &Whose<'_>,
    breaking: Option<&str>,
    leaving: bool,
) -> Result<Option<Status>> {
    if let Some(other) = whose.other(file) {
        return Ok(stands_aside(juju, file, &other));
    }
    let old = written(file);
    let asked = if leaving { Ok(Asked::default()) } else { asked(juju) };
    let before = old.get(DESTINATIONS).and_then(|all| all.get(DESTINATION)).cloned();
    let besides = match &asked {
        Ok(asked) => asked.besides.clone(),
        Err(_) => before.as_ref().map(Besides::of).unwrap_or_default(),
    };
    let related = match leaving {
        true => Related::None,
        false => related(juju, file, breaking, &besides).unwrap_or_else(Related::Unknown),
    };
    let mut wanted = match &asked {
        Ok(asked) => asked.settings.clone(),
        Err(_) => without_relation(&old),
    };
    let ours = match &related {
        Related::Bucket(offered) => Some(besides.destination(offered.description.clone())),
        Related::None => None,
        _ => before.map(|before| besides.instead(&before)),
    };
    if let Some(ours) = ours {
        let all = wanted.entry(DESTINATIONS).or_insert_with(|| json!({}));
        if let Value::Object(all) = all {
            all.insert(DESTINATION.to_owned(), ours);
        }
    }
    write(juju, file, whose, &wanted, &related)?;
    match (related, asked) {
        (Related::Unknown(error), _) => Err(error),
        (_, Err(refusal)) | (Related::Wrong(refusal), _) => Ok(Some(blocked(&refusal.reason, &refusal.next))),
        (Related::Waiting(app), _) => {
            Ok(Some(status("waiting", format!("for {app} to say which bucket is for backups"))))
        }
        (Related::None | Related::Bucket(_), _) => Ok(None),
    }
}

/// What there is to say of a file that is another unit's: something only where this one has anything to put there.
fn stands_aside(juju: &Juju, file: &Path, other: &str) -> Option<Status> {
    let is_asked = asked(juju).map_or(true, |asked| asked != Asked::default());
    let is_related = juju.relations(ENDPOINT).is_ok_and(|all| !all.is_empty());
    (is_asked || is_related).then(|| {
        let what = format!("the settings of backups in {} are of {other}", file.display());
        blocked(
            &what,
            &format!("say there how backups are made; if that unit is no more: rm {}", file.display()),
        )
    })
}

/// What the relation offers; and our own words to it, without which some versions of the other side say nothing.
fn related(juju: &Juju, file: &Path, breaking: Option<&str>, besides: &Besides) -> Result<Related> {
    let all = juju.relations(ENDPOINT)?;
    let Some(relation) = all.into_iter().find(|id| Some(id.as_str()) != breaking) else {
        return Ok(Related::None);
    };
    let app = juju.other_side(&relation)?;
    ask(juju, &relation)?;
    let bag = juju.databag(&relation, &app)?;
    let secret = offered::secret_of(&bag);
    // Until it has something to offer, the other side says nothing, or what it was asked for.
    if secret.is_none() && !bag.contains_key("access-key") && !bag.contains_key("endpoint") {
        return Ok(Related::Waiting(app));
    }
    let keys = secret.map(|id| juju.secret(&id)).transpose();
    let keys = keys.with_context(|| format!("asking Juju for the keys of {app}"))?.unwrap_or_default();
    let place = file.parent().context("the settings have no directory")?;
    Ok(match offered(&app, &bag, &keys, place, besides) {
        Ok(offered) => Related::Bucket(Box::new(offered)),
        Err(refusal) => Related::Wrong(refusal),
    })
}

/// Asks for a bucket, in the words of both versions of the interface. A name of its own is what the older one wants; its
/// operator's comes before it.
fn ask(juju: &Juju, relation: &str) -> Result<()> {
    if !juju.leads()? {
        return Ok(());
    }
    let bucket = format!("relation-{}", relation.rsplit(':').next().unwrap_or_default());
    let words = [
        ("bucket", bucket.as_str()),
        ("lib-version", "1.0"),
        ("requested-secrets", r#"["access-key", "secret-key"]"#),
    ];
    juju.say(relation, words)
}

/// What the operator gave Juju.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// The settings, without the relation's destination.
    settings: Map<String, Value>,
    /// And what they say of that.
    besides: Besides,
}

/// The settings that the operator gave Juju.
fn asked(juju: &Juju) -> Result<Asked, Refusal> {
    let no = |why: String| {
        let next = "correct the file, then: juju config APPLICATION backup=@backup.yaml";
        Refusal::new(format!("option {OPTION} cannot be used: {why}"), next)
    };
    let options = juju.configuration().map_err(|error| no(format!("{error:#}")))?;
    let text = options.get(OPTION).and_then(Value::as_str).unwrap_or_default();
    let map: Option<Map<String, Value>> =
        serde_yaml::from_str(text).map_err(|error| no(format!("{error:#}")))?;
    let mut map = map.unwrap_or_default();
    let besides = Besides::take(&mut map).map_err(&no)?;
    let settings: Settings = match besides == Besides::default() {
        // With the places of what is wrong in it.
        true => Settings::parse(text),
        false => serde_yaml::to_string(&map).map_err(Into::into).and_then(|text| Settings::parse(&text)),
    }
    .map_err(|error| no(format!("{error:#}")))?;
    for (name, destination) in &settings.destinations {
        if let At::Bucket(said) = &destination.at {
            said.check().map_err(|refusal| no(format!("destination {name}: {}", refusal.reason)))?;
        }
    }
    Ok(Asked { settings: map, besides })
}

/// What was written down before; nothing where that cannot be read.
fn written(file: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_yaml::from_str::<Option<_>>(&text).ok().flatten().unwrap_or_default()
}

fn without_relation(old: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = old.clone();
    if let Some(Value::Object(all)) = rest.get_mut(DESTINATIONS) {
        all.remove(DESTINATION);
    }
    rest
}

/// The files that a bucket needs come before what names them, and go after it.
fn write(
    juju: &Juju,
    file: &Path,
    whose: &Whose<'_>,
    wanted: &Map<String, Value>,
    related: &Related,
) -> Result<()> {
    let (place, name) = split(file)?;
    if wanted.is_empty() && !place.exists() {
        return Ok(());
    }
    let dir = ensure(place)?;
    let mut changed = false;
    if let Related::Bucket(offered) = related {
        changed |= put(&dir, CREDENTIALS, offered.credentials.reveal(), PRIVATE)?;
        if let Some(pem) = &offered.authorities {
            changed |= put(&dir, AUTHORITIES, pem, PUBLIC)?;
        }
    }
    changed |= match wanted.is_empty() {
        true => remove(&dir, name)?,
        false => {
            let text = format!("{}{}{}", configuration::MARK, whose.line(), serde_yaml::to_string(wanted)?);
            put(&dir, name, &text, PUBLIC)?
        }
    };
    changed |= match related {
        Related::None => remove(&dir, CREDENTIALS)? | remove(&dir, AUTHORITIES)?,
        Related::Bucket(offered) if offered.authorities.is_none() => remove(&dir, AUTHORITIES)?,
        _ => false,
    };
    match changed {
        true => juju.note(&format!("what Juju says of backups is in {}", file.display())),
        false => Ok(()),
    }
}

/// Whether it was not there already.
fn put(dir: &Dir, name: &str, text: &str, mode: Mode) -> Result<bool> {
    if dir.read_small(name)?.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    dir.replace_for(name, text.as_bytes(), mode, None)?;
    Ok(true)
}

fn remove(dir: &Dir, name: &str) -> Result<bool> {
    let there = dir.inode(name)?.is_some();
    if there {
        dir.remove_file(name)?;
        dir.sync()?;
    }
    Ok(there)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;

    #[test]
    fn what_another_unit_wrote_down_is_its_own_unless_etcd_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("juju.yaml");
        let unit = |name: &str| Record { unit: name.to_owned(), model: "m".to_owned(), served: false };
        let (first, second) = (unit("etcd/0"), unit("etcd/1"));
        let may = |ours: &Record, owns_etcd| Whose { ours, owns_etcd }.other(&file).is_none();
        // No file: whose etcd this is decides, where that is known.
        assert!(may(&first, None) && may(&first, Some(true)) && !may(&first, Some(false)));
        // One of the time before it said whose it is.
        std::fs::write(&file, configuration::MARK).unwrap();
        assert!(may(&first, None) && may(&first, Some(true)) && !may(&first, Some(false)));
        let line = Whose { ours: &first, owns_etcd: None }.line();
        std::fs::write(&file, format!("{}{line}keep: {{last: 7}}\n", configuration::MARK)).unwrap();
        for owns_etcd in [None, Some(true), Some(false)] {
            assert!(may(&first, owns_etcd), "{owns_etcd:?}");
            // Whoever left it behind is no more where etcd is another's.
            assert_eq!(may(&second, owns_etcd), owns_etcd == Some(true));
        }
    }
}
