//! The supervisor of etcd: how it is stopped and started. Must never signal a process itself.

pub mod static_pod;

use super::known_messages::recognize;
use super::timeouts;
use crate::error::Refusal;
use crate::system::owner::Owner;
use crate::system::process::{Program, program_path};
use crate::system::trust;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// On top of what etcd needs for its database. For a small one that makes 100 s: longer than systemd's own default of
/// 90 s for a stop or a start, so that its verdict comes first.
pub const SUPERVISOR_MARGIN: Duration = Duration::from_secs(40);
/// How long kubelet may take to see a manifest come or go (it looks every 20 s where it is not told), to give a pod its
/// 30 s of grace, and to make a container.
const KUBELET: Duration = Duration::from_secs(120);

/// What starts and stops etcd here.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// kubelet, by a manifest in the directory that it watches.
    StaticPod {
        /// The manifest, where it lies while etcd is meant to run.
        manifest: PathBuf,
    },
    /// None was found for the etcd that runs. A site file never says this.
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

    /// The systemd unit, where it is one.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Systemd { systemd } => Some(systemd),
            _ => None,
        }
    }

    /// The user that etcd runs as, where that is known and there is one of the name.
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

    /// Lets those back in that were kept away while etcd was stopped: the API server of a static pod's machine. To be
    /// called once the data that is live has proved to be what it is to be; does nothing where nobody was. With `etcd`, it
    /// too is let back in.
    pub fn release_manifests(&self, etcd: bool) -> Result<()> {
        match self {
            Self::StaticPod { manifest } => {
                static_pod::release(manifest, etcd).context("starting the API server")
            }
            _ => Ok(()),
        }
    }

    /// How long etcd may go on after a stop came back without an error.
    pub fn stop_timeout(&self) -> Duration {
        match self {
            Self::StaticPod { .. } => KUBELET,
            _ => Duration::from_secs(30),
        }
    }

    /// How long after a start nobody may have the data open. etcd opens it within a second; a supervisor that starts it
    /// again after it died does so within ten.
    pub fn idle_timeout(&self) -> Duration {
        match self {
            Self::StaticPod { .. } => KUBELET,
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

    /// What a person types to do `verb`, one of `start`, `stop` and `status`.
    fn command(&self, verb: &str) -> String {
        match self {
            Self::Systemd { systemd } => format!("systemctl {verb} {systemd}"),
            Self::Commands { start, stop } => match verb {
                "start" => start.join(" "),
                "stop" => stop.join(" "),
                _ => "ps -C etcd".to_owned(),
            },
            Self::StaticPod { manifest } => {
                let (live, parked) = (manifest.display(), static_pod::parked(manifest));
                match verb {
                    "start" => format!("mv {} {live}", parked.display()),
                    "stop" => format!(
                        "mkdir -p {0} && mv {live} {0}/",
                        parked.parent().unwrap_or(manifest).display()
                    ),
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

    /// That etcd can be stopped and started by us, or why not.
    pub fn check_supervisor(&self) -> Result<(), Refusal> {
        match self {
            Self::Systemd { .. } | Self::Commands { .. } | Self::StaticPod { .. } => Ok(()),
            Self::Unknown { pid } => Err(Refusal::new(
                format!("no supervisor of the running etcd (pid {pid}) was found"),
                "name its start and stop commands in a site file, and the file in ETCD_SITE",
            )),
        }
    }

    /// Refuses a manifest, or a start or a stop command, that users other than root can change. Of a command that is its
    /// program, the script that an interpreter is given, and every other program in its words (`sudo X`, `sh -c 'X; Y'`).
    pub fn check_commands(&self) -> Result<(), Refusal> {
        let (start, stop) = match self {
            Self::Commands { start, stop } => (start, stop),
            // A restore that died may have left it elsewhere.
            Self::StaticPod { manifest } => {
                return match trust::check(manifest) {
                    Err(distrust) if !distrust.is_missing() => Err(distrust.refusal("the manifest")),
                    _ => Ok(()),
                };
            }
            _ => return Ok(()),
        };
        for (words, what) in [(start, "the start command"), (stop, "the stop command")] {
            // Running a command that is empty or missing reports that.
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
        let (program, args) = words.split_first().context("the service's command is empty")?;
        Program::new(program).args(args).deadline(SUPERVISOR_MARGIN + timeouts::for_database(bytes)).run()?;
        Ok(())
    }
}

/// Whether a program runs the file that it is given.
fn is_interpreter(program: &Path) -> bool {
    const NAMES: [&str; 8] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "perl", "busybox"];
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    NAMES.contains(&name) || name.starts_with("python")
}

/// The files that a program is given to run, by its arguments: the script of an interpreter, and programs by their absolute
/// paths, also within the words of a shell.
fn programs_in(program: &Path, args: &[String]) -> BTreeSet<PathBuf> {
    let script = args.iter().map(PathBuf::from).find(|path| is_interpreter(program) && path.is_file());
    let words =
        args.iter().flat_map(|arg| arg.split(|c: char| c.is_whitespace() || "\"'`;&|()<>".contains(c)));
    let can_run = |path: &PathBuf| {
        path.is_absolute() && path.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
    };
    words.map(PathBuf::from).filter(can_run).chain(script).collect()
}

/// The user in what systemd shows of a unit that it knows: root where none is said.
fn user_in(shown: &str) -> Option<String> {
    let of = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match (of("LoadState")?, of("User")?) {
        ("loaded", "") => Some("root".to_owned()),
        ("loaded", user) => Some(user.to_owned()),
        _ => None,
    }
}

/// What systemctl prints for a question; `None` where there is no systemd to ask.
pub fn systemctl(words: &[&str]) -> Option<String> {
    let output = Program::new("systemctl").args(words).deadline(Duration::from_secs(20)).run().ok()?;
    Some(output.text())
}

/// The main process of a systemd unit, if it runs and there is a systemd to ask.
pub fn main_pid(unit: &str) -> Option<i32> {
    let shown = systemctl(&["show", "--property=MainPID", "--", unit])?;
    shown.trim().strip_prefix("MainPID=")?.parse().ok().filter(|pid| *pid > 0)
}

/// What the etcd of a systemd unit last died of, in its own words, if the journal has them and they are new.
pub fn last_fatal_message(unit: &str) -> Option<String> {
    let words = ["--unit", unit, "--since=-10min", "--lines=200", "--output=cat", "--no-pager", "--quiet"];
    let journal = Program::new("journalctl").args(words).deadline(Duration::from_secs(20)).run().ok()?;
    dying_words(&journal.text())
}

/// The last line of etcd's JSON log by which it ended itself, as far as it cannot quote data.
fn dying_words(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
    }
    let ends_it = |line: &&str| {
        let line = serde_json::from_str::<Line>(line);
        line.is_ok_and(|line| ["fatal", "panic"].contains(&line.level.as_str()))
    };
    let last = log.lines().rev().find(ends_it)?;
    recognize(last)
}

#[cfg(test)]
mod tests {
    use super::{Service, dying_words, programs_in, user_in};
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
    fn an_etcd_that_died_has_said_of_what() {
        let log = r#"{"level":"info","msg":"serving"}
{"level":"fatal","ts":"t","caller":"etcdmain/etcd.go:271","msg":"discovery failed","error":"write /d: no space left on device","stacktrace":"x"}
{"level":"warn","msg":"bye"}
panic: not JSON
"#;
        assert_eq!(dying_words(log).as_deref(), Some("discovery failed: no space left on device"));
        let dying = r#"{"level":"panic","msg":"failed to unmarshal mvccpb.KeyValue","error":"canary"}"#;
        assert_eq!(dying_words(dying).as_deref(), Some("failed to unmarshal mvccpb.KeyValue"));
        assert_eq!(dying_words(r#"{"level":"panic","msg":"canary"}"#), None);
        assert_eq!(dying_words(""), None);
    }

    #[test]
    fn the_user_of_a_unit_is_known_where_the_unit_is() {
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
    fn an_unknown_supervisor_is_refused_and_nothing_is_run() {
        let service = Service::Unknown { pid: 42 };
        for error in [service.start(0).unwrap_err(), service.stop(0).unwrap_err()] {
            assert!(format!("{error:#}").contains("no supervisor of the running etcd (pid 42) was found"));
        }
    }
}
