//! What an etcd was told, in the words of its own options: flags, variables, a configuration file.
//!
//! Reads text and never the machine. Which source wins is etcd's rule (etcd, server/etcdmain/config.go, `parse`): a flag
//! comes before its variable, an empty variable counts as none, and a configuration file replaces all flags and variables.

use super::InitialMember;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What tells etcd's variables from others.
const PREFIX: &str = "ETCD_";
/// The flags without a value of their own, as far as they matter here.
const SWITCHES: [&str; 2] = ["client-cert-auth", "auto-tls"];

/// What an etcd was told, as far as it matters to a client and to its data. Nothing here has a default yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub name: Option<String>,
    pub data_dir: Option<String>,
    pub wal_dir: Option<String>,
    pub listen_client_urls: Option<String>,
    pub advertise_client_urls: Option<String>,
    pub initial_advertise_peer_urls: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub trusted_ca_file: Option<String>,
    pub client_cert_auth: bool,
    pub auto_tls: bool,
    pub quota_backend_bytes: Option<String>,
}

/// The flags and variables that an etcd was started with: what was said, and in which words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told(BTreeMap<String, (String, String)>);

/// All that was said to one etcd, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub settings: Settings,
    /// The configuration file that says it all.
    pub config_file: Option<PathBuf>,
    told: Told,
}

impl Said {
    /// `settings` are those of `config_file` where there is one, else those that were `told`.
    pub fn new(told: Told, config_file: Option<PathBuf>, settings: Settings) -> Self {
        Self { settings, config_file, told }
    }

    /// Where the option `name` was said, in words.
    pub fn origin(&self, name: &str) -> String {
        let in_file = match name {
            "data-dir" => self.settings.data_dir.is_some(),
            "quota-backend-bytes" => self.settings.quota_backend_bytes.is_some(),
            "advertise-client-urls" => self.settings.advertise_client_urls.is_some(),
            _ => self.settings.listen_client_urls.is_some(),
        };
        match &self.config_file {
            Some(file) if in_file => format!("{name} in {}", file.display()),
            _ => self
                .told
                .0
                .get(name)
                .filter(|_| self.config_file.is_none())
                .map_or_else(|| "etcd's own default".to_owned(), |(_, words)| words.clone()),
        }
    }
}

impl Told {
    /// From the words after the program's name, and the environment.
    pub fn of<'a>(
        words: impl IntoIterator<Item = &'a str>,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let mut told: BTreeMap<_, _> = variables
            .filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)))
            .map(|(variable, name, value)| {
                let name = name.to_ascii_lowercase().replace('_', "-");
                (name, (value.to_owned(), format!("the variable {variable}")))
            })
            .collect();
        told.extend(flags(words).into_iter().map(|(name, value)| {
            let words = format!("the flag --{name}");
            (name, (value, words))
        }));
        Self(told)
    }

    /// With the file of every variable that was read from one; `files` has them by the variable's name.
    pub fn read_in(mut self, files: &BTreeMap<String, PathBuf>) -> Self {
        for (name, (_, words)) in &mut self.0 {
            let variable = format!("{PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"));
            if let Some(file) = files.get(&variable).filter(|_| words.starts_with("the variable")) {
                *words = format!("{words} in {}", file.display());
            }
        }
        self
    }

    /// The configuration file that replaces all else, if one is named.
    pub fn config_file(&self) -> Option<&str> {
        self.text("config-file")
    }

    /// What was told, where there is no configuration file.
    pub fn settings(&self) -> Settings {
        let text = |name| self.text(name).map(str::to_owned);
        Settings {
            name: text("name"),
            data_dir: text("data-dir"),
            wal_dir: text("wal-dir"),
            listen_client_urls: text("listen-client-urls"),
            advertise_client_urls: text("advertise-client-urls"),
            initial_advertise_peer_urls: text("initial-advertise-peer-urls"),
            cert_file: text("cert-file"),
            key_file: text("key-file"),
            trusted_ca_file: text("trusted-ca-file"),
            client_cert_auth: self.text("client-cert-auth").is_some_and(is_true),
            auto_tls: self.text("auto-tls").is_some_and(is_true),
            quota_backend_bytes: text("quota-backend-bytes"),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(text, _)| text.as_str()).filter(|text| !text.is_empty())
    }
}

