//! A fake Juju unit: runs hooks and actions as Juju's agent does, and reports their outcome as Juju does.
//!
//! Before an action starts, its parameters are checked against `actions.yaml` and completed with the
//! defaults. The environment is exactly that of Juju, plus `ETCD_SITE` and `ETCD_BACKUP`, because this
//! computer has many units.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::common::command::{Out, Run, find};
use crate::common::world::World;

/// The names of the hook tools on PATH, one a line.
const TOOLS: &str = include_str!("hook-tools");

/// The files in which the hook tools record a run.
const TRACES: [&str; 6] = ["calls", "set", "progress", "failed", "log", "version"];
/// The programs of the charm, with their paths in it.
const PROGRAMS: &[(&str, &str)] = &[
    ("dispatch", program!("dispatch")),
    ("bin/reconcile", program!("reconcile")),
    ("actions/snapshot", program!("snapshot")),
    ("actions/restore", program!("restore")),
    ("actions/site", program!("site")),
    ("actions/list-snapshots", program!("list-snapshots")),
    ("actions/verify-snapshot", program!("verify-snapshot")),
    ("actions/delete-snapshot", program!("delete-snapshot")),
    ("actions/pin-snapshot", program!("pin-snapshot")),
    ("actions/unpin-snapshot", program!("unpin-snapshot")),
    ("actions/upload", program!("upload")),
    ("actions/prune-snapshots", program!("prune-snapshots")),
    ("actions/health", program!("health")),
    ("actions/alarm-list", program!("alarm-list")),
    ("actions/alarm-disarm", program!("alarm-disarm")),
    ("actions/compact", program!("compact")),
    ("actions/defrag", program!("defrag")),
    ("actions/package-client-credentials", program!("package-client-credentials")),
    ("actions/fetch-snapshot", program!("fetch-snapshot")),
    ("actions/backup", program!("backup")),
    ("actions/schedule", program!("schedule")),
    ("actions/check", program!("check")),
    ("actions/check-config", program!("check-config")),
];

/// A unit on the machine of a world, usually `etcd/0`.
pub struct Unit<'w> {
    world: &'w World,
    name: &'static str,
    charm: PathBuf,
    agent: PathBuf,
    tools: PathBuf,
}

impl<'w> Unit<'w> {
    /// Creates a unit with the unpacked charm and no resources.
    pub fn new(world: &'w World) -> Self {
        Self::named(world, "etcd/0")
    }

    /// Creates a unit with another name.
    pub fn named(world: &'w World, name: &'static str) -> Self {
        let unit = Self {
            world,
            name,
            charm: world.path("juju/agents/unit-etcd-0/charm"),
            agent: world.path("juju/agents/unit-etcd-0"),
            tools: world.path("juju/tools/unit-etcd-0"),
        };
        fs::create_dir_all(unit.charm.join("actions")).unwrap();
        fs::create_dir_all(&unit.tools).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["metadata.yaml", "actions.yaml", "config.yaml"] {
            fs::copy(source.join(name), unit.charm.join(name)).unwrap();
        }
        crate::common::command::link_programs();
        fs::create_dir_all(unit.charm.join("bin")).unwrap();
        for (name, binary) in PROGRAMS {
            symlink(binary, unit.charm.join(name)).unwrap();
        }
        for tool in TOOLS.lines() {
            symlink(source.join("tests/it/common/hook-tool"), unit.tools.join(tool)).unwrap();
        }
        let settings = world.path("backup.yaml");
        if !settings.exists() {
            fs::write(settings, "").unwrap();
        }
        unit.configure(&[]);
        unit.set_units(&["etcd/0"]);
        unit
    }

    /// Runs `juju config etcd NAME=VALUE...`: sets these options, and all others to the defaults of
    /// `config.yaml`.
    pub fn configure(&self, changes: &[(&str, Value)]) {
        let text = fs::read_to_string(self.charm.join("config.yaml")).unwrap();
        let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let all = fake_juju::options::set(&text, changes).unwrap();
        fs::write(self.agent.join("config.json"), Value::Object(all).to_string()).unwrap();
    }

