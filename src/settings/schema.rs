//! The keys of a settings file, the kinds of their values, and the messages for mistakes in them.
//!
//! serde's own messages name Rust types and quote values, so a document is checked here before serde reads it. A test compares
//! the keys with those that serde accepts. Must never put a value that may be a secret into a message.

use crate::error::did_you_mean;
use crate::schedule::parse_seconds;
use serde_yaml::Value;
use std::path::{Component, Path};

/// The kind of a value.
enum Kind {
    /// Anything but a mapping or a list.
    Scalar,
    /// An absolute path, such as this one. The directory that a command or a timer starts in must not matter.
    Path(&'static str),
    /// An absolute path, or this word.
    PathOr(&'static str),
    /// A whole number.
    Count,
    /// A whole number with a unit, such as this one.
    Amount(&'static str),
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of words, such as this one.
    List(&'static str),
    /// A list of absolute paths, such as this one.
    Paths(&'static str),
    /// A mapping with known keys.
    Keys(&'static Keys),
    /// A mapping from names to mappings.
    Named(&'static Keys),
}

/// A mapping with known keys.
struct Keys {
    /// The kind of the mapping in messages, with its article.
    name: &'static str,
    /// A mapping that is valid.
    example: &'static str,
    /// The required keys.
    required: &'static [&'static str],
    known: &'static [(&'static str, Kind)],
}

const ROOT: Keys = Keys {
    name: "a mapping",
    example: "{keep: {last: 7}}",
    required: &[],
    known: &[
        ("keep", Kind::Keys(&KEEP)),
        ("destinations", Kind::Named(&DESTINATION)),
        ("schedule", Kind::Keys(&SCHEDULE)),
        ("metrics", Kind::Path("/var/lib/prometheus/node-exporter")),
        ("hooks", Kind::Keys(&HOOKS)),
        ("encrypt-to", Kind::List("[age1…]")),
        ("include", Kind::Paths("[/etc/kubernetes/pki]")),
    ],
};

const KEEP: Keys = Keys {
    name: "a list of rules",
    example: "{last: 7}",
    required: &[],
    known: &[
        ("last", Kind::Count),
        ("within", Kind::Amount("30d")),
        ("hourly", Kind::Count),
        ("daily", Kind::Count),
        ("weekly", Kind::Count),
        ("monthly", Kind::Count),
        ("max-size", Kind::Amount("50G")),
        ("labels", Kind::List("[keep=forever]")),
    ],
};

const DESTINATION: Keys = Keys {
    name: "a mapping with s3, azure, google or directory",
    example: "{directory: /mnt/backups}",
    required: &[],
    known: &[
        ("s3", Kind::Keys(&S3)),
        ("azure", Kind::Keys(&AZURE)),
        ("google", Kind::Keys(&GOOGLE)),
        ("directory", Kind::Path("/mnt/backups")),
        ("mount", Kind::PathOr("none")),
        ("keep", Kind::Keys(&KEEP)),
    ],
};

const S3: Keys = Keys {
    name: "a mapping",
    example: "{bucket: NAME}",
    required: &["bucket"],
    known: &[
        ("endpoint", Kind::Scalar),
        ("region", Kind::Scalar),
        ("bucket", Kind::Scalar),
        ("folder", Kind::Scalar),
        ("style", Kind::Choice(&["path", "host"])),
        ("ca", Kind::Path("/etc/ssl/minio.pem")),
        ("credentials-file", Kind::Path("/etc/etcd-backup/credentials")),
        ("instance-role", Kind::Flag),
        ("web-identity-token-file", Kind::Path("/var/run/secrets/eks.amazonaws.com/serviceaccount/token")),
        ("role-arn", Kind::Scalar),
        ("role-session-name", Kind::Scalar),
        ("sts-endpoint", Kind::Scalar),
        ("encryption", Kind::Choice(&["s3", "kms"])),
        ("kms-key", Kind::Scalar),
        ("proxy", Kind::Scalar),
        ("allow-http", Kind::Flag),
        ("stall-timeout", Kind::Scalar),
    ],
};

const AZURE: Keys = Keys {
    name: "a mapping",
    example: "{account: NAME, container: NAME, key-file: /etc/etcd-backup/azure-key}",
    required: &["account", "container"],
    known: &[
        ("account", Kind::Scalar),
        ("container", Kind::Scalar),
        ("folder", Kind::Scalar),
        ("endpoint", Kind::Scalar),
        ("key-file", Kind::Path("/etc/etcd-backup/azure-key")),
        ("sas-file", Kind::Path("/etc/etcd-backup/azure-sas")),
        ("managed-identity", Kind::Flag),
        ("federated-token-file", Kind::Path("/var/run/secrets/azure/tokens/azure-identity-token")),
        ("client-id", Kind::Scalar),
        ("tenant-id", Kind::Scalar),
        ("authority-host", Kind::Scalar),
        ("ca", Kind::Path("/etc/ssl/azure.pem")),
        ("proxy", Kind::Scalar),
        ("allow-http", Kind::Flag),
        ("stall-timeout", Kind::Scalar),
    ],
};

const GOOGLE: Keys = Keys {
    name: "a mapping",
    example: "{bucket: NAME, credentials-file: /etc/etcd-backup/google.json}",
    required: &["bucket"],
    known: &[
        ("bucket", Kind::Scalar),
        ("folder", Kind::Scalar),
        ("credentials-file", Kind::Path("/etc/etcd-backup/google.json")),
        ("instance-service-account", Kind::Flag),
        ("endpoint", Kind::Scalar),
        ("ca", Kind::Path("/etc/ssl/google.pem")),
        ("proxy", Kind::Scalar),
        ("allow-http", Kind::Flag),
        ("stall-timeout", Kind::Scalar),
    ],
};

const SCHEDULE: Keys = Keys {
    name: "a mapping",
    example: "{when: every 12h}",
    required: &["when"],
    known: &[
        ("when", Kind::Scalar),
        ("zone", Kind::Scalar),
        ("jitter", Kind::Scalar),
        ("retries", Kind::Count),
        ("retry-after", Kind::Scalar),
        ("target", Kind::Path("/var/backups/etcd")),
        ("site", Kind::Scalar),
        ("compression", Kind::Scalar),
        ("skip-unchanged", Kind::Scalar),
    ],
};

const HOOKS: Keys = Keys {
    name: "a mapping",
    example: "{before: /usr/local/bin/before-backup}",
    required: &[],
    known: &[
        ("before", Kind::Path("/usr/local/bin/before-backup")),
        ("after", Kind::Path("/usr/local/bin/after-backup")),
        ("failure", Kind::Path("/usr/local/bin/failed-backup")),
        ("timeout", Kind::Scalar),
    ],
};

/// A mistake in a settings file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The keys that lead to it, from the top.
    pub path: Vec<String>,
    /// The message: a clause without a full stop that names the key.
    pub message: String,
}

/// Returns the first mistake in a document, if the keys or the kinds of their values show one.
pub(super) fn find_mistake(document: &Value) -> Option<Mistake> {
    ROOT.find(document, &[])
}

impl Keys {
    fn find(&self, value: &Value, path: &[String]) -> Option<Mistake> {
        let mapping = match value {
            Value::Null => return None,
            Value::Mapping(mapping) => mapping,
            _ => return Some(self.not_a_mapping(value, path)),
        };
        for (key, value) in mapping {
            let Some(name) = key.as_str() else {
                return Some(mistake(path, format!("{} has a key that is not text", shown(path))));
            };
            let path = [path, &[name.to_owned()]].concat();
            let Some((_, kind)) = self.known.iter().find(|(known, _)| *known == name) else {
                return Some(self.unknown(name, value, &path));
            };
            let found = kind.find(value, &path);
            if found.is_some() {
                return found;
            }
        }
        let missing = self.required.iter().find(|key| !mapping.contains_key(**key))?;
        let message = format!("{} has no {missing}, for example {}", shown(path), self.example);
        Some(mistake(path, message))
    }

    fn not_a_mapping(&self, value: &Value, path: &[String]) -> Mistake {
        let (shown, key) = (shown(path), path.last().map_or("", String::as_str));
        let meant = match (key, value) {
            ("keep", Value::Number(number)) => Some(format!("{{last: {number}}}")),
            ("keep", Value::String(age)) => parse_seconds(age).map(|_| format!("{{within: {age}}}")),
            ("schedule", Value::String(span)) => {
                parse_seconds(span).map(|_| format!("{{when: every {span}}}"))
            }
            _ => None,
        };
        mistake(
            path,
            match meant {
                Some(meant) => format!("{shown} must be {}: did you mean {key}: {meant}?", self.name),
                None if path.is_empty() => format!("{shown} must be {}, such as {}", self.name, self.example),
                None => format!("{shown} must be {}, such as {key}: {}", self.name, self.example),
            },
        )
    }

    fn unknown(&self, key: &str, value: &Value, path: &[String]) -> Mistake {
        let known: Vec<&str> = self.known.iter().map(|(known, _)| *known).collect();
        let has = |wanted: &str| known.contains(&wanted);
        let meant = match (key, value) {
            ("every", Value::String(span)) if has("when") && parse_seconds(span).is_some() => {
                Some(format!("when: every {span}"))
            }
            _ => did_you_mean(key, known.iter().copied()).map(str::to_owned),
        };
        let hint = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("the keys here are {}", known.join(", ")),
        };
        mistake(path, format!("unknown key {}: {hint}", shown(path)))
    }
}

impl Kind {
    fn find(&self, value: &Value, path: &[String]) -> Option<Mistake> {
        let (shown, key) = (shown(path), path.last().map_or("", String::as_str));
        let must = |what: String| Some(mistake(path, format!("{shown} must be {what}")));
        match (self, value) {
            (_, Value::Null) => None,
            (Self::Keys(keys), value) => keys.find(value, path),
            (Self::Named(keys), Value::Mapping(mapping)) => {
                mapping.iter().find_map(|(name, value)| match name.as_str() {
                    Some(name) => keys.find(value, &[path, &[name.to_owned()]].concat()),
                    None => Some(mistake(path, format!("{shown} has a name that is not text"))),
                })
            }
            (Self::Named(keys), _) => {
                must(format!("a mapping from names, such as {key}: {{offsite: {}}}", keys.example))
            }
            (Self::List(_), Value::Sequence(items)) if items.iter().all(Value::is_string) => None,
            (Self::List(example), _) => must(format!("a list of texts, such as {key}: {example}")),
            (Self::Paths(_), Value::Sequence(items))
                if items.iter().all(|item| item.as_str().is_some_and(is_plain_path)) =>
            {
                None
            }
            (Self::Paths(example), _) => {
                must(format!("a list of absolute paths without .., such as {key}: {example}"))
            }
            (Self::Count, Value::Number(number)) if number.is_u64() => None,
            (Self::Count, _) => must(format!("a whole number, such as {key}: 7")),
            (Self::Amount(_), Value::String(_)) => None,
            (Self::Amount(_), Value::Number(number)) if number.is_u64() => None,
            (Self::Amount(example), _) => {
                must(format!("a whole number with its unit, such as {key}: {example}"))
            }
            (Self::Flag, Value::Bool(_)) => None,
            (Self::Flag, _) => must("true or false".to_owned()),
            (Self::Choice(words), value) => {
                let word = value.as_str().unwrap_or_default();
                if words.contains(&word) { None } else { must(words.join(" or ")) }
            }
            (Self::PathOr(word), Value::String(text)) if text == word => None,
            (Self::Path(_) | Self::PathOr(_), Value::String(text)) if is_plain_path(text) => None,
            (Self::Path(example), _) => {
                must(format!("an absolute path without .., such as {key}: {example}"))
            }
            (Self::PathOr(word), _) => must(format!("an absolute path without .., or {word}")),
            (Self::Scalar, Value::Mapping(_) | Value::Sequence(_) | Value::Tagged(_)) => {
                must("a single value".to_owned())
            }
            (Self::Scalar, _) => None,
        }
    }
}

/// Returns whether the text is an absolute path that leads straight down.
fn is_plain_path(text: &str) -> bool {
    let path = Path::new(text);
    let is_plain = |part| !matches!(part, Component::ParentDir);
    path.is_absolute() && path.components().all(is_plain) && !text.contains(char::is_control)
}

fn mistake(path: &[String], message: String) -> Mistake {
    Mistake { path: path.to_vec(), message }
}

/// Formats a path, such as `destinations.offsite.s3`.
fn shown(path: &[String]) -> String {
    match path {
        [] => "the file".to_owned(),
        path => path.iter().map(|key| key.escape_debug().to_string()).collect::<Vec<_>>().join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::destinations::Destination;
    use crate::inventory::retention::Policy;
    use crate::schedule::{Hooks, Schedule};
    use crate::settings::Settings;
    use crate::store::azure::AzureConfig;
    use crate::store::google::GoogleConfig;
    use crate::store::s3::S3Config;
    use serde::de::DeserializeOwned;

    /// The keys that serde accepts, from its message about one that it does not.
    fn accepted<T: DeserializeOwned>() -> Vec<String> {
        let error = serde_yaml::from_str::<T>("{no-such-key: 1}").err().unwrap().to_string();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_keys_are_those_that_serde_accepts() {
        for (keys, accepted) in [
            (&ROOT, accepted::<Settings>()),
            (&KEEP, accepted::<Policy>()),
            (&DESTINATION, accepted::<Destination>()),
            (&S3, accepted::<S3Config>()),
            (&AZURE, accepted::<AzureConfig>()),
            (&GOOGLE, accepted::<GoogleConfig>()),
            (&SCHEDULE, accepted::<Schedule>()),
            (&HOOKS, accepted::<Hooks>()),
        ] {
            let known: Vec<&str> = keys.known.iter().map(|(key, _)| *key).collect();
            assert_eq!(known, accepted);
        }
    }
}
