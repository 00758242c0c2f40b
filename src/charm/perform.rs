//! Does the steps of a plan, each so that doing it again does no harm.

use super::configuration;
use super::decide::{Certificates, Facts, Step};
use super::home::Home;
use super::install::{self, Proxies};
use super::record::Record;
use crate::error::Refusal;
use crate::etcd::service::last_words;
use crate::exchange::MEMBER;
use crate::juju::Juju;
use crate::system::durable::{Dir, PUBLIC, RUNNABLE};
use crate::system::owner::Owner;
use crate::system::systemd;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;

impl Step {
    /// Whether it takes its time, and is worth a status of its own.
    pub fn is_told(self) -> bool {
        !matches!(self, Self::Note | Self::Ports)
    }

    /// What it does, as a participle clause.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Install => "installing etcd",
            Self::MakeData => "making the data directory",
            Self::Configure => "configuring etcd",
            Self::Note => "noting that etcd has served",
            Self::Start => "starting etcd",
            Self::Restart => "restarting etcd with its new configuration",
            Self::Stop => "stopping etcd",
            Self::Unguard => "letting others start etcd",
            Self::Ports => "opening ports",
        }
    }
}

/// What the steps work with.
pub struct Hands<'a> {
    /// The agent.
    pub juju: &'a Juju,
    /// What was found.
    pub facts: &'a Facts,
    /// Who we are.
    pub ours: &'a Record,
    /// The way out of the machine.
    pub proxies: Proxies<'a>,
}

impl Hands<'_> {
    /// Does one step.
    pub fn perform(&self, step: Step) -> Result<()> {
        let Facts { home, data_dir, .. } = self.facts;
        match step {
            Step::Install => {
                put(&home.drop_in(), &configuration::guard(&home.drop_in()))?;
                systemd::reload()?;
                install::install(*home, self.settings()?, self.juju, self.proxies)?;
                Ok(home.suits()?)
            }
            Step::MakeData => self.make_data(),
            Step::Configure => self.configure(),
            Step::Note => note(*home, &self.facts.wanted),
            Step::Start => {
                systemd::allow(home.unit())?;
                self.start()
            }
            Step::Restart => {
                home.service().stop(size(data_dir))?;
                self.start()
            }
            Step::Stop => {
                systemd::forbid(home.unit())?;
                home.service().stop(size(data_dir))
            }
            Step::Unguard => unguard(*home),
            Step::Ports => match self.facts.certificates {
                Certificates::All => self.juju.open_only(&[self.settings()?.port]),
                _ => self.juju.open_only(&[]),
            },
        }
    }

    /// systemd knows that etcd did not start, and the journal why.
    fn start(&self) -> Result<()> {
        let Facts { home, data_dir, .. } = self.facts;
        home.service().start(size(data_dir)).map_err(|error| match last_words(home.unit()) {
            Some(words) => Refusal::new(
                format!("etcd does not start: {words}"),
                format!("mend that; journalctl -u {}", home.unit()),
            )
            .into(),
            None => error,
        })
    }

    fn settings(&self) -> Result<&super::settings::Settings> {
        self.facts.settings.as_ref().map_err(|refusal| refusal.clone().into())
    }

    /// The record comes before the owner: etcd does not start in a directory that is not its own.
    fn make_data(&self) -> Result<()> {
        let Facts { home, data_dir, .. } = self.facts;
        let owner = home.owner()?;
        let dir = match Home::open(data_dir)? {
            Some(dir) => dir,
            None => {
                let (parent, name) = split(data_dir)?;
                ensure(parent)?.make_child(name, owner)?
            }
        };
        may_be_given(&dir, owner)?;
        self.ours.write(&dir)?;
        match owner {
            Some(owner) => owner.own(&dir).context("giving the data directory to etcd"),
            None => Ok(()),
        }
    }

    /// The configuration comes before what leads to it: an etcd that starts in between has its old one. Where etcd is kept
    /// from starting, it is let go when all is written.
    fn configure(&self) -> Result<()> {
        let Facts { home, data_dir, .. } = self.facts;
        let stored = self.facts.is_stored();
        if stored && *home == Home::Snap {
            install::let_the_snap_reach_disks()?;
        }
        let is_new = !self.facts.installed || self.facts.guarded;
        if stored && !is_new {
            wait_for(*home, data_dir)?;
        }
        put(home.config_file(), &self.facts.wanted)?;
        if let Some(pointer) = home.pointer() {
            put(pointer, &configuration::pointer(home.config_file()))?;
        }
        match is_new {
            true if stored => wait_for(*home, data_dir),
            true => unguard(*home),
            false => Ok(()),
        }
    }
}

/// Has etcd start only when the storage under its data is mounted.
fn wait_for(home: Home, data_dir: &Path) -> Result<()> {
    put(&home.drop_in(), &configuration::drop_in(data_dir))?;
    systemd::reload()
}

/// Takes the drop-in away.
fn unguard(home: Home) -> Result<()> {
    let file = home.drop_in();
    let (dir, name) = split(&file)?;
    Dir::open(dir)?.remove_file(name)?;
    systemd::reload()
}

/// Writes `text` as etcd's configuration and leaves the file the time it had: by that a hook tells whether etcd is to be
/// restarted for it. One that dies in between has it restarted once in vain.
pub fn note(home: Home, text: &str) -> Result<()> {
    let file = home.config_file();
    let noting = || format!("writing {}", file.display());
    let time = fs::metadata(file).and_then(|file| file.modified()).with_context(noting)?;
    put(file, text)?;
    File::open(file).and_then(|file| file.set_modified(time)).with_context(noting)
}

fn put(file: &Path, text: &str) -> Result<()> {
    let (dir, name) = split(file)?;
    ensure(dir)?.replace_for(name, text.as_bytes(), PUBLIC, None)
}

/// A directory that is neither root's nor etcd's is somebody's.
fn may_be_given(dir: &Dir, owner: Option<Owner>) -> Result<()> {
    let Owner { uid: ours, .. } = Owner::ourselves();
    let whose = dir.stat()?.st_uid;
    if [0, ours].contains(&whose) || owner.is_some_and(|owner| owner.uid == whose) {
        return Ok(());
    }
    let shown = dir.path().display();
    Err(Refusal::new(
        format!("{shown} belongs to user {whose}, and neither to etcd nor to root"),
        format!("if it is meant for etcd's data: chown etcd: {shown}"),
    )
    .into())
}

/// The directory at `path`, made for everybody to enter where it is missing.
pub(super) fn ensure(path: &Path) -> Result<Dir> {
    if path.exists() {
        return Dir::open(&path.canonicalize()?);
    }
    let (parent, name) = split(path)?;
    ensure(parent)?.ensure_child(name, RUNNABLE, None)
}

/// A path's directory and its name in it.
pub(super) fn split(path: &Path) -> Result<(&Path, &str)> {
    path.parent().zip(path.file_name().and_then(|name| name.to_str())).context("a path without a name")
}

/// The size of the database, in bytes.
fn size(data_dir: &Path) -> u64 {
    fs::metadata(data_dir.join(MEMBER).join("snap/db")).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_not_given_to_etcd() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        may_be_given(&dir, None).unwrap();
        // Only root can make one.
        let nobody = Owner { uid: 65534, gid: 65534 };
        if nobody.own(&dir).is_ok() {
            assert!(may_be_given(&dir, None).unwrap_err().to_string().contains("belongs to user 65534"));
            may_be_given(&dir, Some(nobody)).unwrap();
        }
    }
}
