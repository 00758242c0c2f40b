//! Gathers the facts about the unit and its machine. Changes nothing.

use super::cluster::facts::{ClusterFacts, member_name};
use super::cluster::gather as cluster;
use super::cluster::role::{Role, role};
use super::etcd_config::{self, Member};
use super::facts::Facts;
use super::files::read_optional;
use super::hook::Hook;
use super::install::upgrade;
use super::install_method::InstallMethod;
use super::listening::{Listening, own_client};
use super::options::Options;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, UnitRecord, open_data_dir};
use crate::commands::{Environment, now};
use crate::error::Refusal;
use crate::etcd::certificates::common_name;
use crate::etcd::client::Client;
use crate::etcd::service::main_pid;
use crate::etcd::site;
use crate::etcd::versions::Version;
use crate::exchange::MEMBER;
use crate::juju::{Juju, Resource};
use crate::system::owner::Owner;
use crate::system::systemd;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the storage in `metadata.yaml`.
const STORAGE: &str = "data";
/// The directory for etcd in the storage. The root of a file system may contain other things, such as `lost+found`.
const DIR_IN_STORAGE: &str = "etcd";
/// This socket exists if snapd is installed.
const SNAPD_SOCKET: &str = "/run/snapd.socket";

/// Returns the record of the unit that runs this hook.
///
/// # Errors
/// If `JUJU_UNIT_NAME` is not set.
pub fn own_record(environment: &Environment) -> Result<UnitRecord> {
    let model = environment.variable("JUJU_MODEL_UUID").and_then(OsStr::to_str).unwrap_or_default();
    let unit = environment.unit.clone().context("JUJU_UNIT_NAME is not set")?;
    Ok(UnitRecord { unit, model: model.to_owned(), served: false, member: None })
}

/// Returns the units of the application that are older than `unit`, the oldest first.
///
/// # Errors
/// If `goal-state` fails or does not list `unit` itself.
pub fn earlier_units(juju: &Juju, unit: &str) -> Result<Vec<String>> {
    let own = unit_number(unit).with_context(|| format!("{unit} is not the name of a unit"))?;
    let all = juju.units()?;
    // The first unit starts a new cluster. Do not conclude that from an answer that does not even list this unit.
    ensure!(all.contains_key(unit), "goal-state does not list {unit}");
    let mut earlier: Vec<(u64, String)> =
        all.into_keys().filter_map(|other| Some((unit_number(&other)?, other))).collect();
    earlier.retain(|(number, _)| *number < own);
    earlier.sort();
    Ok(earlier.into_iter().map(|(_, unit)| unit).collect())
}

/// Returns the number of a unit. Juju counts from 0 and does not reuse numbers.
pub fn unit_number(unit: &str) -> Option<u64> {
    unit.rsplit_once('/')?.1.parse().ok()
}

/// Gathers all facts that a decision needs.
///
/// # Errors
/// If a hook tool, systemd or a file on the machine cannot be read.
pub fn gather(juju: &Juju, hook: Hook, own: &UnitRecord, restore: RestoreState) -> Result<Facts> {
    let installed = InstallMethod::installed(has_charm_config)?;
    let method = match installed {
        Some(method) => method,
        None => method_to_install(juju)?,
    };
    let storage = juju.storage(STORAGE)?;
    let current_config = read_optional(method.config_file())?;
    let token = own.cluster_token();
    let own_config = current_config.as_deref().filter(|text| etcd_config::has_cluster_token(text, &token));
    let data_dir = data_dir(method, own_config, storage.as_deref());
    let options = Options::read(&juju.config()?, lowest_port(method)?);
    let user = Owner::named("etcd")?.filter(|_| !method.runs_as_root());
    let (data, record, has_started) = inspect(&data_dir, own)?;
    let listening = Listening::gather(juju, method, user)?;
    let version = installed.and_then(InstallMethod::version);
    let mut cluster = cluster::gather(juju, &own.unit, listening.urls(options.as_ref().ok()))?;
    add_own_etcd(&mut cluster, version.as_ref(), listening.dir);
    let own_client = own_client(method, own_config, listening.dir);
    let is_running = installed.is_some() && main_pid(method.systemd_unit()).is_some();
    ask_for_members(&mut cluster, has_started, is_running, &method.etcdctl(), own_client, listening.dir);
    let wanted_config = match &options {
        Ok(options) => {
            let joins = if has_started { None } else { members_to_join(&cluster) };
            let (name, data_dir, tls) = (member_name(&own.unit), data_dir.clone(), listening.tls.clone());
            let text = etcd_config::render(options, &Member { name, token, data_dir, tls, joins })?;
            wanted_config(text, &data, has_started, &cluster, current_config.as_deref())
        }
        Err(_) => String::new(),
    };
    let (has_install_guard, is_service_set_up) = inspect_service(method, &data_dir, storage.as_deref())?;
    Ok(Facts {
        hook,
        restore,
        options,
        method,
        is_installed: installed.is_some(),
        version_check: method.check_version(version.as_ref()),
        foreign_etcd: foreign_etcd(own_config, &data_dir, has_install_guard)?,
        has_own_config: own_config.is_some(),
        data,
        record,
        has_started,
        cluster,
        data_dir,
        storage,
        certificate_dir: listening.dir.to_owned(),
        certificates: listening.certificates,
        current_config,
        wanted_config,
        is_service_set_up,
        has_install_guard,
        is_running,
        missed_boot: installed.is_some()
            && !is_running
            && systemd::has_not_started_since_boot(method.systemd_unit()),
        prepared_upgrade: upgrade::prepared_version().filter(|_| installed == Some(InstallMethod::Release)),
        failed_upgrade: upgrade::failure().filter(|_| installed == Some(InstallMethod::Release)),
        runs_old_config: loaded_config(method, listening.dir) == LoadedConfig::Old,
    })
}