    /// Sets the units of the application, which `goal-state` prints.
    pub fn set_units(&self, units: &[&str]) {
        let one =
            |unit: &&str| ((*unit).to_owned(), json!({"status": "waiting", "since": "2026-11-21 12:00:00Z"}));
        let units: Map<String, Value> = units.iter().map(one).collect();
        let goal = json!({"units": units, "relations": {"cluster": units}});
        fs::write(self.agent.join("goal.json"), goal.to_string()).unwrap();
    }

    /// Relates the endpoint `s3-parameters` to `s3-integrator`, which has set this data.
    pub fn relate_to_s3(&self, data: &Value) {
        let dir = self.agent.join("relations/s3-parameters:7");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("app"), "s3-integrator").unwrap();
        fs::write(dir.join("data.json"), data.to_string()).unwrap();
    }

    /// Returns the data that our application has set in the relation, as `KEY=VALUE`.
    pub fn relation_data_set(&self) -> Vec<String> {
        let ours = fs::read_to_string(self.agent.join("relations/s3-parameters:7/ours")).unwrap_or_default();
        let ours: Option<std::collections::BTreeMap<String, String>> = serde_yaml::from_str(&ours).unwrap();
        ours.unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Makes another unit the leader from now on.
    pub fn lose_leadership(&self) {
        fs::write(self.agent.join("follower"), "").unwrap();
    }

    /// Grants the unit a secret with this content.
    pub fn grant_secret(&self, id: &str, content: &Value) {
        fs::create_dir_all(self.agent.join("secrets")).unwrap();
        fs::write(self.agent.join("secrets").join(id), content.to_string()).unwrap();
    }

    /// Runs `juju remove-relation etcd s3-integrator`: the last hook of the relation, during which it still
    /// exists.
    pub fn remove_relation(&self) -> HookRun {
        let run = self.hook_with(
            self.name,
            "s3-parameters-relation-broken",
            &[("JUJU_RELATION_ID", "s3-parameters:7")],
        );
        fs::remove_dir_all(self.agent.join("relations")).unwrap();
        run
    }

    /// Sets the status that `status-get` prints, as `KIND MESSAGE`.
    pub fn set_status(&self, status: &str) {
        fs::write(self.agent.join("status"), format!("{status}\n")).unwrap();
    }

    /// Returns the status that [`Self::set_status`] has set, and all later ones.
    pub fn statuses(&self) -> Vec<String> {
        self.trace("status").lines().map(str::to_owned).collect()
    }

    /// Runs a hook through `dispatch`, as Juju does.
    pub fn hook(&self, name: &str) -> HookRun {
        self.hook_as(self.name, name)
    }

    /// Runs a hook without a site file: the charm then looks for etcd on this computer.
    pub fn hook_without_site(&self, name: &str) -> HookRun {
        self.hook_with(self.name, name, &[("ETCD_SITE", "")])
    }

    /// Attaches a storage that is mounted at `location`.
    pub fn attach_storage(&self, location: &Path) {
        fs::write(self.agent.join("storage"), format!("data/0 {}\n", location.display())).unwrap();
    }

    /// Runs a hook as another unit of the application.
    pub fn hook_as(&self, unit: &str, name: &str) -> HookRun {
        self.hook_with(unit, name, &[])
    }

    /// Runs a hook with more variables.
    fn hook_with(&self, unit: &str, name: &str, more: &[(&str, &str)]) -> HookRun {
        for trace in TRACES {
            let _ = fs::remove_file(self.agent.join(trace));
        }
        let _ = fs::remove_file(self.agent.join("status"));
        let mut command = self.base(&format!("hooks/{name}"));
        command.env("JUJU_HOOK_NAME", name).env("JUJU_UNIT_NAME", unit).envs(more.iter().copied());
        let out = Run::start(command, &self.world.path("runs")).finish();
        let status = self.trace("status").lines().last().map(str::to_owned);
        HookRun { out, status, version: self.trace("version").trim().to_owned() }
    }

    /// Runs `juju attach-resource etcd snapshot=FILE`.
    pub fn attach(&self, file: &Path) {
        let metadata = fs::read_to_string(self.charm.join("metadata.yaml")).unwrap();
        let name = fake_juju::resources::stored_name(&metadata, "snapshot", file).unwrap();
        let attached = self.agent.join("controller/snapshot");
        fs::create_dir_all(&attached).unwrap();
        fs::copy(file, attached.join(name)).unwrap();
    }

    /// Attaches an empty file, as the charm store does until there is a resource.
    pub fn attach_empty(&self) {
        let attached = self.agent.join("controller/snapshot");
        fs::create_dir_all(&attached).unwrap();
        fs::write(attached.join("snapshot.tar.gz"), "").unwrap();
    }

    /// Returns the path to which `resource-get` copies the attached resource.
    pub fn resource(&self) -> PathBuf {
        self.agent.join("resources/snapshot/snapshot.tar.gz")
    }

    /// Makes hook tools fail from now on.
    pub fn break_tools(&self, names: &[&str]) {
        fs::write(self.agent.join("broken"), names.join("\n") + "\n").unwrap();
    }

    /// Puts the hook tools back that [`Self::remove_tools_after`] has removed, as an agent does that was restarted.
    pub fn restart_agent(&self) {
        for tool in TOOLS.lines() {
            let link = self.tools.join(tool);
            if link.symlink_metadata().is_err() {
                let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/hook-tool");
                symlink(source, link).unwrap();
            }
        }
    }

    /// Removes all hook tools after `calls` calls in the next action.
    pub fn remove_tools_after(&self, calls: usize) {
        fs::write(self.agent.join("remove-after"), calls.to_string()).unwrap();
    }

    /// Checks parameters as `juju run` does: `key=value` with YAML values, checked against `actions.yaml`.
    /// Returns them, completed with the defaults.
    pub fn enqueue(&self, action: &str, params: &[&str]) -> Result<Map<String, Value>, String> {
        let text = fs::read_to_string(self.charm.join("actions.yaml")).unwrap();
        fake_juju::parameters::check(
            &text,
            action,
            fake_juju::parameters::from_words(params.iter().copied())?,
        )
    }

    /// Starts an action.
    pub fn start(&self, action: &str, params: &[&str]) -> Task<'_> {
        let command = self.queued(action, params);
        Task { unit: self, run: Run::start(command, &self.world.path("runs")) }
    }

    /// Prepares the process of an action with these parameters.
    pub fn queued(&self, action: &str, params: &[&str]) -> Command {
        let params = self.enqueue(action, params).unwrap();
        for trace in TRACES {
            let _ = fs::remove_file(self.agent.join(trace));
        }
        self.publish(&params);
        self.command(action)
    }

    /// Returns the outcome of an action that was started with [`Self::queued`] and has ended.
    pub fn judge(&self, out: Out) -> Ended {
        Ended::judge(self, out, false)
    }

    /// Runs an action to its end.
    pub fn run(&self, action: &str, params: &[&str]) -> Ended {
        self.start(action, params).finish()
    }

    /// Writes the parameters that `action-get` prints.
    fn publish(&self, params: &Map<String, Value>) {
        let dir = self.agent.join("params");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        let write = |name: String, text: String| fs::write(dir.join(name), text).unwrap();
        let yaml = serde_yaml::to_string(params).unwrap();
        write("all.json".into(), serde_json::to_string(params).unwrap() + "\n");
        write("all.yaml".into(), yaml.clone());
        write("all.smart".into(), yaml);
        for (key, value) in params {
            let smart = match value {
                Value::String(text) => format!("{text}\n"),
                Value::Bool(true) => "True\n".into(),
                Value::Bool(false) => "False\n".into(),
                other => format!("{other}\n"),
            };
            write(format!("key.{key}.json"), format!("{value}\n"));
            write(format!("key.{key}.yaml"), serde_yaml::to_string(value).unwrap());
            write(format!("key.{key}.smart"), smart);
        }
    }

    /// Returns the command of an action as Juju runs it. It inherits no variables; HOME and USER are not set.
    pub fn command(&self, action: &str) -> Command {
        let mut command = self.base(&format!("actions/{action}"));
        command
            .env("JUJU_ACTION_NAME", action)
            .env("JUJU_ACTION_UUID", "14")
            .env("JUJU_ACTION_TAG", "action-14");
        command
    }

    /// Returns the command `dispatch`, with the variables that hooks and actions share.
    fn base(&self, path: &str) -> Command {
        let (charm, socket) = (&self.charm, self.agent.join("agent.socket"));
        let mut command = Command::new(charm.join("dispatch"));
        command
            .current_dir(charm)
            .env_clear()
            .env("CHARM_DIR", charm)
            .env("JUJU_CHARM_DIR", charm)
            .env("JUJU_CONTEXT_ID", "etcd/0-run-action-4203017946284178233")
            .env("JUJU_HOOK_NAME", "")
            .env("JUJU_AGENT_SOCKET_ADDRESS", socket)
            .env("JUJU_AGENT_SOCKET_NETWORK", "unix")
            .env("JUJU_UNIT_NAME", self.name)
            .env("JUJU_MODEL_UUID", "6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162")
            .env("JUJU_MODEL_NAME", "tests")
            .env("JUJU_API_ADDRESSES", "127.0.0.1:17070")
            .env("JUJU_SLA", "unsupported")
            .env("JUJU_MACHINE_ID", "0")
            .env("JUJU_PRINCIPAL_UNIT", "")
            .env("JUJU_AVAILABILITY_ZONE", "")
            .env("JUJU_VERSION", "3.6.26")
            .env("CLOUD_API_VERSION", "")
            .env("JUJU_CHARM_HTTP_PROXY", "")
            .env("JUJU_CHARM_HTTPS_PROXY", "")
            .env("JUJU_CHARM_FTP_PROXY", "")
            .env("JUJU_CHARM_NO_PROXY", "127.0.0.1,localhost,::1")
            .env("JUJU_DISPATCH_PATH", path)
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LANG", "C.UTF-8")
            .env("TERM", "tmux-256color")
            .env(
                "PATH",
                format!(
                    "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    self.tools.display()
                ),
            )
            .env("ETCD_SITE", self.world.site())
            .env("ETCD_BACKUP", self.world.path("backup.yaml"));
        command
    }

    fn trace(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.agent.join(name)).unwrap_or_default()).into_owned()
    }

    /// Returns the calls of hook tools in the last run.
    pub fn calls(&self) -> Vec<String> {
        self.trace("calls").lines().map(str::to_owned).collect()
    }
}

