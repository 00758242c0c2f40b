//! The charm's life: every hook looks at the unit, decides, and makes it what it should be.
//!
//! One walk for all hooks, and each can come at any time: a step that is done is not done again. Must never fail a hook:
//! Juju would stop there and wait for somebody to resolve it, when all that there is to say fits into a status.

mod backup;
mod besides;
mod configuration;
mod decide;
mod facts;
mod home;
mod hook;
mod install;
mod offered;
mod perform;
mod programs;
mod record;
mod settings;

pub use programs::by_name;

use crate::commands::{Environment, check, now, schedule};
use crate::error::Refusal;
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::etcd::why::wants_another_user;
use crate::juju::{Juju, Status};
use crate::settings::charms;
use crate::system::process::become_it;
use anyhow::{Context, Result, bail};
use backup::Whose;
use decide::{Facts, Plan, Rest, Step, blocked, decide, status};
use home::Home;
use hook::Hook;
use perform::Hands;
use record::{Data, Record};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long an etcd that was just started may take before its silence is told.
const STARTED: Duration = Duration::from_secs(30);
/// And one that should serve already.
const SERVING: Duration = Duration::from_secs(5);
/// How long a unit that goes waits for whoever works on its data: for a snapshot, that is long.
const AT_ITS_END: Duration = Duration::from_secs(120);

/// Becomes the program that Juju's `JUJU_DISPATCH_PATH` asks for: an action's own, or that of all hooks.
pub fn dispatch() -> ExitCode {
    let environment = Environment::read();
    let Err(error) = become_what_is_asked(&environment) else { return ExitCode::SUCCESS };
    complain(&format!("{error:#}"));
    ExitCode::FAILURE
}

fn become_what_is_asked(environment: &Environment) -> Result<()> {
    let asked = environment.variable("JUJU_DISPATCH_PATH").and_then(OsStr::to_str).unwrap_or_default();
    let charm = match environment.variable("JUJU_CHARM_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe().context("looking for the charm")?.with_file_name(""),
    };
    let program = match asked.split_once('/') {
        Some(("actions", name)) if !name.is_empty() && !name.contains('/') => {
            charm.join("actions").join(name)
        }
        Some(("hooks", _)) => charm.join("bin/reconcile"),
        _ => bail!("JUJU_DISPATCH_PATH names no hook and no action: {asked:?}"),
    };
    match become_it(&program) {
        Ok(never) => match never {},
        Err(error) => Err(error).with_context(|| format!("running {}", program.display())),
    }
}

/// Runs a hook. Its status is 0 whatever comes: what there is to say is the unit's status.
pub fn run() -> ExitCode {
    let environment = Environment::read();
    // A hook that is nothing to us is none of our business, and nor is whoever runs us outside of one.
    let (Some(hook), Some(juju)) = (Hook::of(&environment), Juju::in_hook(environment.variables())) else {
        return ExitCode::SUCCESS;
    };
    let said = std::panic::catch_unwind(|| live(&juju, &environment, hook)).unwrap_or_else(|_| {
        blocked("the charm has a bug", "see juju debug-log, and report it; the next hook tries again")
    });
    if said.word == "blocked" {
        complain(&said.message);
    }
    if let Err(error) = juju.set_status(&said) {
        complain(&format!("{}: {} (Juju could not be told so: {error:#})", said.word, said.message));
    }
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What the unit's status is after the hook.
fn live(juju: &Juju, environment: &Environment, hook: Hook) -> Status {
    let said =
        try_to_live(juju, environment, hook).unwrap_or_else(|error| told(&error, "the hook broke off"));
    with_backups(said, environment, hook)
}

/// What is wrong with backups, as far as Juju says how they are to be made. It is told where etcd itself is well.
fn backups(juju: &Juju, environment: &Environment, hook: Hook, whose: &Whose<'_>) -> Option<Status> {
    let file = charms(environment.settings.as_deref());
    let breaks = environment.variable("JUJU_DISPATCH_PATH").and_then(OsStr::to_str);
    let breaks = breaks.is_some_and(|path| path.ends_with("-relation-broken"));
    let relation = environment.variable("JUJU_RELATION_ID").and_then(OsStr::to_str).filter(|_| breaks);
    let told_of = |error| told(&error, "writing down what Juju says of backups");
    backup::reconcile(juju, &file, whose, relation, hook == Hook::Remove)
        .unwrap_or_else(|error| Some(told_of(error)))
}

/// The unit goes, and no later hook stops its etcd: whoever works on the data is waited for, and a backup of the timer's that
/// takes too long is ended. A restore is left to its end all the same.
fn wait_for_backup<T>(patience: Duration, settle: &dyn Fn() -> (Rest, T), break_off: &dyn Fn()) -> (Rest, T) {
    let until = Instant::now() + patience;
    while let (Rest::Busy(_), _) = settle() {
        if Instant::now() >= until {
            break_off();
            return settle();
        }
        std::thread::sleep(Duration::from_millis(100).min(patience));
    }
    settle()
}

fn break_off(environment: &Environment) {
    if let Err(error) = schedule::break_off(environment) {
        complain(&format!("ending the backup at work: {error:#}"));
    }
}

fn told(error: &anyhow::Error, what: &str) -> Status {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) => blocked(&refusal.reason, &refusal.next),
        None => blocked(&format!("{what}: {error:#}"), "mend the cause; it is tried again within minutes"),
    }
}

