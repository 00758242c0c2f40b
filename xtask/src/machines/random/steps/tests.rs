//! Properties of the sequences of many seeds.

use super::*;
use std::collections::BTreeSet;
use std::mem::discriminant;

/// Returns the states before each step, and the events.
fn sequence(seed: u64, steps: usize) -> Vec<(State, Event)> {
    let (mut random, mut state, mut all) = (Random::new(seed), State::default(), Vec::new());
    for _ in 0..steps {
        let event = state.next(&mut random);
        let after = state.after(&event.step);
        all.push((state, event));
        state = after;
    }
    all
}

#[test]
fn a_seed_gives_one_sequence() {
    assert_eq!(sequence(7, 200), sequence(7, 200));
    assert_ne!(sequence(7, 200), sequence(8, 200));
    assert_eq!(sequence(7, 20), sequence(7, 200)[..20], "the number of steps changes no step");
}

#[test]
fn all_kinds_of_steps_and_accidents_occur() {
    for seed in 0..20 {
        let all = sequence(seed, 200);
        let steps: Vec<_> = all.iter().map(|(_, event)| discriminant(&event.step)).collect();
        let distinct = (0..steps.len()).filter(|place| !steps[..*place].contains(&steps[*place])).count();
        assert_eq!(distinct, 13, "seed {seed}");
        let accidents = all.iter().filter_map(|(_, event)| event.accident.as_ref());
        let kinds: BTreeSet<String> = accidents.map(|accident| format!("{:?}", accident.kind)).collect();
        assert_eq!(kinds.len(), 3, "seed {seed}");
        assert!(all.iter().any(|(state, _)| state.all().count() == MACHINES), "seed {seed}");
        assert!(all.iter().any(|(state, _)| !state.has_majority() && state.all().count() > 1), "seed {seed}");
    }
}

/// The units by their machines, and whether each is a member; the machines that are off, and those that are cut off.
#[derive(Default)]
struct Shadow {
    units: BTreeSet<usize>,
    off: BTreeSet<usize>,
    cut: BTreeSet<usize>,
}

impl Shadow {
    fn down(&self) -> usize {
        self.off.len() + self.cut.len()
    }

    /// Applies a step, and checks by other means than the sequence that it is possible.
    fn apply(&mut self, step: &Step) {
        let down = self.down();
        match step {
            Step::Join(machines) => assert!(machines.iter().all(|machine| self.units.insert(*machine))),
            Step::Leave(machines) => {
                for machine in machines {
                    assert!(
                        self.units.remove(machine)
                            && !self.off.contains(machine)
                            && !self.cut.contains(machine)
                    );
                }
                assert!(self.units.len() > 2 * down, "{machines:?} leave no majority");
            }
            Step::LeaveByForce(machine) => {
                let all = self.units.len();
                assert!(self.units.remove(machine));
                self.off.remove(machine);
                self.cut.remove(machine);
                let up = self.units.len() - self.down();
                assert!(2 * up > all, "{up} of {all} cannot remove {machine}");
            }
            Step::PowerOff(machine) => assert!(self.units.contains(machine) && self.off.insert(*machine)),
            Step::PowerOn(machine) => assert!(self.off.remove(machine)),
            Step::CutOff { machine, .. } => {
                assert!(self.units.contains(machine) && self.cut.insert(*machine))
            }
            Step::Reconnect(machine) => assert!(self.cut.remove(machine)),
            Step::Configure => {}
            Step::KillEtcd(machine) | Step::Lead(machine) | Step::Snapshot(machine) => {
                assert!(self.units.contains(machine) && !self.off.contains(machine));
            }
            Step::LoseData(machine) | Step::Move(machine) => {
                assert!(self.units.contains(machine) && down == 0);
                assert!(matches!(step, Step::Move(_)) || self.units.len() > 2);
            }
        }
        assert!(self.off.is_disjoint(&self.cut));
    }
}

#[test]
fn no_step_is_impossible() {
    for seed in 0..300 {
        let mut shadow = Shadow::default();
        for (number, (_, event)) in sequence(seed, 200).iter().enumerate() {
            shadow.apply(&event.step);
            assert!(!shadow.units.is_empty(), "seed {seed}, step {number}: the last unit was removed");
        }
    }
}

#[test]
fn machines_are_brought_back_soon() {
    for seed in 0..300 {
        let (mut degraded, mut without_majority) = (0, 0);
        for (number, (state, event)) in sequence(seed, 200).iter().enumerate() {
            let after = state.after(&event.step);
            degraded = if after.is_whole() { 0 } else { degraded + 1 };
            without_majority = if after.has_majority() { 0 } else { without_majority + 1 };
            assert!(degraded < 12 && without_majority < 8, "seed {seed}, step {number}: {event}");
        }
    }
}

#[test]
fn an_event_is_described_in_one_line() {
    let when = When::Round { rounds: 3, choice: 1, delay: Duration::from_millis(250) };
    let accident = Accident { kind: AccidentKind::HookKilled, when };
    let event = Event { step: Step::Join(vec![0, 2]), accident: Some(accident) };
    assert_eq!(event.to_string(), "join on 0, 2; hook killed after 3 rounds and 250 ms, choice 1");
}