/// Flags as Go's package `flag` takes them: `-name=value`, `-name value`, `-name` alone, each with one dash or two. A
/// word that is neither a flag nor a value ends them. Which of etcd's many flags are switches need not be known: a word
/// without a dash after a switch is an error to etcd, which then does not run.
fn flags<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { break };
        if flag.is_empty() {
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some(pair) => pair,
            None if SWITCHES.contains(&flag) => (flag, "true"),
            None => (flag, words.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
        };
        flags.insert(name.to_owned(), value.to_owned());
    }
    flags
}

/// What Go's `strconv.ParseBool` takes for true.
fn is_true(text: &str) -> bool {
    ["1", "t", "T", "true", "TRUE", "True"].contains(&text)
}

/// etcd's configuration file (etcd, server/embed/config.go, `configJSON` and `securityConfig`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct ConfigFile {
    name: Option<String>,
    data_dir: Option<String>,
    wal_dir: Option<String>,
    listen_client_urls: Option<String>,
    advertise_client_urls: Option<String>,
    initial_advertise_peer_urls: Option<String>,
    client_transport_security: Option<Security>,
    quota_backend_bytes: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Security {
    cert_file: Option<String>,
    key_file: Option<String>,
    trusted_ca_file: Option<String>,
    client_cert_auth: Option<bool>,
    auto_tls: Option<bool>,
}

impl Settings {
    /// From the text of a configuration file.
    pub fn of_file(text: &str) -> Result<Self, serde_yaml::Error> {
        // An empty document is a mapping with nothing in it, to etcd.
        let said: Option<ConfigFile> = serde_yaml::from_str(text)?;
        let said = said.unwrap_or_default();
        let security = said.client_transport_security.unwrap_or_default();
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        Ok(Self {
            name: text(said.name),
            data_dir: text(said.data_dir),
            wal_dir: text(said.wal_dir),
            listen_client_urls: text(said.listen_client_urls),
            advertise_client_urls: text(said.advertise_client_urls),
            initial_advertise_peer_urls: text(said.initial_advertise_peer_urls),
            cert_file: text(security.cert_file),
            key_file: text(security.key_file),
            trusted_ca_file: text(security.trusted_ca_file),
            client_cert_auth: security.client_cert_auth.unwrap_or_default(),
            auto_tls: security.auto_tls.unwrap_or_default(),
            quota_backend_bytes: said.quota_backend_bytes.map(|bytes| bytes.to_string()),
        })
    }

