//! The options that an etcd server was given: by flags, by variables, or by a configuration file.
//!
//! Reads text and never the machine. Which source wins is etcd's rule (etcd, server/etcdmain/config.go, `parse`): a
//! flag comes before its variable, an empty variable counts as missing, and a configuration file replaces all flags and
//! variables.

use super::origin::{Launcher, Origin, Sourced};
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The prefix of etcd variables.
const PREFIX: &str = "ETCD_";
/// The flags that need no value, as far as they are read here.
const SWITCHES: [&str; 2] = ["client-cert-auth", "auto-tls"];
/// The options in a configuration file, as far as they are read here (etcd, server/embed/config.go, `configJSON`).
const IN_FILE: [&str; 10] = [
    "name",
    "initial-cluster",
    "discovery",
    "discovery-srv",
    "data-dir",
    "wal-dir",
    "listen-client-urls",
    "advertise-client-urls",
    "initial-advertise-peer-urls",
    "quota-backend-bytes",
];
/// The section of a configuration file for TLS (`securityConfig`). Its options have the names of the flags.
const TLS_SECTION: &str = "client-transport-security";
const IN_TLS_SECTION: [&str; 5] =
    ["cert-file", "key-file", "trusted-ca-file", "client-cert-auth", "auto-tls"];

/// The options of one etcd server, by their names. An option that is missing has etcd's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    values: BTreeMap<String, Sourced<String>>,
    /// The configuration file that all of them are from, if there is one.
    config_file: Option<Sourced<PathBuf>>,
}

/// A configuration file that could not be read.
#[derive(Debug)]
pub(super) struct BadConfigFile {
    pub path: PathBuf,
    pub problem: String,
}

impl Options {
    /// Returns the options in `words`, the words after the program's name, and in the environment `variables`.
    pub fn from_command<'a>(
        words: impl IntoIterator<Item = &'a str>,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
        launcher: &Launcher,
    ) -> Self {
        let mut values = BTreeMap::new();
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { continue };
            let origin =
                Origin::Variable { name: variable.to_owned(), launcher: launcher.clone(), file: None };
            let option = name.to_ascii_lowercase().replace('_', "-");
            values.insert(option, Sourced::new(value.to_owned(), origin));
        }
        for (name, value) in flags(words) {
            let origin = Origin::Flag { name: name.clone(), launcher: launcher.clone() };
            values.insert(name, Sourced::new(value, origin));
        }
        Self { values, config_file: None }
    }

    /// Records which file each variable was read from. `files` has the files by the variables' names.
    pub fn with_environment_files(mut self, files: &BTreeMap<String, PathBuf>) -> Self {
        for value in self.values.values_mut() {
            if let Origin::Variable { name, file, .. } = &mut value.origin {
                *file = files.get(name).cloned();
            }
        }
        self
    }

    /// Returns the configuration file that these options name, or are from. `cwd` is etcd's working directory.
    pub fn config_file(&self, cwd: &Path) -> Option<Sourced<PathBuf>> {
        self.config_file.clone().or_else(|| Some(self.get("config-file")?.clone().map(|path| cwd.join(path))))
    }

    /// Returns the options that etcd uses: those in the configuration file if one is named, else these.
    ///
    /// # Errors
    /// `read` cannot read the file, or etcd could not parse it.
    pub fn resolve(
        self,
        cwd: &Path,
        read: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<Self, BadConfigFile> {
        let Some(file) = self.config_file(cwd) else { return Ok(self) };
        let bad = |problem| BadConfigFile { path: file.value.clone(), problem };
        let text = read(&file.value).map_err(|error| bad(error.to_string()))?;
        Self::from_config_file(file.clone(), &text).map_err(bad)
    }

    /// Returns the options in the `text` of a configuration file.
    ///
    /// # Errors
    /// The text is not YAML, or an option does not have exactly one value. The error names the option.
    pub fn from_config_file(file: Sourced<PathBuf>, text: &str) -> Result<Self, String> {
        let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        // To etcd, an empty document is one without options.
        if !document.is_mapping() && !document.is_null() {
            return Err("it is not a list of options, each as `NAME: VALUE`".to_owned());
        }
        let tls = document.get(TLS_SECTION).unwrap_or(&Value::Null);
        if !tls.is_mapping() && !tls.is_null() {
            return Err(format!("{TLS_SECTION} must contain options, each as `NAME: VALUE`"));
        }
        let places = IN_FILE.map(|name| (name, &document)).into_iter();
        let mut values = BTreeMap::new();
        for (name, section) in places.chain(IN_TLS_SECTION.map(|name| (name, tls))) {
            let Some(text) = scalar(name, section.get(name))? else { continue };
            let origin = Origin::ConfigFile { option: name.to_owned(), path: file.value.clone() };
            values.insert(name.to_owned(), Sourced::new(text, origin));
        }
        Ok(Self { values, config_file: Some(file) })
    }

    /// Returns the option `name` if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&Sourced<String>> {
        self.values.get(name).filter(|value| !value.is_empty())
    }

    /// Returns the text of the option `name` if it is set and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(|value| value.as_str())
    }

    /// Returns the origin of the option `name`.
    pub fn origin(&self, name: &str) -> Origin {
        self.get(name).map_or(Origin::Default, |value| value.origin.clone())
    }

    /// Returns the path in the option `name`, with its origin. A relative path is relative to `cwd`.
    pub fn path(&self, name: &str, cwd: &Path) -> Option<Sourced<PathBuf>> {
        Some(self.get(name)?.clone().map(|path| cwd.join(path)))
    }

    /// Returns whether the switch `name` is on. The true values are those of `strconv.ParseBool` in Go.
    pub fn is_on(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| ["1", "t", "T", "true", "TRUE", "True"].contains(&text))
    }

    /// Returns the data directory of an etcd that runs in `cwd`. etcd's default is `NAME.etcd`, and `default.etcd`
    /// without a name.
    pub fn data_dir(&self, cwd: &Path) -> Sourced<PathBuf> {
        self.path("data-dir", cwd).unwrap_or_else(|| {
            let name = self.text("name").unwrap_or("default");
            Sourced::new(cwd.join(format!("{name}.etcd")), Origin::Default)
        })
    }

    /// Returns the directory of the write-ahead log if it is not the one in `member`.
    pub fn wal_dir(&self, cwd: &Path) -> Option<Sourced<PathBuf>> {
        let usual = self.data_dir(cwd).join("member/wal");
        self.path("wal-dir", cwd).filter(|dir| **dir != usual)
    }
}

