//! The ways to strike: which points there are, and what happens at one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::disk::{Flush, Kind};
use super::fixture::{Action, Ground, Next, SWEPT};
use super::table::{MISSED, Row, Table};
use crate::common::command::Out;
use crate::common::tracer::{Call, Fate};

/// A way to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SIGKILL to our process.
    Kill,
    /// SIGKILL to the tool of etcd that it runs.
    Child,
    /// Both.
    Both,
    /// The call fails.
    Errno,
    /// SIGTERM to our process.
    Term,
    /// The power goes: our process, etcd, and what had not reached the disk.
    Power(Kind, Flush),
}

/// What a call is made to fail with.
const ERRORS: [Errno; 7] =
    [Errno::ENOSPC, Errno::EIO, Errno::EACCES, Errno::EROFS, Errno::EMFILE, Errno::ENOMEM, Errno::EDQUOT];

/// How often the same look at a file that grows is made to fail: who waits for it looks as often as the machine is slow.
const LOOKS: usize = 4;

/// The files that grow under such looks.
const GROWING: [&str; 2] = ["/archive", "/db.part"];

/// The call from which on a run goes to its end, or back: a snapshot has an archive then, a restore new data.
fn turn(action: Action) -> &'static str {
    if action == Action::Snapshot { "renameat2(archive)" } else { "unlinkat(journal.json.new)" }
}

/// How far a child gets before it is killed, in quarters of its life.
const QUARTERS: u32 = 4;

/// Where and by what a run is struck.
#[derive(Debug, Clone)]
enum Point {
    /// Our process, at this call.
    Call(Call, Option<Errno>),
    /// Our process is asked to stop at this call.
    Asked(Call),
    /// Its child that it began to watch at this call, after a while.
    Child(Call, Duration),
    /// Everything, once our process has said that it is done.
    End,
}

impl Mode {
    /// Every mode of an action. Restores that differ from others in few steps are killed, and no more.
    pub fn of(action: Action) -> impl Iterator<Item = Self> {
        let power = Kind::ALL.into_iter().flat_map(|kind| Flush::ALL.map(|flush| Self::Power(kind, flush)));
        let all = [Self::Kill, Self::Child, Self::Both, Self::Errno, Self::Term].into_iter().chain(power);
        let alone = matches!(action, Action::Unsaved | Action::Empty);
        all.filter(move |mode| !alone || *mode == Self::Kill)
    }

    /// As `--mode` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Child => "child",
            Self::Both => "both",
            Self::Errno => "errno",
            Self::Term => "term",
            Self::Power(..) => "power",
        }
    }

    /// As a table names it.
    fn series(self) -> String {
        match self {
            Self::Power(kind, Flush::Nothing) => format!("power {}", kind.name()),
            Self::Power(kind, Flush::Log) => format!("power {}, log flushed", kind.name()),
            other => other.name().to_owned(),
        }
    }

    fn disk(self) -> Option<Kind> {
        if let Self::Power(kind, _) = self { Some(kind) } else { None }
    }

    /// The points of a run that made these calls.
    fn points(self, calls: &[(Call, Instant)]) -> Vec<Point> {
        let changing = || calls.iter().map(|(call, _)| call.clone()).filter(|call| !call.harmless);
        match self {
            Self::Kill => changing().map(|call| Point::Call(call, None)).collect(),
            Self::Term => changing().map(Point::Asked).collect(),
            Self::Power(..) => changing().map(|call| Point::Call(call, None)).chain([Point::End]).collect(),
            Self::Errno => calls
                .iter()
                .filter(|(call, _)| !is_a_poll(call))
                .flat_map(|(call, _)| ERRORS.map(|error| Point::Call(call.clone(), Some(error))))
                .collect(),
            Self::Child | Self::Both => children(calls)
                .into_iter()
                .flat_map(|(call, life)| {
                    (0..QUARTERS).map(move |n| Point::Child(call.clone(), life * n / QUARTERS))
                })
                .collect(),
        }
    }
}

/// Whether it is one look of many at a file that grows.
fn is_a_poll(call: &Call) -> bool {
    call.harmless && call.number > LOOKS && GROWING.iter().any(|file| call.about.ends_with(file))
}

/// The calls at which a child is first watched, with its length of life: to the last time that it is waited for.
fn children(calls: &[(Call, Instant)]) -> Vec<(Call, Duration)> {
    let waits = |call: &Call| matches!(call.name, "wait4" | "waitid");
    let born = calls.iter().filter(|(call, _)| call.name == "pidfd_open");
    born.map(|(born, at)| {
        let waited = calls.iter().rev().find(|(call, _)| waits(call) && call.process == born.process);
        (born.clone(), waited.map_or(Duration::ZERO, |(_, then)| then.saturating_duration_since(*at)))
    })
    .collect()
}

