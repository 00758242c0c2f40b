//! The sequence of the random test. Pure: the same seed gives the same sequence.
//!
//! Must never ask for the impossible, such as the removal of the last unit, or of one whose cluster has no majority without it.
//! A majority may be lost, but then the next steps bring it back.

use std::fmt;
use std::time::Duration;

use super::super::deployment::{Accident, AccidentKind, When};

/// The number of machines.
pub const MACHINES: usize = 5;
/// The number of steps after which all machines are connected again.
const MAX_DEGRADED_STEPS: usize = 4;

/// A generator of pseudo-random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`, which must not be 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % limit as u64).unwrap_or_default()
    }
}

/// One step. Machines are numbered from 0, and a unit is named by its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Units are added on free machines, at the same time.
    Join(Vec<usize>),
    /// Units are removed at the same time.
    Leave(Vec<usize>),
    /// The machine is switched off, and its unit is removed by force. Then the machine boots again.
    LeaveByForce(usize),
    /// etcd gets SIGKILL.
    KillEtcd(usize),
    /// The power fails.
    PowerOff(usize),
    /// The machine boots.
    PowerOn(usize),
    /// The machine cannot reach the other machines. If `has_agent`, it reaches the controller.
    CutOff {
        /// The machine.
        machine: usize,
        /// Whether the agent of the unit runs.
        has_agent: bool,
    },
    /// The machine can reach the others again.
    Reconnect(usize),
    /// The unit becomes the leader of the application.
    Lead(usize),
    /// An option is changed that needs a restart.
    Configure,
    /// A snapshot is taken.
    Snapshot(usize),
    /// The data of the member is lost.
    LoseData(usize),
    /// The machine gets another address.
    Move(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |machines: &[usize]| machines.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Join(machines) => write!(f, "join on {}", list(machines)),
            Self::Leave(machines) => write!(f, "leave {}", list(machines)),
            Self::LeaveByForce(machine) => write!(f, "remove {machine} by force"),
            Self::KillEtcd(machine) => write!(f, "kill etcd on {machine}"),
            Self::PowerOff(machine) => write!(f, "switch {machine} off"),
            Self::PowerOn(machine) => write!(f, "switch {machine} on"),
            Self::CutOff { machine, has_agent: true } => write!(f, "cut {machine} off from the others"),
            Self::CutOff { machine, has_agent: false } => write!(f, "cut {machine} off from everything"),
            Self::Reconnect(machine) => write!(f, "connect {machine} again"),
            Self::Lead(machine) => write!(f, "make {machine} the leader"),
            Self::Configure => f.write_str("change an option"),
            Self::Snapshot(machine) => write!(f, "take a snapshot on {machine}"),
            Self::LoseData(machine) => write!(f, "remove the data of {machine}"),
            Self::Move(machine) => write!(f, "change the address of {machine}"),
        }
    }
}

/// A step, and an accident during the hooks that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The step.
    pub step: Step,
    /// The accident.
    pub accident: Option<Accident>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        let Some(Accident { kind, when }) = &self.accident else { return Ok(()) };
        let kind = match kind {
            AccidentKind::HookKilled => "hook killed",
            AccidentKind::PowerFailure => "power failure",
            AccidentKind::MachineLost => "machine lost",
            AccidentKind::LeadershipLost => "leadership lost",
            AccidentKind::Snapshot => "snapshot",
        };
        match when {
            When::Round { rounds, choice, delay } => {
                write!(f, "; {kind} after {rounds} rounds and {} ms, choice {choice}", delay.as_millis())
            }
            When::File { unit, path, .. } => write!(f, "; {kind} of {unit} at {path}"),
        }
    }
}

/// Whether a machine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is on and connected.
    Up,
    /// It is off.
    Off,
    /// It cannot reach the others.
    CutOff {
        /// Whether the agent of the unit runs.
        has_agent: bool,
    },
}

/// A unit, as the sequence knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Whether its machine works.
    pub condition: Condition,
    /// Whether it certainly is a member. A unit that was added while another one did not work joins later.
    pub is_member: bool,
}

impl Unit {
    /// Whether its machine is on and connected.
    pub fn is_up(&self) -> bool {
        self.condition == Condition::Up
    }

    /// Whether its agent runs.
    pub fn has_agent(&self) -> bool {
        !matches!(self.condition, Condition::Off | Condition::CutOff { has_agent: false })
    }
}

