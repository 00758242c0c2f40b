//! Recipients (public keys) and identities (secret keys).

use crate::error::Refusal;
use crate::system::durable::read_small_text;
use crate::system::trust::check_secret;
use anyhow::{Context, Result, bail, ensure};
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use serde::Deserialize;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use x25519_dalek::{PublicKey, StaticSecret};

/// The bech32 prefix of a recipient.
const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
/// The bech32 prefix of an identity.
const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// A public key that archives are encrypted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Recipient(pub(super) [u8; 32]);

impl FromStr for Recipient {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(80).collect();
        // A secret key given by mistake must not be printed.
        ensure!(
            !text.to_ascii_lowercase().contains("secret"),
            "a recipient begins with age1, but this is a secret key"
        );
        let key = decoded(RECIPIENT, text).with_context(|| {
            format!("{shown:?} is not an age recipient: give the line age1… that age-keygen prints")
        })?;
        Ok(Self(key))
    }
}

impl TryFrom<String> for Recipient {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error:#}"))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bech32::encode::<Bech32>(RECIPIENT, &self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// The secret keys of an identity file. Its `Debug` shows only their number.
#[derive(Clone)]
pub struct Identities {
    keys: Vec<StaticSecret>,
    shown: String,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.keys.len())
    }
}

impl Identities {
    /// Reads an identity file as `age-keygen` writes it.
    ///
    /// # Errors
    /// Refuses a file that other users can read or write, or that contains no identity.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        let shown = path.display().to_string();
        let no = |why: &str, next: &str| {
            Refusal::new(format!("the identity file {shown} cannot be used: {why}"), next.to_owned())
        };
        let next = "give the file that age-keygen wrote";
        if !path.is_absolute() {
            return Err(no("it is not an absolute path", "give its absolute path"));
        }
        check_secret(path).map_err(|distrust| match distrust.is_missing() {
            true => no(&distrust.to_string(), next),
            false => distrust.refusal("the identity file"),
        })?;
        let text = read_small_text(path).map_err(|error| no(&error.to_string(), next))?;
        let keys = parse(&text).map_err(|error| no(&format!("{error:#}"), next))?;
        Ok(Self { keys, shown })
    }

    /// Parses identities. `shown` is the name of their file in messages.
    ///
    /// # Errors
    /// Fails if `text` contains no identity, or a line that is not an identity.
    pub fn parse(text: &str, shown: &str) -> Result<Self> {
        Ok(Self { keys: parse(text)?, shown: shown.to_owned() })
    }

    /// Returns the name of their file.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the recipients of these identities.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.keys.iter().map(|key| Recipient(PublicKey::from(key).to_bytes())).collect()
    }

    pub(super) fn keys(&self) -> &[StaticSecret] {
        &self.keys
    }
}

fn parse(text: &str) -> Result<Vec<StaticSecret>> {
    ensure!(
        !text.starts_with("age-encryption.org/") && !text.starts_with("-----BEGIN AGE"),
        "it is encrypted with a passphrase: decrypt it first, age -d FILE"
    );
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines
        .map(|line| match decoded(IDENTITY, line) {
            Ok(key) => Ok(StaticSecret::from(key)),
            // The line may be another kind of secret, so it is not printed.
            Err(_) => bail!("it has a line that is not AGE-SECRET-KEY-1…"),
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(!keys.is_empty(), "it contains no AGE-SECRET-KEY-1…");
    Ok(keys)
}

fn decoded(kind: Hrp, text: &str) -> Result<[u8; 32]> {
    let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(checked.hrp() == kind, "it is another kind of key");
    let bytes: Vec<u8> = checked.byte_iter().collect();
    bytes.try_into().map_err(|_| anyhow::anyhow!("it is not 32 bytes long"))
}