/// One action, struck in one way.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    pub action: Action,
    pub mode: Mode,
    /// A flaw built into the action on purpose.
    pub flaw: Option<&'static str>,
    /// Whether a record of each run can be kept.
    pub recorded: bool,
}

/// Strikes an action at `count` points of this mode, spread evenly over all, `jobs` at a time.
pub fn some(action: Action, mode: Mode, count: usize, jobs: usize) -> Table {
    let series = Series::of(action, mode);
    let points = series.points();
    let count = count.min(points.len());
    // The middle of each part, so that few points do not all lie at a beginning; and the very end.
    let spread = (0..count).map(|n| points[(2 * n + 1) * points.len() / (2 * count)].clone());
    let end = points.last().filter(|last| matches!(last, Point::End)).cloned();
    let mut table = series.strike(spread.filter(|point| !matches!(point, Point::End)).chain(end), jobs);
    table.of(&series.shown(), points.len());
    table
}

/// How many points there are of this mode.
pub fn count(action: Action, mode: Mode) -> (String, usize) {
    let series = Series::of(action, mode);
    (series.shown(), series.points().len())
}

impl Series {
    /// Of the action as it is.
    pub fn of(action: Action, mode: Mode) -> Self {
        Self { action, mode, flaw: None, recorded: true }
    }

    fn shown(self) -> String {
        format!("{} {}", self.action.series(), self.mode.series())
    }

    fn ground(self) -> Ground {
        let ground = Ground::new(self.action, self.mode.disk()).flawed(self.flaw);
        if !self.recorded {
            ground.keep_no_record();
        }
        ground
    }

    /// All points of an undisturbed run.
    fn points(self) -> Vec<Point> {
        let mut calls = Vec::new();
        let mut note = |call: &Call, _| {
            calls.push((call.clone(), Instant::now()));
            Fate::Made
        };
        let _ = self.ground().run(&mut note).completed();
        self.mode.points(&calls)
    }

    /// Strikes at all points whose words hold one of `about`.
    #[cfg(feature = "sabotage")]
    pub fn strike_about(self, about: &[&str]) -> Table {
        let mut points = self.points();
        points.retain(|point| about.iter().any(|word| shown(point).contains(word)));
        self.strike(points.into_iter(), 1)
    }

    /// Strikes at each point, `jobs` at a time, each on a ground of its own.
    fn strike(self, points: impl Iterator<Item = Point>, jobs: usize) -> Table {
        let points = Mutex::new(points.enumerate().collect::<Vec<_>>().into_iter());
        let table = Mutex::new(Table::new());
        let work = || {
            let mut ground = self.ground();
            loop {
                let Some((number, point)) = points.lock().unwrap().next() else { return };
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| strike(&mut ground, self.mode, &point, number)));
                if outcome.is_err() {
                    ground = self.ground();
                }
                table.lock().unwrap().add(Row {
                    series: self.shown(),
                    point: shown(&point),
                    outcome: outcome.map_err(|panic| in_words(panic.as_ref())),
                });
            }
        };
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(work);
            }
        });
        table.into_inner().unwrap()
    }
}

fn shown(point: &Point) -> String {
    match point {
        Point::Call(call, None) | Point::Asked(call) => call.to_string(),
        Point::Call(call, Some(error)) => format!("{call} = {error:?}"),
        Point::Child(call, delay) => format!("{call} + {} ms", delay.as_millis()),
        Point::End => "the end".to_owned(),
    }
}

/// What a promise was broken by.
pub fn in_words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

fn strike(ground: &mut Ground, mode: Mode, point: &Point, number: usize) -> (&'static str, &'static str) {
    // Twice: a run that waits longer or less long for a child makes other calls.
    for _ in 0..2 {
        let (out, came) = run(ground, mode, point);
        if came == Came::Nowhere {
            assert!(out.status.success(), "undisturbed, and yet: {}", out.told());
            ground.begin();
            continue;
        }
        let went_down = mode.disk().is_some();
        if went_down {
            ground.restore_power();
        }
        let settled = ground.settle(&out, Next::turn(number, went_down, ground.action()));
        // Only an error can keep it from clearing up.
        assert!(settled.1 != SWEPT || mode == Mode::Errno, "left over: {}", out.told());
        judge_words(mode, point, &out, settled.0);
        if let (Point::Asked(_), Came::Before) = (point, came) {
            let obeys = out.stderr.contains("SIGTERM") && matches!(settled.0, "OLD" | "SAME");
            assert!(obeys, "it went on though it was asked to stop: {}", out.told());
        }
        ground.begin();
        return settled;
    }
    (MISSED, "twice it did not come to this call again")
}

