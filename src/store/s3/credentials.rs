//! The access key of a bucket: from a file, from the environment, or of the machine's role.
//!
//! A secret is never printed, and never read from a file that other users can read.

use crate::error::Refusal;
use crate::store::cloud::http::describe_error;
use crate::store::cloud::metadata::{self, MetadataServices};
use crate::store::cloud::proxy::Proxies;
use crate::system::durable::read_small_text;
use crate::system::interrupt;
use crate::system::secret::Secret;
use crate::system::trust;
use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The most bytes read of a response. Responses are smaller than two kilobytes.
const MAX_METADATA: u64 = 64 << 10;

/// An access key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its id, which is not secret.
    pub access_key: String,
    /// The secret.
    pub secret: Secret,
    /// The token of a temporary key.
    pub token: Option<Secret>,
    /// When a temporary key expires.
    pub expires: Option<Timestamp>,
}

/// The variables about buckets. They were removed from the environment, so that child processes do not inherit them.
#[derive(Debug, Clone, Default)]
pub struct S3Environment {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub credentials: Option<Credentials>,
    /// The metadata services that are not at their usual address.
    pub metadata: MetadataServices,
    /// The proxies.
    pub proxies: Proxies,
}

/// The source of an access key.
#[derive(Debug, Clone)]
pub(super) enum CredentialSource {
    /// A file as Amazon's tools write it: `aws_access_key_id = …`.
    File(PathBuf),
    /// The environment of this process.
    Environment(Box<Credentials>),
    /// The role of the machine, from the metadata service at this URL.
    Role(String),
}

impl CredentialSource {
    /// Chooses the source for the destination `name`: its file, its role, or the environment.
    ///
    /// # Errors
    /// Refuses a destination with both a file and a role, and one with no source at all.
    pub fn choose(
        name: &str,
        file: Option<&Path>,
        role: bool,
        environment: &S3Environment,
    ) -> Result<Self, Refusal> {
        match (file, role, &environment.credentials) {
            (Some(_), true, _) => Err(Refusal::new(
                format!("destination {name} has both a credentials-file and an instance-role"),
                "remove one of them",
            )),
            (Some(file), false, _) => Ok(Self::File(file.to_owned())),
            (None, true, _) => Ok(Self::Role(environment.metadata.amazon_url())),
            (None, false, Some(credentials)) => Ok(Self::Environment(Box::new(credentials.clone()))),
            (None, false, None) => Err(Refusal::new(
                format!("destination {name} has no access key"),
                "set its credentials-file or instance-role: true, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )),
        }
    }

    /// Reads the access key as it is now.
    pub fn credentials(&self) -> Result<Credentials> {
        match self {
            Self::File(path) => read_file(path),
            Self::Environment(credentials) => Ok(credentials.as_ref().clone()),
            Self::Role(url) => {
                let fetched = fetch_role(url);
                interrupt::check()?;
                fetched.with_context(|| format!("reading the access key of this machine's role from {url}"))
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Credentials> {
    let refuse = |reason: &str, next: &str| {
        Refusal::new(format!("the credentials file {} {reason}", path.display()), next.to_owned())
    };
    let missing = "create it with mode 0600";
    trust::check_secret(path).map_err(|distrust| match distrust.is_missing() {
        true => refuse(&format!("cannot be used: {distrust}"), missing),
        false => distrust.refusal("the credentials file"),
    })?;
    let text = read_small_text(path).map_err(|error| refuse(&format!("cannot be read: {error}"), missing))?;
    let (access, secret) = ("aws_access_key_id", "aws_secret_access_key");
    match (value(&text, access), value(&text, secret)) {
        (Some(access_key), Some(secret)) => Ok(Credentials {
            access_key: access_key.to_owned(),
            secret: Secret::new(secret),
            token: value(&text, "aws_session_token").map(Secret::new),
            expires: None,
        }),
        _ => Err(refuse("lacks a key", &format!("write {access} = … and {secret} = … into it")).into()),
    }
}

/// Returns the value of `name` in the section `default` of an INI file, or in the first section if that does not exist.
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
        if let Some((key, value)) = line.split_once('=')
            && key.trim() == name
            && !value.trim().is_empty()
        {
            return Some(value.trim());
        }
    }
    None
}

/// Asks the metadata service, in its version 2: the token that it requires prevents request forgery.
fn fetch_role(url: &str) -> Result<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct RoleCredentials {
        access_key_id: String,
        secret_access_key: String,
        token: String,
        expiration: Timestamp,
    }
    let agent = metadata::agent();
    let base = format!("{url}/latest");
    let text = |response: Result<ureq::http::Response<ureq::Body>, ureq::Error>| -> Result<String> {
        let mut response = response.map_err(|error| anyhow!("{}", describe_error(&error).1))?;
        ensure!(response.status().is_success(), "it returned status {}", response.status().as_u16());
        Ok(response.body_mut().with_config().limit(MAX_METADATA).read_to_string()?)
    };
    let token = agent.put(format!("{base}/api/token")).header("x-aws-ec2-metadata-token-ttl-seconds", "300");
    let token = text(token.send_empty())?;
    let get = |path: &str| {
        let request = agent.get(format!("{base}/meta-data/iam/security-credentials/{path}"));
        text(request.header("x-aws-ec2-metadata-token", token.trim()).call())
    };
    let roles = get("")?;
    let role = roles.lines().next().map(str::trim).unwrap_or_default();
    // serde's own message may quote the document, which holds the secret.
    let credentials: RoleCredentials = serde_json::from_str(&get(role)?)
        .map_err(|_| anyhow!("the response for role {role:?} is not that of a metadata service"))?;
    Ok(Credentials {
        access_key: credentials.access_key_id,
        secret: Secret::new(credentials.secret_access_key),
        token: Some(Secret::new(credentials.token)),
        expires: Some(credentials.expiration),
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
        let found = read_file(&path).unwrap();
        assert_eq!((found.access_key.as_str(), found.secret.reveal()), ("AK", "canary="));
        assert!(found.token.is_none());
        assert!(!format!("{found:?}").contains("canary"));
    }

    #[test]
    fn the_default_profile_is_used_at_any_position() {
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
    fn refuses_a_file_that_others_can_read_or_without_a_key() {
        for (text, mode, why) in [
            ("aws_access_key_id=a\naws_secret_access_key=canary", 0o640, "users other than root can read it"),
            ("aws_access_key_id=a\naws_secret_access_key=", 0o600, "lacks a key"),
        ] {
            let (_home, path) = file(text, mode);
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        assert!(read_file(Path::new("/no/such")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_key_has_one_source() {
        let none = S3Environment::default();
        assert!(
            CredentialSource::choose("a", None, false, &none)
                .unwrap_err()
                .to_string()
                .contains("no access key")
        );
        assert!(CredentialSource::choose("a", Some(Path::new("/x")), true, &none).is_err());
        assert!(matches!(
            CredentialSource::choose("a", Some(Path::new("/x")), false, &none),
            Ok(CredentialSource::File(_))
        ));
        assert!(
            matches!(CredentialSource::choose("a", None, true, &none), Ok(CredentialSource::Role(at)) if at == "http://169.254.169.254")
        );
    }
}
