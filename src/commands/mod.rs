//! The front door: from `actions.yaml` and what the caller gave to parameters, from the outcome of a walk to what the
//! caller is told, in Juju or in a terminal.
//!
//! The one place that chooses exit codes. Must never know how a walk does its work.

pub mod backup;
mod bug;
pub mod check;
pub mod credentials;
pub mod declared;
mod environment;
mod offsite;
pub mod params;
pub mod restore;
pub mod results;
mod runs;
pub mod schedule;
pub mod site;
pub mod snapshot;
pub mod snapshots;
mod target;
mod teller;
mod terminal;
mod unit;
pub mod upkeep;
pub mod upload;
mod v2_keys;

pub use crate::result_key as key;
pub use environment::{Environment, called, now};

use crate::archive::age::Identities;
use crate::error::{ActionError, Failure};
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::juju::{Juju, Resource};
use crate::progress::Progress;
use crate::system::clock::Clock;
use crate::system::{interrupt, process};
use anyhow::Result;
use declared::Declaration;
use params::Params;
use results::Results;
use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use teller::Teller;
use terminal::Asked;

/// An action: what it does with a call. The results that it sets are told even when it stops.
pub type Perform = fn(&Call<'_>, &mut Results) -> Result<(), ActionError>;

/// Runs `action` from its caller's words to the status for its caller.
pub fn run(action: &str, perform: Perform) -> ExitCode {
    // What we write holds every secret of a cluster: nothing is for others, whatever creates it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    bug::watch();
    let environment = Environment::read();
    let door = Door::find(action, &environment, environment::words());
    let teller = RefCell::new(door.teller());
    let tell = |progress: Progress<'_>| {
        // Busy only if telling led to telling, which must not break a walk.
        if let Ok(mut teller) = teller.try_borrow_mut() {
            teller.hear(progress);
        }
    };
    let mut results = Results::default();
    let outcome = bug::caught(terminal::recovers(action), || {
        let declaration = Declaration::of(action).map_err(|e| bug::stop(&format!("{e:#}"), false))?;
        match door.read(&declaration)? {
            Asked::Text(text) => {
                terminal::print(&text);
                Ok(())
            }
            Asked::Act { params, recover } => {
                interrupt::install().map_err(not_begun)?;
                let now = environment::now();
                let call = Call {
                    params,
                    recover,
                    now,
                    clock: Clock::at(now),
                    environment: &environment,
                    door: &door,
                    tell: &tell,
                };
                perform(&call, &mut results)
            }
        }
    });
    if let Ok(mut teller) = teller.try_borrow_mut() {
        teller.finish();
    }
    door.tell(action, &results, &outcome)
}

fn not_begun(cause: anyhow::Error) -> ActionError {
    ActionError::Failed(Failure {
        cause,
        state: "nothing was changed".to_owned(),
        next: "run it again".to_owned(),
    })
}

/// Where the caller stands.
enum Door {
    Juju(Juju),
    Terminal(Vec<OsString>),
}

impl Door {
    /// Juju gives no words: where there are some, a person typed them, be it in a shell that Juju opened.
    fn find(action: &str, environment: &Environment, words: Vec<OsString>) -> Self {
        match Juju::in_action(action, &environment.variables) {
            Some(juju) if words.is_empty() => Self::Juju(juju),
            _ => Self::Terminal(words),
        }
    }

    fn read(&self, declaration: &Declaration) -> Result<Asked, ActionError> {
        match self {
            Self::Juju(juju) => Ok(Asked::Act { params: unit::read(juju, declaration)?, recover: false }),
            Self::Terminal(words) => Ok(terminal::read(declaration, words)?),
        }
    }

    fn teller(&self) -> Teller<'_> {
        match self {
            Self::Juju(juju) => Teller::in_log(juju),
            Self::Terminal(_) => Teller::on_stderr(),
        }
    }

    fn tell(&self, action: &str, results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
        match self {
            Self::Juju(juju) => unit::tell(juju, results, outcome),
            Self::Terminal(_) if action == check::NAME => check::tell(results, outcome),
            Self::Terminal(_) => terminal::tell(results, outcome),
        }
    }
}

/// What an action is called with.
pub struct Call<'a> {
    /// The parameters, defaults inserted.
    pub params: Params,
    /// Whether only what an earlier run left is to be finished or undone (`--recover`).
    pub recover: bool,
    /// The time of the call.
    pub now: jiff::Timestamp,
    /// The time as it goes on.
    clock: Clock,
    /// What the environment says.
    pub environment: &'a Environment,
    door: &'a Door,
    tell: &'a dyn Fn(Progress<'_>),
}

