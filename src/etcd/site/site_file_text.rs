//! The site file, as this program writes it: for an operator to check, or for [`Site::to_site_file`].
//!
//! Must never contain a secret: other users may read it.

use super::client_certificates;
use super::endpoints;
use super::model::Site;
use super::options::Options;
use crate::error::Refusal;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The values of a site file, in its order.
struct Values<'a> {
    endpoint: &'a str,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    data_dir: PathBuf,
    config_file: Option<PathBuf>,
    bin_dir: PathBuf,
    service: &'a Service,
}

impl Site {
    /// Returns a site file that describes this etcd, so that it is found in the same way while it does not run.
    ///
    /// # Errors
    /// Refuses an etcd that no site file can describe. [`Site::to_site_file_draft`] can still be shown.
    pub fn to_site_file(&self) -> Result<String, Refusal> {
        if let Service::Unknown { pid } = &*self.service {
            return Err(Refusal::new(
                format!(
                    "the commands that start and stop etcd (pid {pid}) are not known, because no supervisor was found"
                ),
                format!(
                    "save the lines above as {SITE_FILE}, with these commands in place of START-COMMAND and STOP-COMMAND"
                ),
            ));
        }
        if let Some(log) = &self.wal_dir {
            return Err(Refusal::new(
                format!(
                    "etcd has its write-ahead log in {}, and a site file cannot describe that",
                    log.display()
                ),
                "use no site file: etcd is found without one",
            ));
        }
        Ok(self.to_site_file_draft())
    }

    /// Returns the lines of a site file for this etcd. What is not known has a placeholder in capital letters.
    pub fn to_site_file_draft(&self) -> String {
        let etcdctl = &self.tools.etcdctl;
        let login = self.login.as_ref().map(|login| {
            format!(
                "username: {}\n# password-file: /etc/etcd-backup/password   # mode 0600; or set ETCDCTL_PASSWORD\n",
                scalar(&login.user)
            )
        });
        let values = Values {
            endpoint: &self.endpoint,
            cacert: self.tls.cacert.clone(),
            cert: self.tls.cert.clone(),
            key: self.tls.key.clone(),
            data_dir: self.data_dir.value.clone(),
            config_file: self.config_file.as_ref().map(|file| file.value.clone()),
            bin_dir: etcdctl.parent().unwrap_or(etcdctl).to_owned(),
            service: &self.service,
        };
        values.lines() + &login.unwrap_or_default()
    }
}

impl Values<'_> {
    fn lines(self) -> String {
        let files = [
            ("cacert", self.cacert),
            ("cert", self.cert),
            ("key", self.key),
            ("data-dir", Some(self.data_dir)),
            ("config-file", self.config_file),
            ("bin-dir", Some(self.bin_dir)),
        ];
        let mut text = format!("endpoint: {}\n", scalar(self.endpoint));
        for (key, path) in files {
            if let Some(path) = path {
                let _ = writeln!(text, "{key}: {}", scalar(&path.display().to_string()));
            }
        }
        text + "service: " + &service_value(self.service) + "\n"
    }
}

/// Returns a service in the form of the site file.
fn service_value(service: &Service) -> String {
    let list = |words: &[String]| words.iter().map(|word| scalar(word)).collect::<Vec<_>>().join(", ");
    match service {
        Service::Systemd { systemd } => format!("{{systemd: {}}}", scalar(systemd)),
        Service::StaticPod { manifest } => {
            format!("{{static-pod: {}}}", scalar(&manifest.display().to_string()))
        }
        Service::Commands { start, stop } => format!("{{start: [{}], stop: [{}]}}", list(start), list(stop)),
        Service::Unknown { .. } => "{start: [START-COMMAND], stop: [STOP-COMMAND]}".to_owned(),
    }
}

