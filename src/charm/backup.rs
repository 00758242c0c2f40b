//! What Juju says of backups, written down for the actions: the option `backup` and the relation `s3-parameters`.
//!
//! A half that is wrong stays as it was, and why is the unit's status. Must never write a secret anywhere but into the
//! credentials file, nor keep that file when its relation has gone.

use super::configuration;
use super::decide::{blocked, status};
use super::offered::{self, AUTHORITIES, CREDENTIALS, Offered, offered};
use super::perform::{ensure, split};
use crate::juju::{Juju, Status};
use crate::settings::{At, Settings};
use crate::stop::Refusal;
use crate::system::durable::{Dir, PRIVATE, PUBLIC};
use anyhow::{Context, Result};
use rustix::fs::Mode;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The endpoint in `metadata.yaml`.
const ENDPOINT: &str = "s3-parameters";
/// What the relation's bucket is called among the destinations.
const DESTINATION: &str = "s3";
/// The option that holds the text of a file of settings.
const OPTION: &str = "backup";
const KEY: &str = "destinations";

/// What the relation says.
enum Related {
    /// There is none.
    None,
    /// Nothing yet.
    Waiting(String),
    /// Something that cannot be used.
    Wrong(Refusal),
    /// A bucket.
    Bucket(Box<Offered>),
}

/// Writes down in `file` what Juju says now, and says what is wrong with it. `breaking` is a relation that is about to go,
/// and with `leaving` the unit is.
pub fn reconcile(juju: &Juju, file: &Path, breaking: Option<&str>, leaving: bool) -> Result<Option<Status>> {
    let related = if leaving { Related::None } else { related(juju, file, breaking)? };
    let asked = if leaving { Ok(Map::new()) } else { asked(juju) };
    let old = written(file);
    let mut wanted = match &asked {
        Ok(asked) => asked.clone(),
        Err(_) => without_relation(&old),
    };
    let ours = match &related {
        Related::Bucket(offered) => Some(json!({ "s3": offered.description })),
        Related::None => None,
        Related::Waiting(_) | Related::Wrong(_) => old.get(KEY).and_then(|all| all.get(DESTINATION)).cloned(),
    };
    let mut trouble = asked.err().map(|refusal| blocked(&refusal.reason, &refusal.next));
    if let Some(ours) = ours {
        let all = wanted.entry(KEY).or_insert_with(|| json!({}));
        if let Value::Object(all) = all {
            all.insert(DESTINATION.to_owned(), ours);
        }
    }
    write(juju, file, &wanted, &related)?;
    if trouble.is_none() {
        trouble = match related {
            Related::Waiting(app) => {
                Some(status("waiting", format!("for {app} to say which bucket is for backups")))
            }
            Related::Wrong(refusal) => Some(blocked(&refusal.reason, &refusal.next)),
            Related::None | Related::Bucket(_) => None,
        };
    }
    Ok(trouble)
}

/// What the relation offers; and our own words to it, without which some versions of the other side say nothing.
fn related(juju: &Juju, file: &Path, breaking: Option<&str>) -> Result<Related> {
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
    Ok(match offered(&app, &bag, &keys, place) {
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

/// The settings that the operator gave Juju.
fn asked(juju: &Juju) -> Result<Map<String, Value>, Refusal> {
    let no = |why: String| {
        let next = "correct the file, then: juju config APPLICATION backup=@backup.yaml";
        Refusal::new(format!("option {OPTION} cannot be used: {why}"), next)
    };
    let options = juju.configuration().map_err(|error| no(format!("{error:#}")))?;
    let text = options.get(OPTION).and_then(Value::as_str).unwrap_or_default();
    let settings = Settings::parse(text).map_err(|error| no(format!("{error:#}")))?;
    for (name, destination) in &settings.destinations {
        if let At::Bucket(said) = &destination.at {
            said.check().map_err(|refusal| no(format!("destination {name}: {}", refusal.reason)))?;
        }
        if name == DESTINATION {
            return Err(no(format!("{DESTINATION} is the name of the relation's destination: use another")));
        }
    }
    let map: Option<Map<String, Value>> =
        serde_yaml::from_str(text).map_err(|error| no(format!("{error:#}")))?;
    Ok(map.unwrap_or_default())
}

/// What was written down before; nothing where that cannot be read.
fn written(file: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_yaml::from_str::<Option<_>>(&text).ok().flatten().unwrap_or_default()
}

fn without_relation(old: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = old.clone();
    if let Some(Value::Object(all)) = rest.get_mut(KEY) {
        all.remove(DESTINATION);
    }
    rest
}

/// The files that a bucket needs come before what names them, and go after it.
fn write(juju: &Juju, file: &Path, wanted: &Map<String, Value>, related: &Related) -> Result<()> {
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
            let text = format!("{}{}", configuration::MARK, serde_yaml::to_string(wanted)?);
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
