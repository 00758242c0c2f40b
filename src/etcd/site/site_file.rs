//! The site file, in which an operator describes the etcd of this machine, as it is read.
//!
//! Must never complete the file by looking at the machine: a missing value has a default or is refused.

use super::candidate::initial_member;
use super::endpoints;
use super::model::{Login, Site};
use super::options::Options;
use super::origin::{Origin, Sourced};
use super::quota::Quota;
use crate::error::{Refusal, did_you_mean};
use crate::etcd::certificates::CertificateProblems;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use crate::etcd::tls::Tls;
use crate::etcd::tools::Tools;
use crate::system::durable::read_small_text;
use crate::system::owner::Owner;
use crate::system::secret::Secret;
use crate::system::trust::{self, Distrust};
use anyhow::{Context, Result};
use serde_yaml::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The keys of a site file.
const KEYS: [&str; 10] = [
    "endpoint",
    "cacert",
    "cert",
    "key",
    "username",
    "password-file",
    "data-dir",
    "config-file",
    "bin-dir",
    "service",
];
/// The forms of `service`, for a message.
const SERVICE_FORMS: &str = "service must be {systemd: UNIT}, {static-pod: MANIFEST} or {start: [COMMAND, ...], stop: [COMMAND, ...]}";

/// The values in a site file.
#[derive(Debug)]
pub(super) struct SiteFile {
    pub(super) endpoint: String,
    pub(super) cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    pub(super) data_dir: PathBuf,
    config_file: Option<PathBuf>,
    pub(super) bin_dir: Option<PathBuf>,
    pub(super) service: Service,
}

/// Returns the site that `file` describes. `password` is used if the file names a user and no password file.
///
/// # Errors
/// The file is not valid, or users other than root can change it or something that it names.
pub(super) fn read(file: &Path, password: Option<Sourced<Secret>>) -> Result<Site> {
    let path = std::path::absolute(file).map_err(|error| unusable(file, &error.to_string()))?;
    trust::check(&path).map_err(|distrust| match distrust.is_missing() {
        true => Refusal::new(
            format!("the site file {} does not exist", file.display()),
            "correct ETCD_SITE, or unset it to discover etcd",
        ),
        false => distrust.refusal("the site file"),
    })?;
    let text = read_small_text(&path).map_err(|error| unusable(file, &error.to_string()))?;
    let values = SiteFile::parse(&text).map_err(|problem| unusable(file, &problem))?;
    values.check_trust()?;
    values.into_site(&path, password)
}