/// The units after the steps so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The unit of each machine.
    pub units: [Option<Unit>; MACHINES],
    /// The number of steps since all machines worked.
    degraded_steps: usize,
}

/// The steps of one kind, and how often the kind is chosen.
type Kind = (usize, Vec<Step>);

impl State {
    /// Returns the units and their machines.
    pub fn all(&self) -> impl Iterator<Item = (usize, Unit)> {
        self.units.iter().enumerate().filter_map(|(machine, unit)| Some((machine, (*unit)?)))
    }

    /// Returns the units that certainly are members.
    pub fn members(&self) -> impl Iterator<Item = (usize, Unit)> {
        self.all().filter(|(_, unit)| unit.is_member)
    }

    /// Whether all machines with a unit work.
    pub fn is_whole(&self) -> bool {
        self.all().all(|(_, unit)| unit.is_up())
    }

    /// Whether a majority of the members works, whether or not the units that join later are members already.
    pub fn has_majority(&self) -> bool {
        let is_majority = |units: &[Unit]| units.iter().filter(|unit| unit.is_up()).count() > units.len() / 2;
        let all: Vec<Unit> = self.all().map(|(_, unit)| unit).collect();
        let members: Vec<Unit> = self.members().map(|(_, unit)| unit).collect();
        is_majority(&members) && is_majority(&all)
    }

    /// Returns the next event.
    pub fn next(&self, random: &mut Random) -> Event {
        let kinds: Vec<Kind> = self.kinds().into_iter().filter(|(_, steps)| !steps.is_empty()).collect();
        let mut point = random.below(kinds.iter().map(|(weight, _)| weight).sum());
        let chosen = kinds.iter().find(|(weight, _)| {
            let is_here = point < *weight;
            point = point.saturating_sub(*weight);
            is_here
        });
        let steps = chosen.map(|(_, steps)| steps.as_slice()).unwrap_or_default();
        let step = steps[random.below(steps.len())].clone();
        Event { accident: accident(&step, random), step }
    }

    /// Returns the possible steps.
    fn kinds(&self) -> Vec<Kind> {
        let each = |step: fn(usize) -> Step| {
            (0..MACHINES).map(step).filter(|step| self.is_possible(step)).collect::<Vec<_>>()
        };
        let restorations = [each(Step::PowerOn), each(Step::Reconnect)].concat();
        let is_long = self.degraded_steps >= if self.has_majority() { MAX_DEGRADED_STEPS } else { 2 };
        if !restorations.is_empty() && is_long {
            return vec![(1, restorations)];
        }
        let sets = |step: fn(Vec<usize>) -> Step| -> Vec<Step> {
            machine_sets().into_iter().map(step).filter(|step| self.is_possible(step)).collect()
        };
        let cuts = [true, false].map(|has_agent| {
            let step = |machine| Step::CutOff { machine, has_agent };
            (0..MACHINES).map(step).filter(|step| self.is_possible(step)).collect::<Vec<_>>()
        });
        let losses = [each(Step::PowerOff), cuts.concat()].concat();
        let (harmless, fatal): (Vec<Step>, Vec<Step>) =
            losses.into_iter().partition(|step| self.after(step).has_majority());
        let few = self.all().count() < 3;
        vec![
            (if few { 40 } else { 16 }, sets(Step::Join)),
            (8, sets(Step::Leave)),
            (5, each(Step::LeaveByForce)),
            (5, each(Step::KillEtcd)),
            (10, harmless),
            (5, fatal),
            (8, restorations),
            (4, each(Step::Lead)),
            (6, if self.all().next().is_some() { vec![Step::Configure] } else { Vec::new() }),
            (4, each(Step::Snapshot)),
            (4, each(Step::LoseData)),
            (4, each(Step::Move)),
        ]
    }

