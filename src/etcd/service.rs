//! The supervisor of etcd: the commands that start and stop it. Must never signal a process itself.

mod state;
pub mod static_pod;
mod systemd_unit;

pub use state::SupervisorState;
pub use systemd_unit::systemctl;

use super::known_messages::recognize;
use super::paths::SITE_FILE;
use super::timeouts;
use crate::error::{Refusal, quoted};
use crate::system::owner::Owner;
use crate::system::process::{Program, program_path};
use crate::system::trust;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use systemd_unit::{LONG_GRACE, SHORT_GRACE};

/// The time for the supervisor, in addition to what etcd needs for its database. For a small database that makes 100 s:
/// longer than systemd's default timeout of 90 s for a start or a stop, so that systemd's error comes first.
pub const SUPERVISOR_MARGIN: Duration = Duration::from_secs(40);
/// The time for kubelet to notice a manifest (it polls every 20 s if it is not notified), to give a pod its grace
/// period of 30 s, and to create a container.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(120);

/// The part of a message that marks a stop command without effect; see [`crate::etcd::diagnose::next_step`].
pub const STILL_RUNS: &str = "ended, but etcd";

/// The supervisor that starts and stops etcd on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// A systemd unit.
    Systemd {
        /// The unit's name.
        systemd: String,
    },
    /// Any other supervisor, by two commands.
    Commands {
        /// Starts etcd and returns. It must redirect the daemon's output.
        start: Vec<String>,
        /// Stops etcd and returns when etcd has ended.
        stop: Vec<String>,
    },
    /// kubelet, by the manifest of a static pod.
    StaticPod {
        /// The path of the manifest while etcd runs.
        manifest: PathBuf,
    },
    /// No supervisor was found for the etcd that runs. Never in a site file.
    Unknown {
        /// etcd's process.
        pid: i32,
    },
}

impl Service {
    /// Returns what the supervisor runs now. For start and stop commands, nothing is known.
    pub fn state(&self) -> SupervisorState {
        match self {
            Self::Systemd { systemd } => state::of_unit(systemd),
            Self::StaticPod { manifest } => {
                SupervisorState { wants_etcd: manifest.exists(), dependents: Vec::new() }
            }
            Self::Commands { .. } | Self::Unknown { .. } => SupervisorState::default(),
        }
    }

    /// Starts etcd on a database of `bytes`.
    ///
    /// # Errors
    /// The command failed or timed out, or the supervisor is unknown.
    pub fn start(&self, bytes: u64) -> Result<()> {
        self.run("start", bytes).context("starting etcd")
    }

