//! The etcds that are installed and do not run, by their packages' own files.
//!
//! Must never be asked while an etcd runs: a file tells what is meant, not what is.

use super::discovery::{Found, SNAP_COMMON};
use super::processes::below;
use super::settings::{Said, Settings, Told};
use crate::error::Refusal;
use crate::etcd::service::Service;
use crate::system::durable::read_small_text;
use std::io;
use std::path::{Path, PathBuf};

/// What the unit of Debian's package reads.
pub const DEBIAN_DEFAULTS: &str = "/etc/default/etcd";
/// The systemd unit of Debian's package.
pub const DEBIAN_UNIT: &str = "etcd.service";
/// What the unit of the snap reads.
pub const SNAP_CONFIG: &str = "/var/snap/etcd/common/etcd.conf.yml";
/// The systemd unit of the snap.
pub const SNAP_UNIT: &str = "snap.etcd.etcd.service";
/// The files that are looked for.
pub(super) const PLACES: [&str; 2] = [DEBIAN_DEFAULTS, SNAP_CONFIG];

/// Looks for every package that is known, on the machine whose files lie under `root`. Debian's unit, where systemd could
/// tell it, is among `units` already.
pub(super) fn look(root: &Path, units: &[Found]) -> Result<Vec<Found>, Refusal> {
    let debian =
        if units.iter().any(|unit| unit.service == systemd("etcd.service")) { None } else { debian(root)? };
    Ok([debian, snap(root)?].into_iter().flatten().collect())
}

fn systemd(unit: &str) -> Service {
    Service::Systemd { systemd: unit.to_owned() }
}

/// Debian's and Ubuntu's package etcd-server: its unit gives etcd a data directory, then all that this file says, and has
/// it run in `/` (Debian, etcd-server, etcd.service).
fn debian(root: &Path) -> Result<Option<Found>, Refusal> {
    let Some(text) = read(root, DEBIAN_DEFAULTS)? else { return Ok(None) };
    let mut variables = vec![("ETCD_DATA_DIR".to_owned(), "/var/lib/etcd/default".to_owned())];
    variables.extend(environment_file(&text));
    let words =
        variables.iter().rev().find(|(name, _)| name == "DAEMON_ARGS").map(|(_, value)| value.as_str());
    let told = Told::of(
        words.unwrap_or_default().split_whitespace(),
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let cwd = Path::new("/");
    let config_file = told.config_file().map(|file| cwd.join(file));
    let settings = match &config_file {
        Some(file) => config(file, &read(root, file)?.ok_or_else(|| unusable(file, "it is not there"))?)?,
        None => told.settings(),
    };
    Ok(stopped(&Said::new(told, config_file, settings), cwd, "/usr/bin/etcd", DEBIAN_UNIT))
}

/// The snap of Charmed Kubernetes. What its daemon's directory is, nobody says.
fn snap(root: &Path) -> Result<Option<Found>, Refusal> {
    let Some(text) = read(root, SNAP_CONFIG)? else { return Ok(None) };
    let settings = config(Path::new(SNAP_CONFIG), &text)?;
    if !settings.data_dir.as_deref().is_some_and(|dir| Path::new(dir).is_absolute()) {
        return Err(unusable(SNAP_CONFIG, "etcd does not run, and it gives no absolute data-dir"));
    }
    let server = "/snap/etcd/current/bin/etcd";
    let said = Said::new(Told::default(), Some(PathBuf::from(SNAP_CONFIG)), settings);
    Ok(stopped(&said, Path::new(SNAP_COMMON), server, SNAP_UNIT))
}

fn stopped(said: &Said, cwd: &Path, server: &str, unit: &str) -> Option<Found> {
    Found::of(said, cwd, format!("{unit}, stopped"), PathBuf::from(server), systemd(unit))
}

fn read(root: &Path, file: impl AsRef<Path>) -> Result<Option<String>, Refusal> {
    match read_small_text(&below(root, file.as_ref())) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(file, &error.to_string())),
    }
}

fn config(file: &Path, text: &str) -> Result<Settings, Refusal> {
    Settings::of_file(text).map_err(|error| unusable(file, &error.to_string()))
}

