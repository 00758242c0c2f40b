//! Provenance: every value of the site has an origin.
//!
//! Must never decide anything: an origin is for messages, and for the setting that a person would have to change.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

/// The origin of a value of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The site file at this path.
    SiteFile(PathBuf),
    /// A flag on etcd's command line.
    Flag {
        /// The flag's name, without dashes.
        name: String,
        /// The launcher that supplied the command line.
        launcher: Launcher,
    },
    /// A variable in etcd's environment.
    Variable {
        /// The variable's name.
        name: String,
        /// The launcher that supplied the environment.
        launcher: Launcher,
        /// The file that the launcher reads the variable from, if there is one.
        file: Option<PathBuf>,
    },
    /// An option in etcd's configuration file.
    ConfigFile {
        /// The option's name.
        option: String,
        /// The file.
        path: PathBuf,
    },
    /// etcd's default.
    Default,
    /// A running process.
    Process(i32),
    /// A systemd unit.
    Unit(String),
    /// The manifest of a static pod.
    StaticPod(PathBuf),
    /// The files that a package, kubeadm or a charm keeps in this directory.
    Directory(PathBuf),
    /// A password file that the site file names.
    PasswordFile(PathBuf),
    /// A variable in the environment of this program.
    Environment(&'static str),
    /// One URL of several, chosen because the server's certificate does not name the nearest host.
    NamedByCertificate {
        /// The origin of the URL.
        url: Box<Origin>,
        /// The server's certificate.
        certificate: PathBuf,
        /// The host that it does not name.
        missing: String,
    },
}

/// The process or supervisor that supplied an etcd's command line and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launcher {
    /// Unknown; the process runs.
    Process(i32),
    /// A systemd unit.
    Unit(String),
    /// kubelet, by the manifest of a static pod.
    StaticPod(PathBuf),
}

impl From<Launcher> for Origin {
    fn from(launcher: Launcher) -> Self {
        match launcher {
            Launcher::Process(pid) => Self::Process(pid),
            Launcher::Unit(unit) => Self::Unit(unit),
            Launcher::StaticPod(manifest) => Self::StaticPod(manifest),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SiteFile(path) => write!(f, "the site file {}", path.display()),
            Self::Flag { name, launcher: Launcher::Process(pid) } => {
                write!(f, "the flag --{name} on the command line of process {pid}")
            }
            Self::Flag { name, launcher } => write!(f, "the flag --{name} in {launcher}"),
            Self::Variable { name, file: Some(file), .. } => {
                write!(f, "the variable {name} in {}", file.display())
            }
            Self::Variable { name, launcher: Launcher::Process(pid), .. } => {
                write!(f, "the variable {name} in the environment of process {pid}")
            }
            Self::Variable { name, launcher, .. } => write!(f, "the variable {name} in {launcher}"),
            Self::ConfigFile { option, path } => write!(f, "{option} in {}", path.display()),
            Self::Default => f.write_str("etcd's default"),
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Unit(unit) => f.write_str(unit),
            Self::StaticPod(manifest) => write!(f, "the static pod {}", manifest.display()),
            Self::Directory(path) => write!(f, "the files in {}", path.display()),
            Self::PasswordFile(path) => write!(f, "the password file {}", path.display()),
            Self::Environment(variable) => write!(f, "the environment variable {variable}"),
            Self::NamedByCertificate { url, certificate, missing } => {
                write!(f, "{url}; {} does not name {missing}", certificate.display())
            }
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Origin::from(self.clone()).fmt(f)
    }
}

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// Returns `value` with its origin.
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// Returns another value of the same origin.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced { value: change(self.value), origin: self.origin }
    }
}

impl<T> Deref for Sourced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Sourced<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Display> fmt::Display for Sourced<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_names_what_to_look_at() {
        let unit = || Launcher::Unit("etcd.service".into());
        let flag = |launcher| Origin::Flag { name: "data-dir".into(), launcher };
        let variable = |launcher, file| Origin::Variable { name: "ETCD_DATA_DIR".into(), launcher, file };
        for (origin, text) in [
            (flag(Launcher::Process(812)), "the flag --data-dir on the command line of process 812"),
            (flag(unit()), "the flag --data-dir in etcd.service"),
            (
                flag(Launcher::StaticPod("/k/e.yaml".into())),
                "the flag --data-dir in the static pod /k/e.yaml",
            ),
            (
                variable(Launcher::Process(812), None),
                "the variable ETCD_DATA_DIR in the environment of process 812",
            ),
            (variable(unit(), None), "the variable ETCD_DATA_DIR in etcd.service"),
            (
                variable(unit(), Some("/etc/default/etcd".into())),
                "the variable ETCD_DATA_DIR in /etc/default/etcd",
            ),
            (Origin::SiteFile("/s.yaml".into()), "the site file /s.yaml"),
            (Origin::Default, "etcd's default"),
        ] {
            assert_eq!(origin.to_string(), text);
        }
    }
}