/// The status of the unit, its backups included. Where it serves, the timer is what the settings say; where it goes, there is
/// none; and else what is wrong with etcd is to be mended first.
fn with_backups(said: Status, environment: &Environment, hook: Hook) -> Status {
    if matches!(hook, Hook::Stop | Hook::Remove) {
        if let Err(error) = schedule::forget(environment) {
            complain(&format!("taking the timer of backups away: {error:#}"));
        }
        return said;
    }
    if said.word != "active" {
        return said;
    }
    if let Err(error) = schedule::reconcile(environment, now()) {
        return told(&error, "the schedule of backups");
    }
    match check::glance(environment, now()) {
        Some(words) => status("active", format!("{}; {words}", said.message)),
        None => said,
    }
}

fn try_to_live(juju: &Juju, environment: &Environment, hook: Hook) -> Result<Status> {
    let ours = facts::ourselves(environment)?;
    if let Some(said) = decide::second(&facts::earlier(juju, &ours.unit)?) {
        return Ok(said);
    }
    let configured = if environment.site.is_some() { None } else { facts::configured()? };
    // To the hook's last step: a restore that began meanwhile would have its etcd started over it.
    let own = environment.site.is_none().then_some(&ours);
    let settle = || facts::settle(&site(environment), configured.as_deref(), own);
    let (rest, mut held) = match hook {
        Hook::Stop | Hook::Remove => wait_for_backup(AT_ITS_END, &settle, &|| break_off(environment)),
        _ => settle(),
    };
    if let Rest::Settled(words) = &rest {
        note(juju, words);
    }
    if let Some(file) = &environment.site {
        let trouble = backups(juju, environment, hook, &Whose { ours: &ours, owns_etcd: None });
        return Ok(unless(trouble, theirs(juju, environment, file, &rest)));
    }
    let facts = facts::gather(juju, hook, &ours, rest)?;
    let trouble =
        backups(juju, environment, hook, &Whose { ours: &ours, owns_etcd: Some(facts.owns_etcd()) });
    let Plan { steps, say } = decide(&facts);
    let proxies = proxies(environment);
    let hands = Hands { juju, facts: &facts, ours: &ours, proxies: &proxies };
    for step in steps {
        if step.is_told() {
            tell_of(juju, step);
        }
        if let Err(error) = hands.perform(step) {
            return Ok(told(&error, step.in_words()));
        }
        if held.is_none() {
            // One of these steps has made the data's directory.
            match facts::hold(&facts.data_dir) {
                Ok(data) => held = data,
                Err(rest) => {
                    if let Some(said) = decide::stands_aside(&rest) {
                        return Ok(said);
                    }
                }
            }
        }
    }
    match say {
        Some(said) => Ok(said),
        None => observed(juju, environment, &facts, &ours).map(|said| unless(trouble, said)),
    }
}

/// What is wrong with backups in place of what is said, where etcd itself is well.
fn unless(trouble: Option<Status>, said: Status) -> Status {
    trouble.filter(|_| said.word == "active").unwrap_or(said)
}

/// What a hook is at is for people to read: etcd is not left half made for a word that Juju did not take.
fn tell_of(juju: &Juju, step: Step) {
    if let Err(error) = juju.set_status(&status("maintenance", step.in_words())) {
        complain(&format!("{}: {error:#}", step.in_words()));
    }
    note(juju, step.in_words());
}

fn note(juju: &Juju, words: &str) {
    if let Err(error) = juju.note(words) {
        complain(&format!("{words} ({error:#})"));
    }
}

fn site(environment: &Environment) -> Result<Site> {
    Site::chosen(environment.site.as_deref(), "", environment.password.clone())
}

