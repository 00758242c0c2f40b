//! Whether this machine can stop and start the etcd of a site, found out without doing it.
//!
//! Must never run a start or stop command.

use super::Site;
use crate::error::{Refusal, quoted};
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::{Service, static_pod, systemctl};
use crate::system::process::program_path;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The directory that exists if systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

impl Site {
    /// Checks that the programs that stop and start etcd exist, or that its supervisor knows it.
    ///
    /// # Errors
    /// Refuses an etcd that cannot be stopped and started again.
    pub fn check_service(&self) -> Result<(), Refusal> {
        self.service.check_supervisor()?;
        match &self.service.value {
            Service::Systemd { systemd } => self.check_unit(systemd),
            Service::Commands { start, stop } => {
                self.check_command("stop", stop)?;
                self.check_command("start", start)
            }
            Service::StaticPod { manifest } => self.check_manifest(manifest),
            Service::Unknown { .. } => Ok(()),
        }
    }

    fn check_unit(&self, unit: &str) -> Result<(), Refusal> {
        if !Path::new(BOOTED).is_dir() {
            let reason =
                format!("etcd is stopped and started by {unit}, but systemd does not run this machine");
            return Err(Refusal::new(reason, self.correct_service("{start: [COMMAND], stop: [COMMAND]}")));
        }
        let state = systemctl(&["show", "--property=LoadState", "--value", "--", unit]).unwrap_or_default();
        match state.trim() {
            "loaded" => Ok(()),
            "not-found" => {
                let reason =
                    format!("etcd is stopped and started by {unit}, but systemd has no unit of that name");
                Err(Refusal::new(reason, self.correct_service("{systemd: UNIT}")))
            }
            state => {
                let reason = format!("systemd cannot start {unit}: its state is {state:?}");
                Err(Refusal::new(reason, format!("systemctl status {unit}")))
            }
        }
    }

    fn check_command(&self, verb: &str, words: &[String]) -> Result<(), Refusal> {
        let form = format!("{{{verb}: [/PATH/TO/COMMAND]}}");
        let Some(word) = words.first().filter(|word| !word.is_empty()) else {
            return Err(Refusal::new(
                format!("the {verb} command of etcd is empty"),
                self.correct_service(&form),
            ));
        };
        let problem = match program_path(word).map(|path| path.metadata()) {
            Some(Ok(found)) if found.is_file() && found.mode() & 0o111 != 0 => return Ok(()),
            Some(Ok(_)) => "is not an executable file",
            _ => "does not exist",
        };
        let reason = format!("the {verb} command of etcd cannot run: {word} {problem}");
        Err(Refusal::new(reason, self.correct_service(&form)))
    }

    fn check_manifest(&self, manifest: &Path) -> Result<(), Refusal> {
        let parked = static_pod::parked(manifest);
        match (manifest.exists(), parked.exists()) {
            (true, true) => {
                let [live, parked] = [manifest, &parked].map(|path| quoted(path.as_os_str()));
                return Err(Refusal::new(
                    format!("to stop etcd, {live} would be moved to {parked}, which exists already"),
                    format!(
                        "diff {parked} {live}; if the first one is not needed: rm {parked}; otherwise: mv {parked} {live}"
                    ),
                ));
            }
            (false, false) => {}
            _ => return Ok(()),
        }
        let reason = format!("the manifest of etcd's static pod, {}, does not exist", manifest.display());
        Err(Refusal::new(reason, self.correct_service("{static-pod: MANIFEST}")))
    }

    /// Returns how to correct the service. `form` is the value that is needed.
    fn correct_service(&self, form: &str) -> String {
        match self.site_file() {
            Some(file) => format!("correct service in {}: {form}", file.display()),
            None => format!("describe etcd in {SITE_FILE}, with service: {form}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::site;
    use super::*;

    fn commands(start: &[&str], stop: &[&str]) -> Service {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Service::Commands { start: words(start), stop: words(stop) }
    }

    #[test]
    fn a_command_must_be_a_program() {
        for (start, stop, reason) in [
            (
                &["/bin/true"][..],
                &["/nowhere/stop"][..],
                "the stop command of etcd cannot run: /nowhere/stop does not",
            ),
            (
                &["no-such-program"],
                &["/bin/true"],
                "the start command of etcd cannot run: no-such-program does not",
            ),
            (&["/bin/true"], &["/etc/passwd"], "/etc/passwd is not an executable file"),
            (&["/bin/true"], &[], "the stop command of etcd is empty"),
        ] {
            let refusal = site(Path::new("/d"), commands(start, stop)).check_service().unwrap_err();
            assert!(refusal.reason.contains(reason), "{refusal}");
            assert!(refusal.next.contains("site.yaml, with service: {"), "{refusal}");
        }
        site(Path::new("/d"), commands(&["true"], &["/bin/true"])).check_service().unwrap();
    }

    #[test]
    fn a_static_pod_has_a_manifest() {
        let home = tempfile::tempdir().unwrap();
        let pod = Service::StaticPod { manifest: home.path().join("etcd.yaml") };
        let refusal = site(Path::new("/d"), pod).check_service().unwrap_err();
        assert!(refusal.reason.contains("etcd.yaml, does not exist"), "{refusal}");
        let unknown = site(Path::new("/d"), Service::Unknown { pid: 7 }).check_service().unwrap_err();
        assert!(unknown.reason.contains("no supervisor"), "{unknown}");
    }
}
