//! The supervisor of etcd: how it is stopped and started. Must never signal a process itself.

use super::patience;
use crate::stop::Refusal;
use crate::system::process::Program;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::time::Duration;

/// On top of what etcd needs for its database. For a small one that makes 100 s: longer than systemd's own default of
/// 90 s for a stop or a start, so that its verdict comes first.
const SUPERVISOR: Duration = Duration::from_secs(40);

/// What starts and stops etcd here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Service {
    /// A systemd unit.
    Systemd {
        /// The unit's name.
        systemd: String,
    },
    /// Any other supervisor, by two commands.
    Commands {
        /// Starts etcd and returns. It must send the daemon's output elsewhere.
        start: Vec<String>,
        /// Stops etcd and returns when it has gone.
        stop: Vec<String>,
    },
    /// None was found for the etcd that runs. A site file never says this.
    #[serde(skip)]
    Unknown {
        /// etcd's process.
        pid: i32,
    },
}

impl Service {
    /// Starts etcd on a database of `bytes`.
    pub fn start(&self, bytes: u64) -> Result<()> {
        self.run("start", bytes).context("starting etcd")
    }

    /// Stops etcd on a database of `bytes`.
    pub fn stop(&self, bytes: u64) -> Result<()> {
        self.run("stop", bytes).context("stopping etcd")
    }

    /// What a person types to do `verb`, one of `start`, `stop` and `status`.
    pub fn typed(&self, verb: &str) -> String {
        match self {
            Self::Systemd { systemd } => format!("systemctl {verb} {systemd}"),
            Self::Commands { start, stop } => match verb {
                "start" => start.join(" "),
                "stop" => stop.join(" "),
                _ => "ps -C etcd".to_owned(),
            },
            Self::Unknown { pid } => match verb {
                "start" => "start etcd as it was started".to_owned(),
                "stop" => format!("kill {pid}"),
                _ => format!("ps {pid}"),
            },
        }
    }

    /// That etcd can be stopped and started by us, or why not.
    pub fn known(&self) -> Result<(), Refusal> {
        match self {
            Self::Systemd { .. } | Self::Commands { .. } => Ok(()),
            Self::Unknown { pid } => Err(Refusal::new(
                format!("no supervisor of the running etcd (pid {pid}) was found"),
                "name its start and stop commands in a site file, and the file in ETCD_SITE",
            )),
        }
    }

    fn run(&self, verb: &str, bytes: u64) -> Result<()> {
        self.known()?;
        let words: Vec<&str> = match self {
            Self::Unknown { .. } => Vec::new(),
            Self::Systemd { systemd } => vec!["systemctl", "--no-ask-password", verb, "--", systemd],
            Self::Commands { start, .. } if verb == "start" => start.iter().map(String::as_str).collect(),
            Self::Commands { stop, .. } => stop.iter().map(String::as_str).collect(),
        };
        let (program, args) = words.split_first().context("the service's command is empty")?;
        Program::new(program).args(args).deadline(SUPERVISOR + patience::for_database(bytes)).run()?;
        Ok(())
    }
}

/// The main process of a systemd unit, if it runs and there is a systemd to ask.
pub fn main_pid(unit: &str) -> Option<i32> {
    let systemctl = Program::new("systemctl").args(["show", "--property=MainPID", "--", unit]);
    let output = systemctl.deadline(Duration::from_secs(10)).run().ok()?;
    output.text().trim().strip_prefix("MainPID=")?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::Service;

    #[test]
    fn a_site_file_names_a_unit_or_two_commands() {
        for (text, typed) in [
            ("{systemd: etcd.service}", Some("systemctl stop etcd.service")),
            ("{start: [run, it], stop: [end, it]}", Some("end it")),
            ("{pid: 1}", None),
            ("{}", None),
            ("null", None),
        ] {
            let service = serde_yaml::from_str::<Service>(text).ok();
            assert_eq!(service.map(|service| service.typed("stop")).as_deref(), typed, "{text}");
        }
    }

    #[test]
    fn an_unknown_supervisor_is_refused_and_nothing_is_run() {
        let service = Service::Unknown { pid: 42 };
        for error in [service.start(0).unwrap_err(), service.stop(0).unwrap_err()] {
            assert!(format!("{error:#}").contains("no supervisor of the running etcd (pid 42) was found"));
        }
    }
}
