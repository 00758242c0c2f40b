//! Archives that are encrypted, and what to say where they cannot be opened.

use super::age::{Closed, Decrypting, Identities, MAGIC};
use super::flaw::Flaw;
use crate::stop::Refusal;
use anyhow::{Context, Result};
use std::fmt;
use std::io::Read;

/// Marks the error of an archive that could not be opened because the right identity is missing: it may be a good one.
#[derive(Debug, Clone, Copy)]
pub struct Locked;

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("opening the archive")
    }
}

/// Refuses the archive `source` at once if it is encrypted and these `identities` do not open it. `encrypted_for` is whom it
/// is said to be for. Reads no more than its beginning.
pub fn must_open(
    mut source: impl Read,
    shown: &str,
    identities: Option<&Identities>,
    encrypted_for: &[String],
) -> Result<()> {
    let mut head = Vec::new();
    Read::by_ref(&mut source)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)
        .with_context(|| format!("reading {shown}"))?;
    if head == MAGIC.as_bytes() {
        opened(&mut head.chain(source), shown, identities, encrypted_for)?;
    }
    Ok(())
}

/// Says for whom an archive is encrypted that was given no identity.
pub fn without_identity(shown: &str, encrypted_for: &[String]) -> anyhow::Error {
    locked(
        format!("{shown} is encrypted for {}", whom(encrypted_for)),
        "give the identity to one of them: identity-file=PATH, a file that age-keygen wrote, root's alone (chmod 600)",
    )
}

pub(super) fn opened<'a>(
    source: &'a mut dyn Read,
    shown: &str,
    identities: Option<&Identities>,
    encrypted_for: &[String],
) -> Result<Decrypting<&'a mut dyn Read>> {
    let Some(identities) = identities else { return Err(without_identity(shown, encrypted_for)) };
    Decrypting::open(source, identities).map_err(|closed| match closed {
        Closed::NotForThese => {
            let whose: Vec<String> = identities.recipients().iter().map(ToString::to_string).collect();
            let (whom, whose) = (whom(encrypted_for), whose.join(", "));
            let reason = format!(
                "{shown} is encrypted for {whom}, and {} opens what is for {whose}",
                identities.shown()
            );
            locked(reason, "give the identity that it is for: identity-file=PATH")
        }
        Closed::Passphrase => {
            locked(format!("{shown} is encrypted by a passphrase"), "decrypt it and try again: age -d")
        }
        Closed::Flawed(Flaw::Altered(how)) => altered(shown, &how).into(),
        Closed::Flawed(Flaw::Hostile(what) | Flaw::Foreign(what)) => {
            Refusal::new(format!("{shown} {what}"), "decrypt it with the tool that made it").into()
        }
    })
}

fn locked(reason: String, next: &str) -> anyhow::Error {
    anyhow::Error::from(Refusal::new(reason, next)).context(Locked)
}

fn whom(encrypted_for: &[String]) -> String {
    match encrypted_for {
        [] => "recipients that are not told, for there is no manifest beside it".to_owned(),
        named => named.join(", "),
    }
}

pub(super) fn altered(shown: &str, how: &str) -> Refusal {
    Refusal::new(format!("{shown} is cut short or altered: {how}"), "fetch it again and compare its sha256")
}
