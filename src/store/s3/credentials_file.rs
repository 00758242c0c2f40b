//! The file with an access key, in the format of Amazon's tools: `aws_access_key_id = …`.
//!
//! A secret is never printed, and never read from a file that other users can read.

use super::credentials::Credentials;
use crate::error::Refusal;
use crate::system::durable::read_small_text;
use crate::system::secret::Secret;
use crate::system::trust;
use std::path::Path;

/// Reads the access key in a file as it is now.
///
/// # Errors
/// Refuses a file that other users can read, and one without a key.
pub(super) fn read_file(path: &Path) -> Result<Credentials, Refusal> {
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
        }),
        _ => Err(refuse("lacks a key", &format!("write {access} = … and {secret} = … into it"))),
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

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
}
