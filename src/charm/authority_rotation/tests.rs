//! The phases of a rotation: each state of a unit, and whole rotations of several units in any order.

use super::*;

/// Returns authorities by their names, one letter each.
fn cas(names: &str) -> Authorities {
    let block = |name| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
    Authorities::of_file(&names.chars().map(block).collect::<String>())
}

fn long() -> SignedDuration {
    SETTLING_TIME * 2
}

/// A unit that has served with the authority `a` for a while.
fn steady() -> RotationFacts {
    RotationFacts {
        is_member: true,
        used: cas("a"),
        used_for: long(),
        is_usable: true,
        trusted: cas("a"),
        trusted_for: long(),
        is_loaded: true,
        issued: cas("a"),
        provided: cas("a"),
        peers: Vec::new(),
    }
}

fn peer(needs: &str, trusted: Option<&str>) -> Peer {
    let trusted = trusted.map(|names| cas(names).hashes());
    Peer { unit: "etcd/1".into(), is_member: true, needs: cas(needs), trusted, is_unreadable: false }
}

/// A unit that has no member yet.
fn joiner(needs: &str) -> Peer {
    Peer { is_member: false, ..peer(needs, None) }
}

fn with(facts: &RotationFacts, peer: Peer) -> RotationFacts {
    RotationFacts { peers: vec![peer], ..facts.clone() }
}

fn others() -> Result<(), Wait> {
    Err(Wait::Peers(vec!["etcd/1".to_owned()]))
}

#[test]
fn a_member_takes_its_first_certificates_if_no_peer_is_known_to_reject_them() {
    let first = RotationFacts { used: cas(""), trusted: cas(""), ..steady() };
    let unreadable = Peer { is_unreadable: true, ..peer("", None) };
    for (case, facts, trusted, use_issued) in [
        ("first certificates", first.clone(), "a", Ok(())),
        ("first certificates, a peer does not trust it", with(&first, peer("b", Some("b"))), "ab", others()),
        ("first certificates, a peer trusts it", with(&first, peer("b", Some("ab"))), "ab", Ok(())),
        ("first certificates, a peer has an older charm", with(&first, peer("", None)), "a", Ok(())),
        ("first certificates, what a peer trusts cannot be read", with(&first, unreadable), "a", others()),
        ("first certificates, as for another unit that joins", with(&first, joiner("")), "a", Ok(())),
        (
            "a unit that joins, a peer does not trust its certificate",
            RotationFacts { is_member: false, ..with(&first, peer("b", Some("b"))) },
            "ab",
            Ok(()),
        ),
    ] {
        assert_eq!(plan(&facts), RotationPlan { trusted: cas(trusted), use_issued }, "{case}");
    }
}

#[test]
fn every_phase_of_a_unit_has_one_next_step() {
    let new = RotationFacts { issued: cas("b"), provided: cas("b"), ..steady() };
    let both = RotationFacts { trusted: cas("ab"), ..new.clone() };
    let changed = RotationFacts { used: cas("b"), trusted: cas("ab"), ..new.clone() };
    for (case, facts, trusted, use_issued) in [
        ("nothing issued", RotationFacts { issued: cas(""), provided: cas(""), ..steady() }, "a", Ok(())),
        ("renewed by the same authority", steady(), "a", Ok(())),
        ("new authority", new.clone(), "ab", Err(Wait::Restart)),
        (
            "written, not restarted",
            RotationFacts { is_loaded: false, ..both.clone() },
            "ab",
            Err(Wait::Restart),
        ),
        (
            "just restarted",
            RotationFacts { trusted_for: SignedDuration::ZERO, ..both.clone() },
            "ab",
            Err(Wait::Clients),
        ),
        ("alone, all trust both", both.clone(), "ab", Ok(())),
        (
            "the certificates in place have ended",
            RotationFacts { is_usable: false, ..new.clone() },
            "ab",
            Ok(()),
        ),
        ("a peer trusts only the old one", with(&both, peer("a", Some("a"))), "ab", others()),
        ("a peer has an older charm", with(&both, peer("", None)), "ab", others()),
        ("all peers trust both", with(&both, peer("a", Some("ab"))), "ab", Ok(())),
        ("a unit that only joins is not waited for", with(&both, joiner("a")), "ab", Ok(())),
        ("changed, a peer uses the old one", with(&changed, peer("a", Some("ab"))), "ab", Ok(())),
        ("changed, a peer has an older charm", with(&changed, peer("", None)), "ab", Ok(())),
        ("changed, a joining unit needs the old one", with(&changed, joiner("a")), "ab", Ok(())),
        ("changed, all have changed", with(&changed, peer("b", Some("ab"))), "b", Ok(())),
        (
            "changed just now",
            RotationFacts { used_for: SignedDuration::ZERO, ..changed.clone() },
            "ab",
            Ok(()),
        ),
        ("changed and settled", changed.clone(), "b", Ok(())),
        (
            "another unit was issued one first",
            RotationFacts { provided: cas("ab"), ..steady() },
            "ab",
            Ok(()),
        ),
        ("a peer uses another", with(&steady(), peer("c", Some("ac"))), "ac", Ok(())),
        (
            "a third one before the end",
            RotationFacts { issued: cas("c"), provided: cas("c"), ..changed.clone() },
            "bc",
            Err(Wait::Restart),
        ),
    ] {
        assert_eq!(plan(&facts), RotationPlan { trusted: cas(trusted), use_issued }, "{case}");
    }
}