/// A finished hook.
#[must_use]
#[derive(Debug)]
pub struct HookRun {
    /// The process. Any exit status but 0 is a hook error, which an operator has to resolve.
    pub out: Out,
    /// The last status that it set, as `KIND MESSAGE`.
    pub status: Option<String>,
    /// The workload version that it set.
    pub version: String,
}

impl HookRun {
    /// Checks that the hook succeeded, and set a status of this kind that contains all `parts`.
    #[track_caller]
    pub fn assert_status(&self, kind: &str, parts: &[&str]) {
        assert_eq!(self.out.status.code(), Some(0), "a hook error: {}", self.out.describe());
        let status = self.status.as_deref().unwrap_or_default();
        let fits = status.starts_with(&format!("{kind} ")) && parts.iter().all(|part| status.contains(part));
        assert!(fits, "not {kind} with {parts:?}: {status:?}: {}", self.out.describe());
        assert!(
            fake_juju::status::shown_next_step(status),
            "`juju status` would cut the next step: {status}"
        );
    }
}

/// A running action.
pub struct Task<'u> {
    unit: &'u Unit<'u>,
    run: Run,
}

impl Task<'_> {
    /// Returns the process.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Waits for the end of the action.
    pub fn finish(self) -> Ended {
        Ended::judge(self.unit, self.run.finish(), false)
    }

    /// Cancels the action as `juju cancel-task` does: sends SIGKILL to the process, but not to its children.
    pub fn cancel(self) -> Ended {
        Ended::judge(self.unit, self.run.kill(), true)
    }
}