    /// Who the member is to be where it has no data. What kubelet has yet to fill in, as `$(POD_IP)`, says nothing.
    pub fn initial(&self) -> InitialMember {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.contains("$("));
        InitialMember { name: said(&self.name), peer_urls: said(&self.initial_advertise_peer_urls) }
    }

    /// The data directory of an etcd that runs in `cwd`: `NAME.etcd` where it was told none, `default.etcd` where it was
    /// told no name either.
    pub fn data_dir(&self, cwd: &Path) -> PathBuf {
        let name = self.name.as_deref().unwrap_or("default");
        match &self.data_dir {
            Some(dir) => cwd.join(dir),
            None => cwd.join(format!("{name}.etcd")),
        }
    }

    /// The directory of the write-ahead log, where it is not the one in `member`.
    pub fn wal_dir(&self, cwd: &Path) -> Option<PathBuf> {
        let dir = cwd.join(self.wal_dir.as_ref()?);
        (dir != self.data_dir(cwd).join("member/wal")).then_some(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[&str], variables: &[(&str, &str)]) -> Settings {
        Told::of(words.iter().copied(), variables.iter().copied()).settings()
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        for words in [
            &["--name=m1", "--client-cert-auth", "--data-dir", "/d"][..],
            &["-name", "m1", "-client-cert-auth=true", "-data-dir=/d"],
            &["--debug", "--name", "m0", "--name", "m1", "--data-dir=/d", "--client-cert-auth=T"],
            &["--data-dir=/d", "--name=m1", "--client-cert-auth", "--", "--name=m2"],
            &["--enable-v2=false", "--name=m1", "--data-dir=/d", "--client-cert-auth", "word", "--name=m2"],
        ] {
            let settings = told(words, &[]);
            assert_eq!(settings.name.as_deref(), Some("m1"), "{words:?}");
            assert_eq!(settings.data_dir.as_deref(), Some("/d"), "{words:?}");
            assert!(settings.client_cert_auth, "{words:?}");
        }
        assert!(!told(&["--client-cert-auth=false"], &[]).client_cert_auth);
        assert_eq!(told(&[], &[]), Settings::default());
    }

    #[test]
    fn a_flag_comes_before_its_variable_and_an_empty_variable_is_none() {
        let variables = [("ETCD_NAME", "v"), ("ETCD_DATA_DIR", ""), ("ETCD_WAL_DIR", "/w"), ("NAME", "x")];
        let settings = told(&["--name=f"], &variables);
        assert_eq!(settings.name.as_deref(), Some("f"));
        assert_eq!(settings.data_dir, None);
        assert_eq!(settings.wal_dir.as_deref(), Some("/w"));
        for (words, variable) in [(&["--config-file", "/c"][..], "/v"), (&[], "/c")] {
            let told = Told::of(words.iter().copied(), [("ETCD_CONFIG_FILE", variable)]);
            assert_eq!(told.config_file(), Some("/c"));
        }
    }

    #[test]
    fn where_a_setting_was_said_is_told() {
        let told = Told::of(["--data-dir=/d"], [("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")]);
        let said = Said::new(told.clone(), None, told.settings());
        assert_eq!(said.origin("data-dir"), "the flag --data-dir");
        assert_eq!(said.origin("listen-client-urls"), "the variable ETCD_LISTEN_CLIENT_URLS");
        let file = Settings::of_file("data-dir: /c\n").unwrap();
        let said = Said::new(told, Some("/c.yml".into()), file);
        assert_eq!(said.origin("data-dir"), "data-dir in /c.yml");
        assert_eq!(said.origin("listen-client-urls"), "etcd's own default");
    }

    #[test]
    fn a_configuration_file_is_read_as_etcd_reads_it() {
        let text = "name: etcd0\ndata-dir: /var/snap/etcd/current\nwal-dir:\nenable-v2: true\nquota-backend-bytes: 8589934592\n\
             initial-advertise-peer-urls: https://10.0.0.1:2380\n\
             listen-client-urls: https://10.0.0.1:2379,http://127.0.0.1:4001\nadvertise-client-urls: https://10.0.0.1:2379\n\
             client-transport-security:\n  cert-file: /c/server.crt\n  key-file: /c/server.key\n  \
             client-cert-auth: true\n  trusted-ca-file: /c/ca.crt\n  auto-tls: false\n";
        let expected = Settings {
            name: Some("etcd0".into()),
            data_dir: Some("/var/snap/etcd/current".into()),
            wal_dir: None,
            listen_client_urls: Some("https://10.0.0.1:2379,http://127.0.0.1:4001".into()),
            advertise_client_urls: Some("https://10.0.0.1:2379".into()),
            initial_advertise_peer_urls: Some("https://10.0.0.1:2380".into()),
            cert_file: Some("/c/server.crt".into()),
            key_file: Some("/c/server.key".into()),
            trusted_ca_file: Some("/c/ca.crt".into()),
            client_cert_auth: true,
            auto_tls: false,
            quota_backend_bytes: Some("8589934592".into()),
        };
        assert_eq!(Settings::of_file(text).unwrap(), expected);
        for empty in ["", "# nothing\n", "client-transport-security:\n", "wal-dir: ''\n"] {
            assert_eq!(Settings::of_file(empty).unwrap(), Settings::default(), "{empty:?}");
        }
        assert!(Settings::of_file("name: [").is_err());
    }

    #[test]
    fn who_a_member_is_to_be_is_what_was_said_and_not_what_is_yet_to_be_filled_in() {
        let of = |words: &[&str]| {
            let InitialMember { name, peer_urls } = told(words, &[]).initial();
            (name, peer_urls)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[]), (None, None));
        let said = ["--name=cp1", "--initial-advertise-peer-urls", "https://10.0.0.4:2380"];
        assert_eq!(of(&said), (some("cp1"), some("https://10.0.0.4:2380")));
        let waits = ["--name=cp1", "--initial-advertise-peer-urls=https://$(POD_IP):2380"];
        assert_eq!(of(&waits), (some("cp1"), None));
    }

    #[test]
    fn directories_have_etcds_own_defaults() {
        for (words, data, wal) in [
            (&[][..], "/home/default.etcd", None),
            (&["--name=m1"], "/home/m1.etcd", None),
            (&["--name=m1", "--data-dir=d", "--wal-dir=w"], "/home/d", Some("/home/w")),
            (&["--data-dir=/d", "--wal-dir=/d/member/wal"], "/d", None),
        ] {
            let (settings, cwd) = (told(words, &[]), Path::new("/home"));
            assert_eq!(settings.data_dir(cwd), Path::new(data), "{words:?}");
            assert_eq!(settings.wal_dir(cwd).as_deref(), wal.map(Path::new), "{words:?}");
        }
    }
}
