//! Recipients and identities: who can open what, and with what.

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

/// What a recipient begins with, as bech32 counts it.
const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
/// And an identity.
const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// A public key that archives are encrypted for. Nothing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Recipient(pub(super) [u8; 32]);

impl FromStr for Recipient {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(80).collect();
        // Somebody may have taken the one for the other: it must not be shown.
        ensure!(
            !text.to_ascii_lowercase().contains("secret"),
            "a recipient begins with age1, and this is a secret key"
        );
        let key = decoded(RECIPIENT, text).with_context(|| {
            format!("{shown:?} is no recipient of age: give the line age1… that age-keygen shows")
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

/// The secret keys of an identity file. Its `Debug` tells only how many.
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
    /// Those in the file at `path`, as `age-keygen` writes it. Refuses a file that others could read or write.
    pub fn read(path: &Path) -> Result<Self, Refusal> {
        let shown = path.display().to_string();
        let no = |why: &str, next: &str| {
            Refusal::new(format!("the identity file {shown} cannot be used: {why}"), next.to_owned())
        };
        let mend = "give the file that age-keygen wrote";
        if !path.is_absolute() {
            return Err(no("it is not an absolute path", "give its whole path"));
        }
        check_secret(path).map_err(|distrust| match distrust.is_missing() {
            true => no(&distrust.to_string(), mend),
            false => distrust.refusal("the identity file"),
        })?;
        let text = read_small_text(path).map_err(|error| no(&error.to_string(), mend))?;
        let keys = parse(&text).map_err(|error| no(&format!("{error:#}"), mend))?;
        Ok(Self { keys, shown })
    }

    /// Those written in `text`, which `shown` is the name of.
    pub fn parse(text: &str, shown: &str) -> Result<Self> {
        Ok(Self { keys: parse(text)?, shown: shown.to_owned() })
    }

    /// The name of their file.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The recipients that they are the secrets of.
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
        "it is encrypted itself, by a passphrase: decrypt it first, age -d FILE"
    );
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines
        .map(|line| match decoded(IDENTITY, line) {
            Ok(key) => Ok(StaticSecret::from(key)),
            // Whatever stands there instead may be a secret of another kind.
            Err(_) => bail!("a line of it is no AGE-SECRET-KEY-1…"),
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(!keys.is_empty(), "there is no AGE-SECRET-KEY-1… in it");
    Ok(keys)
}

fn decoded(kind: Hrp, text: &str) -> Result<[u8; 32]> {
    let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(checked.hrp() == kind, "it is of another kind");
    let bytes: Vec<u8> = checked.byte_iter().collect();
    bytes.try_into().map_err(|_| anyhow::anyhow!("it is not 32 bytes long"))
}
