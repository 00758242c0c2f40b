//! Looks at the unit and its machine. Changes nothing but what an unfinished restore needs to come to its end.

use super::configuration::{self, CERTIFICATES, Member};
use super::decide::{Certificates, Facts, Rest};
use super::home::Home;
use super::hook::Hook;
use super::record::{Data, Record};
use super::settings::Settings;
use crate::commands::{Environment, now};
use crate::error::{ActionError, Failure, Refusal};
use crate::etcd::certificates::{Names, is_key_of, valid};
use crate::etcd::service::main_pid;
use crate::etcd::site::{self, Site};
use crate::exchange::{DataDir, MEMBER};
use crate::juju::{Juju, Resource};
use crate::restore;
use crate::system::owner::Owner;
use crate::system::systemd;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the storage, and of the directory in it that is etcd's: the root of a file system holds other things.
const STORAGE: &str = "data";
const IN_STORAGE: &str = "etcd";
/// The endpoint of the peers.
const PEERS: &str = "cluster";
/// snapd is there where its socket is.
const SNAPD: &str = "/run/snapd.socket";

/// Who we are.
pub fn ourselves(environment: &Environment) -> Result<Record> {
    let model = environment.variable("JUJU_MODEL_UUID").and_then(OsStr::to_str).unwrap_or_default();
    let unit = environment.unit.clone().context("JUJU_UNIT_NAME names no unit")?;
    Ok(Record { unit, model: model.to_owned(), served: false })
}

/// The units before this one, the nearest to the first first.
pub fn earlier(juju: &Juju, unit: &str) -> Result<Vec<String>> {
    let own = number(unit).with_context(|| format!("{unit} is no unit's name"))?;
    let all = juju.units()?;
    // To be alone is to begin anew: not on the word of an answer that does not even know us.
    ensure!(all.iter().any(|name| name == unit), "goal-state does not know {unit}");
    let mut earlier: Vec<(u64, String)> =
        all.into_iter().filter_map(|other| Some((number(&other)?, other))).collect();
    earlier.retain(|(number, _)| *number < own);
    earlier.sort();
    Ok(earlier.into_iter().map(|(_, unit)| unit).collect())
}

/// The number of a unit. Juju counts from 0 and gives no number twice.
pub fn number(unit: &str) -> Option<u64> {
    unit.rsplit_once('/')?.1.parse().ok()
}

/// The data directory in the configuration that is ours, where one is.
pub fn configured() -> Result<Option<PathBuf>> {
    for home in [Home::Debian, Home::Snap] {
        if let Some(text) = read(home.config_file())?.filter(|text| configuration::is_ours(text)) {
            return Ok(configuration::data_dir_in(&text));
        }
    }
    Ok(None)
}

/// Brings an unfinished restore to its end, where there is an etcd and its data. Whoever else would work on the data is
/// kept from it as long as the answer's second half lives. Of an etcd with its data elsewhere than `configured` nothing
/// is touched, nor of one whose data has no record of `ours`; where none can be worked with, ours is at least looked at. With
/// neither, it is the one of a site file.
pub fn settle(
    site: &Result<Site>,
    configured: Option<&Path>,
    ours: Option<&Record>,
) -> (Rest, Option<DataDir>) {
    let (data_dir, site) = match (site, configured) {
        (Ok(site), None) if ours.is_some_and(|ours| !is_recorded(ours, &site.data_dir)) => {
            return (Rest::Quiet, None);
        }
        (Ok(site), None) => (&*site.data_dir, Ok(site)),
        (Ok(site), Some(ours)) if is_same(&site.data_dir, ours) => (&*site.data_dir, Ok(site)),
        (Ok(site), Some(ours)) => (ours, Err(format!("{} is another etcd", site.called))),
        (Err(error), Some(ours)) => (ours, Err(format!("{error:#}"))),
        (Err(_), None) => return (Rest::Quiet, None),
    };
    let data = match hold(data_dir) {
        Ok(Some(data)) => data,
        Ok(None) => return (Rest::Quiet, None),
        Err(rest) => return (rest, None),
    };
    let rest = match site {
        Ok(site) => match restore::settle(site, &data, &mut |_| {}) {
            Ok(None) => Rest::Quiet,
            Ok(Some(recovered)) => Rest::Settled(recovered.in_words()),
            Err(stop) => Rest::Unsettled(stop.to_string()),
        },
        Err(why) => look(&data, data_dir, &why),
    };
    (rest, Some(data))
}