/// Returns the text of etcd's configuration file, from one with the present options and the `current` one. Only the unit that
/// starts the cluster gets a configuration for a new one. As long as etcd has not served, the values of its first start are kept.
pub(super) fn wanted_config(
    text: String,
    data: &DataState,
    has_started: bool,
    cluster: &ClusterFacts,
    current: Option<&str>,
) -> String {
    let is_without_data = matches!(data, DataState::Absent | DataState::New) && !has_started;
    if is_without_data && role(cluster, has_started) == Role::Run {
        return text;
    }
    let is_same = |current: &&str| *current == text || etcd_config::differ_only_in_start(current, &text);
    match current.filter(is_same).filter(|_| *data == DataState::New && has_started) {
        Some(current) => current.to_owned(),
        None => etcd_config::with_existing_cluster(&text),
    }
}

/// Returns whether there is the guard of an unfinished installation, and whether the systemd unit is set up.
fn inspect_service(method: InstallMethod, data_dir: &Path, storage: Option<&Path>) -> Result<(bool, bool)> {
    let drop_in = read_optional(&method.drop_in())?;
    let has_guard = drop_in.as_deref().is_some_and(etcd_config::is_install_guard);
    let is_on_storage = storage.is_some_and(|storage| data_dir.starts_with(storage));
    let waits_for_storage = drop_in.is_some_and(|text| text == etcd_config::mount_drop_in(data_dir));
    Ok((has_guard, reads_config_file(method)? && (waits_for_storage || !is_on_storage) && !has_guard))
}

/// Returns the state of the data directory, the record of this unit in it, and whether etcd has started there.
fn inspect(data_dir: &Path, own: &UnitRecord) -> Result<(DataState, Option<UnitRecord>, bool)> {
    let Some(dir) = open_data_dir(data_dir)? else { return Ok((DataState::Absent, None, false)) };
    let data = own.data_state(&dir)?;
    let has_started = match data {
        // etcd that is refused as a member leaves a `member` directory without a log.
        DataState::New => has_log(data_dir)?,
        _ => dir.inode(MEMBER)?.is_some(),
    };
    Ok((data, own.read_own(&dir)?, has_started))
}

/// Whether the data directory has a write-ahead log. Without one, etcd reads the options for its first start.
fn has_log(data_dir: &Path) -> Result<bool> {
    let dir = data_dir.join(MEMBER).join("wal");
    let is_file_of_log =
        |file: io::Result<fs::DirEntry>| Ok(file?.path().extension() == Some("wal".as_ref()));
    let files = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        files => files.and_then(|files| files.map(is_file_of_log).collect::<io::Result<Vec<bool>>>()),
    };
    let files = files.with_context(|| format!("listing {}", dir.display()))?;
    Ok(files.contains(&true))
}

