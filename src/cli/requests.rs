//! The request of each command, made from its parameters.
//!
//! The only code that knows which parameter a field of a request comes from. Refuses a bad value before anything else
//! happens. Must never look at the machine.

mod contents;

use super::params::Params;
use crate::archive::Effort;
use crate::archive::labels::{Labels, parse_note};
use crate::commands::moved_uploads::Rename;
use crate::commands::restore::{Options, SnapshotName};
use crate::commands::snapshots::list::DocumentFormat;
use crate::commands::snapshots::prune::Clusters;
use crate::commands::snapshots::{delete, fetch, list, pin, prune, verify};
use crate::commands::upkeep::CompactionRequest;
use crate::commands::{SiteRequest, backup, check, check_config, restore, schedule, site, snapshot, upload};
use crate::error::{ActionError, Refusal, Subcommand};
use crate::inventory::retention::{Policy, parse_age, parse_size};
use crate::restore::Bump;
use crate::schedule::parse_seconds;
use jiff::SignedDuration;
use std::path::{Path, PathBuf};

/// A request that is made from parameters.
pub(super) trait FromParams: Sized {
    /// Makes the request.
    ///
    /// # Errors
    /// Refuses a value that is not valid.
    fn from_params(params: &Params) -> Result<Self, ActionError>;
}

impl Params {
    /// Returns the value of a text parameter, if it is not empty.
    fn given(&self, name: &str) -> Result<Option<&str>, ActionError> {
        Ok(Some(self.text(name)?).filter(|text| !text.is_empty()))
    }

    /// Returns the path that a text parameter names, if it is not empty.
    fn path(&self, name: &str) -> Result<Option<PathBuf>, ActionError> {
        Ok(self.given(name)?.map(PathBuf::from))
    }

    /// Returns the labels that archives must have.
    fn labels(&self) -> Result<Labels, ActionError> {
        Ok(Labels::parse(self.text("label")?)?)
    }

    /// Returns the etcd that the parameter `site` selects.
    fn site(&self) -> Result<Option<String>, ActionError> {
        Ok(self.given("site")?.map(str::to_owned))
    }

    /// Returns the archives that the parameter `snapshot` names.
    ///
    /// # Errors
    /// Refuses an empty parameter.
    fn snapshots(&self) -> Result<Vec<String>, ActionError> {
        let list = Subcommand::new("list");
        let no =
            || Refusal::new("no snapshot is named", format!("give one or more of those that {list} shows"));
        Ok(words(self.given("snapshot")?.ok_or_else(no)?))
    }
}

/// Returns the words between commas.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).collect()
}

impl FromParams for SiteRequest {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { site: params.site()? })
    }
}

impl FromParams for site::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let task = match (params.flag("write")?, params.flag("force")?) {
            (true, force) => site::Task::Write { force },
            (false, false) => site::Task::Report,
            (false, true) => {
                let next = "run `etcd-backup site --write --force`";
                return Err(Refusal::new("force is used only with write", next).into());
            }
        };
        Ok(Self { site: params.site()?, task })
    }
}

impl FromParams for check_config::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { config: params.path("config")?, site: params.site()?, target: params.path("target")? })
    }
}

impl FromParams for snapshot::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        check_keys_version(params.text("keys-version")?)?;
        let labels = Labels::parse_new(params.text("label")?)?;
        let note = params.given("note")?.map(parse_note).transpose()?;
        Ok(Self { labels, note, ..snapshot_request(params)? })
    }
}

impl FromParams for backup::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { snapshot: snapshot_request(params)?, scheduled: params.flag("scheduled")? })
    }
}

fn snapshot_request(params: &Params) -> Result<snapshot::Request, ActionError> {
    Ok(snapshot::Request {
        target: params.path("target")?,
        compression: match params.text("compression")? {
            "small" => Effort::Small,
            "balanced" => Effort::Balanced,
            other => {
                let reason = format!("compression is {other:?}");
                return Err(Refusal::new(reason, "give balanced or small").into());
            }
        },
        labels: Labels::default(),
        note: None,
        site: params.site()?,
    })
}

