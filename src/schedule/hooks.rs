//! An operator's own programs, run before a backup, after one that is good, and after one that failed.
//!
//! They run as we do, and so they must be root's; they get no secret, an environment of nothing, and so much time.

use crate::error::Refusal;
use crate::schedule;
use crate::schedule::runs::Run;
use crate::system::process::{Program, quoted};
use crate::system::trust;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one may take, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be run, as an operator wrote it down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hooks {
    /// Before a backup; if it fails, there is none.
    pub before: Option<PathBuf>,
    /// After one that is good.
    pub after: Option<PathBuf>,
    /// After one that failed.
    pub failure: Option<PathBuf>,
    /// How long each may take: `90s`.
    pub timeout: Option<String>,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookEvent {
    /// Before a backup.
    Before,
    /// After one that is good.
    After,
    /// After one that failed.
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

/// What a hook reads from its standard input.
#[derive(Debug, Serialize)]
struct Told<'a> {
    hook: HookEvent,
    unit: Option<&'a str>,
    /// The directory of the archives.
    target: &'a Path,
    #[serde(flatten)]
    run: &'a Run,
}

impl Hooks {
    /// Runs the program for `occasion`, if there is one, to its end.
    pub fn run(&self, occasion: HookEvent, unit: Option<&str>, target: &Path, run: &Run) -> Result<()> {
        let program = match occasion {
            HookEvent::Before => &self.before,
            HookEvent::After => &self.after,
            HookEvent::Failure => &self.failure,
        };
        let Some(program) = program else { return Ok(()) };
        let running = || format!("running the hook {} ({})", occasion.as_str(), program.display());
        may_be_run(program).with_context(running)?;
        let told = serde_json::to_vec(&Told { hook: occasion, unit, target, run }).with_context(running)?;
        let patience = self.patience()?;
        Program::new(program).stdin_bytes(told).deadline(patience).run().with_context(running)?;
        Ok(())
    }

    fn patience(&self) -> Result<Duration, Refusal> {
        let Some(timeout) = &self.timeout else { return Ok(PATIENCE) };
        let seconds = schedule::parse_seconds(timeout).filter(|seconds| *seconds > 0);
        seconds.map(Duration::from_secs).ok_or_else(|| {
            Refusal::new(format!("the timeout of the hooks is {timeout:?}"), "give a time such as 90s or 5m")
        })
    }
}

/// Refuses a hook that is not a program, or that users other than root can change: it runs as root.
fn may_be_run(program: &Path) -> Result<(), Refusal> {
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

    /// A program in a directory that only root can change, where we are root.
    fn hook(text: &str, mode: u32) -> Option<(tempfile::TempDir, PathBuf)> {
        if Owner::ourselves().uid != 0 {
            eprintln!("skipped: only root has a directory that it alone can change");
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
    fn a_hook_reads_the_run_and_has_nothing_else() {
        let Some((dir, path)) = hook("#!/bin/sh\ncd \"${0%/*}\" && cat > told && env > env\n", 0o755) else {
            return;
        };
        run(&Hooks { after: Some(path), ..Hooks::default() }).unwrap();
        let told: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("told")).unwrap()).unwrap();
        assert_eq!(
            (&told["hook"], &told["unit"], &told["target"]),
            (&"after".into(), &"etcd/0".into(), &"/target".into())
        );
        assert_eq!(told["backup_phase"], "Running");
        let environment = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let names: Vec<&str> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(
            names.iter().all(|name| ["PATH", "LC_ALL", "TZ", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)),
            "{names:?}"
        );
    }

    #[test]
    fn a_hook_that_fails_or_does_not_end_is_told_by_name() {
        for (text, why) in [
            ("#!/bin/sh\necho not now >&2; exit 3\n", "status 3; its last words: not now"),
            ("#!/bin/sh\nsleep 60\n", "within 1 s"),
        ] {
            let Some((_dir, path)) = hook(text, 0o755) else { return };
            let hooks = Hooks { after: Some(path), timeout: Some("1s".into()), ..Hooks::default() };
            let error = format!("{:#}", run(&hooks).unwrap_err());
            assert!(error.starts_with("running the hook after (/var/lib/") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
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