/// Adds the facts about this unit's own etcd: its version, and the user that the charm is for it.
fn add_own_etcd(facts: &mut ClusterFacts, version: Option<&Version>, certificate_dir: &Path) {
    facts.version = version.map(Version::to_string);
    facts.certificate_user = common_name(&certificate_dir.join("client.crt"));
}

/// If this unit joins or leaves, or its etcd does not run, asks the voters of other units for the members of the cluster, and then
/// its own etcd. If its address has changed, asks whether its own etcd reaches them.
fn ask_for_members(
    facts: &mut ClusterFacts,
    has_started: bool,
    is_running: bool,
    etcdctl: &Path,
    own_client: Option<Client>,
    certificate_dir: &Path,
) {
    let moved = own_client.as_ref().filter(|_| has_started && facts.has_moved());
    facts.has_lost_peers = moved.is_some_and(|own| !cluster::reaches_peers(own));
    let asks = if has_started { !is_running } else { facts.is_admitted() };
    if facts.is_dying() || asks {
        let mut voters = cluster::voters_to_ask(facts, etcdctl, certificate_dir);
        voters.extend(own_client);
        cluster::ask_for_members(facts, &voters);
    }
}

/// Whether a member of the cluster serves, as far as this unit can find out.
pub fn is_served(facts: &Facts) -> bool {
    let (dir, etcdctl) = (&facts.certificate_dir, facts.method.etcdctl());
    let config = facts.current_config.as_deref().filter(|_| facts.has_own_config);
    let Some(own) = own_client(facts.method, config, dir) else { return true };
    let election = facts.options.as_ref().map_or(0, |options| options.election_timeout);
    cluster::is_served(&own, &cluster::announced_voters(&facts.cluster, &etcdctl, dir), election)
}

/// Returns the members in the form of the option `initial-cluster`, if they already include this unit.
pub(super) fn members_to_join(facts: &ClusterFacts) -> Option<String> {
    let (members, urls) = (facts.members.as_ref()?, facts.urls.as_ref()?);
    facts.is_added().then(|| cluster::initial_cluster(members, &member_name(&facts.unit), &urls.peer))
}

/// Returns how etcd will be installed: as an earlier installation of this charm was, or as its options ask for.
fn method_to_install(juju: &Juju) -> Result<InstallMethod> {
    let preferred = preferred_method(juju)?;
    let candidates = [preferred, InstallMethod::Snap, InstallMethod::Debian];
    Ok(candidates.into_iter().find(|method| has_charm_config(*method)).unwrap_or(preferred))
}

/// Whether the charm has written the configuration of an etcd that is installed in this way.
fn has_charm_config(method: InstallMethod) -> bool {
    let text = read_optional(method.config_file());
    text.is_ok_and(|text| text.is_some_and(|text| etcd_config::is_written_by_charm(&text)))
}

/// Returns the lowest port that etcd can listen on. Root can use any.
fn lowest_port(method: InstallMethod) -> Result<u16> {
    if method.runs_as_root() {
        return Ok(1);
    }
    let text = read_optional(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"))?;
    Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024).max(1))
}

/// Whether the systemd unit starts etcd with the charm's configuration file.
fn reads_config_file(method: InstallMethod) -> Result<bool> {
    let Some(file) = method.environment_file() else { return Ok(true) };
    let expected = etcd_config::environment_file(method.config_file());
    Ok(read_optional(file)?.is_some_and(|text| text == expected))
}

/// Whether the running etcd has read the present content of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadedConfig {
    /// It was started after they were written.
    Current,
    /// It was started before one of them was written, so it needs a restart.
    Old,
    /// A time is unknown or wrong. A restart is not planned: etcd could be restarted again and again.
    Unknown,
}

/// Returns whether etcd has read its files, to the second. The authority of a relation is part of the configuration: etcd reads it
/// only when it starts. So is the program of a release, which an upgrade replaces. A file of authorities that an operator has placed
/// causes no restart.
pub fn loaded_config(method: InstallMethod, certificate_dir: &Path) -> LoadedConfig {
    let time = |file: &Path| fs::metadata(file).map_or(0, |file| file.mtime());
    let file = certificate_dir.join("ca.crt");
    let authority = match certificate_dir == method.relation_certificate_dir() {
        true => Authority::OfRelation(time(&file)),
        // Its modification may be older than the copy.
        false => Authority::OfOperator(fs::metadata(&file).map_or(0, |file| file.ctime())),
    };
    let program = if method == InstallMethod::Release { time(&method.server()) } else { 0 };
    let started = systemd::started_at(method.systemd_unit());
    compare_times(started, authority, [time(method.config_file()), program], now())
}