/// Checks a parameter of the older charm, which could also copy the store of the v2 API. etcd 3.6 no longer has that
/// store.
fn check_keys_version(version: &str) -> Result<(), Refusal> {
    match version {
        "v3" => Ok(()),
        "v2" => Err(Refusal::new(
            "keys-version=v2 asks for the store of the v2 API, which this charm does not support",
            "leave keys-version out; use etcd 3.5 or older and `etcdctl backup` for v2 data",
        )),
        other => Err(Refusal::new(format!("keys-version is {other:?}"), "leave it out, or give v3")),
    }
}

impl FromParams for restore::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        if params.flag("recover")? {
            return Ok(Self::Recover { site: params.site()? });
        }
        Ok(Self::Restore(Box::new(Options {
            from: snapshot_name(params.given("from")?, params.given("snapshot")?)?,
            target: params.path("target")?,
            skip_backup: params.flag("skip-backup")?,
            expected_sha256: params.given("expected-sha256")?.map(sha256).transpose()?,
            bump: Bump::parse(params.text("bump-revision")?)?,
            identity_file: params.path("identity-file")?,
            allow_foreign: params.flag("allow-foreign")?,
            allow_v2_loss: params.flag("allow-v2-loss")?,
            allow_unhashed: params.flag("allow-unhashed")?,
            plan: params.flag("plan")?,
            site: params.site()?,
        })))
    }
}

/// Returns the snapshot that `from` or `snapshot` names. In `snapshot`, a word with a slash is a path.
fn snapshot_name(from: Option<&str>, snapshot: Option<&str>) -> Result<SnapshotName, Refusal> {
    match (from, snapshot) {
        (None, None) => Ok(SnapshotName::Resource),
        (None, Some(path)) if path.contains('/') => Ok(SnapshotName::File(path.into())),
        (Some(path), None) if Path::new(path).is_absolute() => Ok(SnapshotName::File(path.into())),
        (Some(name), None) | (None, Some(name)) => Ok(SnapshotName::Name(name.to_owned())),
        (Some(_), Some(_)) => Err(Refusal::new("both from and snapshot are given", "give one of them")),
    }
}

fn sha256(text: &str) -> Result<String, Refusal> {
    let text = text.to_ascii_lowercase();
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text),
        false => Err(Refusal::new(
            "expected-sha256 is not a SHA-256 hash",
            "give the 64 hexadecimal digits that the snapshot action or sha256sum printed",
        )),
    }
}

impl FromParams for list::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self {
            target: params.path("target")?,
            limit: usize::try_from(params.number("limit")?).ok().filter(|limit| *limit > 0),
            labels: params.labels()?,
            runs: params.flag("runs")?,
            format: match params.text("format")? {
                "json" => DocumentFormat::Json,
                "yaml" => DocumentFormat::Yaml,
                _ => DocumentFormat::Table,
            },
        })
    }
}

impl FromParams for verify::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self {
            target: params.path("target")?,
            snapshots: params.snapshots()?,
            labels: params.labels()?,
            identity_file: params.path("identity-file")?,
            drill: params.flag("drill")?,
            site: params.site()?,
        })
    }
}

impl FromParams for fetch::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let from = params.given("from")?;
        if from.is_some_and(|from| from.contains(',')) {
            return Err(Refusal::new("more than one snapshot is named", "give one name").into());
        }
        Ok(Self {
            from: from.map(|from| from.trim().to_owned()),
            labels: params.labels()?,
            identity_file: params.path("identity-file")?,
            target: params.path("target")?,
            extract: params.path("extract")?,
        })
    }
}