/// Where a run came to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Nowhere,
    /// Before the call from which on it goes to its end.
    Before,
    After,
}

/// Runs the action up to the point and strikes there.
fn run(ground: &Ground, mode: Mode, point: &Point) -> (Out, Came) {
    let mut came = Came::Nowhere;
    let mut now = Came::Before;
    let out = match point {
        Point::Call(wanted, _) | Point::Asked(wanted) => ground.run(&mut |call, pid| {
            if call.to_string() == turn(ground.action()) {
                now = Came::After;
            }
            if !call.is(wanted) {
                return Fate::Made;
            }
            came = now;
            strike_at_call(ground, mode, error_of(point), pid)
        }),
        Point::Child(wanted, delay) => {
            let mut blow = None;
            let out = ground.run(&mut |call, pid| {
                if call.is(wanted) {
                    blow = Some(kill_child(pid, call.process, *delay, mode == Mode::Both));
                }
                Fate::Made
            });
            if blow.is_some_and(|blow| blow.join().unwrap()) {
                came = now;
            }
            out
        }
        Point::End => {
            came = Came::After;
            ground.run_alone()
        }
    };
    if let (Point::End, Mode::Power(_, flush)) = (point, mode) {
        ground.cut_power(flush, None);
    }
    (out, came)
}

fn error_of(point: &Point) -> Option<Errno> {
    if let Point::Call(_, error) = point { *error } else { None }
}

fn strike_at_call(ground: &Ground, mode: Mode, error: Option<Errno>, pid: Pid) -> Fate {
    match (mode, error) {
        (_, Some(error)) => return Fate::FailsAlone(error),
        (Mode::Term, _) => {
            kill(pid, Signal::SIGTERM).unwrap();
            return Fate::LetGo;
        }
        (Mode::Power(_, flush), _) => ground.cut_power(flush, Some(pid)),
        _ => kill(pid, Signal::SIGKILL).unwrap(),
    }
    Fate::Killed
}

/// An end that was not by SIGKILL is told in good order, and truly.
fn judge_words(mode: Mode, point: &Point, out: &Out, outcome: &str) {
    out.is_in_good_order();
    match out.status.code() {
        None => assert!(matches!(mode, Mode::Kill | Mode::Both | Mode::Power(..)), "it died: {}", out.told()),
        Some(0) => assert!(matches!(outcome, "NEW" | "PLUS"), "it said yes: {}", out.told()),
        Some(code @ (1 | 2)) => {
            assert!(out.stderr.contains("Next:"), "no next step: {}", out.told());
            if let (1, Point::Call(call, Some(error))) = (code, point) {
                names_its_cause(out, call, *error);
            }
        }
        // Before our first line: the loader's own end.
        Some(127) => assert!(matches!(outcome, "OLD" | "SAME") && out.stdout.is_empty(), "{}", out.told()),
        Some(code) => panic!("exit status {code}: {}", out.told()),
    }
}

/// A failure tells the step that failed, and the error in the system's own words or in those of a tool that heard of it.
fn names_its_cause(out: &Out, call: &Call, error: Errno) {
    let words = std::io::Error::from_raw_os_error(error as i32).to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    // What a thread's making failed with, libc tells as this.
    let told = if call.name == "clone3" && error == Errno::ENOMEM {
        "Resource temporarily unavailable"
    } else {
        words
    };
    let failure = out.stderr.rsplit_once("failed: ").map_or("", |(_, failure)| failure);
    let cause = failure.split(" State:").next().unwrap_or_default();
    let at = [told, &format!("{error:?}: ")].into_iter().find_map(|word| cause.find(word));
    assert!(at.is_some_and(|at| at > 0), "neither a step nor {told:?}: {}", out.told());
}

/// Kills the child of ours that is now watched after a while, and us with it if asked. Whether anybody was there to kill.
fn kill_child(ours: Pid, child: Option<Pid>, delay: Duration, both: bool) -> thread::JoinHandle<bool> {
    let child = child.and_then(|child| rustix::process::Pid::from_raw(child.as_raw())).unwrap();
    // Its number may be another's by then.
    let child = pidfd_open(child, PidfdFlags::empty()).unwrap();
    thread::spawn(move || {
        sleep(delay);
        let struck = pidfd_send_signal(&child, rustix::process::Signal::KILL).is_ok();
        let struck_us = both && kill(ours, Signal::SIGKILL).is_ok();
        struck || struck_us
    })
}