/// Returns a site file for a process with these options, for an operator to check. Reads no file that the options name,
/// because the process is not trusted. With a program that is not safe to run, the file names `/usr/local/bin` instead.
pub(super) fn draft(
    options: &Options,
    cwd: &Path,
    program: &Path,
    service: &Service,
    is_safe_program: bool,
) -> String {
    let endpoint = endpoints::nearest(options, cwd).map(|url| url.value);
    let endpoint = endpoint.unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let tls = client_certificates::from_options(options, &endpoint, cwd).value;
    let bin_dir = match is_safe_program {
        true => program.parent().unwrap_or(Path::new("/")),
        false => Path::new("/usr/local/bin"),
    };
    let values = Values {
        endpoint: &endpoint,
        cacert: tls.cacert,
        cert: tls.cert,
        key: tls.key,
        data_dir: options.data_dir(cwd).value,
        config_file: options.config_file(cwd).map(|file| file.value),
        bin_dir: bin_dir.to_owned(),
        service,
    };
    values.lines()
}

/// Returns a YAML scalar. A user chose the text, so it is quoted unless it is plain.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-@".contains(c);
    let is_url = |rest: &str| rest.chars().all(|c| is_plain(c) || ":[]".contains(c));
    let is_word = || !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && !is_yaml_word(text);
    match ["http", "unix"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) if rest.contains("://") && is_url(rest) => text.to_owned(),
        _ if !text.is_empty() && text.chars().all(is_plain) && is_word() => text.to_owned(),
        _ => format!("{text:?}"),
    }
}

/// Returns whether YAML would not read the word as text.
fn is_yaml_word(text: &str) -> bool {
    ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "."]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::from_command;
    use super::super::site_file::SiteFile;
    use super::super::tests::site;
    use super::*;

    #[test]
    fn a_draft_can_be_saved_as_it_is() {
        let words =
            ["--data-dir=/tmp/d", "--listen-client-urls=https://0.0.0.0:9", "--cert-file=/tmp/a b.crt"];
        let options = from_command(&words, &[]);
        let program = Path::new("/tmp/x/etcd");
        for (is_safe, bin_dir) in [(true, "/tmp/x"), (false, "/usr/local/bin")] {
            let text = draft(&options, Path::new("/"), program, &Service::Unknown { pid: 42 }, is_safe);
            assert!(text.contains("\nservice: {start: [START-COMMAND], stop: [STOP-COMMAND]}\n"), "{text}");
            let values = SiteFile::parse(&text).unwrap();
            assert_eq!((&*values.endpoint, values.data_dir), ("https://127.0.0.1:9", "/tmp/d".into()));
            assert_eq!(values.cacert, Some("/tmp/a b.crt".into()));
            assert_eq!(values.bin_dir, Some(bin_dir.into()));
        }
        // A user chose these words.
        let sly = from_command(&["--data-dir=/d\nbin-dir: /tmp"], &[]);
        let text = draft(&sly, Path::new("/"), program, &Service::Unknown { pid: 42 }, true);
        assert_eq!(SiteFile::parse(&text).unwrap().data_dir, Path::new("/d\nbin-dir: /tmp"));
    }

    #[test]
    fn a_site_is_written_as_it_is_read() {
        let commands = Service::Commands {
            start: ["/bin/sh", "-c", "run: it # now", "7", "true"].map(str::to_owned).into(),
            stop: vec!["/bin/stop".to_owned()],
        };
        let pod = Service::StaticPod { manifest: "/etc/kubernetes/manifests/etcd.yaml".into() };
        for service in [Service::Systemd { systemd: "etcd@a.service".to_owned() }, commands, pod] {
            let mut site = site(Path::new("/var/lib/etcd data"), service.clone());
            site.endpoint.value = "unix:///run/etcd/client.sock:0".to_owned();
            site.tools.etcdctl = "/opt/3.5/etcdctl".into();
            let text = site.to_site_file().unwrap();
            let read = SiteFile::parse(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!((read.service, read.data_dir), (service, "/var/lib/etcd data".into()), "{text}");
            assert_eq!(
                (&*read.endpoint, read.bin_dir),
                ("unix:///run/etcd/client.sock:0", Some("/opt/3.5".into()))
            );
        }
        let unknown = site(Path::new("/d"), Service::Unknown { pid: 7 });
        assert!(unknown.to_site_file().unwrap_err().reason.contains("(pid 7) are not known"));
        assert!(unknown.to_site_file_draft().contains("START-COMMAND"));
    }
}
