//! The destinations in the settings, and their repositories.

use super::repository::Repository;
use super::retention::Policy;
use crate::error::Refusal;
use crate::store::BlobStore;
use crate::store::azure::{self, AzureConfig};
use crate::store::cloud::Proxies;
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::directory_tree::{DirectoryConfig, DirectoryTree};
use crate::store::google::{self, GoogleConfig};
use crate::store::s3::{self, S3Config};
use crate::system::clock::Clock;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A destination: a store in addition to the local directory, and its retention policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "DestinationFields")]
pub struct Destination {
    /// Its location.
    pub location: Location,
    /// Its retention policy.
    pub keep: Policy,
}

/// The location of a destination.
#[derive(Debug, Clone)]
pub enum Location {
    /// A bucket on a server that speaks S3.
    Bucket(Box<S3Config>),
    /// A container of Azure Blob Storage.
    Azure(Box<AzureConfig>),
    /// A bucket of Google Cloud Storage.
    Google(Box<GoogleConfig>),
    /// A directory, usually on another machine's disk.
    Directory(DirectoryConfig),
}

/// A destination as the settings file spells it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DestinationFields {
    s3: Option<Box<S3Config>>,
    azure: Option<Box<AzureConfig>>,
    google: Option<Box<GoogleConfig>>,
    directory: Option<PathBuf>,
    mount: Option<PathBuf>,
    #[serde(default)]
    keep: Policy,
}

impl TryFrom<DestinationFields> for Destination {
    type Error = &'static str;

    fn try_from(fields: DestinationFields) -> Result<Self, Self::Error> {
        let DestinationFields { s3, azure, google, directory, mount, keep } = fields;
        if mount.is_some() && directory.is_none() {
            return Err("mount is only used with directory");
        }
        let directory = directory.map(|directory| DirectoryConfig { directory, mount });
        let all = [
            s3.map(Location::Bucket),
            azure.map(Location::Azure),
            google.map(Location::Google),
            directory.map(Location::Directory),
        ];
        let mut named = all.into_iter().flatten();
        let (Some(location), None) = (named.next(), named.next()) else {
            return Err("a destination has exactly one of s3, azure, google and directory");
        };
        Ok(Self { location, keep })
    }
}

impl Location {
    /// Returns its URL or path.
    pub fn url(&self) -> String {
        match self {
            Self::Bucket(config) => config.url(),
            Self::Azure(config) => config.url(),
            Self::Google(config) => config.url(),
            Self::Directory(config) => config.url(),
        }
    }

    /// Returns the key of its settings.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Bucket(_) => "s3",
            Self::Azure(_) => "azure",
            Self::Google(_) => "google",
            Self::Directory(_) => "directory",
        }
    }

    /// Checks the settings, without their files and the network.
    ///
    /// # Errors
    /// Refuses settings that cannot open a bucket or a container.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Bucket(config) => config.check(),
            Self::Azure(config) => config.check(),
            Self::Google(config) => config.check(),
            Self::Directory(_) => Ok(()),
        }
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, proxies: &Proxies) -> bool {
        match self {
            Self::Bucket(config) => config.needs_proxy_login(proxies),
            Self::Azure(config) => config.needs_proxy_login(proxies),
            Self::Google(config) => config.needs_proxy_login(proxies),
            Self::Directory(_) => false,
        }
    }
}

/// All destinations, with the credentials and settings to open them.
#[derive(Debug)]
pub struct Destinations {
    all: BTreeMap<String, Destination>,
    environment: CloudEnvironment,
    clock: Clock,
}

impl Destinations {
    /// The destinations of the settings.
    pub fn new(all: BTreeMap<String, Destination>, environment: CloudEnvironment, clock: Clock) -> Self {
        Self { all, environment, clock }
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns whether no destination is configured.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// Returns whether a destination of this name is configured.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// Opens the repository of a destination.
    ///
    /// # Errors
    /// Refuses a directory that cannot be used, or that another destination also leads to, and a bucket without an
    /// access key.
    pub fn open(&self, name: &str) -> Result<Repository> {
        let destination = self.get(name)?;
        let (environment, clock) = (&self.environment, self.clock);
        let in_destination = |error| in_destination(name, error);
        let store: Box<dyn BlobStore> = match &destination.location {
            Location::Bucket(config) => {
                Box::new(s3::open(config, environment, clock).map_err(in_destination)?)
            }
            Location::Azure(config) => {
                Box::new(azure::open(config, environment, clock).map_err(in_destination)?)
            }
            Location::Google(config) => {
                Box::new(google::open(config, environment, clock).map_err(in_destination)?)
            }
            Location::Directory(config) => {
                let tree = DirectoryTree::open(config).map_err(in_destination)?;
                self.check_other_directories(name, &tree)?;
                Box::new(tree)
            }
        };
        let mut repository = Repository::new(Some(name.to_owned()), store);
        repository.keep = destination.keep.clone();
        Ok(repository)
    }

    /// Refuses a directory that another destination leads to as well, as through a bind mount.
    fn check_other_directories(&self, name: &str, tree: &DirectoryTree) -> Result<()> {
        for (other, destination) in self.all.iter().filter(|(other, _)| *other != name) {
            let Location::Directory(config) = &destination.location else { continue };
            if tree.is_same_directory(&config.directory)? {
                let (one, two) = if &**other < name { (&**other, name) } else { (name, &**other) };
                return Err(same_place(one, two, tree.url()).into());
            }
        }
        Ok(())
    }

    /// Returns the URL or path of a destination, whether it can be opened or not.
    ///
    /// # Errors
    /// Fails if no destination has this name.
    pub fn url(&self, name: &str) -> Result<String> {
        Ok(self.get(name)?.location.url())
    }

    /// Returns the retention policy of a destination.
    ///
    /// # Errors
    /// Fails if no destination has this name.
    pub fn keep(&self, name: &str) -> Result<&Policy> {
        Ok(&self.get(name)?.keep)
    }

    fn get(&self, name: &str) -> Result<&Destination> {
        self.all.get(name).with_context(|| format!("destination {name} does not exist"))
    }
}

/// The refusal of two destinations with the same location.
pub fn same_place(one: &str, other: &str, url: &str) -> Refusal {
    Refusal::new(
        format!(
            "destinations {one} and {other} are the same place, {url}: the rules of each would delete what the other keeps"
        ),
        "give one of them a folder of its own, or remove it from the settings",
    )
}

/// Adds the destination's name to an error.
fn in_destination(name: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) => Refusal::new(format!("destination {name}: {}", refusal.reason), refusal.next).into(),
        Err(error) => error.context(format!("destination {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_destination_without_a_key_is_refused_when_it_is_opened() {
        let all = serde_yaml::from_str("a: {s3: {bucket: b}}").unwrap();
        let destinations =
            Destinations::new(all, CloudEnvironment::default(), Clock::at(Timestamp::UNIX_EPOCH));
        let error = destinations.open("a").err().unwrap().to_string();
        assert!(error.contains("destination a: it has no access key"), "{error}");
    }
}