fn unusable(file: impl AsRef<Path>, why: &str) -> Refusal {
    Refusal::new(
        format!("etcd's configuration {} cannot be used: {why}", file.as_ref().display()),
        "mend it, start etcd, or write a site file and name it in ETCD_SITE",
    )
}

/// The variables in an environment file of systemd (systemd.exec(5), `EnvironmentFile=`): `NAME=value`, where the value
/// may be quoted; comments begin with `#` or `;`. The last of a name wins.
pub(super) fn environment_file(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_owned(), unquoted(value.trim()))).collect()
}

pub(super) fn unquoted(value: &str) -> String {
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    match (within('"'), within('\'')) {
        (Some(inner), _) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        (_, Some(inner)) => inner.to_owned(),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use std::fs;

    fn on(files: &[(&str, &str)]) -> Result<Vec<Found>, Refusal> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = below(root.path(), Path::new(file));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        look(root.path(), &[])
    }

    #[test]
    fn debians_file_speaks_over_its_unit() {
        for (text, data_dir, endpoint) in [
            ("## etcd(1) daemon options\n", "/var/lib/etcd/default", "http://localhost:2379"),
            ("ETCD_NAME=\"m1\"\n", "/var/lib/etcd/default", "http://localhost:2379"),
            (
                "ETCD_DATA_DIR='/d'\nETCD_LISTEN_CLIENT_URLS=\"http://0.0.0.0:1\"\n",
                "/d",
                "http://127.0.0.1:1",
            ),
            ("DAEMON_ARGS=\"--data-dir /x  --name=a\"\nETCD_DATA_DIR=/d\n", "/x", "http://localhost:2379"),
            ("ETCD_CONFIG_FILE=/etc/etcd.yml\nETCD_DATA_DIR=/d\n", "/c", "http://localhost:2379"),
        ] {
            let found = on(&[(DEBIAN_DEFAULTS, text), ("/etc/etcd.yml", "data-dir: /c\n")]).unwrap();
            let [found] = &found[..] else { panic!("{found:?}") };
            assert_eq!(found.data_dir, Path::new(data_dir), "{text}");
            assert_eq!(found.endpoint, endpoint, "{text}");
            assert_eq!(found.service, Service::Systemd { systemd: "etcd.service".into() });
        }
        let refusal = on(&[(DEBIAN_DEFAULTS, "ETCD_CONFIG_FILE=/etc/gone.yml\n")]).unwrap_err();
        assert!(refusal.reason.contains("/etc/gone.yml"), "{refusal}");
    }

    #[test]
    fn the_snaps_file_is_etcds_own() {
        let text = "name: etcd0\ndata-dir: /var/snap/etcd/current\nlisten-client-urls: https://0.0.0.0:2379\n\
             client-transport-security:\n  cert-file: /s.crt\n  key-file: /s.key\n  client-cert-auth: true\n";
        let found = on(&[(SNAP_CONFIG, text)]).unwrap();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!(found.data_dir, Path::new("/var/snap/etcd/current"));
        assert_eq!(found.endpoint, "https://127.0.0.1:2379");
        assert_eq!(found.tls.cert.as_deref(), Some(Path::new("/var/snap/etcd/common/client.crt")));
        assert_eq!(found.tls.cacert.as_deref(), Some(Path::new("/var/snap/etcd/common/ca.crt")));
        assert_eq!(found.service, Service::Systemd { systemd: "snap.etcd.etcd.service".into() });
        for text in ["name: etcd0\n", "data-dir: d\n", "data-dir: [\n"] {
            let refusal = on(&[(SNAP_CONFIG, text)]).unwrap_err();
            assert!(refusal.reason.contains(SNAP_CONFIG), "{refusal}");
        }
        assert_eq!(on(&[]).unwrap(), []);
    }

    #[test]
    fn an_environment_file_is_read_as_systemd_reads_it() {
        let text = "# A=1\n; B=1\n\nA=x y \n B=\"a \\\"b\\\" c\"\nC='$d'\nD=a\\\nb\nE=\nnonsense\nA=2\n";
        let expected = [("A", "x y"), ("B", "a \"b\" c"), ("C", "$d"), ("D", "ab"), ("E", ""), ("A", "2")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(environment_file(text), expected);
    }
}