impl FromParams for prune::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self {
            target: params.path("target")?,
            rules: Policy {
                last: params.number("keep")?,
                within: parse_age("keep-within", params.text("keep-within")?)?,
                hourly: params.number("keep-hourly")?,
                daily: params.number("keep-daily")?,
                weekly: params.number("keep-weekly")?,
                monthly: params.number("keep-monthly")?,
                max_size: parse_size("max-size", params.text("max-size")?)?,
                labels: Vec::new(),
            },
            labels: params.labels()?,
            destination: params.given("destination")?.map(str::to_owned),
            clusters: match params.text("cluster")? {
                "" => Clusters::Own,
                "any" => Clusters::Any,
                id => Clusters::Id(cluster_id(id)?),
            },
            plan: params.flag("plan")?,
            site: params.site()?,
        })
    }
}

fn cluster_id(text: &str) -> Result<String, Refusal> {
    match text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(Refusal::new(
            format!("cluster {text:?} is not the id of a cluster, which has up to 16 hexadecimal digits"),
            "give an id that `etcd-backup list --json` shows as cluster_id, or any",
        )),
    }
}

impl FromParams for pin::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self { target: params.path("target")?, snapshots: params.snapshots()? })
    }
}

impl FromParams for delete::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self {
            target: params.path("target")?,
            snapshots: params.snapshots()?,
            force: params.flag("force")?,
        })
    }
}

impl FromParams for check::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let age =
            |name| params.given(name)?.map(|text| age(name, text)).transpose().map_err(ActionError::from);
        Ok(Self { target: params.path("target")?, warn: age("warn")?, crit: age("crit")? })
    }
}

fn age(name: &str, text: &str) -> Result<SignedDuration, Refusal> {
    let age = parse_seconds(text).and_then(|seconds| i64::try_from(seconds).ok());
    let no = || Refusal::new(format!("{name} is {text:?}"), "give a time such as 90m, 26h or 3d");
    age.map(SignedDuration::from_secs).ok_or_else(no)
}

impl FromParams for schedule::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(match (params.flag("plan")?, params.flag("remove")?) {
            (true, false) => Self::Plan,
            (true, true) => Self::PlanRemoval,
            (false, true) => Self::Remove,
            (false, false) => Self::Install,
        })
    }
}

impl FromParams for upload::Request {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        let plan = params.flag("plan")?;
        let task = match (params.given("give-up")?, params.given("move")?) {
            (Some(_), Some(_)) => {
                return Err(Refusal::new("both move and give-up are given", "give one of them").into());
            }
            (Some(text), None) => upload::Task::GiveUp { uploads: words(text), plan },
            (None, Some(names)) => upload::Task::Move { rename: Rename::parse(names)?, plan },
            (None, None) if plan => upload::Task::List,
            (None, None) => upload::Task::Send,
        };
        Ok(Self { target: params.path("target")?, task })
    }
}

impl FromParams for CompactionRequest {
    fn from_params(params: &Params) -> Result<Self, ActionError> {
        Ok(Self {
            site: params.site()?,
            revision: params.given("revision")?.map(revision).transpose()?,
            physical: params.flag("physical")?,
        })
    }
}

