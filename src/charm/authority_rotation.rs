//! Decides how the units change from one certificate authority (CA) to another, while they serve. Pure.
//!
//! There are three phases: every unit trusts both authorities; then each unit takes its new certificates; then the old authority
//! is dropped. etcd reads the trusted authorities only when it starts, so the first and the last phase need a restart each.
//!
//! Must never use a certificate that another member does not trust yet, and never drop an authority that a unit still uses.

use super::authorities::Authorities;
use jiff::SignedDuration;
use std::collections::BTreeSet;

/// How long the applications that are related to etcd have, to take what etcd publishes in one phase, before the next phase:
/// twice the interval in which Juju runs hooks of every unit.
pub const SETTLING_TIME: SignedDuration = SignedDuration::from_mins(10);

/// Another unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub unit: String,
    /// Whether it has, or may have, a member of the cluster.
    pub is_member: bool,
    /// The authorities that other units have to trust for it.
    pub needs: Authorities,
    /// The hashes of the authorities that its running etcd trusts. `None` if it has not published them, as an older charm.
    pub trusted: Option<BTreeSet<String>>,
    /// Whether what it has published cannot be read, because the relation between the units is missing.
    pub is_unreadable: bool,
}

/// The authorities of a unit, and of its peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationFacts {
    /// Whether the unit has a member.
    pub is_member: bool,
    /// The authorities of the certificates in place. Empty if there are none.
    pub used: Authorities,
    /// How long they have been used.
    pub used_for: SignedDuration,
    /// Whether the certificates in place can be used.
    pub is_usable: bool,
    /// The authorities in the file that etcd reads when it starts.
    pub trusted: Authorities,
    /// How long the file has had its content.
    pub trusted_for: SignedDuration,
    /// Whether the running etcd is known to have read this content.
    pub is_loaded: bool,
    /// The authorities of the certificates that the provider has issued to this unit. Empty if there are none.
    pub issued: Authorities,
    /// The authorities of the certificates that the provider has issued to any unit.
    pub provided: Authorities,
    /// The other units.
    pub peers: Vec<Peer>,
}

/// The reason for which issued certificates are not used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The etcd of this unit has to restart.
    Restart,
    /// These units do not trust the new authority yet.
    Peers(Vec<String>),
    /// Related applications have time to trust the new authority.
    Clients,
}

/// The next step of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationPlan {
    /// The authorities that the file should contain.
    pub trusted: Authorities,
    /// Whether the issued certificates may be used, or what they wait for.
    pub use_issued: Result<(), Wait>,
}

/// Returns the next step.
pub fn plan(facts: &RotationFacts) -> RotationPlan {
    RotationPlan { trusted: wanted_trust(facts), use_issued: use_issued(facts) }
}

/// Returns the authorities that other units have to trust for this one: after a change, for a while also those of before,
/// because related applications may still use certificates from them.
pub fn needs(facts: &RotationFacts) -> Authorities {
    match facts.used_for < SETTLING_TIME {
        true => facts.used.union(&facts.trusted),
        false => facts.used.clone(),
    }
}

/// Returns the hashes of the authorities that the running etcd trusts, as far as the file still has them. `published` are those
/// that this unit has published before.
pub fn trusted_by_running(facts: &RotationFacts, published: &BTreeSet<String>) -> BTreeSet<String> {
    let file = facts.trusted.hashes();
    match facts.is_loaded {
        true => file,
        false => file.intersection(published).cloned().collect(),
    }
}

/// Returns the authorities to trust: all that are used or will be, and those of before until nobody needs them.
fn wanted_trust(facts: &RotationFacts) -> Authorities {
    let own = facts.used.union(&facts.issued).union(&facts.provided);
    let needed = facts.peers.iter().fold(own, |all, peer| all.union(&peer.needs));
    let has_silent_member = facts.peers.iter().any(|peer| peer.is_member && peer.trusted.is_none());
    match has_silent_member || facts.used_for < SETTLING_TIME {
        true => needed.union(&facts.trusted),
        false => needed,
    }
}

fn use_issued(facts: &RotationFacts) -> Result<(), Wait> {
    // The first certificates of a relation. A unit that joins loses no member by them, and others learn its authority then. A peer that
    // has published nothing may wait for its first certificates too. Of an unreadable one, that is not known.
    if facts.used.is_empty() {
        let others = if facts.is_member { peers_without_trust(facts, true) } else { Vec::new() };
        return if others.is_empty() { Ok(()) } else { Err(Wait::Peers(others)) };
    }
    if !facts.is_usable || facts.issued.are_in(&facts.used) {
        return Ok(());
    }
    if !facts.is_loaded || !facts.issued.are_in(&facts.trusted) {
        return Err(Wait::Restart);
    }
    let others = peers_without_trust(facts, false);
    match others.is_empty() {
        false => Err(Wait::Peers(others)),
        true if facts.trusted_for < SETTLING_TIME => Err(Wait::Clients),
        true => Ok(()),
    }
}

/// Returns the members that do not trust the issued certificates. `if_silent` is whether one that has published nothing does.
fn peers_without_trust(facts: &RotationFacts, if_silent: bool) -> Vec<String> {
    let needed = facts.issued.hashes();
    let trusts = |peer: &Peer| match &peer.trusted {
        Some(trusted) => needed.is_subset(trusted),
        None => if_silent && !peer.is_unreadable,
    };
    let others = facts.peers.iter().filter(|peer| peer.is_member && !trusts(peer));
    others.map(|peer| peer.unit.clone()).collect()
}

#[cfg(test)]
mod tests;