    /// Starts etcd as [`start`](Self::start) does. A systemd unit's etcd is not waited for: too few other members
    /// may run for it to serve.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn start_without_waiting(&self, bytes: u64) -> Result<()> {
        match self {
            Self::Systemd { systemd } => {
                let words = ["--no-ask-password", "--no-block", "start", "--", systemd];
                let started = Program::new("systemctl").args(words).deadline(SUPERVISOR_MARGIN).run();
                started.map(drop).context("starting etcd")
            }
            _ => self.start(bytes),
        }
    }

    /// Stops etcd on a database of `bytes`. Even without an error, etcd may still run: the caller must check.
    ///
    /// # Errors
    /// The command failed or timed out, or the supervisor is unknown.
    pub fn stop(&self, bytes: u64) -> Result<()> {
        self.run("stop", bytes).context("stopping etcd")
    }

    /// Stops etcd on a database of `bytes`, as [`stop`](Self::stop) does. A systemd unit's etcd that hangs is ended after 20 s
    /// instead of 90: during that time, the cluster has one member less.
    ///
    /// # Errors
    /// See [`stop`](Self::stop).
    pub fn stop_or_end(&self, bytes: u64) -> Result<()> {
        if let Self::Systemd { systemd } = self {
            let has_ended = || main_pid(systemd).is_none();
            systemd_unit::stop_soon(systemd, LONG_GRACE, Duration::from_millis(100), &has_ended);
        }
        self.stop(bytes)
    }

    /// Stops etcd on a database of `bytes`, as [`stop`](Self::stop) does. A systemd unit's etcd that has not closed its
    /// data after a second is ended at once: it may wait for the watches of its clients. `has_closed` returns whether
    /// it has closed its data.
    ///
    /// # Errors
    /// See [`stop`](Self::stop).
    pub fn stop_without_waiting_for_clients(&self, bytes: u64, has_closed: &dyn Fn() -> bool) -> Result<()> {
        if let Self::Systemd { systemd } = self {
            systemd_unit::stop_soon(systemd, SHORT_GRACE, Duration::from_millis(10), has_closed);
        }
        self.stop(bytes)
    }

    /// Returns the name of the systemd unit, if it is one.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Systemd { systemd } => Some(systemd),
            _ => None,
        }
    }

    /// Returns the user that etcd runs as, if that is known and the user exists.
    pub fn user(&self) -> Option<String> {
        let user = match self {
            Self::StaticPod { .. } => "root".to_owned(),
            Self::Systemd { systemd } => {
                user_in(&systemctl(&["show", "--property=LoadState,User", "--", systemd])?)?
            }
            Self::Commands { .. } | Self::Unknown { .. } => return None,
        };
        matches!(Owner::named(&user), Ok(Some(_))).then_some(user)
    }

    /// Moves the parked manifests of a static pod back: the API server's, and with `include_etcd` also etcd's. Call
    /// this after the live data was verified. Has no effect without parked manifests.
    ///
    /// # Errors
    /// A manifest cannot be moved.
    pub fn release_manifests(&self, include_etcd: bool) -> Result<()> {
        match self {
            Self::StaticPod { manifest } => {
                static_pod::release(manifest, include_etcd).context("starting the API server")
            }
            _ => Ok(()),
        }
    }

    /// Starts the units that systemd stopped together with etcd's, and nothing that they need or want, such as etcd. Does not
    /// wait for them.
    ///
    /// # Errors
    /// systemd refuses to start a unit.
    pub fn start_dependents(&self, before: &SupervisorState) -> Result<()> {
        if before.dependents.is_empty() {
            return Ok(());
        }
        let words = ["--no-ask-password", "--no-block", "--job-mode=ignore-requirements", "start", "--"];
        let started = Program::new("systemctl").args(words).args(&before.dependents);
        let started = started.deadline(SUPERVISOR_MARGIN).run();
        started.map(drop).with_context(|| format!("starting {}", before.dependents.join(", ")))
    }

    /// Returns the command that starts what was stopped together with etcd, as typed, if there is anything.
    pub fn dependents_command(&self, before: &SupervisorState) -> Option<String> {
        match self {
            Self::StaticPod { manifest } => {
                let parking = static_pod::parked(manifest).parent().filter(|dir| dir.exists())?.to_owned();
                let live = manifest.parent().unwrap_or(Path::new("/"));
                Some(format!("mv {}/* {}/", quoted(parking.as_os_str()), quoted(live.as_os_str())))
            }
            _ if before.dependents.is_empty() => None,
            _ => Some(format!("systemctl start {}", typed(&before.dependents))),
        }
    }

    /// Returns how long etcd may continue to run after the stop command succeeded.
    pub fn stop_timeout(&self) -> Duration {
        match self {
            Self::StaticPod { .. } => KUBELET_TIMEOUT,
            _ => Duration::from_secs(30),
        }
    }

    /// Returns how long the data may remain closed after a start. etcd opens it within a second; a supervisor that
    /// restarts an etcd that died does so within ten.
    pub fn idle_timeout(&self) -> Duration {
        match self {
            Self::StaticPod { .. } => KUBELET_TIMEOUT,
            _ => Duration::from_secs(15),
        }
    }

    /// Returns the command that restarts etcd, as typed; or the two commands that do.
    pub fn restart_command(&self) -> String {
        match self {
            Self::Systemd { .. } => self.command("restart"),
            _ => format!("{}, then {}", self.stop_command(), self.start_command()),
        }
    }

    /// Returns the command that starts etcd, as typed.
    pub fn start_command(&self) -> String {
        self.command("start")
    }

    /// Returns the command that stops etcd, as typed.
    pub fn stop_command(&self) -> String {
        self.command("stop")
    }

    /// Returns the command that shows whether etcd runs, as typed.
    pub fn status_command(&self) -> String {
        self.command("status")
    }

    /// Returns the command for `verb`, one of `start`, `stop`, `status` and, for systemd, `restart`.
    fn command(&self, verb: &str) -> String {
        match self {
            Self::Systemd { systemd } => format!("systemctl {verb} {}", quoted(systemd.as_ref())),
            Self::Commands { start, stop } => match verb {
                "start" => typed(start),
                "stop" => typed(stop),
                _ => supervisor_status(start),
            },
            Self::StaticPod { manifest } => {
                let parked = static_pod::parked(manifest);
                let parking = quoted(parked.parent().unwrap_or(manifest).as_os_str());
                let (live, parked) = (quoted(manifest.as_os_str()), quoted(parked.as_os_str()));
                match verb {
                    "start" => format!("mv {parked} {live}"),
                    "stop" => format!("mkdir -p {parking} && mv {live} {parking}/"),
                    _ => "crictl ps -a --name etcd".to_owned(),
                }
            }
            Self::Unknown { pid } => match verb {
                "start" => "start etcd as it was started".to_owned(),
                "stop" => format!("kill {pid}"),
                _ => format!("ps {pid}"),
            },
        }
    }

    /// Checks that this program can stop and start etcd.
    ///
    /// # Errors
    /// Refuses an etcd without a known supervisor.
    pub fn check_supervisor(&self) -> Result<(), Refusal> {
        match self {
            Self::Systemd { .. } | Self::Commands { .. } | Self::StaticPod { .. } => Ok(()),
            Self::Unknown { pid } => Err(Refusal::new(
                format!(
                    "no supervisor of the running etcd (pid {pid}) was found, so this program cannot stop and start it"
                ),
                format!(
                    "write its start and stop commands into {SITE_FILE}, which `etcd-backup site --write` creates"
                ),
            )),
        }
    }

    /// Checks that only root can change the manifest, or the start and stop commands. A command consists of its
    /// program, the script for an interpreter, and every other program in its words (`sudo X`, `sh -c 'X; Y'`).
    ///
    /// # Errors
    /// Refuses a file that users other than root can change.
    pub fn check_commands(&self) -> Result<(), Refusal> {
        let (start, stop) = match self {
            Self::Commands { start, stop } => (start, stop),
            // An interrupted restore may have parked it.
            Self::StaticPod { manifest } => {
                return match trust::check(manifest) {
                    Err(distrust) if !distrust.is_missing() => Err(distrust.refusal("the manifest")),
                    _ => Ok(()),
                };
            }
            _ => return Ok(()),
        };
        for (words, what) in [(start, "the start command"), (stop, "the stop command")] {
            // A command that is empty or missing is reported when it is run.
            let Some((program, args)) = words.split_first() else { continue };
            let Some(program) = program_path(program) else { continue };
            for path in std::iter::once(program.clone()).chain(programs_in(&program, args)) {
                match trust::check_program(&path) {
                    Err(distrust) if !distrust.is_missing() => return Err(distrust.refusal(what)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn run(&self, verb: &str, bytes: u64) -> Result<()> {
        self.check_supervisor()?;
        let words: Vec<&str> = match self {
            Self::StaticPod { manifest } if verb == "start" => return static_pod::start(manifest),
            Self::StaticPod { manifest } => return static_pod::stop(manifest),
            Self::Unknown { .. } => Vec::new(),
            Self::Systemd { systemd } => vec!["systemctl", "--no-ask-password", verb, "--", systemd],
            Self::Commands { start, .. } if verb == "start" => start.iter().map(String::as_str).collect(),
            Self::Commands { stop, .. } => stop.iter().map(String::as_str).collect(),
        };
        let (program, args) =
            words.split_first().with_context(|| format!("the {verb} command in the site file is empty"))?;
        Program::new(program).args(args).deadline(SUPERVISOR_MARGIN + timeouts::for_database(bytes)).run()?;
        Ok(())
    }
}

/// Returns a command as it can be typed in a shell.
fn typed(words: &[String]) -> String {
    words.iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Returns the command that shows what the supervisor behind a start command knows about etcd; for an unknown one, that
/// shows the processes of etcd.
fn supervisor_status(start: &[String]) -> String {
    let words =
        start.iter().map(String::as_str).skip_while(|word| word.ends_with("sudo") || word.starts_with('-'));
    let words: Vec<&str> = words.collect();
    let program = words.first().and_then(|word| Path::new(word).file_name()?.to_str()).unwrap_or_default();
    let name = words.iter().skip(1).find(|word| !word.starts_with('-') && **word != "start");
    match (program, name) {
        ("systemctl", Some(unit)) => format!("systemctl status {unit}"),
        ("snap", Some(service)) => {
            format!("snap services {}", service.split('.').next().unwrap_or(service))
        }
        ("service" | "rc-service", Some(service)) => format!("{program} {service} status"),
        ("docker" | "podman" | "nerdctl", Some(container)) => {
            format!("{program} ps -a --filter name={container}")
        }
        ("supervisorctl" | "initctl" | "sv", Some(service)) => format!("{program} status {service}"),
        _ => "pgrep -a etcd".to_owned(),
    }
}

/// Returns whether a program runs the file in its arguments.
fn is_interpreter(program: &Path) -> bool {
    const NAMES: [&str; 8] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "perl", "busybox"];
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    NAMES.contains(&name) || name.starts_with("python")
}

/// Returns the files that a program runs according to its arguments: the script of an interpreter, and programs with
/// absolute paths, also in shell code.
fn programs_in(program: &Path, args: &[String]) -> BTreeSet<PathBuf> {
    let script = args.iter().map(PathBuf::from).find(|path| is_interpreter(program) && path.is_file());
    let words =
        args.iter().flat_map(|arg| arg.split(|c: char| c.is_whitespace() || "\"'`;&|()<>".contains(c)));
    let can_run = |path: &PathBuf| {
        path.is_absolute() && path.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
    };
    words.map(PathBuf::from).filter(can_run).chain(script).collect()
}

/// Returns the user in the properties of a unit that systemd has loaded; root if the unit does not set one.
fn user_in(shown: &str) -> Option<String> {
    let of = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match (of("LoadState")?, of("User")?) {
        ("loaded", "") => Some("root".to_owned()),
        ("loaded", user) => Some(user.to_owned()),
        _ => None,
    }
}

/// Returns the main process of a systemd unit, if it runs.
pub fn main_pid(unit: &str) -> Option<i32> {
    let shown = systemctl(&["show", "--property=MainPID", "--", unit])?;
    shown.trim().strip_prefix("MainPID=")?.parse().ok().filter(|pid| *pid > 0)
}

/// Returns the last fatal message of the etcd in a systemd unit, if the journal has one of the last ten minutes.
pub fn last_fatal_message(unit: &str) -> Option<String> {
    let args = ["--unit", unit, "--since=-10min", "--lines=200", "--output=cat", "--no-pager", "--quiet"];
    let journal = Program::new("journalctl").args(args).deadline(Duration::from_secs(20)).run().ok()?;
    fatal_message_in(&journal.text())
}

/// Returns the last line of the JSON log with which etcd ended itself. Parts that may quote data are left out.
fn fatal_message_in(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
    }
    let is_fatal = |line: &&str| {
        let line = serde_json::from_str::<Line>(line);
        line.is_ok_and(|line| ["fatal", "panic"].contains(&line.level.as_str()))
    };
    let last = log.lines().rev().find(is_fatal)?;
    recognize(last)
}

#[cfg(test)]
mod tests {
    use super::{Service, fatal_message_in, programs_in, user_in};
    use std::path::{Path, PathBuf};

    #[test]
    fn finds_the_programs_in_the_words_of_a_command() {
        let found = |words: &[&str]| {
            let args: Vec<String> = words[1..].iter().map(ToString::to_string).collect();
            programs_in(Path::new(words[0]), &args)
        };
        let shell = PathBuf::from("/bin/sh");
        assert!(found(&["/usr/bin/sudo", "-n", "/bin/sh"]).contains(&shell));
        assert!(found(&["/bin/bash", "-c", "cd / && /bin/sh; true"]).contains(&shell));
        assert!(found(&["/usr/bin/python3.11", "/etc/passwd"]).contains(Path::new("/etc/passwd")));
        assert!(found(&["/bin/bash", "-c", "kill $(cat /etc/passwd)"]).is_empty());
        assert!(found(&["/usr/sbin/start-stop-daemon", "--pidfile", "/etc/passwd"]).is_empty());
    }

    #[test]
    fn the_commands_for_a_manifest_can_be_typed() {
        let service = Service::StaticPod { manifest: "/my pods/manifests/etcd.yaml".into() };
        let parking = "'/my pods/manifests-parked-by-restore'";
        let live = "'/my pods/manifests/etcd.yaml'";
        assert_eq!(service.stop_command(), format!("mkdir -p {parking} && mv {live} {parking}/"));
        let parked = "'/my pods/manifests-parked-by-restore/etcd.yaml'";
        assert_eq!(service.start_command(), format!("mv {parked} {live}"));
    }

    #[test]
    fn the_status_comes_from_the_supervisor() {
        let status = |start: &str| {
            let start = start.split(' ').map(str::to_owned).collect();
            Service::Commands { start, stop: Vec::new() }.status_command()
        };
        assert_eq!(status("systemctl start etcd.service"), "systemctl status etcd.service");
        assert_eq!(status("sudo -n /bin/systemctl --no-block start e.service"), "systemctl status e.service");
        assert_eq!(status("snap start etcd.etcd"), "snap services etcd");
        assert_eq!(status("service etcd start"), "service etcd status");
        assert_eq!(status("docker start etcd-1"), "docker ps -a --filter name=etcd-1");
        assert_eq!(status("supervisorctl start etcd"), "supervisorctl status etcd");
        assert_eq!(status("/opt/start.sh"), "pgrep -a etcd");
    }

    #[test]
    fn finds_the_fatal_message_in_a_log() {
        let log = r#"{"level":"info","msg":"serving"}
{"level":"fatal","ts":"t","caller":"etcdmain/etcd.go:271","msg":"discovery failed","error":"write /d: no space left on device","stacktrace":"x"}
{"level":"warn","msg":"bye"}
panic: not JSON
"#;
        assert_eq!(fatal_message_in(log).as_deref(), Some("discovery failed: no space left on device"));
        let dying = r#"{"level":"panic","msg":"failed to unmarshal mvccpb.KeyValue","error":"canary"}"#;
        assert_eq!(fatal_message_in(dying).as_deref(), Some("failed to unmarshal mvccpb.KeyValue"));
        assert_eq!(fatal_message_in(r#"{"level":"panic","msg":"canary"}"#), None);
        assert_eq!(fatal_message_in(""), None);
    }

    #[test]
    fn finds_the_user_of_a_unit_that_is_loaded() {
        for (shown, user) in [
            ("LoadState=loaded\nUser=etcd\n", Some("etcd")),
            ("User=\nLoadState=loaded\n", Some("root")),
            ("LoadState=not-found\nUser=\n", None),
            ("", None),
        ] {
            assert_eq!(user_in(shown).as_deref(), user, "{shown}");
        }
    }

    #[test]
    fn refuses_to_start_or_stop_without_a_supervisor() {
        let service = Service::Unknown { pid: 42 };
        for error in [service.start(0).unwrap_err(), service.stop(0).unwrap_err()] {
            assert!(format!("{error:#}").contains("no supervisor of the running etcd (pid 42) was found"));
        }
    }
}