    fn is_possible(&self, step: &Step) -> bool {
        let unit = |machine: &usize| self.units[*machine];
        let is_up = |machine: &usize| unit(machine).is_some_and(|unit| unit.is_up());
        let serves = |machine: &usize| is_up(machine) && unit(machine).is_some_and(|unit| unit.is_member);
        match step {
            Step::Join(machines) => {
                let is_free = machines.iter().all(|machine| unit(machine).is_none());
                let is_first = self.all().next().is_none();
                is_free && (is_first || (machines.len() <= 2 && self.has_majority()))
            }
            Step::Leave(machines) => {
                machines.len() <= 2 && machines.iter().all(is_up) && self.can_leave(machines)
            }
            Step::LeaveByForce(machine) => unit(machine).is_some() && self.can_be_removed(*machine),
            Step::KillEtcd(machine) | Step::Snapshot(machine) => serves(machine) && self.has_majority(),
            Step::PowerOff(machine) | Step::CutOff { machine, .. } => is_up(machine) && self.has_majority(),
            Step::PowerOn(machine) => unit(machine).is_some_and(|unit| unit.condition == Condition::Off),
            Step::Reconnect(machine) => {
                unit(machine).is_some_and(|unit| matches!(unit.condition, Condition::CutOff { .. }))
            }
            Step::Lead(machine) => unit(machine).is_some_and(|unit| unit.has_agent()),
            Step::Configure => true,
            Step::LoseData(machine) => serves(machine) && self.is_whole() && self.members().count() > 2,
            Step::Move(machine) => serves(machine) && self.is_whole(),
        }
    }

    /// Whether etcd allows that the members of these units, which work, are removed one after the other.
    fn can_leave(&self, leaving: &[usize]) -> bool {
        let others: Vec<Unit> =
            self.all().filter(|(machine, _)| !leaving.contains(machine)).map(|(_, unit)| unit).collect();
        let is_alone = others.iter().all(|unit| !unit.is_member);
        let is_known = others.iter().all(|unit| unit.is_member);
        let up = others.iter().filter(|unit| unit.is_up()).count();
        let is_simple = leaving.len() == 1 || self.is_whole();
        !is_alone && is_known && is_simple && self.has_majority() && up > others.len() / 2
    }

    /// Whether the other members can remove the member of this unit, if its machine is off.
    fn can_be_removed(&self, machine: usize) -> bool {
        let others: Vec<Unit> =
            self.all().filter(|(other, _)| *other != machine).map(|(_, unit)| unit).collect();
        let up = others.iter().filter(|unit| unit.is_up()).count();
        !others.is_empty() && others.iter().all(|unit| unit.is_member) && up > others.len().div_ceil(2)
    }

    /// Returns the units after this step.
    pub fn after(&self, step: &Step) -> Self {
        let mut state = self.clone();
        let mut set = |machine: usize, condition| {
            if let Some(unit) = state.units[machine].as_mut() {
                unit.condition = condition;
            }
        };
        match step {
            Step::PowerOff(machine) => set(*machine, Condition::Off),
            Step::PowerOn(machine) | Step::Reconnect(machine) => set(*machine, Condition::Up),
            Step::CutOff { machine, has_agent } => {
                set(*machine, Condition::CutOff { has_agent: *has_agent });
            }
            Step::Join(machines) => {
                let unit = Unit { condition: Condition::Up, is_member: false };
                machines.iter().for_each(|machine| state.units[*machine] = Some(unit));
            }
            Step::Leave(machines) => machines.iter().for_each(|machine| state.units[*machine] = None),
            Step::LeaveByForce(machine) => state.units[*machine] = None,
            _ => {}
        }
        if state.is_whole() {
            state.units.iter_mut().flatten().for_each(|unit| unit.is_member = true);
            state.degraded_steps = 0;
        } else {
            state.degraded_steps += 1;
        }
        state
    }
}

/// Returns all sets of one to three machines.
fn machine_sets() -> Vec<Vec<usize>> {
    let of = |bits: usize| (0..MACHINES).filter(|machine| (bits >> machine) & 1 == 1).collect::<Vec<_>>();
    (1..1 << MACHINES).map(of).filter(|set| set.len() <= 3).collect()
}

/// Returns an accident for half of the steps after which hooks run.
fn accident(step: &Step, random: &mut Random) -> Option<Accident> {
    let rounds = match step {
        Step::Join(_) => 12,
        Step::Snapshot(_) | Step::KillEtcd(_) => return None,
        _ => 4,
    };
    if random.below(2) == 0 {
        return None;
    }
    let kinds = [AccidentKind::HookKilled, AccidentKind::PowerFailure, AccidentKind::LeadershipLost];
    let longest = [400, 4000][random.below(2)];
    Some(Accident {
        kind: kinds[random.below(kinds.len())],
        when: When::Round {
            rounds: random.below(rounds),
            choice: random.below(MACHINES),
            delay: Duration::from_millis(random.below(longest) as u64),
        },
    })
}

#[cfg(test)]
mod tests;
