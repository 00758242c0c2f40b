//! Applies the steps of a plan. Every step can be repeated without harm.

use super::certificates::Certificates;
use super::cluster::facts::{ClusterFacts, member_name};
use super::cluster::{apply, gather};
use super::cluster::{membership, turn};
use super::decide::Step;
use super::etcd_config;
use super::facts::Facts;
use super::files::{open_or_create_dir, split_path, write_public};
use super::install;
use super::install::command::Proxies;
use super::install_method::InstallMethod;
use super::listening::own_client;
use super::options::Options;
use super::unit_record::{UnitRecord, open_data_dir};
use crate::error::Refusal;
use crate::etcd::client::Client;
use crate::etcd::service::last_fatal_message;
use crate::exchange::MEMBER;
use crate::juju::Juju;
use crate::system::durable::Dir;
use crate::system::owner::Owner;
use crate::system::stderr;
use crate::system::systemd;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;

/// Applies steps to this unit.
pub struct Executor<'a> {
    /// The Juju agent.
    pub juju: &'a Juju,
    /// The facts that the plan was made from.
    pub facts: &'a Facts,
    /// The record of this unit.
    pub own: &'a UnitRecord,
    /// The proxies for downloads.
    pub proxies: Proxies<'a>,
}

impl Executor<'_> {
    /// Applies one step.
    ///
    /// # Errors
    /// If the step fails. A [`Refusal`] in the error names the next command.
    pub fn apply(&self, step: Step) -> Result<()> {
        let Facts { method, data_dir, .. } = self.facts;
        match step {
            Step::Install => {
                let drop_in = method.drop_in();
                write_public(&drop_in, &etcd_config::install_guard(&drop_in))?;
                systemd::daemon_reload()?;
                install::install(*method, self.options()?, self.juju, self.proxies)?;
                Ok(method.check_version(method.version().as_ref())?)
            }
            Step::AddMember => self.add_member(),
            Step::Leave => self.leave(),
            Step::DiscardMember => self.discard_member(),
            Step::ForgetMember => {
                self.own.write(&open_data_dir(data_dir)?.context("the data directory does not exist")?)
            }
            Step::CreateDataDir => self.create_data_dir(),
            Step::Configure => {
                // The file of an etcd that runs changes only together with its restart.
                if self.facts.is_running {
                    self.check_others_serve()?;
                }
                self.configure()
            }
            Step::MarkAsServed => rewrite_config_without_restart(*method, &self.facts.wanted_config),
            Step::Start => {
                systemd::enable(method.systemd_unit())?;
                self.start()
            }
            Step::UpgradePrograms => {
                self.check_others_serve()?;
                install::upgrade::install_prepared()
            }
            Step::Restart => {
                self.check_others_serve()?;
                method.service().stop_or_end(database_size(data_dir))?;
                self.start_again()
            }
            Step::Stop => {
                systemd::disable(method.systemd_unit())?;
                method.service().stop_or_end(database_size(data_dir))
            }
            Step::RemoveGuard => remove_drop_in(*method),
            Step::UpdatePorts => match self.facts.certificates {
                Certificates::All => self.juju.set_open_ports(&[self.options()?.port]),
                _ => self.juju.set_open_ports(&[]),
            },
        }
    }

    /// Adds this unit to the cluster as a learner. A leader first removes the members of units that are gone: one of them may
    /// be a learner, and etcd accepts only one.
    fn add_member(&self) -> Result<()> {
        let Facts { cluster, method, certificate_dir, .. } = self.facts;
        let voters = gather::voters_to_ask(cluster, &method.etcdctl(), certificate_dir);
        let voters = gather::of_cluster(cluster, voters);
        let mut members = cluster.members.clone().unwrap_or_default();
        for (id, _) in membership::removals(cluster) {
            apply::remove(&voters, id)?;
            members.retain(|member| member.id != id);
        }
        let urls = cluster.urls.as_ref().context("this unit has no certificates for peers")?;
        let are_silent = gather::has_silent_voter(&members, &method.etcdctl(), certificate_dir);
        apply::add_learner(&voters, are_silent, &member_name(&cluster.unit), &urls.peer)
    }

    /// Removes this unit's member. In the last hooks of a unit, a failure must not keep etcd running.
    fn leave(&self) -> Result<()> {
        let Facts { cluster, method, certificate_dir, .. } = self.facts;
        let members = cluster.members.as_deref().unwrap_or_default();
        let Some(own) = cluster.own_member(members) else { return Ok(()) };
        let voters = gather::other_voters(cluster, members, &method.etcdctl(), certificate_dir);
        let voters = gather::of_cluster(cluster, voters);
        match apply::remove(&voters, own.id) {
            Err(error) if self.facts.hook.removes_unit() => {
                stderr::print(&format!(
                    "could not leave the cluster; the leader removes this member: {error:#}"
                ));
                Ok(())
            }
            removed => removed,
        }
    }

    /// Removes the member whose data is lost. The record of it stays until its etcd is stopped: a hook that was killed in between
    /// repeats both. etcd refuses a removal that would take the majority away.
    fn discard_member(&self) -> Result<()> {
        let Facts { cluster, method, certificate_dir, record, .. } = self.facts;
        let recorded = record.as_ref().and_then(|record| record.member.as_ref());
        let recorded = recorded.context("the lost data has no record of its member")?;
        let id = u64::from_str_radix(&recorded.id, 16).context("the recorded member has no id")?;
        let voters = gather::announced_voters(cluster, &method.etcdctl(), certificate_dir);
        // To another cluster, the member is unknown, which counts as removed.
        let voters = gather::of_cluster(cluster, voters);
        apply::remove(&voters, id)
    }

    /// Checks before a restart that the other voters serve: without them, the cluster would stop. A member that does not serve itself
    /// makes no difference to the others, and a cluster that is down cannot stop.
    fn check_others_serve(&self) -> Result<()> {
        let Facts { cluster, method, certificate_dir, has_started, .. } = self.facts;
        if cluster.has_lost_peers || cluster.is_down || !has_started {
            return Ok(());
        }
        let config = self.facts.current_config.as_deref().filter(|_| self.facts.has_own_config);
        let mut asked = Vec::from_iter(own_client(*method, config, certificate_dir));
        asked.extend(gather::voters_to_ask(cluster, &method.etcdctl(), certificate_dir));
        let mut now = cluster.clone();
        gather::ask_for_members(&mut now, &asked);
        if now.members.is_none() && cluster.other_serving_unit().is_none() {
            return Ok(());
        }
        self.check_voters(now, &asked)
    }

    /// Checks that the other voters in the present list of members serve. A leader first removes the members of units that are gone: after
    /// this step has failed, the hook does not reach its end, where it would do that.
    fn check_voters(&self, mut now: ClusterFacts, asked: &[Client]) -> Result<()> {
        let Facts { method, certificate_dir, .. } = self.facts;
        for (id, _) in membership::removals(&now) {
            apply::remove(&gather::of_cluster(&now, asked.to_vec()), id)
                .map_err(|error| turn::refusal_to_restart(&now, None, &format!("{error:#}")))?;
            now.members.iter_mut().for_each(|members| members.retain(|member| member.id != id));
        }
        let Some(members) = now.members.as_deref() else {
            return Err(turn::refusal_to_restart(&now, None, "no member lists the others").into());
        };
        let voters = turn::voters_to_check(&now, members).map_err(|member| {
            let problem = match member.is_learner {
                true => format!("{} is not a voter yet", member.name),
                false => format!("{} has not started", membership::describe_stranger(member)),
            };
            turn::refusal_to_restart(&now, Some(member), &problem)
        })?;
        for voter in voters {
            gather::check_serving(&now, &[voter], &method.etcdctl(), certificate_dir)
                .map_err(|error| turn::refusal_to_restart(&now, Some(voter), &format!("{error:#}")))?;
        }
        Ok(())
    }

    /// Starts etcd again. Without other members it cannot serve, so their units must not be kept waiting.
    fn start_again(&self) -> Result<()> {
        let Facts { method, data_dir, cluster, .. } = self.facts;
        self.complete_roll_back()?;
        match cluster.is_down {
            true => method.service().start_without_waiting(database_size(data_dir)),
            false => self.start(),
        }
    }

    /// Starts etcd. If it does not start after an upgrade, the earlier programs are put back and started.
    fn start(&self) -> Result<()> {
        self.complete_roll_back()?;
        let has_previous = self.facts.method == InstallMethod::Release && install::upgrade::has_previous();
        match self.start_installed() {
            Ok(()) if has_previous => install::upgrade::forget_previous(),
            Err(error) if has_previous => self.roll_back(&error),
            started => started,
        }
    }

    /// Completes the roll-back of an upgrade that was interrupted, for example by a power failure.
    fn complete_roll_back(&self) -> Result<()> {
        match self.facts.method {
            InstallMethod::Release => install::upgrade::complete_roll_back(),
            _ => Ok(()),
        }
    }

    /// Puts the programs before an upgrade back, and starts etcd. Always returns an error.
    fn roll_back(&self, error: &anyhow::Error) -> Result<()> {
        let Facts { method, data_dir, .. } = self.facts;
        let refusal = error.downcast_ref::<Refusal>();
        let reason = refusal.map_or_else(|| format!("{error:#}"), |refusal| refusal.reason.clone());
        // systemd may be about to start the new etcd again.
        method.service().stop_or_end(database_size(data_dir))?;
        install::upgrade::roll_back(&reason)?;
        match self.start_installed() {
            Ok(()) => Err(install::upgrade::failure_of(&reason).into()),
            Err(error) => Err(error.context("the upgraded etcd did not start, and the earlier one does not")),
        }
    }

    /// Starts etcd. systemd reports only that the start failed; the journal has etcd's reason.
    fn start_installed(&self) -> Result<()> {
        let Facts { method, data_dir, .. } = self.facts;
        let unit = method.systemd_unit();
        method.service().start(database_size(data_dir)).map_err(|error| match last_fatal_message(unit) {
            Some(reason) => {
                Refusal::new(format!("etcd does not start: {reason}"), format!("journalctl -u {unit}")).into()
            }
            None => error,
        })
    }

    fn options(&self) -> Result<&Options> {
        self.facts.options.as_ref().map_err(|refusal| refusal.clone().into())
    }

    /// Creates the data directory. The record is written before the owner is set: until then etcd cannot start there,
    /// because the directory is not its own.
    fn create_data_dir(&self) -> Result<()> {
        let Facts { method, data_dir, .. } = self.facts;
        let user = method.user()?;
        let dir = match open_data_dir(data_dir)? {
            Some(dir) => dir,
            None => {
                let (parent, name) = split_path(data_dir)?;
                open_or_create_dir(parent)?.make_child(name, user)?
            }
        };
        check_owner(&dir, user)?;
        self.own.write(&dir)?;
        match user {
            Some(user) => user.chown(&dir).context("changing the owner of the data directory to etcd"),
            None => Ok(()),
        }
    }

    /// Writes the configuration before the file that points to it: an etcd that starts in between has its old
    /// configuration. The guard of an installation is removed after everything is written.
    fn configure(&self) -> Result<()> {
        let Facts { method, data_dir, .. } = self.facts;
        let is_on_storage = self.facts.is_on_storage();
        if is_on_storage && *method == InstallMethod::Snap {
            install::connect_removable_media()?;
        }
        let is_new = !self.facts.is_installed || self.facts.has_install_guard;
        if is_on_storage && !is_new {
            write_mount_drop_in(*method, data_dir)?;
        }
        write_public(method.config_file(), &self.facts.wanted_config)?;
        if let Some(file) = method.environment_file() {
            write_public(file, &etcd_config::environment_file(method.config_file()))?;
        }
        match is_new {
            true if is_on_storage => write_mount_drop_in(*method, data_dir),
            true => remove_drop_in(*method),
            // An earlier unit of this machine had a storage.
            false if !self.facts.has_own_config && !is_on_storage && method.drop_in().exists() => {
                remove_drop_in(*method)
            }
            false => Ok(()),
        }
    }
}