fn revision(text: &str) -> Result<i64, Refusal> {
    text.parse().ok().filter(|revision| *revision > 0).ok_or_else(|| {
        Refusal::new(
            format!("revision is {text:?} and must be a whole number above 0"),
            "leave it out to compact all history",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command::{COMMANDS, Command};
    use crate::cli::command_line::{self, CalledAs, Request, parse};
    use std::ffi::OsString;

    /// Makes the request of a command from the words that a person types.
    fn typed<R: FromParams>(command: &str, words: &[&str]) -> Result<R, ActionError> {
        let words = words.iter().map(OsString::from).collect();
        match parse(Command::find(command).unwrap(), CalledAs::Subcommand, words)? {
            Request::Run(invocation) => R::from_params(&invocation.params),
            Request::Print(text) => panic!("{text}"),
        }
    }

    fn reason<R: FromParams>(command: &str, words: &[&str]) -> String {
        match typed::<R>(command, words) {
            Err(ActionError::Refused(refusal)) => refusal.reason,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{words:?} was accepted"),
        }
    }

    #[test]
    fn every_command_makes_its_request_from_the_declared_parameters() {
        for command in &COMMANDS {
            let Request::Run(invocation) = parse(command, CalledAs::Subcommand, Vec::new()).unwrap() else {
                panic!("{}", command.name)
            };
            // A parameter that is read and not declared is a failure. A missing name is a refusal.
            let made = (command.start)().accept(&invocation.params);
            assert!(matches!(made, Ok(()) | Err(ActionError::Refused(_))), "{}: {made:?}", command.name);
        }
    }

    #[test]
    fn a_call_can_be_typed_again() {
        let typed = |words: &[&str]| {
            let command = Command::find(words[0]).unwrap();
            let words = words[1..].iter().map(OsString::from).collect();
            let Request::Run(invocation) = parse(command, CalledAs::Subcommand, words).unwrap() else {
                panic!()
            };
            command_line::subcommand(command, &invocation.params).unwrap().to_string()
        };
        assert_eq!(typed(&["list"]), "`sudo etcd-backup list`");
        assert_eq!(typed(&["backup", "--scheduled"]), "`sudo etcd-backup backup`");
        assert_eq!(typed(&["pin", "a", "b"]), "`sudo etcd-backup pin a,b`");
        assert_eq!(
            typed(&["restore", "from=a/latest", "plan=yes", "target=/a b"]),
            "`sudo etcd-backup restore '--target=/a b' a/latest --plan`"
        );
        assert_eq!(typed(&["restore", "--recover"]), "`sudo etcd-backup restore --recover`");
        assert_eq!(typed(&["prune", "keep=7"]), "`sudo etcd-backup prune --keep=7`");
    }

    #[test]
    fn labels_are_repeated_or_separated_by_commas() {
        let labels =
            |words: &[&str]| typed::<snapshot::Request>("snapshot", words).unwrap().labels.to_string();
        assert_eq!(labels(&["--label", "a=1", "--label=b=2"]), "a=1,b=2");
        assert_eq!(labels(&["label=a=1,b=2", "--label", "c=3"]), "a=1,b=2,c=3");
        assert_eq!(
            reason::<snapshot::Request>("snapshot", &["--label", "a"]),
            "the label \"a\" is not KEY=VALUE"
        );
        let request: snapshot::Request = typed("snapshot", &["--note", "a, b = c"]).unwrap();
        assert_eq!(request.note.as_deref(), Some("a, b = c"));
        assert!(typed::<list::Request>("list", &["--label", "name=latest"]).is_ok());
        assert!(typed::<snapshot::Request>("snapshot", &["--label", "name=latest"]).is_err());
    }

    #[test]
    fn only_the_v3_store_is_kept() {
        assert!(check_keys_version("v3").is_ok());
        for version in ["v2", "", "V3"] {
            assert!(check_keys_version(version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_snapshot_is_a_resource_a_file_or_a_name() {
        let name = |words: &[&str]| match typed("restore", words).unwrap() {
            restore::Request::Restore(options) => options.from,
            restore::Request::Recover { .. } => panic!("{words:?}"),
        };
        let file = |path: &str| SnapshotName::File(path.into());
        assert_eq!(name(&[]), SnapshotName::Resource);
        assert_eq!(name(&["/a/b"]), file("/a/b"));
        assert_eq!(name(&["snapshot=/a/b"]), file("/a/b"));
        assert_eq!(name(&["snapshot=a/b"]), file("a/b"));
        assert_eq!(name(&["snapshot=latest"]), SnapshotName::Name("latest".to_owned()));
        assert_eq!(name(&["offsite/latest"]), SnapshotName::Name("offsite/latest".to_owned()));
        let both = reason::<restore::Request>("restore", &["a", "snapshot=b"]);
        assert_eq!(both, "both from and snapshot are given");
    }

    #[test]
    fn a_sha256_is_64_hexadecimal_digits() {
        assert_eq!(sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        for text in ["ab", &"zz".repeat(32), &"é".repeat(32)] {
            assert!(sha256(text).is_err(), "{text}");
        }
    }

    #[test]
    fn recover_names_only_the_etcd() {
        let recover = typed::<restore::Request>("restore", &["--recover", "site=etcd.service"]).unwrap();
        assert_eq!(recover, restore::Request::Recover { site: Some("etcd.service".to_owned()) });
    }

    #[test]
    fn several_snapshots_are_separated_by_commas() {
        let pins: pin::Request = typed("pin", &["a", "b,c"]).unwrap();
        assert_eq!(pins, pin::Request { target: None, snapshots: ["a", "b", "c"].map(str::to_owned).into() });
        assert_eq!(reason::<pin::Request>("pin", &[]), "no snapshot is named");
        assert_eq!(reason::<fetch::Request>("fetch", &["from=a,b"]), "more than one snapshot is named");
        assert_eq!(typed::<fetch::Request>("fetch", &[]).unwrap().from, None);
    }

    #[test]
    fn an_age_is_a_time() {
        let check: check::Request = typed("check", &["warn=90m"]).unwrap();
        assert_eq!((check.warn, check.crit), (Some(SignedDuration::from_mins(90)), None));
        assert_eq!(reason::<check::Request>("check", &["warn=26"]), "warn is \"26\"");
    }

    #[test]
    fn a_revision_is_a_number_above_zero_or_left_out() {
        let of = |words: &[&str]| typed::<CompactionRequest>("compact", words).map(|asked| asked.revision);
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["revision=12"]).unwrap(), Some(12));
        for text in ["0", "-1", "1.5", "on", "99999999999999999999"] {
            assert!(revision(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let limit = |words: &[&str]| typed::<list::Request>("list", words).unwrap().limit;
        assert_eq!((limit(&["limit=0"]), limit(&["limit=7"]), limit(&[])), (None, Some(7), Some(100)));
    }

    #[test]
    fn giving_uploads_up_can_be_planned() {
        let task = |words: &[&str]| typed::<upload::Request>("upload", words).unwrap().task;
        let given_up = |plan| upload::Task::GiveUp { uploads: vec!["all".to_owned()], plan };
        assert_eq!(task(&["give-up=all", "plan=true"]), given_up(true));
        assert_eq!(task(&["give-up=all"]), given_up(false));
        assert_eq!((task(&["--plan"]), task(&[])), (upload::Task::List, upload::Task::Send));
        let rename = Rename { from: "old".to_owned(), to: "new".to_owned() };
        assert_eq!(task(&["--move", "old/new"]), upload::Task::Move { rename, plan: false });
        for text in ["old", "old/", "/new", "a/b/c"] {
            assert_eq!(reason::<upload::Request>("upload", &["--move", text]), format!("move is {text:?}"));
        }
        assert_eq!(
            reason::<upload::Request>("upload", &["--move=a/b", "--give-up=a"]),
            "both move and give-up are given"
        );
    }

    #[test]
    fn a_site_file_is_replaced_only_if_it_is_to_be_written() {
        let task = |words: &[&str]| typed::<site::Request>("site", words).unwrap().task;
        assert_eq!((task(&[]), task(&["--write"])), (site::Task::Report, site::Task::Write { force: false }));
        assert_eq!(task(&["--write", "--force"]), site::Task::Write { force: true });
        assert_eq!(reason::<site::Request>("site", &["--force"]), "force is used only with write");
    }

    #[test]
    fn a_cluster_is_an_id_or_any() {
        let clusters = |words: &[&str]| typed::<prune::Request>("prune", words).unwrap().clusters;
        assert_eq!(clusters(&[]), Clusters::Own);
        assert_eq!(clusters(&["cluster=any"]), Clusters::Any);
        assert_eq!(clusters(&["cluster=ABC"]), Clusters::Id("abc".to_owned()));
        for id in ["zzz", "8cc9da78b36d11155"] {
            let reason = reason::<prune::Request>("prune", &[&format!("cluster={id}")]);
            assert!(reason.contains("not the id of a cluster"), "{reason}");
        }
        assert_eq!(reason::<prune::Request>("prune", &["keep-within=7"]), "keep-within is \"7\"");
    }
}
