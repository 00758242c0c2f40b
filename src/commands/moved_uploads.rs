//! Uploads that wait for a destination which the settings no longer have, as after it was renamed.

use crate::error::{Refusal, Subcommand, did_you_mean};
use crate::inventory::destinations::Destinations;
use crate::inventory::upload::{self, PendingUpload};
use crate::settings::Settings;
use crate::system::durable::Dir;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;

/// The destination that uploads wait for, and the one that they are to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The old name.
    pub from: String,
    /// The new name.
    pub to: String,
}

impl Rename {
    /// Parses `OLD/NEW`.
    ///
    /// # Errors
    /// Refuses another form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [from, to] if !from.is_empty() && !to.is_empty() => {
                Ok(Self { from: from.to_owned(), to: to.to_owned() })
            }
            _ => {
                Err(Refusal::new(format!("move is {text:?}"), "give the old and the new name: move=OLD/NEW"))
            }
        }
    }

    /// Checks that the settings have the new name, and no longer the old one.
    ///
    /// # Errors
    /// Refuses otherwise.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), Refusal> {
        let Self { from, to } = self;
        let known = || settings.destinations.keys().map(String::as_str);
        if !settings.destinations.contains_key(to) {
            let next = match did_you_mean(to, known()) {
                Some(meant) => format!("did you mean move={from}/{meant}?"),
                None if known().next().is_none() => "add it to the configuration file first".to_owned(),
                None => format!("give one of {}", known().collect::<Vec<_>>().join(", ")),
            };
            return Err(Refusal::new(format!("the destination {to:?} is not configured"), next));
        }
        if settings.destinations.contains_key(from) {
            let reason = format!("the destination {from} is in the settings, so its uploads are sent there");
            return Err(Refusal::new(
                reason,
                format!("{}; or remove that destination from the settings first", Subcommand::new("upload")),
            ));
        }
        Ok(())
    }

    /// Moves the uploads in `home`, or with `plan` only selects them. Returns them as they were.
    ///
    /// # Errors
    /// Refuses if no upload waits for the old name, or while another run uploads.
    pub(super) fn apply(&self, home: Option<&Dir>, plan: bool) -> Result<Vec<PendingUpload>> {
        let Some(home) = home else { return Err(self.nothing_waits()) };
        let mut moved = upload::list(home)?;
        moved.retain(|one| one.destination == self.from);
        if moved.is_empty() {
            return Err(self.nothing_waits());
        }
        if plan { Ok(moved) } else { upload::move_queued(home, &self.from, &self.to) }
    }

    fn nothing_waits(&self) -> anyhow::Error {
        let reason = format!("no upload is waiting for {}", self.from);
        let list = Subcommand::new("upload").flag("plan");
        Refusal::new(reason, format!("{list} lists the pending uploads")).into()
    }
}

/// Returns a warning for each destination that is not in the settings and that uploads in `home` wait for.
pub(super) fn warnings(home: &Dir, destinations: &Destinations) -> Vec<String> {
    // A queue that cannot be read is reported by the upload itself.
    let waiting = upload::list(home).unwrap_or_default();
    let known: Vec<&str> = destinations.names().collect();
    let unknown = unknown_destinations(&waiting, &known).into_iter();
    unknown
        .map(|(name, count)| {
            let next = how_to_move(name, &known, home.path());
            format!("{} ({next})", describe_unknown(name, count))
        })
        .collect()
}

/// Returns the destinations that are not in the settings, with the number of uploads that wait for each.
pub(super) fn unknown_destinations<'a>(
    waiting: &'a [PendingUpload],
    known: &[&str],
) -> BTreeMap<&'a str, usize> {
    let mut unknown = BTreeMap::new();
    for one in waiting.iter().filter(|one| !known.contains(&&*one.destination)) {
        *unknown.entry(&*one.destination).or_insert(0) += 1;
    }
    unknown
}

/// Describes the uploads that wait for a destination which is not in the settings.
pub(super) fn describe_unknown(name: &str, count: usize) -> String {
    format!("uploads are waiting for {name}, which is not in the settings: {count}")
}

/// Returns the commands that move the uploads for the destination `name` to another one, or give them up.
pub(super) fn how_to_move(name: &str, known: &[&str], target: &Path) -> String {
    let upload = Subcommand::new("upload").option("target", target);
    let known = || known.iter().copied();
    let new = did_you_mean(name, known()).or_else(|| known().next()).unwrap_or("DESTINATION");
    let rename = upload.clone().option("move", format!("{name}/{new}"));
    let give_up = upload.option("give-up", format!("{name}/all"));
    format!("if it was renamed: {rename}; otherwise: {give_up}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn suggests_the_new_name_of_a_destination() {
        let known = ["near", "offsite2"];
        let target = Path::new("/t");
        let next = how_to_move("offsite", &known, target);
        assert!(next.contains("upload --target=/t --move=offsite/offsite2`; "), "{next}");
        assert!(how_to_move("x", &[], target).contains("--move=x/DESTINATION`; "));
        let one = |destination: &str| PendingUpload {
            archive: "a".to_owned(),
            destination: destination.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            error: None,
        };
        let waiting = [one("near"), one("offsite"), one("offsite")];
        assert_eq!(unknown_destinations(&waiting, &known), BTreeMap::from([("offsite", 2)]));
    }

    #[test]
    fn uploads_move_only_from_a_name_that_is_gone_to_one_that_is_known() {
        let settings =
            Settings::parse("destinations: {near: {directory: /n}, far: {directory: /f}}").unwrap();
        let check = |text| Rename::parse(text).unwrap().check(&settings);
        check("old/near").unwrap();
        for (text, next) in [
            ("old/nera", "did you mean move=old/near?"),
            ("old/bucket", "give one of far, near"),
            ("far/near", "remove that destination from the settings first"),
        ] {
            let refusal = check(text).unwrap_err();
            assert!(refusal.next.contains(next), "{text}: {refusal}");
        }
    }
}
