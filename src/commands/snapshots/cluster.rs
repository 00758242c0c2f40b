//! The cluster that an operator names by its id.

use crate::error::{Refusal, did_you_mean};
use crate::inventory::Listing;
use std::collections::BTreeSet;

/// Checks that the listed archives include one of the cluster `id`. If a place could not be read, it may have one.
///
/// # Errors
/// Refuses an id that no archive has: it is probably misspelled, and then nothing would ever be deleted.
pub(super) fn check_known(id: &str, look: &Listing) -> Result<(), Refusal> {
    let known: BTreeSet<&str> = look.snapshots.iter().filter_map(|found| found.entry.cluster()).collect();
    if look.unreadable.is_empty() { check_among(id, &known) } else { Ok(()) }
}

fn check_among(id: &str, known: &BTreeSet<&str>) -> Result<(), Refusal> {
    if known.is_empty() || known.contains(id) {
        return Ok(());
    }
    let next = match did_you_mean(id, known.iter().copied()) {
        Some(meant) => format!("did you mean cluster={meant}?"),
        None => format!("give one of {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    };
    Err(Refusal::new(format!("no archive is of the cluster {id}"), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_no_archive_is_of_is_refused() {
        let known = BTreeSet::from(["8cc9da78b36d1115", "1f"]);
        check_among("1f", &known).unwrap();
        check_among("abc", &BTreeSet::new()).unwrap();
        assert_eq!(
            check_among("8cc9da78b36d1116", &known).unwrap_err().next,
            "did you mean cluster=8cc9da78b36d1115?"
        );
        assert_eq!(check_among("abcdefabcdef", &known).unwrap_err().next, "give one of 1f, 8cc9da78b36d1115");
    }
}