impl SiteFile {
    /// Parses a site file.
    ///
    /// # Errors
    /// Describes the first problem in the words of the file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let Value::Mapping(entries) = &document else {
            return Err("it must consist of lines of the form KEY: VALUE".to_owned());
        };
        for key in entries.keys() {
            match key.as_str() {
                Some(key) if KEYS.contains(&key) => {}
                Some(key) => return Err(unknown_key(key, &KEYS)),
                None => return Err("every key must be a word".to_owned()),
            }
        }
        let text = |key: &str| text_in(&document, key);
        let required = |key: &str| text(key)?.ok_or_else(|| format!("{key} is missing"));
        let path = |key: &str| Ok::<_, String>(text(key)?.map(PathBuf::from));
        let values = Self {
            endpoint: endpoints::from_site_file(&required("endpoint")?)?,
            cacert: path("cacert")?,
            cert: path("cert")?,
            key: path("key")?,
            username: text("username")?,
            password_file: path("password-file")?,
            data_dir: required("data-dir")?.into(),
            config_file: path("config-file")?,
            bin_dir: path("bin-dir")?,
            service: service_in(document.get("service").ok_or("service is missing")?)?,
        };
        values.check_values()?;
        Ok(values)
    }

    fn check_values(&self) -> Result<(), String> {
        if self.cert.is_some() != self.key.is_some() {
            let (present, missing) = if self.cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            return Err(format!("{present} needs {missing}, which is missing"));
        }
        if !self.data_dir.is_absolute() {
            return Err(format!("data-dir must be an absolute path, not {}", self.data_dir.display()));
        }
        Ok(())
    }

    /// Refuses a file or a command in the site file that users other than root can change. Files that only etcd reads
    /// may also belong to the owner of the data, because that user can read and change all of etcd anyway.
    fn check_trust(&self) -> Result<(), Refusal> {
        let owner = self.owner_of_data();
        let files = [
            (&self.cacert, "the certificate"),
            (&self.cert, "the certificate"),
            (&self.key, "the certificate's key"),
            (&self.password_file, "the password file"),
            (&self.config_file, "etcd's configuration file"),
        ];
        for (file, what) in files {
            let Some(file) = file else { continue };
            match trust::check_for(owner, file) {
                // A missing file is reported when it is read.
                Err(distrust) if !distrust.is_missing() => return Err(self.refusal(&distrust, what)),
                _ => {}
            }
        }
        self.service.check_commands()
    }

    /// Returns the user that the data belongs to. If the data directory does not exist, that is the user that the
    /// service runs as.
    fn owner_of_data(&self) -> Option<u32> {
        let of_service = || Owner::named(&self.service.user()?).ok().flatten().map(|owner| owner.uid);
        std::fs::metadata(&self.data_dir).ok().map(|found| found.uid()).or_else(of_service)
    }

    /// Returns the refusal of a file that root or etcd's user may own. etcd itself must still be able to read it.
    fn refusal(&self, distrust: &Distrust, what: &str) -> Refusal {
        let refusal = distrust.refusal(what);
        if !distrust.is_of_another_owner() {
            return refusal;
        }
        let data = self.data_dir.display();
        let next = match self.data_dir.exists() {
            true => format!("sudo chown --reference={data} {}", distrust.culprit().display()),
            false => {
                format!("create {data} for the user that etcd runs as; that user or root may own the file")
            }
        };
        Refusal::new(refusal.reason, next)
    }

    /// Returns the directory of the write-ahead log in `options`, if it is not the one in the data directory.
    fn separate_log(&self, options: &Options) -> Option<Sourced<PathBuf>> {
        options.wal_dir(Path::new("/")).filter(|log| **log != self.data_dir.join("member/wal"))
    }

    fn into_site(self, file: &Path, password: Option<Sourced<Secret>>) -> Result<Site> {
        let origin = Origin::SiteFile(file.to_owned());
        let options = self.config_file.as_deref().and_then(|path| config_file_options(path, &origin));
        let wal_dir = options.as_ref().and_then(|options| self.separate_log(options));
        let config_file =
            self.config_file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let configured_member = options.as_ref().map(|options| initial_member(options, &config_file));
        Ok(Site {
            description: format!("the etcd in the site file {}", file.display()),
            pid: None,
            login: login(self.username, self.password_file, password)?,
            endpoint: Sourced::new(self.endpoint, origin.clone()),
            server_certificate: None,
            certificate_problems: CertificateProblems::default(),
            tls: Sourced::new(Tls { cacert: self.cacert, cert: self.cert, key: self.key }, origin.clone()),
            data_dir: Sourced::new(self.data_dir, origin.clone()),
            wal_dir,
            configured_member,
            configured_quota: options.as_ref().and_then(Quota::from_options),
            drift: None,
            choice: None,
            is_from_site_file: true,
            config_file: self.config_file.map(|path| Sourced::new(path, origin.clone())),
            tools: Sourced::new(Tools::find(self.bin_dir.as_deref())?, origin.clone()),
            service: Sourced::new(self.service, origin),
        })
    }
}

/// Returns the options in etcd's configuration file. A missing or broken file has no options.
fn config_file_options(path: &Path, origin: &Origin) -> Option<Options> {
    let file = Sourced::new(path.to_owned(), origin.clone());
    Options::from_config_file(file, &read_small_text(path).ok()?).ok()
}

fn text_in(section: &Value, key: &str) -> Result<Option<String>, String> {
    match section.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(format!("{key} must be one value, as in {key}: VALUE")),
    }
}

/// Returns the service in one of its three forms.
fn service_in(value: &Value) -> Result<Service, String> {
    let forms = || SERVICE_FORMS.to_owned();
    let Value::Mapping(entries) = value else {
        let unit = value.as_str().filter(|text| !text.is_empty() && !text.contains([' ', '/']));
        let hint = unit.map(|unit| format!(" (did you mean {{systemd: {unit}}}?)"));
        return Err(forms() + &hint.unwrap_or_default());
    };
    let keys: Vec<&str> = entries.keys().filter_map(Value::as_str).collect();
    if let Some(key) = keys.iter().find(|key| !["systemd", "static-pod", "start", "stop"].contains(key)) {
        let problem = unknown_key(key, &["systemd", "static-pod", "start", "stop"]);
        return Err(format!("in service, {problem}; {}", forms()));
    }
    let command = |key: &str| match value.get(key)? {
        Value::Sequence(words) => words.iter().map(|word| Some(word.as_str()?.to_owned())).collect(),
        _ => None,
    };
    match keys[..] {
        ["systemd"] => {
            let unit = text_in(value, "systemd").ok().flatten();
            Ok(Service::Systemd { systemd: unit.ok_or_else(forms)? })
        }
        ["static-pod"] => {
            let manifest = text_in(value, "static-pod").ok().flatten();
            Ok(Service::StaticPod { manifest: manifest.ok_or_else(forms)?.into() })
        }
        ["start", "stop"] | ["stop", "start"] => {
            let parts = |key: &str| {
                command(key)
                    .ok_or_else(|| format!("{key} must be a list of words, as in {key}: [/bin/{key}-etcd]"))
            };
            Ok(Service::Commands { start: parts("start")?, stop: parts("stop")? })
        }
        _ => Err(forms()),
    }
}