/// The status of a finished action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The action succeeded.
    Completed,
    /// The action refused or failed.
    Failed,
    /// The action was cancelled.
    Aborted,
}

/// A finished action, as `juju show-operation` shows it.
#[must_use]
#[derive(Debug)]
pub struct Ended {
    /// The status.
    pub status: Status,
    /// The message, if it failed.
    pub message: String,
    /// The results, nested as in Juju.
    pub results: Value,
    /// The results as `juju run` prints them.
    pub printed: String,
    /// The messages of `action-log`.
    pub progress: Vec<String>,
    /// The process.
    pub out: Out,
}

impl Ended {
    fn judge(unit: &Unit<'_>, out: Out, cancelled: bool) -> Self {
        let mut results = fake_juju::results::nest(unit.trace("set").split_terminator('\0'));
        let printed = fake_juju::results::print(&results);
        results.insert("return-code".to_owned(), Value::from(out.status.code().unwrap_or(-1)));
        for (key, text) in [("stdout", &out.stdout), ("stderr", &out.stderr)] {
            if !text.is_empty() {
                results.insert(key.to_owned(), Value::from(format!("{}\n", text.trim_end_matches('\n'))));
            }
        }
        let failed = unit.agent.join("failed").exists().then(|| unit.trace("failed"));
        let (status, message) = match (out.status.code(), failed) {
            _ if cancelled => (Status::Aborted, String::new()),
            (Some(0), None) => (Status::Completed, String::new()),
            (Some(0), Some(message)) => (Status::Failed, message),
            // Juju replaces the message of action-fail by this.
            (Some(code), _) => (Status::Failed, format!("exit status {code}")),
            (None, _) => (Status::Failed, "terminated".to_owned()),
        };
        Self {
            status,
            message,
            results: Value::Object(results),
            printed,
            progress: unit.trace("progress").split_terminator('\0').map(str::to_owned).collect(),
            out,
        }
    }

