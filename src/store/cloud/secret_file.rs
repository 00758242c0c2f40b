//! Files that contain the access to a storage service.
//!
//! Must never read one that users other than root can change, or put its content into a message. Other users can read
//! only those files that another program replaces.

use super::token_answer::is_token;
use crate::error::Refusal;
use crate::system::durable::read_small_text;
use crate::system::secret::Secret;
use crate::system::trust::{self, Distrust};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A file with a secret.
pub(in crate::store) struct SecretFile<'a> {
    pub path: &'a Path,
    /// Its name in messages, such as `the key file`.
    pub what: &'static str,
    /// What it must contain, such as `a key of the storage account`.
    pub content: &'static str,
}

impl SecretFile<'_> {
    /// Returns the refusal of a file that contains something else.
    pub fn invalid_content(&self) -> Refusal {
        self.refuse(
            &format!("does not contain {}", self.content),
            format!("write only {} into it", self.content),
        )
    }

    fn refuse(&self, reason: &str, next: String) -> Refusal {
        Refusal::new(format!("{} {} {reason}", self.what, self.path.display()), next)
    }
}

/// Reads a file with a secret.
///
/// # Errors
/// Refuses a file that other users can read, or that does not exist.
pub(in crate::store) fn read_secret(file: &SecretFile<'_>) -> Result<Secret, Refusal> {
    let next = format!("create it with mode 0600 and {} in it", file.content);
    read(file, trust::check_secret(file.path), &next)
}

/// Reads the token of this workload from a file, called `what` in messages. Another program replaces it before the token
/// ends. Kubernetes gives it mode 0644, unless the pod sets a user.
///
/// # Errors
/// Refuses a file that other users can change, that does not exist, or that contains something else.
pub(in crate::store) fn read_token(path: &Path, what: &'static str) -> Result<Secret, Refusal> {
    let file = SecretFile { path, what, content: "the token of a workload" };
    let next = format!("ls -l {}; the program that provides {} must write it", path.display(), file.content);
    let text = read(&file, trust::check(path), &next)?;
    let token = text.reveal().trim();
    if is_token(token) { Ok(Secret::new(token)) } else { Err(file.invalid_content()) }
}

fn read(file: &SecretFile<'_>, checked: Result<PathBuf, Distrust>, next: &str) -> Result<Secret, Refusal> {
    checked.map_err(|distrust| match distrust.is_missing() {
        true => file.refuse(&format!("cannot be used: {distrust}"), next.to_owned()),
        false => distrust.refusal(file.what),
    })?;
    let text = read_small_text(file.path);
    text.map(Secret::new).map_err(|error| file.refuse(&format!("cannot be read: {error}"), next.to_owned()))
}
