//! The commands of the program: their names, the actions of `actions.yaml` that they are, and what their help adds to it.

use super::job::{Job, job};
use super::schema;
use crate::commands::{
    backup, check, check_config, contents, credentials, restore, schedule, site, snapshot, snapshots, upkeep,
    upload,
};

/// A command.
pub(super) struct Command {
    /// The name of the subcommand.
    pub name: &'static str,
    /// The name of the action in `actions.yaml`, which is an alias of the subcommand. A command that is not an action is
    /// declared under its name in `commands.yaml`.
    pub action: &'static str,
    /// The parameters that words without a name are for, in this order.
    pub positionals: &'static [Positional],
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
    /// Whether several values may follow each other. Only for the last one.
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
    (
        "AWS_ROLE_ARN",
        "Role for S3 destinations that trusts the token in AWS_WEB_IDENTITY_TOKEN_FILE; with AWS_REGION.",
    ),
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "URL of the access keys of this container's role, with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE.",
    ),
    ("HTTPS_PROXY", "Proxy for buckets of S3, Azure and Google, except for the hosts in NO_PROXY."),
];

const fn positional(param: &'static str, placeholder: &'static str, many: bool) -> Positional {
    Positional { param, placeholder, many }
}

/// Every command, in the order of the help.
pub(super) const COMMANDS: [Command; 28] = [
    Command {
        name: "snapshot",
        action: "snapshot",
        positionals: &[],
        examples: &[
            "snapshot",
            "snapshot --target /srv/backups --compression small",
            "snapshot --label name=before-upgrade",
        ],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshot::perform),
    },
    Command {
        name: "restore",
        action: "restore",
        positionals: &[positional("from", "ARCHIVE", false)],
        examples: &[
            "restore latest --plan",
            "restore latest",
            "restore before-upgrade --plan",
            "restore ./etcd-snapshot-2026-01-31-12.00.00.tar.gz",
        ],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(restore::perform),
    },
    Command {
        name: "list",
        action: "list-snapshots",
        positionals: &[],
        examples: &["list", "list --json", "list --runs", "list --label team=storage"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::list::perform),
    },
    Command {
        name: "verify",
        action: "verify-snapshot",
        positionals: &[positional("snapshot", "ARCHIVE", true)],
        examples: &["verify latest", "verify latest --drill", "verify offsite/latest"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshots::verify::perform),
    },
    Command {
        name: "fetch",
        action: "fetch-snapshot",
        positionals: &[positional("from", "DESTINATION/NAME", false)],
        examples: &["fetch offsite/latest", "fetch latest --identity-file key.txt --extract /root/pki"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::fetch::perform),
    },
    Command {
        name: "prune",
        action: "prune-snapshots",
        positionals: &[],
        examples: &["prune --plan", "prune --keep 7 --keep-weekly 4 --plan"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(snapshots::prune::perform),
    },
    Command {
        name: "pin",
        action: "pin-snapshot",
        positionals: &[positional("snapshot", "NAME", true)],
        examples: &["pin latest"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::pin::pin),
    },
    Command {
        name: "unpin",
        action: "unpin-snapshot",
        positionals: &[positional("snapshot", "NAME", true)],
        examples: &["unpin etcd-snapshot-2026-01-31-12.00.00.tar.gz"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::pin::unpin),
    },
    Command {
        name: "delete",
        action: "delete-snapshot",
        positionals: &[positional("snapshot", "NAME", true)],
        examples: &["delete etcd-snapshot-2026-01-31-12.00.00.tar.gz"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(snapshots::delete::perform),
    },
    Command {
        name: "check",
        action: "check",
        positionals: &[],
        examples: &["check", "check --warn 26h --crit 50h"],
        reads: &[SETTINGS],
        start: || job(check::perform),
    },
    Command {
        name: "backup",
        action: "backup",
        positionals: &[],
        examples: &["backup"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(backup::perform),
    },
    Command {
        name: "schedule",
        action: "schedule",
        positionals: &[],
        examples: &["schedule --plan", "schedule", "schedule --remove"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(schedule::perform),
    },
    Command {
        name: "upload",
        action: "upload",
        positionals: &[],
        examples: &["upload --plan", "upload", "upload --give-up all"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(upload::perform),
    },
    Command {
        name: "site",
        action: "site",
        positionals: &[],
        examples: &["site", "site --write"],
        reads: &[SITE],
        start: || job(site::perform),
    },
    Command {
        name: "check-config",
        action: "check-config",
        positionals: &[],
        examples: &["check-config", "check-config --config ./config.yaml", "check-config --json"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(check_config::perform),
    },
    Command {
        name: "health",
        action: "health",
        positionals: &[],
        examples: &["health"],
        reads: &[SITE],
        start: || job(upkeep::health),
    },
    Command {
        name: "alarms",
        action: "alarm-list",
        positionals: &[],
        examples: &["alarms"],
        reads: &[SITE],
        start: || job(upkeep::alarm_list),
    },
    Command {
        name: "disarm",
        action: "alarm-disarm",
        positionals: &[],
        examples: &["disarm"],
        reads: &[SITE],
        start: || job(upkeep::alarm_disarm),
    },
    Command {
        name: "compact",
        action: "compact",
        positionals: &[],
        examples: &["compact", "compact --physical"],
        reads: &[SITE],
        start: || job(upkeep::compact),
    },
    Command {
        name: "defrag",
        action: "defrag",
        positionals: &[],
        examples: &["defrag"],
        reads: &[SITE],
        start: || job(upkeep::defrag),
    },
    Command {
        name: "credentials",
        action: "package-client-credentials",
        positionals: &[],
        examples: &["credentials"],
        reads: &[SITE],
        start: || job(credentials::perform),
    },
    Command {
        name: "show",
        action: "show",
        positionals: &[positional("archive", "ARCHIVE", false)],
        examples: &["show latest", "show offsite/latest", "show ./etcd-snapshot.db --json"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(contents::show::perform),
    },
    Command {
        name: "keys",
        action: "keys",
        positionals: &[positional("archive", "ARCHIVE", false)],
        examples: &["keys latest", "keys latest --prefix /registry/configmaps/default/ --wide"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(contents::keys::perform),
    },
    Command {
        name: "get",
        action: "get",
        positionals: &[positional("archive", "ARCHIVE", false), positional("key", "KEY", false)],
        examples: &["get latest /registry/configmaps/default/settings >settings"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(contents::get::perform),
    },
    Command {
        name: "history",
        action: "history",
        positionals: &[positional("archive", "ARCHIVE", false), positional("key", "KEY", false)],
        examples: &["history latest /registry/configmaps/default/settings"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(contents::history::perform),
    },
    Command {
        name: "diff",
        action: "diff",
        positionals: &[positional("old", "OLD", false), positional("new", "NEW", false)],
        examples: &["diff latest live", "diff ./before.tar.gz ./after.tar.gz --all"],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(contents::diff::perform),
    },
    Command {
        name: "export",
        action: "export",
        positionals: &[positional("archive", "ARCHIVE", false)],
        examples: &["export latest --prefix /app/ --output app.jsonl"],
        reads: &[SETTINGS, BUCKETS],
        start: || job(contents::export::perform),
    },
    Command {
        name: "import",
        action: "import",
        positionals: &[positional("archive", "FILE|ARCHIVE", false)],
        examples: &[
            "import latest --prefix /registry/configmaps/default/settings --plan",
            "import keys.jsonl --apply --only-missing",
        ],
        reads: &[SITE, SETTINGS, BUCKETS],
        start: || job(contents::import::perform),
    },
];

impl Command {
    /// Returns the command that a subcommand or an action names.
    pub fn find(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name == name || command.action == name)
    }

    /// Returns the command that a program with the name of an action is.
    pub fn of_action(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.action == name && command.is_action())
    }

    /// Returns whether the command is an action of the charm. The others are for a terminal only.
    pub fn is_action(&self) -> bool {
        schema::is_action(self.action)
    }

    /// Returns whether an interrupted run of the command can be completed with `--recover`.
    pub fn recovers(&self) -> bool {
        self.action == "restore"
    }

    /// Returns whether the command prints a table that can be wider than a terminal.
    pub fn has_wide_table(&self) -> bool {
        matches!(self.name, "list" | "prune" | "keys")
    }
}