/// An etcd that a site file describes is the operator's: the charm neither installs nor configures nor starts it.
fn theirs(juju: &Juju, environment: &Environment, file: &Path, rest: &Rest) -> Status {
    match (rest, site(environment)) {
        (Rest::Busy(who), _) => status("maintenance", who),
        (Rest::Unsettled(why), _) => status("blocked", why),
        (_, Ok(site)) => {
            with_news(health(juju, environment, &site, SERVING, "see to the etcd of the site file"), rest)
        }
        (_, Err(error)) => told(&error, &format!("the site file {} cannot be used", file.display())),
    }
}

/// What etcd shows after all steps.
fn observed(juju: &Juju, environment: &Environment, facts: &Facts, ours: &Record) -> Result<Status> {
    let site = match Site::chosen(None, "", environment.password.clone()) {
        Ok(site) => site,
        Err(error) => return Ok(told(&error, "looking for etcd")),
    };
    let unit = facts.home.unit();
    let patience = if facts.runs { SERVING } else { STARTED };
    let next = format!("systemctl status {unit}; journalctl -u {unit}");
    let said = health(juju, environment, &site, patience, &next);
    if said.word == "active" && facts.data != Data::There {
        let served = Record { served: true, ..ours.clone() };
        served.write(&Home::open(&facts.data_dir)?.context("the data directory is gone")?)?;
        // Now and not by the next hook: the machine may boot without its data before that.
        perform::note(facts.home, &configuration::served(&facts.wanted))?;
    }
    Ok(with_news(said, &facts.rest))
}

/// With what became of an unfinished restore, where etcd serves.
fn with_news(said: Status, rest: &Rest) -> Status {
    match rest {
        Rest::Settled(words) if said.word == "active" => {
            status("active", format!("{}; {words}", said.message))
        }
        _ => said,
    }
}

/// The status of a unit whose etcd is to serve.
fn health(juju: &Juju, environment: &Environment, site: &Site, patience: Duration, next: &str) -> Status {
    let client = Client::of(site);
    let asked = client.wait_until_serving(patience, &mut || Ok(()));
    let asked = asked.and_then(|status| Ok((status, client.members()?)));
    let (member, members) = match asked {
        Ok(asked) => asked,
        // With authentication on, whoever has no password learns just this, and that is a sign of life. Who shows a
        // certificate is the user of its name, and may know no more.
        Err(error) if wants_another_user(&error) => {
            return status("active", "etcd serves; without its password there is no more to tell");
        }
        Err(error) => return blocked(&format!("etcd does not serve: {error:#}"), next),
    };
    if let Err(error) = juju.set_version(&member.version) {
        complain(&format!("{error:#}"));
    }
    if !member.errors.is_empty() {
        return blocked(
            &format!("etcd has an alarm: {}", member.errors.join("; ")),
            "juju run UNIT alarm-list",
        );
    }
    let mut count = match members.len() {
        1 => "1 member, healthy".to_owned(),
        several => format!("{several} members, healthy"),
    };
    let number = environment.unit.as_deref().and_then(facts::number);
    if member.revision == 1 && number.is_some_and(|number| number > 0) {
        count += ", and empty: the units before it are gone; restore brings their keys back from a snapshot";
    }
    status("active", count)
}

/// The proxies that the operator set for charms.
fn proxies(environment: &Environment) -> Vec<(&'static str, String)> {
    [
        ("http_proxy", "JUJU_CHARM_HTTP_PROXY"),
        ("https_proxy", "JUJU_CHARM_HTTPS_PROXY"),
        ("no_proxy", "JUJU_CHARM_NO_PROXY"),
    ]
    .into_iter()
    .filter_map(|(name, variable)| Some((name, environment.variable(variable)?.to_str()?.to_owned())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_unit_that_goes_waits_for_a_backup_and_then_ends_it() {
        let busy = || Rest::Busy("backup (pid 7) is working on /d".into());
        for (patience, free_after, broken_off) in [
            (Duration::from_secs(60), 3, 0),
            // It ends only when it is ended.
            (Duration::ZERO, usize::MAX, 1),
        ] {
            let (asked, ended) = (Cell::new(0), Cell::new(0));
            let settle = || {
                asked.set(asked.get() + 1);
                let is_free = asked.get() > free_after || ended.get() > 0;
                (if is_free { Rest::Quiet } else { busy() }, ())
            };
            let (rest, ()) = wait_for_backup(patience, &settle, &|| ended.set(ended.get() + 1));
            assert_eq!((rest, ended.get()), (Rest::Quiet, broken_off));
        }
        // A restore does not end so.
        assert_eq!(wait_for_backup(Duration::ZERO, &|| (busy(), ()), &|| ()).0, busy());
    }
}