/// When the file of trusted authorities was written, by the one who placed it.
#[derive(Debug, Clone, Copy)]
enum Authority {
    OfRelation(i64),
    OfOperator(i64),
}

/// Compares the start of etcd with the times of its file of authorities and of `other` files. After a wrong clock, a time can be in
/// the future.
fn compare_times(
    started: Option<i64>,
    authority: Authority,
    other: [i64; 2],
    now: Timestamp,
) -> LoadedConfig {
    let Some(started) = started else { return LoadedConfig::Unknown };
    let is_old = |written: i64| systemd::is_older(started, written, now);
    let (written, restarts) = match authority {
        Authority::OfRelation(written) => (written, is_old(written)),
        Authority::OfOperator(written) => (written, false),
    };
    match restarts || other.into_iter().any(is_old) {
        true => LoadedConfig::Old,
        false if started < written => LoadedConfig::Unknown,
        false => LoadedConfig::Current,
    }
}

/// Returns the method for a new installation: the attached release, else the snap, else the Debian package.
///
/// Asks the controller for the resource.
fn preferred_method(juju: &Juju) -> Result<InstallMethod> {
    match juju.resource("etcd")? {
        Resource::At(path) if fs::metadata(&path).is_ok_and(|file| file.len() > 0) => {
            Ok(InstallMethod::Release)
        }
        _ if Path::new(SNAPD_SOCKET).exists() => Ok(InstallMethod::Snap),
        _ => Ok(InstallMethod::Debian),
    }
}

/// Returns the data directory. Existing data is not moved: a storage that is attached later is not used by this unit.
fn data_dir(method: InstallMethod, own_config: Option<&str>, storage: Option<&Path>) -> PathBuf {
    own_config
        .and_then(etcd_config::data_dir_in)
        .or_else(|| storage.map(|storage| storage.join(DIR_IN_STORAGE)))
        .unwrap_or_else(|| method.data_dir())
}

/// Describes an etcd that is not this unit's: one that is running, or one that is installed and has data.
fn foreign_etcd(
    own_config: Option<&str>,
    data_dir: &Path,
    has_install_guard: bool,
) -> Result<Option<String>> {
    if own_config.is_some() {
        return Ok(None);
    }
    let existing = site::existing()?;
    let stopped = || stopped_foreign_etcd(existing.data_dir, data_dir, has_install_guard);
    Ok(existing.running.or_else(stopped))
}