/// Whether the data directory has a record of `ours`.
fn is_recorded(ours: &Record, data_dir: &Path) -> bool {
    let found = Home::open(data_dir).and_then(|dir| dir.map(|dir| ours.look(&dir)).transpose());
    matches!(found, Ok(Some(Data::New | Data::There | Data::Lost)))
}

/// Without an etcd to work with, for the reason `why`, a restore can be seen to be unfinished and no more.
fn look(data: &DataDir, data_dir: &Path, why: &str) -> Rest {
    match data.has_journal() {
        Ok(false) => Rest::Quiet,
        Ok(true) => Rest::Unsettled(format!(
            "a restore is unfinished in {}, and its etcd cannot be worked with ({why}): mend that; restore --recover",
            data_dir.display()
        )),
        Err(error) => Rest::Unsettled(format!("{error:#}")),
    }
}

/// The lock on a data directory, if that is there.
pub fn hold(data_dir: &Path) -> Result<Option<DataDir>, Rest> {
    if !data_dir.exists() {
        return Ok(None);
    }
    DataDir::at(data_dir).map(Some).map_err(|error| match ActionError::from_error(error, "", "") {
        ActionError::Refused(refusal) => Rest::Busy(refusal.reason),
        ActionError::Failed(Failure { cause, .. }) => {
            Rest::Unsettled(format!("{cause:#}: see that {} can be read", data_dir.display()))
        }
        interrupted @ ActionError::Interrupted { .. } => Rest::Unsettled(interrupted.reason()),
    })
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// All that a decision needs.
pub fn gather(juju: &Juju, hook: Hook, ours: &Record, rest: Rest) -> Result<Facts> {
    let is_ours = |home: Home| {
        read(home.config_file()).is_ok_and(|text| text.is_some_and(|text| configuration::is_ours(&text)))
    };
    let installed = Home::installed(is_ours)?;
    let home = match installed {
        Some(home) => home,
        None => {
            let wanted = wanted_home(juju)?;
            [wanted, Home::Snap, Home::Debian].into_iter().find(|home| is_ours(*home)).unwrap_or(wanted)
        }
    };
    let storage = juju.storage(STORAGE)?;
    let configured = read(home.config_file())?;
    let our_own = configured.as_deref().filter(|text| configuration::is_of(text, &ours.token()));
    let data_dir = data_dir(home, our_own, storage.as_deref());
    let settings = Settings::read(&juju.configuration()?, least_port(home)?);
    let owner = Owner::named("etcd")?.filter(|_| !home.runs_as_root());
    let data = match Home::open(&data_dir)? {
        Some(dir) => ours.look(&dir)?,
        None => Data::Nothing,
    };
    let certificates = certificates(home.certificates(), owner, now());
    let wanted = match &settings {
        Ok(settings) => {
            let open = match certificates {
                Certificates::All => Some((home.certificates().to_owned(), juju.address(PEERS)?)),
                _ => None,
            };
            let member = Member {
                name: ours.unit.replace('/', ""),
                token: ours.token(),
                data_dir: data_dir.clone(),
                open,
            };
            let text = configuration::text(settings, &member)?;
            if matches!(data, Data::There | Data::Lost) { configuration::served(&text) } else { text }
        }
        Err(_) => String::new(),
    };
    let drop_in = read(&home.drop_in())?;
    let guarded = drop_in.as_deref().is_some_and(configuration::is_guard);
    let stored = storage.as_ref().is_some_and(|storage| data_dir.starts_with(storage));
    let waits = !stored || drop_in.is_some_and(|text| text == configuration::drop_in(&data_dir));
    Ok(Facts {
        hook,
        rest,
        settings,
        home,
        installed: installed.is_some(),
        suits: if installed.is_some() { home.suits() } else { Ok(()) },
        stranger: stranger(our_own, &data_dir, guarded)?,
        ours: our_own.is_some(),
        data,
        data_dir,
        storage,
        certificates,
        configured,
        wanted,
        pointed: is_pointed(home)? && waits && !guarded,
        guarded,
        runs: installed.is_some() && main_pid(home.unit()).is_some(),
        stale: is_stale(home),
    })
}

/// The least port that etcd can have: root has any.
fn least_port(home: Home) -> Result<u16> {
    if home.runs_as_root() {
        return Ok(1);
    }
    let told = read(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"))?;
    Ok(told.and_then(|text| text.trim().parse().ok()).unwrap_or(1024).max(1))
}

/// Whether the systemd unit is led to the configuration.
fn is_pointed(home: Home) -> Result<bool> {
    let Some(pointer) = home.pointer() else { return Ok(true) };
    Ok(read(pointer)?.is_some_and(|text| text == configuration::pointer(home.config_file())))
}

/// Whether etcd was last started before its configuration was written; to the second, and no where systemd is too old to tell.
/// A time to come, as a clock that was wrong leaves it, tells nothing: it would restart etcd again and again.
fn is_stale(home: Home) -> bool {
    let written = fs::metadata(home.config_file()).map_or(0, |file| file.mtime());
    written <= now().as_second() && systemd::active_since(home.unit()).is_some_and(|since| since < written)
}

/// The attached release comes before the snap, and that before the package. Asks the controller for the resource.
fn wanted_home(juju: &Juju) -> Result<Home> {
    match juju.resource("etcd")? {
        Resource::At(path) if fs::metadata(&path).is_ok_and(|file| file.len() > 0) => Ok(Home::Release),
        _ if Path::new(SNAPD).exists() => Ok(Home::Snap),
        _ => Ok(Home::Debian),
    }
}

/// Data stays where it is: a storage that comes later is for a unit to come.
fn data_dir(home: Home, our_own: Option<&str>, storage: Option<&Path>) -> PathBuf {
    our_own
        .and_then(configuration::data_dir_in)
        .or_else(|| storage.map(|storage| storage.join(IN_STORAGE)))
        .unwrap_or_else(|| home.data_dir())
}

/// An etcd that is not ours: one that runs, or one that is installed and has data. Where it cannot be told what is installed,
/// somebody has configured it; but for an installation of ours that broke off, which is `guarded`.
fn stranger(our_own: Option<&str>, data_dir: &Path, guarded: bool) -> Result<Option<String>> {
    if our_own.is_some() {
        return Ok(None);
    }
    if let Some(running) = site::running()?.into_iter().next() {
        return Ok(Some(running));
    }
    Ok(installed_strangers(site::data_dir(), data_dir, guarded))
}

fn installed_strangers(
    found: Result<Option<PathBuf>, Refusal>,
    data_dir: &Path,
    guarded: bool,
) -> Option<String> {
    match found {
        Ok(found) => {
            let there = found.filter(|found| found != data_dir && found.join(MEMBER).exists())?;
            Some(format!("its data is in {}", there.display()))
        }
        Err(refusal) => (!guarded).then_some(refusal.reason),
    }
}

/// Not only whether the files are there: etcd is stopped to be started with them.
fn certificates(dir: &Path, owner: Option<Owner>, now: Timestamp) -> Certificates {
    let missing: Vec<&str> = CERTIFICATES.into_iter().filter(|name| !dir.join(name).exists()).collect();
    match missing.len() {
        0 => match usable(dir, owner, now) {
            Ok(()) => Certificates::All,
            Err(error) => Certificates::Unusable(format!("{error:#}")),
        },
        5 => Certificates::None,
        _ => Certificates::Missing(missing.join(" nor ")),
    }
}

fn usable(dir: &Path, owner: Option<Owner>, now: Timestamp) -> Result<()> {
    valid(&dir.join("ca.crt"), now)?;
    for name in ["server", "client"] {
        let (cert, key) = (dir.join(name).with_extension("crt"), dir.join(name).with_extension("key"));
        let dates = valid(&cert, now)?;
        ensure!(name == "server" || dates.for_clients, "{} is for servers only", cert.display());
        is_key_of(&key, &cert)?;
    }
    let server = dir.join("server.crt");
    let names_loopback = Names::read(&server)?.is_some_and(|names| names.have("127.0.0.1"));
    ensure!(names_loopback, "{} does not name IP:127.0.0.1", server.display());
    // Before etcd is installed, there is nobody to read them, nor an etcd to be taken down.
    let Some(owner) = owner else { return Ok(()) };
    for name in ["ca.crt", "server.crt", "server.key"] {
        let file = dir.join(name);
        ensure!(owner.can_read(&file), "the user etcd cannot read {}", file.display());
    }
    Ok(())
}

fn read(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

#[cfg(test)]
mod tests;