/// Returns the value of an option in a configuration file as text.
fn scalar(name: &str, value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Value::Bool(on)) => Ok(Some(on.to_string())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(format!("{name} must have one value")),
    }
}

/// Returns the flags in `words` as Go's package `flag` reads them: `-name=value`, `-name value`, `-name` alone, each
/// with one dash or two. Any other word ends them. The list of switches need not be complete: etcd does not start if a
/// word without a dash follows a switch.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The options of process 42 with these flags and variables.
    pub fn from_command(words: &[&str], variables: &[(&str, &str)]) -> Options {
        Options::from_command(words.iter().copied(), variables.iter().copied(), &Launcher::Process(42))
    }

    /// The options in the text of `/c.yml`.
    pub fn from_file(text: &str) -> Result<Options, String> {
        Options::from_config_file(Sourced::new("/c.yml".into(), Origin::Process(42)), text)
    }

    #[test]
    fn reads_flags_as_go_does() {
        for words in [
            &["--name=m1", "--client-cert-auth", "--data-dir", "/d"][..],
            &["-name", "m1", "-client-cert-auth=true", "-data-dir=/d"],
            &["--debug", "--name", "m0", "--name", "m1", "--data-dir=/d", "--client-cert-auth=T"],
            &["--data-dir=/d", "--name=m1", "--client-cert-auth", "--", "--name=m2"],
            &["--enable-v2=false", "--name=m1", "--data-dir=/d", "--client-cert-auth", "word", "--name=m2"],
        ] {
            let options = from_command(words, &[]);
            assert_eq!(options.text("name"), Some("m1"), "{words:?}");
            assert_eq!(options.text("data-dir"), Some("/d"), "{words:?}");
            assert!(options.is_on("client-cert-auth"), "{words:?}");
        }
        assert!(!from_command(&["--client-cert-auth=false"], &[]).is_on("client-cert-auth"));
        assert_eq!(from_command(&[], &[]), Options::default());
    }

    #[test]
    fn a_flag_overrides_its_variable_and_an_empty_variable_is_ignored() {
        let variables = [("ETCD_NAME", "v"), ("ETCD_DATA_DIR", ""), ("ETCD_WAL_DIR", "/w"), ("NAME", "x")];
        let options = from_command(&["--name=f"], &variables);
        assert_eq!(options.text("name"), Some("f"));
        assert_eq!(options.text("data-dir"), None);
        assert_eq!(options.text("wal-dir"), Some("/w"));
        for (words, variable) in [(&["--config-file", "/c"][..], "/v"), (&[], "/c")] {
            let options = from_command(words, &[("ETCD_CONFIG_FILE", variable)]);
            assert_eq!(options.config_file(Path::new("/")).unwrap().value, Path::new("/c"));
        }
    }

    #[test]
    fn every_option_knows_where_it_was_set() {
        let words = ["--data-dir=/d", "--config-file=/c.yml"];
        let options = from_command(&words, &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")]);
        let origin = |options: &Options, name| options.origin(name).to_string();
        assert_eq!(origin(&options, "data-dir"), "the flag --data-dir on the command line of process 42");
        assert_eq!(
            origin(&options, "listen-client-urls"),
            "the variable ETCD_LISTEN_CLIENT_URLS in the environment of process 42"
        );
        let options = options.resolve(Path::new("/"), |_| Ok("data-dir: /c\n".to_owned())).unwrap();
        assert_eq!(origin(&options, "data-dir"), "data-dir in /c.yml");
        assert_eq!(origin(&options, "listen-client-urls"), "etcd's default");
    }

    #[test]
    fn reads_a_configuration_file_as_etcd_does() {
        let text = "name: etcd0\ndata-dir: /var/snap/etcd/current\nwal-dir:\nenable-v2: true\nquota-backend-bytes: 8589934592\n\
             initial-advertise-peer-urls: https://10.0.0.1:2380\n\
             listen-client-urls: https://10.0.0.1:2379,http://127.0.0.1:4001\nadvertise-client-urls: https://10.0.0.1:2379\n\
             client-transport-security:\n  cert-file: /c/server.crt\n  key-file: /c/server.key\n  \
             client-cert-auth: true\n  trusted-ca-file: /c/ca.crt\n  auto-tls: false\n";
        let options = from_file(text).unwrap();
        for (name, value) in [
            ("name", Some("etcd0")),
            ("data-dir", Some("/var/snap/etcd/current")),
            ("wal-dir", None),
            ("listen-client-urls", Some("https://10.0.0.1:2379,http://127.0.0.1:4001")),
            ("advertise-client-urls", Some("https://10.0.0.1:2379")),
            ("initial-advertise-peer-urls", Some("https://10.0.0.1:2380")),
            ("cert-file", Some("/c/server.crt")),
            ("key-file", Some("/c/server.key")),
            ("trusted-ca-file", Some("/c/ca.crt")),
            ("quota-backend-bytes", Some("8589934592")),
        ] {
            assert_eq!(options.text(name), value, "{name}");
        }
        assert!(options.is_on("client-cert-auth") && !options.is_on("auto-tls"));
        for empty in ["", "# nothing\n", "client-transport-security:\n", "wal-dir: ''\n"] {
            assert!(from_file(empty).unwrap().values.is_empty(), "{empty:?}");
        }
    }

    #[test]
    fn a_broken_configuration_file_is_described_without_types_of_rust() {
        for (text, problem) in [
            ("name: [", "line 2 column 1"),
            ("- name\n", "it is not a list of options"),
            ("name: [a, b]\n", "name must have one value"),
            ("client-transport-security: yes, please\n", "client-transport-security must contain options"),
        ] {
            let found = from_file(text).unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
        }
    }

    #[test]
    fn directories_have_the_defaults_of_etcd() {
        for (words, data, wal) in [
            (&[][..], "/home/default.etcd", None),
            (&["--name=m1"], "/home/m1.etcd", None),
            (&["--name=m1", "--data-dir=d", "--wal-dir=w"], "/home/d", Some("/home/w")),
            (&["--data-dir=/d", "--wal-dir=/d/member/wal"], "/d", None),
        ] {
            let (options, cwd) = (from_command(words, &[]), Path::new("/home"));
            assert_eq!(options.data_dir(cwd).value, Path::new(data), "{words:?}");
            assert_eq!(options.wal_dir(cwd).map(|dir| dir.value), wal.map(PathBuf::from), "{words:?}");
        }
    }
}
