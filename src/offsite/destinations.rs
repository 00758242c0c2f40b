//! The file of destinations: where archives go besides this machine. Holds no secret.
//!
//! Must never be taken from somebody who is not root: it says where every Secret of a cluster goes.

use crate::stop::Refusal;
use crate::store::Store;
use crate::store::s3::{Bucket, Description, FromEnvironment};
use crate::system::durable::read_found_text;
use crate::system::owner::is_roots;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the file is, unless the environment names another.
pub const PLACE: &str = "/etc/etcd-charm/destinations.yaml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    destinations: BTreeMap<String, Destination>,
}

/// One place to keep archives in.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Destination {
    /// The bucket.
    pub s3: Description,
}

/// All of them, with what is needed to open one.
#[derive(Debug, Default)]
pub struct Destinations {
    all: BTreeMap<String, Destination>,
    found: FromEnvironment,
    now: Timestamp,
}

impl Destinations {
    /// Those in `named`, or in [`PLACE`] where there is such a file. Refuses a file that cannot be used.
    pub fn read(named: Option<&Path>, found: FromEnvironment, now: Timestamp) -> Result<Self, Refusal> {
        let file = named.unwrap_or(Path::new(PLACE));
        let no = |why: &str, next: &str| {
            Refusal::new(
                format!("the file of destinations {} cannot be used: {why}", file.display()),
                next.to_owned(),
            )
        };
        let meta = match std::fs::metadata(file) {
            Ok(meta) => meta,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(no(&error.to_string(), "put it there, or name another")),
        };
        if !is_roots(&meta) {
            let next = format!("chown root {0} && chmod go-w {0}", file.display());
            return Err(no("others than root can change where Secrets go", &next));
        }
        let text = read_found_text(file).map_err(|error| no(&error.to_string(), "mend it"))?;
        let Text { destinations: all } =
            parse(&text).map_err(|error| no(&format!("{error:#}"), "correct it"))?;
        Ok(Self { all, found, now })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// The store behind a name.
    pub fn open(&self, name: &str) -> Result<Box<dyn Store>> {
        let destination = self.all.get(name).with_context(|| format!("there is no destination {name}"))?;
        Ok(Box::new(Bucket::new(name, &destination.s3, &self.found, self.now)?))
    }
}

fn parse(text: &str) -> Result<Text> {
    let read: Text = serde_yaml::from_str(text)?;
    // They become keys of results, which Juju wants so.
    let fits = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !name.is_empty() && name.chars().all(plain) && !name.starts_with('-') && !name.ends_with('-')
    };
    match read.destinations.keys().find(|name| !fits(name)) {
        None => Ok(read),
        Some(name) => {
            anyhow::bail!("destination {name:?}: a name is of small letters, digits and inner hyphens")
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn read(text: &str, mode: u32) -> Result<Destinations, Refusal> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        Destinations::read(Some(file.path()), FromEnvironment::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_file_names_destinations_and_nothing_that_is_not_known() {
        let good = "destinations:\n  offsite:\n    s3: {bucket: backups, region: eu-central-1}\n  b2: {s3: {bucket: b}}\n";
        assert_eq!(read(good, 0o644).unwrap().names().collect::<Vec<_>>(), ["b2", "offsite"]);
        for (text, mode, why) in [
            (good, 0o666, "others than root"),
            ("destinations: {Off: {s3: {bucket: b}}}", 0o600, "small letters"),
            ("destinations: {a: {s3: {bucket: b, secret-key: canary}}}", 0o600, "unknown field `secret-key`"),
            ("destinations: {a: {s3: {}}}", 0o600, "missing field `bucket`"),
            ("destinations: [", 0o600, "cannot be used"),
        ] {
            let refusal = read(text, mode).unwrap_err().to_string();
            assert!(refusal.contains(why) && !refusal.contains("canary"), "{refusal}");
        }
    }

    #[test]
    fn a_destination_without_a_key_is_told_when_it_is_opened() {
        let destinations = read("destinations: {a: {s3: {bucket: b}}}", 0o600).unwrap();
        let error = destinations.open("a").err().unwrap().to_string();
        assert!(error.contains("no access key for destination a"), "{error}");
    }
}