/// If the data directory of the installed etcd is unknown, someone has configured that etcd. The exception is an
/// interrupted installation of the charm, which leaves its guard.
fn stopped_foreign_etcd(
    found: Result<Option<PathBuf>, Refusal>,
    data_dir: &Path,
    has_install_guard: bool,
) -> Option<String> {
    match found {
        Ok(found) => {
            let foreign = found.filter(|found| found != data_dir && found.join(MEMBER).exists())?;
            Some(format!("its data is in {}", foreign.display()))
        }
        Err(refusal) => (!has_install_guard).then_some(refusal.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::durable::Dir;

    #[test]
    fn etcd_has_started_when_there_is_a_log() {
        let home = tempfile::tempdir().unwrap();
        let own = UnitRecord { unit: "etcd/1".into(), model: "m".into(), served: false, member: None };
        let dir = Dir::open(home.path()).unwrap();
        own.write(&dir).unwrap();
        let found =
            |record: &UnitRecord| inspect(home.path(), record).map(|found| (found.0, found.2)).unwrap();
        assert_eq!(found(&own), (DataState::New, false));
        // etcd was refused as a member.
        let member = dir.make_child(MEMBER, None).unwrap();
        member.make_child("snap", None).unwrap().replace("db", b"empty").unwrap();
        assert_eq!(found(&own), (DataState::New, false));
        let wal = member.make_child("wal", None).unwrap();
        wal.replace("0.tmp", b"").unwrap();
        assert_eq!(found(&own), (DataState::New, false));
        wal.replace("0000000000000000-0000000000000000.wal", b"").unwrap();
        assert_eq!(found(&own), (DataState::New, true));
        // Data that has served is never replaced without a decision of the operator.
        dir.remove_tree(MEMBER).unwrap();
        dir.make_child(MEMBER, None).unwrap();
        UnitRecord { served: true, ..own.clone() }.write(&dir).unwrap();
        assert_eq!(found(&own), (DataState::Present, true));
    }

    #[test]
    fn only_the_unit_that_starts_the_cluster_gets_a_configuration_for_a_new_one() {
        let text = |state: &str, count: u8| {
            format!("initial-cluster: a\ninitial-cluster-state: {state}\nsnapshot-count: {count}\n")
        };
        let alone = ClusterFacts { unit: "etcd/1".into(), ..ClusterFacts::default() };
        let mut with_others = alone.clone();
        with_others.units = ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), Default::default())).into();
        let (new, existing) = (text("new", 1), text("existing", 1));
        for (cluster, data, has_started, current, expected) in [
            (&alone, DataState::Absent, false, None, &new),
            (&alone, DataState::New, false, None, &new),
            // The values of the first start stay, until another option changes.
            (&alone, DataState::New, true, Some(&new), &new),
            (&alone, DataState::New, true, Some(&text("new", 2)), &existing),
            (&alone, DataState::Present, true, Some(&new), &existing),
            (&alone, DataState::Lost, false, None, &existing),
            (&with_others, DataState::New, false, None, &existing),
            (&with_others, DataState::New, false, Some(&new), &existing),
        ] {
            let current = current.map(String::as_str);
            let wanted = wanted_config(text("new", 1), &data, has_started, cluster, current);
            assert_eq!(&wanted, expected, "{data:?} {has_started} {current:?}");
        }
    }

    #[test]
    fn existing_data_stays_in_its_directory() {
        let storage = Some(Path::new("/srv/data"));
        for (own_config, storage, expected) in [
            (None, None, "/var/lib/etcd/default"),
            (None, storage, "/srv/data/etcd"),
            (Some("data-dir: /old\n"), storage, "/old"),
        ] {
            assert_eq!(data_dir(InstallMethod::Debian, own_config, storage), Path::new(expected));
        }
    }

    #[test]
    fn an_etcd_with_unknown_data_directory_is_foreign() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().to_owned();
        let own = Path::new("/var/lib/etcd/default");
        let unusable = || Err(Refusal::new("etcd's configuration /x cannot be used", "correct it"));
        let found = |data_dir, guarded| stopped_foreign_etcd(data_dir, own, guarded);
        assert_eq!(found(unusable(), false).as_deref(), Some("etcd's configuration /x cannot be used"));
        // An interrupted installation of the charm has left half an etcd.
        assert_eq!(found(unusable(), true), None);
        assert_eq!((found(Ok(None), false), found(Ok(Some(other.clone())), false)), (None, None));
        Dir::open(&other).unwrap().make_child(MEMBER, None).unwrap();
        assert!(found(Ok(Some(other)), false).unwrap().contains("its data is in"));
    }

    #[test]
    fn authorities_are_loaded_only_if_etcd_is_known_to_have_started_later() {
        use Authority::{OfOperator, OfRelation};
        use LoadedConfig::{Current, Old, Unknown};
        let now = Timestamp::from_second(1000).unwrap();
        for (started, authority, other, expected) in [
            (Some(500), OfRelation(500), [400, 0], Current),
            (Some(500), OfRelation(501), [400, 0], Old),
            (Some(500), OfRelation(0), [501, 0], Old),
            (Some(500), OfRelation(0), [0, 501], Old),
            (None, OfRelation(400), [400, 0], Unknown),
            (None, OfRelation(0), [0, 0], Unknown),
            // A file from the future does not hide another one, and does not cause a restart.
            (Some(500), OfRelation(501), [2000, 0], Old),
            (Some(500), OfRelation(400), [2000, 0], Current),
            (Some(500), OfRelation(2000), [400, 0], Unknown),
            (Some(500), OfRelation(2000), [501, 0], Old),
            (Some(500), OfOperator(500), [400, 0], Current),
            (Some(500), OfOperator(501), [400, 0], Unknown),
            (Some(500), OfOperator(501), [501, 0], Old),
        ] {
            let found = compare_times(started, authority, other, now);
            assert_eq!(found, expected, "{started:?} {authority:?} {other:?}");
        }
    }

    #[test]
    fn reads_the_number_of_a_unit() {
        assert_eq!(unit_number("etcd/10"), Some(10));
        assert_eq!(unit_number("new-etcd/0"), Some(0));
        assert_eq!(unit_number("etcd"), None);
    }
}
