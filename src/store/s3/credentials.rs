//! Whose bucket it is: an access key from a file, from the environment, or of the machine's role.
//!
//! Must never show a secret, nor take one from a file that others can read.

use super::proxy::Proxies;
use crate::error::Refusal;
use crate::system::durable::read_small_text;
use crate::system::secret::Secret;
use crate::system::trust;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An access key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its id, which is no secret.
    pub access_key: String,
    /// The secret half.
    pub secret: Secret,
    /// The token of a session.
    pub token: Option<Secret>,
    /// When a role's ends.
    pub expires: Option<Timestamp>,
}

/// What the environment has of it, taken out of sight of all others.
#[derive(Debug, Clone, Default)]
pub struct FromEnvironment {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub credentials: Option<Credentials>,
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT`, where a machine's role is asked for elsewhere than usual.
    pub metadata: Option<String>,
    /// The ways out of the machine.
    pub proxies: Proxies,
}

/// Where an access key comes from.
#[derive(Debug, Clone)]
pub enum Login {
    /// A file as Amazon's tools have it: `aws_access_key_id = …`, read anew for every run.
    File(PathBuf),
    /// The environment of this run.
    Given(Box<Credentials>),
    /// The role of the machine, asked of the metadata service at this URL.
    Role(String),
}

/// The metadata service of Amazon's machines.
const METADATA: &str = "http://169.254.169.254";
/// It is on the machine's own link: what takes longer is not there.
const PATIENCE: Duration = Duration::from_secs(3);
/// An answer of it is under two kilobytes.
const LONGEST: u64 = 64 << 10;

impl Login {
    /// Where the key of destination `name` comes from: its file, or the environment, or its role where it has one.
    pub fn choose(
        name: &str,
        file: Option<&Path>,
        role: bool,
        found: &FromEnvironment,
    ) -> Result<Self, Refusal> {
        match (file, role, &found.credentials) {
            (Some(_), true, _) => Err(Refusal::new(
                format!("destination {name} names a credentials-file and an instance-role"),
                "leave one of them out",
            )),
            (Some(file), false, _) => Ok(Self::File(file.to_owned())),
            (None, true, _) => Ok(Self::Role(found.metadata.clone().unwrap_or_else(|| METADATA.to_owned()))),
            (None, false, Some(given)) => Ok(Self::Given(Box::new(given.clone()))),
            (None, false, None) => Err(Refusal::new(
                format!("there is no access key for destination {name}"),
                "name a credentials-file, write instance-role: true, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )),
        }
    }

    /// The key as it is now.
    pub fn credentials(&self) -> Result<Credentials> {
        match self {
            Self::File(path) => from_file(path),
            Self::Given(given) => Ok(given.as_ref().clone()),
            Self::Role(metadata) => of_role(metadata)
                .with_context(|| format!("asking {metadata} for the key of this machine's role")),
        }
    }
}

fn from_file(path: &Path) -> Result<Credentials> {
    let no = |why: &str, next: &str| {
        Refusal::new(format!("the credentials file {} {why}", path.display()), next.to_owned())
    };
    let missing = "put it there, mode 0600";
    trust::check_secret(path).map_err(|distrust| match distrust.is_missing() {
        true => no(&format!("cannot be used: {distrust}"), missing),
        false => distrust.refusal("the credentials file"),
    })?;
    let text = read_small_text(path).map_err(|error| no(&format!("cannot be read: {error}"), missing))?;
    let (access, secret) = ("aws_access_key_id", "aws_secret_access_key");
    match (value(&text, access), value(&text, secret)) {
        (Some(access_key), Some(secret)) => Ok(Credentials {
            access_key: access_key.to_owned(),
            secret: Secret::new(secret),
            token: value(&text, "aws_session_token").map(Secret::new),
            expires: None,
        }),
        _ => Err(no("lacks a key", &format!("write {access} = … and {secret} = … into it")).into()),
    }
}

/// The value of `name` in the section `default` of an INI file, or in the first of one that has no such section.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let is_default = |line: &str| line.trim_start_matches('[').trim_end_matches(']').trim() == "default";
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let default = lines.iter().position(|line| line.starts_with('[') && is_default(line));
    let mut sections = 0;
    for line in lines.into_iter().skip(default.unwrap_or(0)) {
        sections += usize::from(line.starts_with('['));
        if sections > 1 {
            return None;
        }
        if let Some((found, value)) = line.split_once('=')
            && found.trim() == name
            && !value.trim().is_empty()
        {
            return Some(value.trim());
        }
    }
    None
}

/// Version 2 of the service: a token first, so that nobody can be tricked into asking.
fn of_role(metadata: &str) -> Result<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Role {
        access_key_id: String,
        secret_access_key: String,
        token: String,
        expiration: Timestamp,
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .build()
        .into();
    let base = format!("{}/latest", metadata.trim_end_matches('/'));
    let said = |answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>| -> Result<String> {
        let mut answer = answer.map_err(|error| super::wire::words(&error))?;
        Ok(answer.body_mut().with_config().limit(LONGEST).read_to_string()?)
    };
    let token = agent.put(format!("{base}/api/token")).header("x-aws-ec2-metadata-token-ttl-seconds", "300");
    let token = said(token.send_empty())?;
    let ask = |path: &str| {
        said(
            agent
                .get(format!("{base}/meta-data/iam/security-credentials/{path}"))
                .header("x-aws-ec2-metadata-token", token.trim())
                .call(),
        )
    };
    let roles = ask("")?;
    let role = roles.lines().next().map(str::trim).unwrap_or_default();
    // What serde says of a document may quote it.
    let role: Role = serde_json::from_str(&ask(role)?)
        .map_err(|_| anyhow::anyhow!("the answer for role {role:?} is not the one of a metadata service"))?;
    Ok(Credentials {
        access_key: role.access_key_id,
        secret: Secret::new(role.secret_access_key),
        token: Some(Secret::new(role.token)),
        expires: Some(role.expiration),
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("credentials");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (home, path)
    }

    #[test]
    fn a_file_is_read_as_amazons_tools_read_it() {
        let text = "[default]\naws_access_key_id = AK\naws_secret_access_key=canary=\n[other]\naws_session_token=x\n";
        let (_home, path) = file(text, 0o600);
        let found = from_file(&path).unwrap();
        assert_eq!((found.access_key.as_str(), found.secret.reveal()), ("AK", "canary="));
        assert!(found.token.is_none());
        assert!(!format!("{found:?}").contains("canary"));
    }

    #[test]
    fn the_profile_is_the_default_one_wherever_it_stands() {
        let of =
            |name: &str, key: &str| format!("[{name}]\naws_access_key_id={key}\naws_secret_access_key=s\n");
        for (text, key) in [
            (of("other", "O") + &of("default", "D"), "D"),
            (of("default", "D") + &of("other", "O"), "D"),
            (of("other", "O") + &of("third", "T"), "O"),
            ("aws_access_key_id=N\naws_secret_access_key=s\n".to_owned(), "N"),
        ] {
            assert_eq!(value(&text, "aws_access_key_id"), Some(key), "{text}");
        }
        assert_eq!(value(&(of("other", "O") + "[default]\n"), "aws_access_key_id"), None);
    }

    #[test]
    fn a_file_for_others_or_without_a_key_is_refused() {
        for (text, mode, why) in [
            ("aws_access_key_id=a\naws_secret_access_key=canary", 0o640, "users other than root can read it"),
            ("aws_access_key_id=a\naws_secret_access_key=", 0o600, "lacks a key"),
        ] {
            let (_home, path) = file(text, mode);
            let error = from_file(&path).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        assert!(from_file(Path::new("/no/such")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_key_comes_from_one_place() {
        let none = FromEnvironment::default();
        assert!(Login::choose("a", None, false, &none).unwrap_err().to_string().contains("no access key"));
        assert!(Login::choose("a", Some(Path::new("/x")), true, &none).is_err());
        assert!(matches!(Login::choose("a", Some(Path::new("/x")), false, &none), Ok(Login::File(_))));
        assert!(matches!(Login::choose("a", None, true, &none), Ok(Login::Role(at)) if at == METADATA));
    }
}
