//! An archive streamed out of its store and unpacked as it comes.
//!
//! Must never call an archive broken because something else was: a disk that fails, a network that is down.

use super::Found;
use crate::archive::age::Identities;
use crate::archive::{self, Contents, Limits};
use crate::catalog::entry::Entry;
use crate::catalog::outside::is_encrypted;
use crate::progress::Tell;
use crate::stop::Refusal;
use anyhow::{Context, Result};
use std::cell::Cell;
use std::io::{self, Read, Write};

/// Unpacks all of `found` into `out`. Of its errors, the refusals are what is wrong with the archive, or what `limits` say.
pub fn unpack(found: &Found, out: &mut dyn Write, limits: &Limits<'_>, tell: Tell<'_>) -> Result<Contents> {
    let (entry, shown) = (&found.entry, found.entry.location());
    must_open(found, limits.identities)?;
    let limits = Limits { encrypted_for: &entry.encrypted_for, ..*limits };
    let trouble = Cell::new(None);
    let source = Watched { source: found.place.store.read(&entry.name)?, trouble: &trouble };
    let outcome = archive::unpack(source, entry.size, &shown, out, &limits, tell);
    match trouble.take() {
        Some(error) => Err(error).with_context(|| format!("reading {shown}")),
        None => outcome,
    }
}

/// Refuses an encrypted archive where there is nothing to open it with, before a byte of it is fetched.
pub fn must_open(found: &Found, identities: Option<&Identities>) -> Result<()> {
    let entry = &found.entry;
    match identities {
        None if is_encrypted(&entry.name) => {
            Err(archive::without_identity(&entry.location(), &entry.encrypted_for))
        }
        _ => Ok(()),
    }
}

/// Refuses an archive that is another file than when it was last verified.
pub fn was_verified_as(entry: &Entry, sha256: &str) -> Result<(), Refusal> {
    match &entry.record.sha256 {
        Some(known) if known != sha256 => Err(Refusal::new(
            format!(
                "{} is another file than when it was last verified: its sha256 was another",
                entry.location()
            ),
            "restore another snapshot",
        )),
        _ => Ok(()),
    }
}

/// Where an archive comes from: keeps the error of a disk or a network, which must not be taken for the archive's.
struct Watched<'a> {
    source: Box<dyn Read + Send>,
    trouble: &'a Cell<Option<io::Error>>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.trouble.set(Some(error));
            }
            kind.into()
        })
    }
}