#[test]
fn others_trust_the_old_one_until_related_applications_have_changed() {
    let changed = RotationFacts { used: cas("b"), trusted: cas("ab"), ..steady() };
    assert_eq!(needs(&changed), cas("b"));
    assert_eq!(needs(&RotationFacts { used_for: SignedDuration::ZERO, ..changed.clone() }), cas("ab"));
    let published = cas("a").hashes();
    assert_eq!(trusted_by_running(&changed, &published), cas("ab").hashes());
    let written = RotationFacts { is_loaded: false, ..changed.clone() };
    assert_eq!(trusted_by_running(&written, &published), cas("a").hashes());
    // Before the restart that drops it, etcd still trusts it, but others must not rely on that.
    let dropped = RotationFacts { trusted: cas("b"), is_loaded: false, ..changed };
    assert_eq!(trusted_by_running(&dropped, &cas("ab").hashes()), cas("b").hashes());
}

/// A unit of a cluster, with what it has published.
#[derive(Clone)]
struct Unit {
    facts: RotationFacts,
    loaded: Authorities,
    written_at: SignedDuration,
    used_at: SignedDuration,
    needs: Authorities,
    trusted: BTreeSet<String>,
}

impl Unit {
    fn new() -> Self {
        let (old, start) = (cas("a"), SignedDuration::ZERO);
        Self {
            facts: steady(),
            loaded: old.clone(),
            written_at: start,
            used_at: start,
            needs: old.clone(),
            trusted: old.hashes(),
        }
    }

    /// Runs a hook at `now`. It writes files; `restarts` is whether it is this unit's turn.
    fn hook(&mut self, now: SignedDuration, issued: &str, provided: &str, peers: Vec<Peer>, restarts: bool) {
        self.facts.peers = peers;
        (self.facts.issued, self.facts.provided) = (cas(issued), cas(provided));
        (self.facts.used_for, self.facts.trusted_for) = (now - self.used_at, now - self.written_at);
        self.facts.is_loaded = self.loaded == self.facts.trusted;
        let plan = plan(&self.facts);
        if plan.trusted != self.facts.trusted {
            (self.facts.trusted, self.written_at) = (plan.trusted, now);
        }
        if plan.use_issued.is_ok() && self.facts.used != self.facts.issued {
            (self.facts.used, self.used_at) = (self.facts.issued.clone(), now);
        }
        if restarts {
            self.loaded = self.facts.trusted.clone();
        }
        self.facts.is_loaded = self.loaded == self.facts.trusted;
        self.facts.used_for = now - self.used_at;
        self.needs = needs(&self.facts);
        self.trusted = trusted_by_running(&self.facts, &self.trusted);
    }
}

/// Runs hooks of `count` units in an order that `seed` decides. Checks at each step that all members accept each other.
fn rotate(count: usize, seed: u64) {
    let mut units = vec![Unit::new(); count];
    let mut state = seed;
    let mut random = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    };
    let mut now = long();
    let mut issued = vec!["a"; count];
    for step in 0..150 * count {
        now += SignedDuration::from_mins(i64::try_from(random(4)).unwrap());
        let one = random(count);
        // The provider answers the units one after the other.
        if step > count {
            issued[random(count)] = "b";
        }
        let provided: String = issued.concat();
        let others = units.iter().enumerate().filter(|(other, _)| *other != one);
        let peers = others.map(|(other, unit)| Peer {
            unit: format!("etcd/{other}"),
            is_member: true,
            needs: unit.needs.clone(),
            trusted: Some(unit.trusted.clone()),
            is_unreadable: false,
        });
        let (peers, restarts) = (peers.collect(), random(3) > 0);
        units[one].hook(now, issued[one], &provided, peers, restarts);
        for (number, unit) in units.iter().enumerate() {
            for (other, peer) in units.iter().enumerate() {
                let accepts = unit.facts.used.are_in(&peer.loaded);
                assert!(accepts, "seed {seed}, step {step}: etcd/{other} does not trust etcd/{number}");
            }
        }
    }
    for unit in &units {
        assert!(unit.facts.used == cas("b") && unit.loaded == cas("b"), "seed {seed}: not finished");
    }
}

#[test]
fn members_accept_each_other_in_every_order_of_hooks() {
    for count in 1..=5 {
        for seed in 0..12 {
            rotate(count, seed);
        }
    }
}