/// Describes an unknown key, and suggests the most similar known one.
fn unknown_key(key: &str, known: &[&str]) -> String {
    match did_you_mean(key, known.iter().copied()) {
        Some(known) => format!("unknown key {key} (did you mean {known}?)"),
        None => format!("unknown key {key}; the keys are {}", known.join(", ")),
    }
}

fn unusable(file: &Path, problem: &str) -> Refusal {
    let or = match file == Path::new(SITE_FILE) {
        true => ", or remove it to discover etcd",
        false => "",
    };
    let file = file.display();
    Refusal::new(format!("the site file {file} cannot be used: {problem}"), format!("correct {file}{or}"))
}

fn login(
    user: Option<String>,
    password_file: Option<PathBuf>,
    from_environment: Option<Sourced<Secret>>,
) -> Result<Option<Login>> {
    let Some(user) = user else { return Ok(None) };
    let Sourced { value: password, origin: password_origin } = match password_file {
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading the password file {}", path.display()))?;
            Sourced::new(Secret::new(text.trim_end_matches(['\r', '\n'])), Origin::PasswordFile(path))
        }
        None => from_environment.ok_or_else(|| {
            Refusal::new(
                format!("no password was given for the etcd user {user}"),
                "set password-file in the site file, or set ETCDCTL_PASSWORD",
            )
        })?,
    };
    Ok(Some(Login { user, password, password_origin }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "endpoint: http://127.0.0.1:1\ndata-dir: /d\n";

    #[test]
    fn a_service_is_a_unit_a_manifest_or_two_commands() {
        for (text, stop) in [
            ("{systemd: etcd.service}", "systemctl stop etcd.service"),
            ("{start: [run, it], stop: [end, it]}", "end it"),
            (
                "{static-pod: /k/manifests/etcd.yaml}",
                "mkdir -p /k/manifests-parked-by-restore && mv /k/manifests/etcd.yaml /k/manifests-parked-by-restore/",
            ),
        ] {
            let values = SiteFile::parse(&format!("{REST}service: {text}\n")).unwrap();
            assert_eq!(values.service.stop_command(), stop, "{text}");
        }
    }

    #[test]
    fn a_separate_log_is_read_from_the_configuration_file() {
        let site = SiteFile::parse(&format!("{REST}service: {{systemd: e}}\n")).unwrap();
        let log = |wal_dir: &str| {
            let file = Sourced::new("/etcd.yml".into(), Origin::SiteFile("/s".into()));
            let options = Options::from_config_file(file, &format!("wal-dir: {wal_dir}\n")).unwrap();
            site.separate_log(&options).map(|log| log.value)
        };
        assert_eq!(log("/log"), Some(PathBuf::from("/log")));
        assert_eq!(log("/d/member/wal"), None);
    }

    #[test]
    fn describes_mistakes_in_the_words_of_the_file() {
        for (text, problem) in [
            (
                "service: etcd\n",
                "or {start: [COMMAND, ...], stop: [COMMAND, ...]} (did you mean {systemd: etcd}?)",
            ),
            ("service: {pid: 1}\n", "in service, unknown key pid; the keys are systemd,"),
            ("service: {start: [a]}\n", "service must be {systemd: UNIT}, {static-pod: MANIFEST} or"),
            (
                "service: {start: [a], stop: kill 1}\n",
                "stop must be a list of words, as in stop: [/bin/stop-etcd]",
            ),
            ("service: {sytemd: e}\n", "unknown key sytemd (did you mean systemd?)"),
            ("service: {}\n", "service must be"),
            ("", "service is missing"),
            ("service: {systemd: e}\nendpoints: x\n", "unknown key endpoints (did you mean endpoint?)"),
            ("service: {systemd: e}\nca_cert: x\n", "unknown key ca_cert (did you mean cacert?)"),
            ("service: {systemd: e}\nquorum: x\n", "unknown key quorum; the keys are endpoint, cacert,"),
            ("service: {systemd: e}\ncert: /c\n", "cert needs key, which is missing"),
            ("service: {systemd: e}\ncacert: [a]\n", "cacert must be one value"),
            ("service: [\n", "line 4 column 1"),
        ] {
            let found = SiteFile::parse(&format!("{REST}{text}")).unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
            let types = ["struct", "enum", "variant", "sequence", "expected a"];
            assert!(types.iter().all(|word| !found.contains(word)), "{text:?}: {found}");
        }
        for (text, problem) in [
            ("- a\n", "lines of the form KEY: VALUE"),
            ("data-dir: /d\nservice: {systemd: e}\n", "endpoint is missing"),
            ("endpoint: a,b\ndata-dir: /d\nservice: {systemd: e}\n", "endpoint must be one URL"),
            ("endpoint: http://a\ndata-dir: d\nservice: {systemd: e}\n", "data-dir must be an absolute path"),
        ] {
            let found = SiteFile::parse(text).unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
        }
    }
}
