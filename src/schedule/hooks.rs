//! The operator's hooks: programs that run before a backup, after a good backup, and after a failed one.
//!
//! They run as the same user as this program, so only root may be able to change them. They get a minimal environment and a
//! timeout, and must never get a secret.

use crate::error::{Refusal, quoted};
use crate::schedule;
use crate::schedule::runs::Run;
use crate::system::process::Program;
use crate::system::trust;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The default timeout of a hook.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The hooks in the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hooks {
    /// The program to run before a backup. If it fails, no backup is made.
    pub before: Option<PathBuf>,
    /// The program to run after a good backup.
    pub after: Option<PathBuf>,
    /// The program to run after a failed backup.
    pub failure: Option<PathBuf>,
    /// The timeout of each program, such as `90s`.
    pub timeout: Option<String>,
}

/// The event that runs a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookEvent {
    /// A backup is about to begin.
    Before,
    /// A backup succeeded.
    After,
    /// A backup failed.
    Failure,
}

impl HookEvent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Failure => "failure",
        }
    }
}

/// The JSON that a hook reads from its standard input.
#[derive(Debug, Serialize)]
struct HookInput<'a> {
    #[serde(rename = "hook")]
    event: HookEvent,
    unit: Option<&'a str>,
    /// The directory of the archives.
    target: &'a Path,
    #[serde(flatten)]
    run: &'a Run,
}

impl Hooks {
    /// Runs the program for `event`, if there is one, and waits for it.
    ///
    /// # Errors
    /// Refuses a program that users other than root can change. Fails if the program fails or exceeds its timeout.
    pub fn run(&self, event: HookEvent, unit: Option<&str>, target: &Path, run: &Run) -> Result<()> {
        let program = match event {
            HookEvent::Before => &self.before,
            HookEvent::After => &self.after,
            HookEvent::Failure => &self.failure,
        };
        let Some(program) = program else { return Ok(()) };
        let running = || format!("running the hook {} ({})", event.as_str(), program.display());
        check_program(program).with_context(running)?;
        let input = serde_json::to_vec(&HookInput { event, unit, target, run }).with_context(running)?;
        let timeout = self.timeout()?;
        Program::new(program).stdin_bytes(input).deadline(timeout).run().with_context(running)?;
        Ok(())
    }

    /// Returns the programs.
    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        [&self.before, &self.after, &self.failure].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Checks that every program can be run and that the timeout is valid. Runs nothing.
    ///
    /// # Errors
    /// Refuses the first hook that cannot be run.
    pub fn check(&self) -> Result<(), Refusal> {
        self.timeout()?;
        self.programs().try_for_each(check_program)
    }

    fn timeout(&self) -> Result<Duration, Refusal> {
        let Some(text) = &self.timeout else { return Ok(DEFAULT_TIMEOUT) };
        let seconds = schedule::parse_seconds(text).filter(|seconds| *seconds > 0);
        seconds.map(Duration::from_secs).ok_or_else(|| {
            Refusal::new(format!("hooks.timeout is {text:?}"), "give a duration such as 90s or 5m")
        })
    }
}

/// Refuses a hook that is not an executable file, or that users other than root can change, because it runs as root.
fn check_program(program: &Path) -> Result<(), Refusal> {
    let leads_to = trust::check(program).map_err(|distrust| match distrust.is_missing() {
        true => Refusal { next: "correct hooks in the settings".to_owned(), ..distrust.refusal("the hook") },
        false => distrust.refusal("the hook"),
    })?;
    let is_program = |found: std::fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
    match leads_to.metadata().is_ok_and(is_program) {
        true => Ok(()),
        false => Err(Refusal::new(
            format!("the hook {} cannot be used: it is not an executable file", program.display()),
            format!("chmod +x {}", quoted(program.as_os_str())),
        )),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use crate::system::owner::Owner;
    use jiff::Timestamp;

    /// Creates a program in a directory that only root can change; `None` if the test does not run as root.
    fn hook(text: &str, mode: u32) -> Option<(tempfile::TempDir, PathBuf)> {
        if Owner::ourselves().uid != 0 {
            eprintln!("skipped: this test must run as root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("etcd-charm-").tempdir_in("/var/lib").unwrap();
        let path = dir.path().join("hook");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Some((dir, path))
    }

    fn run(hooks: &Hooks) -> Result<()> {
        let run = Run::new(Timestamp::UNIX_EPOCH, None);
        hooks.run(HookEvent::After, Some("etcd/0"), Path::new("/target"), &run)
    }

    #[test]
    fn a_hook_gets_the_run_and_a_minimal_environment() {
        let Some((dir, path)) = hook("#!/bin/sh\ncd \"${0%/*}\" && cat > input && env > env\n", 0o755) else {
            return;
        };
        run(&Hooks { after: Some(path), ..Hooks::default() }).unwrap();
        let input: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("input")).unwrap()).unwrap();
        assert_eq!(
            (&input["hook"], &input["unit"], &input["target"]),
            (&"after".into(), &"etcd/0".into(), &"/target".into())
        );
        assert_eq!(input["backup_phase"], "Running");
        let environment = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let names: Vec<&str> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(
            names.iter().all(|name| ["PATH", "LC_ALL", "TZ", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)),
            "{names:?}"
        );
    }

    #[test]
    fn a_failed_hook_is_named_in_the_error() {
        for (text, why) in [
            ("#!/bin/sh\necho not now >&2; exit 3\n", "status 3; its last output: not now"),
            ("#!/bin/sh\nsleep 60\n", "within 1 s"),
        ] {
            let Some((_dir, path)) = hook(text, 0o755) else { return };
            let hooks = Hooks { after: Some(path), timeout: Some("1s".into()), ..Hooks::default() };
            let error = format!("{:#}", run(&hooks).unwrap_err());
            assert!(error.starts_with("running the hook after (/var/lib/") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn refuses_a_program_that_other_users_can_change() {
        for (mode, why) in
            [(0o757, "users other than root can change it"), (0o644, "it is not an executable file")]
        {
            let Some((_dir, path)) = hook("#!/bin/sh\n", mode) else { return };
            let error = format!("{:#}", run(&Hooks { after: Some(path), ..Hooks::default() }).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let missing = Hooks { after: Some("/nowhere/hook".into()), ..Hooks::default() };
        assert!(
            format!("{:#}", run(&missing).unwrap_err())
                .contains("cannot be used: /nowhere cannot be read: No such file")
        );
        run(&Hooks::default()).unwrap();
    }
}
