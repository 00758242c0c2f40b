//! The text of the two units: a timer, and the service that it starts. Pure.

use super::{Schedule, Timetable};
use std::path::PathBuf;

/// How files of ours begin; by this they are known again.
pub(super) const MARK: &str =
    "# Written by the programs of the etcd charm, which write it anew: change the settings.\n";

/// What a run is started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCommand {
    /// The program.
    pub program: PathBuf,
    /// The subcommand that takes a backup, if the program has several commands.
    pub subcommand: Option<&'static str>,
    /// What else than the schedule's it finds in its environment: no secret, for everybody may read units.
    pub environment: Vec<(&'static str, String)>,
}

/// Both units as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// What says when.
    pub timer: String,
    /// And what.
    pub service: String,
}

impl Units {
    /// The units for a schedule that was understood as `table`.
    pub fn new(schedule: &Schedule, table: &Timetable, runner: &ServiceCommand) -> Self {
        Self { timer: timer(schedule, table), service: service(schedule, runner) }
    }
}

/// A missed run happens once, at the next boot (`Persistent=`). `AccuracySec=` has systemd not shift runs by up to a minute of
/// its own.
fn timer(schedule: &Schedule, table: &Timetable) -> String {
    let when: String = table.lines.iter().map(|line| format!("OnCalendar={line}\n")).collect();
    let zone = schedule.zone.as_deref().map(|zone| format!(" in {zone}")).unwrap_or_default();
    format!(
        "{MARK}[Unit]\nDescription=Backups of etcd: {}{zone}\n\n[Timer]\n{when}Persistent=true\nRandomizedDelaySec={}\n\
         AccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n",
        percent(schedule.when.trim()),
        table.jitter
    )
}

/// systemd never runs a service twice at a time. A run that fails tries again by itself; one that was killed is started again.
fn service(schedule: &Schedule, runner: &ServiceCommand) -> String {
    let target = schedule.target.as_ref().map(|target| format!("target={}", target.display()));
    let site = schedule.site.as_ref().map(|site| format!("site={site}"));
    let compression = schedule.compression.as_ref().map(|effort| format!("compression={effort}"));
    let words = [Some("scheduled=true".to_owned()), target, site, compression].into_iter().flatten();
    let command: Vec<String> = std::iter::once(runner.program.display().to_string())
        .chain(runner.subcommand.map(str::to_owned))
        .chain(words)
        .map(|word| quoted(&word.replace('$', "$$")))
        .collect();
    let environment: String = runner
        .environment
        .iter()
        .map(|(name, value)| format!("Environment={}\n", quoted(&format!("{name}={value}"))))
        .collect();
    format!(
        "{MARK}[Unit]\nDescription=A backup of etcd\nWants=network-online.target\nAfter=network-online.target\n\n[Service]\n\
         Type=oneshot\nExecStart={}\n{environment}Restart=on-abnormal\nRestartSec=60\nUMask=0077\n",
        command.join(" ")
    )
}

/// A word of a unit file, whatever is in it (systemd.syntax(7), systemd.unit(5)).
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    format!("\"{}\"", percent(&escaped))
}

fn percent(text: &str) -> String {
    text.replace('%', "%%")
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
    fn the_units_say_when_and_what() {
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
    fn nothing_that_is_written_there_becomes_a_line_of_its_own() {
        let units = schedule("{when: '@daily', target: \"/a\\nExecStartPre=/bin/sh\", site: 'a\"b\\c'}");
        assert!(!units.service.lines().any(|line| line.starts_with("ExecStartPre")), "{}", units.service);
        assert!(units.service.contains(r#""site=a\"b\\c""#), "{}", units.service);
    }
}