    fn describe(&self) -> String {
        format!(
            "{:?}: {:?}\nprogress {:?}\n{}",
            self.status,
            self.message,
            self.progress,
            self.out.describe()
        )
    }

    /// Checks that the action completed.
    #[track_caller]
    pub fn completed(self) -> Self {
        assert_eq!(self.status, Status::Completed, "expected it to complete: {}", self.describe());
        self
    }

    /// Checks that the action failed, with a message that contains each of the `reasons` and a next step.
    #[track_caller]
    pub fn failed(self, reasons: &[&str]) {
        assert_eq!(self.status, Status::Failed, "expected it to fail: {}", self.describe());
        assert_eq!(self.out.status.code(), Some(0), "Juju would drop the message: {}", self.describe());
        assert!(self.message.contains("Next:"), "no next step: {}", self.describe());
        let message = self.message.to_lowercase();
        for reason in reasons {
            let is_there = message.contains(&reason.to_lowercase());
            assert!(is_there, "the message does not contain {reason:?}: {}", self.describe());
        }
    }

    /// Returns the result with a dotted key, which must exist and be text, as all results in Juju are.
    #[track_caller]
    pub fn get(&self, key: &str) -> String {
        find(&self.results, key).unwrap_or_else(|| panic!("no result {key}: {}", self.describe()))
    }
}