impl Call<'_> {
    /// Who listens to the walk: `walk(…, &mut call.tell())`.
    pub fn tell(&self) -> impl FnMut(Progress<'_>) {
        |progress| (self.tell)(progress)
    }

    /// The same call of another action, with these words for its parameters.
    fn of(&self, action: &str, words: &[String]) -> Result<Call<'_>, ActionError> {
        let declaration = Declaration::of(action).map_err(|e| bug::stop(&format!("{e:#}"), false))?;
        let params = Params::from_words(&declaration, words.iter().map(String::as_str))?;
        Ok(Call { params, ..*self })
    }

    /// The unit that we are on, where Juju runs us.
    pub fn unit(&self) -> Option<&str> {
        self.environment.unit.as_deref()
    }

    /// What opens encrypted archives, where `identity-file` names it.
    pub(super) fn identities(&self) -> Result<Option<Identities>, ActionError> {
        match self.params.text("identity-file")? {
            "" => Ok(None),
            path => Ok(Some(Identities::read(Path::new(path))?)),
        }
    }

    /// The charm's resource `name`, which holds secrets, or why there is none. Asks the controller: to be called once.
    pub fn secret_resource(&self, name: &str) -> Result<Resource> {
        match self.door {
            Door::Juju(juju) => juju.secret_resource(name),
            Door::Terminal(_) => {
                Ok(Resource::Missing("charm resources are there only in Juju's actions".to_owned()))
            }
        }
    }

    /// Has the unit's status say `what` while the answer lives, where there is a unit.
    pub fn maintenance(&self, what: &str) -> Option<unit::Maintenance<'_>> {
        match self.door {
            Door::Juju(juju) => unit::Maintenance::begin(juju, what),
            Door::Terminal(_) => None,
        }
    }

    /// What to type on one's own machine to get a copy of `path`, which belongs to `user`.
    pub fn copy_command(&self, user: &str, path: &Path) -> String {
        copy_command(self.unit(), user, &host(), path)
    }
}

/// The etcd of this machine.
fn site(call: &Call<'_>) -> Result<Site, ActionError> {
    site_named(call, call.params.text("site")?)
}

/// The etcd of this machine that `named` means; the only one where that is empty.
fn site_named(call: &Call<'_>, named: &str) -> Result<Site, ActionError> {
    let Environment { site, password, .. } = call.environment;
    let found = Site::find(site.as_deref(), named, password.clone(), call.now);
    found.map_err(|error| {
        ActionError::from_error(
            error,
            "nothing was changed",
            "install what is missing, or say where it is in a site file that ETCD_SITE names, and run this again",
        )
    })
}

/// Brings a restore that was left unfinished in `data` to its end, and says so in the results; whether there was one.
fn settled(call: &Call<'_>, site: &Site, data: &DataDir, results: &mut Results) -> Result<bool, ActionError> {
    let recovered = crate::restore::settle(site, data, &mut call.tell())?;
    if let Some(recovered) = &recovered {
        results.set(key!("restore.recovered"), recovered.in_words());
    }
    Ok(recovered.is_some())
}

fn copy_command(unit: Option<&str>, user: &str, host: &str, path: &Path) -> String {
    let (program, from) = match unit {
        Some(unit) => ("juju scp", unit.to_owned()),
        None => ("scp", format!("{user}@{host}")),
    };
    let mut from = OsString::from(from + ":");
    from.push(path);
    format!("{program} {} .", process::quoted(&from))
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::juju::tests::FakeAgent;

    #[test]
    fn the_copy_command_can_be_typed_as_it_is() {
        let of = |unit, path: &str| copy_command(unit, "ubuntu", "box", Path::new(path));
        assert_eq!(of(Some("etcd/0"), "/a/b.tar.gz"), "juju scp etcd/0:/a/b.tar.gz .");
        assert_eq!(of(None, "/a/b.tar.gz"), "scp ubuntu@box:/a/b.tar.gz .");
        assert_eq!(of(None, "/it's a/b"), r"scp 'ubuntu@box:/it'\''s a/b' .");
    }

    #[test]
    fn words_make_a_terminal_even_inside_an_action() {
        let agent = FakeAgent::new();
        let environment = Environment::of(agent.variables());
        assert!(matches!(Door::find("snapshot", &environment, Vec::new()), Door::Juju(_)));
        assert!(matches!(Door::find("snapshot", &environment, vec!["--help".into()]), Door::Terminal(_)));
        assert!(matches!(Door::find("restore", &environment, Vec::new()), Door::Terminal(_)));
    }
}
