//! The etcds that packages installed and that do not run, by the packages' configuration files.
//!
//! Must never be used while an etcd runs: a configuration file can differ from the running process.

use super::candidate::Candidate;
use super::client_certificates::SNAP_COMMON;
use super::options::Options;
use super::origin::{Launcher, Origin, Sourced};
use super::rooted::read_text;
use super::systemd::environment_file;
use crate::error::Refusal;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use std::io;
use std::path::{Path, PathBuf};

/// The environment file of the unit in Debian's package.
pub const DEBIAN_DEFAULTS: &str = "/etc/default/etcd";
/// The systemd unit of the Debian package.
pub const DEBIAN_UNIT: &str = "etcd.service";
/// etcd's configuration file in the snap.
pub const SNAP_CONFIG: &str = "/var/snap/etcd/common/etcd.conf.yml";
/// The systemd unit of the snap.
pub const SNAP_UNIT: &str = "snap.etcd.etcd.service";
/// All configuration files that are looked for.
pub(super) const CONFIG_FILES: [&str; 2] = [DEBIAN_DEFAULTS, SNAP_CONFIG];

/// Looks for every known package on the machine with its files under `root`. `units` are the etcds that systemd knows:
/// if Debian's unit is among them, its file need not be read again.
///
/// # Errors
/// A configuration file exists and cannot be used.
pub(super) fn look(root: &Path, units: &[Candidate]) -> Result<Vec<Candidate>, Refusal> {
    let is_known = units.iter().any(|unit| unit.site.service.unit() == Some(DEBIAN_UNIT));
    let debian = if is_known { None } else { debian(root)? };
    Ok([debian, snap(root)?].into_iter().flatten().collect())
}

/// Looks for the package etcd-server of Debian and Ubuntu. Its unit gives etcd a data directory, then everything in
/// this file, and runs it in `/` (Debian, etcd-server, etcd.service).
fn debian(root: &Path) -> Result<Option<Candidate>, Refusal> {
    let Some(text) = read(root, DEBIAN_DEFAULTS.as_ref())? else { return Ok(None) };
    let mut variables = vec![("ETCD_DATA_DIR".to_owned(), "/var/lib/etcd/default".to_owned())];
    variables.extend(environment_file(&text));
    let words =
        variables.iter().rev().find(|(name, _)| name == "DAEMON_ARGS").map(|(_, value)| value.as_str());
    let files = environment_file(&text).into_iter().map(|(name, _)| (name, DEBIAN_DEFAULTS.into())).collect();
    let cwd = Path::new("/");
    let options = Options::from_command(
        words.unwrap_or_default().split_whitespace(),
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        &Launcher::Unit(DEBIAN_UNIT.to_owned()),
    );
    let options = options.with_environment_files(&files).resolve(cwd, |file| read_text(root, file));
    let options = options.map_err(|bad| unusable(&bad.path, &bad.problem))?;
    Ok(stopped(&options, cwd, "/usr/bin/etcd", DEBIAN_UNIT))
}

/// Looks for the snap of Charmed Kubernetes. The working directory of its daemon is not documented, so its data
/// directory must be an absolute path.
fn snap(root: &Path) -> Result<Option<Candidate>, Refusal> {
    let path = Path::new(SNAP_CONFIG);
    let Some(text) = read(root, path)? else { return Ok(None) };
    let file = Sourced::new(path.to_owned(), Origin::Unit(SNAP_UNIT.to_owned()));
    let options = Options::from_config_file(file, &text).map_err(|problem| unusable(path, &problem))?;
    if !options.text("data-dir").is_some_and(|dir| Path::new(dir).is_absolute()) {
        return Err(unusable(path, "data-dir must be an absolute path, because etcd does not run"));
    }
    Ok(stopped(&options, Path::new(SNAP_COMMON), "/snap/etcd/current/bin/etcd", SNAP_UNIT))
}

