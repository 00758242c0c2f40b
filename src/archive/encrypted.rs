//! Archives that are encrypted, and what to say where they cannot be opened.

use super::age::{Closed, Decrypting, Identities, MAGIC};
use super::error_tracker::ErrorTracker;
use super::format_error::{FormatError, NotASnapshot};
use crate::archive::damage::{Damage, Layer};
use crate::error::Refusal;
use anyhow::Result;
use std::fmt;
use std::io::Read;

/// Marks the error of an archive that could not be opened because the right identity is missing: it may be a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotDecrypt {
    /// Whom it is encrypted for, and what the given identity opens: the end of a sentence about the archive.
    pub why: String,
    /// What to type next.
    pub next: String,
}

impl fmt::Display for CannotDecrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("opening the archive")
    }
}

/// Refuses the archive `source` at once if it is encrypted and these `identities` do not open it. `encrypted_for` is whom it
/// is said to be for. Reads no more than its beginning.
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

/// Says for whom an archive is encrypted that was given no identity.
pub fn no_identity_given(shown: &str, encrypted_for: &[String]) -> anyhow::Error {
    locked(
        shown,
        format!("is encrypted for {}", whom(encrypted_for)),
        "give the identity to one of them: identity-file=PATH, a file that age-keygen wrote, root's alone (chmod 600)",
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
            let whose: Vec<String> = identities.recipients().iter().map(ToString::to_string).collect();
            let (whom, whose) = (whom(encrypted_for), whose.join(", "));
            let why =
                format!("is encrypted for {whom}, and {} opens what is for {whose}", identities.shown());
            locked(shown, why, "give the identity that it is for: identity-file=PATH")
        }
        Closed::Passphrase => {
            locked(shown, "is encrypted by a passphrase".to_owned(), "decrypt it and try again: age -d")
        }
        Closed::Flawed(FormatError::Altered(detail)) => {
            Damage::Framing { layer: Layer::Age, detail }.of(shown).into()
        }
        Closed::Flawed(FormatError::Hostile(what) | FormatError::Foreign(what)) => NotASnapshot::refused(
            Refusal::new(format!("{shown} {what}"), "decrypt it with the tool that made it"),
        ),
    })
}

fn locked(shown: &str, why: String, next: &str) -> anyhow::Error {
    let refusal = Refusal::new(format!("{shown} {why}"), next);
    anyhow::Error::from(refusal).context(CannotDecrypt { why, next: next.to_owned() })
}

fn whom(encrypted_for: &[String]) -> String {
    match encrypted_for {
        [] => "recipients that are not told, for there is no manifest beside it".to_owned(),
        named => named.join(", "),
    }
}