/// Makes etcd start only when the storage of its data is mounted.
fn write_mount_drop_in(method: InstallMethod, data_dir: &Path) -> Result<()> {
    write_public(&method.drop_in(), &etcd_config::mount_drop_in(data_dir))?;
    systemd::daemon_reload()
}

fn remove_drop_in(method: InstallMethod) -> Result<()> {
    let file = method.drop_in();
    let (dir, name) = split_path(&file)?;
    Dir::open(dir)?.remove_file(name)?;
    systemd::daemon_reload()
}

/// Writes `text` as etcd's configuration and keeps the file's modification time, by which a hook decides whether etcd must
/// be restarted. If the process dies in between, etcd is restarted once without need.
///
/// # Errors
/// If the file cannot be read or written.
pub fn rewrite_config_without_restart(method: InstallMethod, text: &str) -> Result<()> {
    let file = method.config_file();
    let writing = || format!("writing {}", file.display());
    let time = fs::metadata(file).and_then(|file| file.modified()).with_context(writing)?;
    write_public(file, text)?;
    File::open(file).and_then(|file| file.set_modified(time)).with_context(writing)
}

/// Refuses a directory that belongs neither to root nor to etcd's user, because it is in use.
fn check_owner(dir: &Dir, user: Option<Owner>) -> Result<()> {
    let Owner { uid: own_uid, .. } = Owner::ourselves();
    let uid = dir.stat()?.st_uid;
    if [0, own_uid].contains(&uid) || user.is_some_and(|user| user.uid == uid) {
        return Ok(());
    }
    let path = dir.path().display();
    Err(Refusal::new(
        format!("{path} belongs to user {uid}, not to etcd or root"),
        format!("chown etcd: {path} (if it is meant for etcd's data)"),
    )
    .into())
}

/// Returns the size of the database in bytes, or 0 without a database.
fn database_size(data_dir: &Path) -> u64 {
    fs::metadata(data_dir.join(MEMBER).join("snap/db")).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_take_over_a_directory_of_another_user() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        check_owner(&dir, None).unwrap();
        // Only root can change an owner.
        let nobody = Owner { uid: 65534, gid: 65534 };
        if nobody.chown(&dir).is_ok() {
            assert!(check_owner(&dir, None).unwrap_err().to_string().contains("belongs to user 65534"));
            check_owner(&dir, Some(nobody)).unwrap();
        }
    }
}
