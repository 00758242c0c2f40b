//! The commands of the program: their names, the actions of `actions.yaml` that they are, and what their help adds to it.

use super::job::{Job, job};
use crate::commands::{
    backup, check, check_config, credentials, restore, schedule, site, snapshot, snapshots, upkeep, upload,
};

/// A command.
pub(super) struct Command {
    /// The name of the subcommand.
    pub name: &'static str,
    /// The name of the action in `actions.yaml`, which is an alias of the subcommand.
    pub action: &'static str,
    /// The parameter that words without a name are for.
    pub positional: Option<Positional>,
    /// Words after `etcd-backup` that show how the command is used.
    pub examples: &'static [&'static str],
    /// The environment variables that the command reads.
    pub reads: &'static [&'static [Variable]],
    /// Makes the command, ready to run.
    pub start: fn() -> Box<dyn Job>,
}

/// A parameter that can be given without its name.
pub(super) struct Positional {
    /// The name of the parameter.
    pub param: &'static str,
    /// The placeholder in the help.
    pub placeholder: &'static str,
    /// Whether several values may follow each other.
    pub many: bool,
}

/// An environment variable and its meaning.
pub(super) type Variable = (&'static str, &'static str);

/// What a command that works on an etcd reads.
const SITE: &[Variable] = &[
    (
        "ETCD_SITE",
        "Path of a site file, which says where etcd is. Default: /etc/etcd-backup/site.yaml if it exists; \
         otherwise the running etcd is found.",
    ),
    ("ETCDCTL_PASSWORD", "Password of the etcd user in the site file, if password-file is not set there."),
];
/// What a command that uses the settings reads.
const SETTINGS: &[Variable] = &[(
    "ETCD_BACKUP",
    "Path of the settings file: destinations, schedule, retention. Default: /etc/etcd-backup/config.yaml if it exists.",
)];
/// What a command that may reach a bucket reads.
const BUCKETS: &[Variable] = &[
    (
        "AWS_ACCESS_KEY_ID",
        "Access key for S3 destinations, with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    ),
    ("HTTPS_PROXY", "Proxy for S3 destinations, except for the hosts in NO_PROXY."),
];

const fn positional(param: &'static str, placeholder: &'static str, many: bool) -> Option<Positional> {
    Some(Positional { param, placeholder, many })
}

/// Every command, in the order of the help.
pub(super) const COMMANDS: [Command; 21] = [
    Command {
        name: "snapshot",
        action: "snapshot",
        positional: None,
        examples: &["snapshot", "snapshot --target /srv/backups --compression small"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshot::perform),
    },
    Command {
        name: "restore",
        action: "restore",
        positional: positional("from", "ARCHIVE", false),
        examples: &[
            "restore latest --plan",
            "restore latest",
            "restore ./etcd-snapshot-2026-01-31-12.00.00.tar.gz",
        ],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(restore::perform),
    },
    Command {
        name: "list",
        action: "list-snapshots",
        positional: None,
        examples: &["list", "list --json", "list --runs"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::list::perform),
    },
    Command {
        name: "verify",
        action: "verify-snapshot",
        positional: positional("snapshot", "ARCHIVE", true),
        examples: &["verify latest", "verify latest --drill", "verify offsite/latest"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshots::verify::perform),
    },
    Command {
        name: "fetch",
        action: "fetch-snapshot",
        positional: positional("from", "DESTINATION/NAME", false),
        examples: &["fetch offsite/latest"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::fetch::perform),
    },
    Command {
        name: "prune",
        action: "prune-snapshots",
        positional: None,
        examples: &["prune --plan", "prune --keep 7 --keep-weekly 4 --plan"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshots::prune::perform),
    },
    Command {
        name: "pin",
        action: "pin-snapshot",
        positional: positional("snapshot", "NAME", true),
        examples: &["pin latest"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::pin::pin),
    },
    Command {
        name: "unpin",
        action: "unpin-snapshot",
        positional: positional("snapshot", "NAME", true),
        examples: &["unpin etcd-snapshot-2026-01-31-12.00.00.tar.gz"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::pin::unpin),
    },
    Command {
        name: "delete",
        action: "delete-snapshot",
        positional: positional("snapshot", "NAME", true),
        examples: &["delete etcd-snapshot-2026-01-31-12.00.00.tar.gz"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::delete::perform),
    },
    Command {
        name: "check",
        action: "check",
        positional: None,
        examples: &["check", "check --warn 26h --crit 50h"],
        reads: &[SETTINGS],
        start: || job(check::perform),
    },
    Command {
        name: "backup",
        action: "backup",
        positional: None,
        examples: &["backup"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(backup::perform),
    },
    Command {
        name: "schedule",
        action: "schedule",
        positional: None,
        examples: &["schedule --plan", "schedule", "schedule --remove"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(schedule::perform),
    },
    Command {
        name: "upload",
        action: "upload",
        positional: None,
        examples: &["upload --plan", "upload", "upload --give-up all"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(upload::perform),
    },
    Command {
        name: "site",
        action: "site",
        positional: None,
        examples: &["site", "site --write"],
        reads: &[SITE],
        start: || job(site::perform),
    },
    Command {
        name: "check-config",
        action: "check-config",
        positional: None,
        examples: &["check-config", "check-config --config ./config.yaml", "check-config --json"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(check_config::perform),
    },
    Command {
        name: "health",
        action: "health",
        positional: None,
        examples: &["health"],
        reads: &[SITE],
        start: || job(upkeep::health),
    },
    Command {
        name: "alarms",
        action: "alarm-list",
        positional: None,
        examples: &["alarms"],
        reads: &[SITE],
        start: || job(upkeep::alarm_list),
    },
    Command {
        name: "disarm",
        action: "alarm-disarm",
        positional: None,
        examples: &["disarm"],
        reads: &[SITE],
        start: || job(upkeep::alarm_disarm),
    },
    Command {
        name: "compact",
        action: "compact",
        positional: None,
        examples: &["compact", "compact --physical"],
        reads: &[SITE],
        start: || job(upkeep::compact),
    },
    Command {
        name: "defrag",
        action: "defrag",
        positional: None,
        examples: &["defrag"],
        reads: &[SITE],
        start: || job(upkeep::defrag),
    },
    Command {
        name: "credentials",
        action: "package-client-credentials",
        positional: None,
        examples: &["credentials"],
        reads: &[SITE],
        start: || job(credentials::perform),
    },
];

impl Command {
    /// Returns the command that a subcommand or an action names.
    pub fn find(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name == name || command.action == name)
    }

    /// Returns the command that a program with the name of an action is.
    pub fn of_action(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.action == name)
    }

    /// Returns whether an interrupted run of the command can be completed with `--recover`.
    pub fn recovers(&self) -> bool {
        self.action == "restore"
    }

    /// Returns whether the command prints a table that can be wider than a terminal.
    pub fn has_wide_table(&self) -> bool {
        matches!(self.name, "list" | "prune")
    }
}
