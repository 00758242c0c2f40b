//! Opens encrypted archives, and explains why one cannot be decrypted.

use super::age::{Closed, Decrypting, Identities, MAGIC};
use super::error_tracker::ErrorTracker;
use super::format_error::{FormatError, NotASnapshot};
use crate::archive::damage::{Damage, Layer};
use crate::error::Refusal;
use anyhow::Result;
use std::fmt;
use std::io::Read;

/// Marks the error of an archive that cannot be decrypted with the given identities. The archive may be intact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotDecrypt {
    /// The recipients of the archive and of the given identity: the end of a sentence about the archive.
    pub why: String,
    /// The next step, a clause without a full stop.
    pub next: String,
}

impl fmt::Display for CannotDecrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("decrypting the archive")
    }
}

/// Checks that an archive is not encrypted, or that `identities` decrypt it. Reads only the beginning of `source`.
/// `encrypted_for` lists the recipients that the archive's sidecar names.
///
/// # Errors
/// [`CannotDecrypt`] if no identity fits; also fails if `source` cannot be read or its header is damaged.
pub fn check_decryptable(
    source: impl Read,
    shown: &str,
    identities: Option<&Identities>,
    encrypted_for: &[String],
) -> Result<()> {
    let watch = ErrorTracker::default();
    let mut source = watch.file(source, None);
    let mut open = || {
        let mut head = Vec::new();
        Read::by_ref(&mut source).take(MAGIC.len() as u64).read_to_end(&mut head)?;
        if head == MAGIC.as_bytes() {
            opened(&mut head.chain(&mut source), shown, identities, encrypted_for)?;
        }
        Ok(())
    };
    let outcome = open();
    watch.outcome(shown, outcome)
}

/// Returns the error of an encrypted archive if no identity was given.
pub fn no_identity_given(shown: &str, encrypted_for: &[String]) -> anyhow::Error {
    refuse(
        shown,
        format!("is encrypted for {}", describe_recipients(encrypted_for)),
        "give the identity of one of them: identity-file=PATH, a file that age-keygen wrote and only root can read (chmod 600)",
    )
}

pub(super) fn opened<'a>(
    source: &'a mut dyn Read,
    shown: &str,
    identities: Option<&Identities>,
    encrypted_for: &[String],
) -> Result<Decrypting<&'a mut dyn Read>> {
    let Some(identities) = identities else { return Err(no_identity_given(shown, encrypted_for)) };
    Decrypting::open(source, identities).map_err(|closed| match closed {
        Closed::NotForThese => {
            let own: Vec<String> = identities.recipients().iter().map(ToString::to_string).collect();
            let (recipients, own) = (describe_recipients(encrypted_for), own.join(", "));
            let why =
                format!("is encrypted for {recipients}, but {} is the identity of {own}", identities.shown());
            refuse(shown, why, "give the identity of one of its recipients: identity-file=PATH")
        }
        Closed::Passphrase => {
            refuse(shown, "is encrypted with a passphrase".to_owned(), "decrypt it and try again: age -d")
        }
        Closed::Flawed(FormatError::Altered(detail)) => {
            Damage::Framing { layer: Layer::Age, detail }.of(shown).into()
        }
        Closed::Flawed(FormatError::Hostile(what) | FormatError::Unsupported(what)) => NotASnapshot::refused(
            Refusal::new(format!("{shown} {what}"), "decrypt it with the tool that made it"),
        ),
    })
}

fn refuse(shown: &str, why: String, next: &str) -> anyhow::Error {
    let refusal = Refusal::new(format!("{shown} {why}"), next);
    anyhow::Error::from(refusal).context(CannotDecrypt { why, next: next.to_owned() })
}

fn describe_recipients(encrypted_for: &[String]) -> String {
    match encrypted_for {
        [] => "unknown recipients (its sidecar file is missing)".to_owned(),
        named => named.join(", "),
    }
}
