//! The text of the two systemd units: a timer, and the service that it starts. Pure.

use super::{Schedule, Timetable};
use crate::system::systemd::{escape_percent, unit_word};
use std::path::PathBuf;

/// The first line of every unit that this program writes. It identifies them, so it must never change.
pub(super) const MARK: &str =
    "# Written by etcd-backup. Change its configuration file instead: this file is overwritten.\n";

/// The argument that says that the timer started the run.
const SCHEDULED: &str = "scheduled=true";

/// The command of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCommand {
    /// The program.
    pub program: PathBuf,
    /// The subcommand that takes a backup, if the program has several commands.
    pub subcommand: Option<&'static str>,
    /// Environment variables for it. They hold no secret, because every user can read units.
    pub environment: Vec<(&'static str, String)>,
}

/// The text of both units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// The timer unit.
    pub timer: String,
    /// The service unit.
    pub service: String,
}

impl Units {
    /// Returns the units for `schedule`, which was parsed into `table`.
    pub fn new(schedule: &Schedule, table: &Timetable, runner: &ServiceCommand) -> Self {
        Self { timer: timer(schedule, table), service: service(schedule, runner) }
    }

    /// Returns whether both run the same backups at the same times. The program and its environment depend on the command that
    /// installs the units.
    pub fn run_the_same(&self, other: &Self) -> bool {
        self.timer == other.timer && self.arguments() == other.arguments()
    }

    /// Returns the arguments of the service that depend on the settings.
    fn arguments(&self) -> Option<&str> {
        let command = self.service.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
        Some(command.split_once(&unit_word(SCHEDULED))?.1)
    }
}

/// A missed run is made up once, at the next boot (`Persistent=`). `AccuracySec=` keeps systemd from shifting runs by up to a
/// minute.
fn timer(schedule: &Schedule, table: &Timetable) -> String {
    let when: String = table.lines.iter().map(|line| format!("OnCalendar={line}\n")).collect();
    let zone = schedule.zone.as_deref().map(|zone| format!(" in {zone}")).unwrap_or_default();
    format!(
        "{MARK}[Unit]\nDescription=Backups of etcd: {}{zone}\n\n[Timer]\n{when}Persistent=true\nRandomizedDelaySec={}\n\
         AccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n",
        escape_percent(schedule.when.trim()),
        table.jitter
    )
}

/// systemd never runs two instances of a service at once. A failed run retries by itself; systemd restarts a killed one.
fn service(schedule: &Schedule, runner: &ServiceCommand) -> String {
    let target = schedule.target.as_ref().map(|target| format!("target={}", target.display()));
    let site = schedule.site.as_ref().map(|site| format!("site={site}"));
    let compression = schedule.compression.as_ref().map(|effort| format!("compression={effort}"));
    let words = [Some(SCHEDULED.to_owned()), target, site, compression].into_iter().flatten();
    let command: Vec<String> = std::iter::once(runner.program.display().to_string())
        .chain(runner.subcommand.map(str::to_owned))
        .chain(words)
        .map(|word| unit_word(&word.replace('$', "$$")))
        .collect();
    let environment: String = runner
        .environment
        .iter()
        .map(|(name, value)| format!("Environment={}\n", unit_word(&format!("{name}={value}"))))
        .collect();
    format!(
        "{MARK}[Unit]\nDescription=A backup of etcd\nWants=network-online.target\nAfter=network-online.target\n\n[Service]\n\
         Type=oneshot\nExecStart={}\n{environment}Restart=on-abnormal\nRestartSec=60\nUMask=0077\n",
        command.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Units {
        let schedule: Schedule = serde_yaml::from_str(text).unwrap();
        let runner = ServiceCommand {
            program: "/usr/local/bin/etcd-backup".into(),
            subcommand: Some("backup"),
            environment: vec![("JUJU_UNIT_NAME", "etcd/0".into()), ("ETCD_SITE", "/etc/a b%".into())],
        };
        Units::new(&schedule, &schedule.timetable().unwrap(), &runner)
    }

    #[test]
    fn the_units_have_the_schedule_and_the_command() {
        let units =
            schedule("{when: 30 2 13 * 5, zone: Europe/Berlin, jitter: 5m, target: /srv/$a, site: etcd}");
        for line in [
            "OnCalendar=*-*-13 02:30:00 Europe/Berlin\n",
            "OnCalendar=Fri *-*-* 02:30:00 Europe/Berlin\n",
            "Persistent=true\n",
            "RandomizedDelaySec=300\n",
        ] {
            assert!(units.timer.contains(line), "{}", units.timer);
        }
        for line in [
            "ExecStart=\"/usr/local/bin/etcd-backup\" \"backup\" \"scheduled=true\" \"target=/srv/$$a\" \"site=etcd\"\n",
            "Environment=\"JUJU_UNIT_NAME=etcd/0\"\nEnvironment=\"ETCD_SITE=/etc/a b%%\"\n",
            "Type=oneshot\n",
        ] {
            assert!(units.service.contains(line), "{}", units.service);
        }
    }

    #[test]
    fn units_for_other_settings_differ_and_those_of_another_caller_do_not() {
        let units = schedule("{when: '@daily', target: /a}");
        let service = units.service.replace("/usr/local/bin", "/opt").replace("etcd/0", "etcd/1");
        assert!(units.run_the_same(&Units { service, ..units.clone() }));
        for other in
            ["{when: '@hourly', target: /a}", "{when: '@daily'}", "{when: '@daily', target: /a, site: b}"]
        {
            assert!(!units.run_the_same(&schedule(other)), "{other}");
        }
    }

    #[test]
    fn no_setting_can_add_a_line_to_a_unit() {
        let units = schedule("{when: '@daily', target: \"/a\\nExecStartPre=/bin/sh\", site: 'a\"b\\c'}");
        assert!(!units.service.lines().any(|line| line.starts_with("ExecStartPre")), "{}", units.service);
        assert!(units.service.contains(r#""site=a\"b\\c""#), "{}", units.service);
    }
}