fn stopped(options: &Options, cwd: &Path, server: &str, unit: &str) -> Option<Candidate> {
    let launcher = Launcher::Unit(unit.to_owned());
    let service = Service::Systemd { systemd: unit.to_owned() };
    Candidate::new(options, &launcher, cwd, format!("{unit}, stopped"), PathBuf::from(server), service)
}

fn read(root: &Path, file: &Path) -> Result<Option<String>, Refusal> {
    match read_text(root, file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(file, &error.to_string())),
    }
}

fn unusable(file: &Path, problem: &str) -> Refusal {
    let file = file.display();
    Refusal::new(
        format!("etcd's configuration file {file} cannot be used: {problem}"),
        format!("correct {file}, start etcd, or describe etcd in {SITE_FILE}"),
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::super::rooted::under;
    use super::*;
    use std::fs;

    fn on(files: &[(&str, &str)]) -> Result<Vec<Candidate>, Refusal> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = under(root.path(), Path::new(file));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        look(root.path(), &[])
    }

    #[test]
    fn the_defaults_file_of_debian_overrides_its_unit() {
        let default = "http://localhost:2379";
        for (text, data_dir, origin, endpoint) in [
            ("## etcd(1) daemon options\n", "/var/lib/etcd/default", "etcd.service", default),
            ("ETCD_NAME=\"m1\"\n", "/var/lib/etcd/default", "etcd.service", default),
            (
                "ETCD_DATA_DIR='/d'\nETCD_LISTEN_CLIENT_URLS=\"http://0.0.0.0:1\"\n",
                "/d",
                "/etc/default/etcd",
                "http://127.0.0.1:1",
            ),
            ("DAEMON_ARGS=\"--data-dir /x  --name=a\"\nETCD_DATA_DIR=/d\n", "/x", "etcd.service", default),
            ("ETCD_CONFIG_FILE=/etc/etcd.yml\nETCD_DATA_DIR=/d\n", "/c", "/etc/etcd.yml", default),
        ] {
            let found = on(&[(DEBIAN_DEFAULTS, text), ("/etc/etcd.yml", "data-dir: /c\n")]).unwrap();
            let [Candidate { site, .. }] = &found[..] else { panic!("{found:?}") };
            assert_eq!(*site.data_dir, Path::new(data_dir), "{text}");
            assert!(site.data_dir.origin.to_string().ends_with(origin), "{text}: {}", site.data_dir.origin);
            assert_eq!(*site.endpoint, endpoint, "{text}");
            assert_eq!(site.service.unit(), Some("etcd.service"));
        }
        let refusal = on(&[(DEBIAN_DEFAULTS, "ETCD_CONFIG_FILE=/etc/gone.yml\n")]).unwrap_err();
        assert!(refusal.reason.contains("/etc/gone.yml"), "{refusal}");
    }

    #[test]
    fn the_snap_has_a_configuration_file_of_etcd() {
        let text = "name: etcd0\ndata-dir: /var/snap/etcd/current\nlisten-client-urls: https://0.0.0.0:2379\n\
             client-transport-security:\n  cert-file: /s.crt\n  key-file: /s.key\n  client-cert-auth: true\n";
        let found = on(&[(SNAP_CONFIG, text)]).unwrap();
        let [Candidate { site, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*site.data_dir, Path::new("/var/snap/etcd/current"));
        assert_eq!(*site.endpoint, "https://127.0.0.1:2379");
        assert_eq!(site.tls.cert.as_deref(), Some(Path::new("/var/snap/etcd/common/client.crt")));
        assert_eq!(site.tls.cacert.as_deref(), Some(Path::new("/var/snap/etcd/common/ca.crt")));
        assert_eq!(site.service.unit(), Some("snap.etcd.etcd.service"));
        for text in ["name: etcd0\n", "data-dir: d\n", "data-dir: [\n"] {
            let refusal = on(&[(SNAP_CONFIG, text)]).unwrap_err();
            assert!(refusal.reason.contains(SNAP_CONFIG), "{refusal}");
        }
        assert!(on(&[]).unwrap().is_empty());
    }
}
