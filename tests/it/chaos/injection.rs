//! The modes of fault injection: the points of a run, and the fault at each point.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::disk::{Flush, Kind};
use super::fixture::{Action, Fixture, Next, SWEPT};
use super::table::{MISSED, Row, Table};
use crate::common::command::Out;
use crate::common::tracer::{Call, Fate};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sends SIGKILL to our process.
    Kill,
    /// Sends SIGKILL to the etcd tool that our process runs.
    Child,
    /// Sends SIGKILL to both.
    Both,
    /// Makes the call fail.
    Errno,
    /// Sends SIGTERM to our process.
    Term,
    /// Cuts the power: kills our process and etcd, and loses the data that had not reached the disk.
    Power(Kind, Flush),
}

/// The errors with which a call is made to fail.
const ERRORS: [Errno; 7] =
    [Errno::ENOSPC, Errno::EIO, Errno::EACCES, Errno::EROFS, Errno::EMFILE, Errno::ENOMEM, Errno::EDQUOT];

/// The number of polls of a growing file that are made to fail. The total number depends on the speed of the
/// machine.
const MAX_POLLS: usize = 4;

/// The growing files that are polled.
const GROWING_FILES: [&str; 2] = ["/archive", "/db.part"];

/// Returns the call after which a run completes even if it is asked to stop: the snapshot has its archive, or
/// the restore its new data.
fn turning_point(action: Action) -> &'static str {
    if action == Action::Snapshot { "renameat2(archive)" } else { "unlinkat(journal.json.new)" }
}

/// The number of points in the life of a child process at which it is killed.
const QUARTERS: u32 = 4;

/// A point of a run, with the fault to inject.
#[derive(Debug, Clone)]
enum Point {
    /// Strikes our process at this call.
    Call(Call, Option<Errno>),
    /// Asks our process to stop at this call.
    Asked(Call),
    /// Kills the child process that it began to watch at this call, after a delay.
    Child(Call, Duration),
    /// Cuts the power after our process has completed.
    End,
}

impl Mode {
    /// Returns the modes to test for an action. [`Action::Unsaved`] and [`Action::Empty`] differ from
    /// [`Action::Restore`] in few steps, so only [`Mode::Kill`] is tested for them.
    pub fn of(action: Action) -> impl Iterator<Item = Self> {
        let power = Kind::ALL.into_iter().flat_map(|kind| Flush::ALL.map(|flush| Self::Power(kind, flush)));
        let all = [Self::Kill, Self::Child, Self::Both, Self::Errno, Self::Term].into_iter().chain(power);
        let alone = matches!(action, Action::Unsaved | Action::Empty);
        all.filter(move |mode| !alone || *mode == Self::Kill)
    }

    /// Returns the value of `--mode`.
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

    /// Returns the name in the result table.
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

    /// Returns the points of a run that made these calls.
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

/// Returns whether the call is a later one of many polls of a growing file.
fn is_a_poll(call: &Call) -> bool {
    call.harmless && call.number > MAX_POLLS && GROWING_FILES.iter().any(|file| call.about.ends_with(file))
}

/// Returns the calls at which a child process is first watched, and its lifetime: until it is last waited
/// for.
fn children(calls: &[(Call, Instant)]) -> Vec<(Call, Duration)> {
    let waits = |call: &Call| matches!(call.name, "wait4" | "waitid");
    let born = calls.iter().filter(|(call, _)| call.name == "pidfd_open");
    born.map(|(born, at)| {
        let waited = calls.iter().rev().find(|(call, _)| waits(call) && call.process == born.process);
        (born.clone(), waited.map_or(Duration::ZERO, |(_, then)| then.saturating_duration_since(*at)))
    })
    .collect()
}

/// An action and a mode.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    pub action: Action,
    pub mode: Mode,
    /// The flaw to enable in the action on purpose.
    pub flaw: Option<&'static str>,
    /// Whether a record of each run can be kept.
    pub recorded: bool,
}

/// Injects faults into an action at `count` points of this mode, `jobs` at a time. The points are spread
/// evenly.
pub fn inject_at_points(action: Action, mode: Mode, count: usize, jobs: usize) -> Table {
    let series = Series::of(action, mode);
    let points = series.points();
    let count = count.min(points.len());
    // Takes the middle of each part, so that few points are not all near the start; and adds the end.
    let spread = (0..count).map(|n| points[(2 * n + 1) * points.len() / (2 * count)].clone());
    let end = points.last().filter(|last| matches!(last, Point::End)).cloned();
    let mut table = series.inject(spread.filter(|point| !matches!(point, Point::End)).chain(end), jobs);
    table.set_total(&series.shown(), points.len());
    table
}

/// Returns the name of a series and the number of its points.
pub fn count(action: Action, mode: Mode) -> (String, usize) {
    let series = Series::of(action, mode);
    (series.shown(), series.points().len())
}

impl Series {
    /// Creates a series without a flaw.
    pub fn of(action: Action, mode: Mode) -> Self {
        Self { action, mode, flaw: None, recorded: true }
    }

    fn shown(self) -> String {
        format!("{} {}", self.action.series(), self.mode.series())
    }

    fn fixture(self) -> Fixture {
        let fixture = Fixture::new(self.action, self.mode.disk()).with_flaw(self.flaw);
        if !self.recorded {
            fixture.prevent_records();
        }
        fixture
    }

    /// Returns all points of an undisturbed run.
    fn points(self) -> Vec<Point> {
        let mut calls = Vec::new();
        let mut note = |call: &Call, _| {
            calls.push((call.clone(), Instant::now()));
            Fate::Made
        };
        let _ = self.fixture().run(&mut note).completed();
        self.mode.points(&calls)
    }

    /// Injects faults at all points whose description contains one of `about`.
    #[cfg(feature = "sabotage")]
    pub fn inject_at_calls(self, about: &[&str]) -> Table {
        let mut points = self.points();
        points.retain(|point| about.iter().any(|word| shown(point).contains(word)));
        self.inject(points.into_iter(), 1)
    }

    /// Injects faults at each point, `jobs` at a time. Each job has its own fixture.
    fn inject(self, points: impl Iterator<Item = Point>, jobs: usize) -> Table {
        let points = Mutex::new(points.enumerate().collect::<Vec<_>>().into_iter());
        let table = Mutex::new(Table::new());
        let work = || {
            let mut fixture = self.fixture();
            loop {
                let Some((number, point)) = points.lock().unwrap().next() else { return };
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| inject(&mut fixture, self.mode, &point, number)));
                if outcome.is_err() {
                    fixture = self.fixture();
                }
                table.lock().unwrap().add(Row {
                    series: self.shown(),
                    point: shown(&point),
                    outcome: outcome.map_err(|panic| panic_message(panic.as_ref())),
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

/// Returns the message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

fn inject(fixture: &mut Fixture, mode: Mode, point: &Point, number: usize) -> (&'static str, &'static str) {
    // Tries twice: the number of calls depends on how long the run waits for a child process.
    for _ in 0..2 {
        let (out, reached) = run(fixture, mode, point);
        if reached == Reached::Never {
            assert!(out.status.success(), "the run failed without a fault: {}", out.describe());
            fixture.begin();
            continue;
        }
        let went_down = mode.disk().is_some();
        if went_down {
            fixture.restore_power();
        }
        let settled = fixture.settle(&out, Next::nth(number, went_down, fixture.action()));
        // Only a failed call may prevent the cleanup.
        assert!(settled.1 != SWEPT || mode == Mode::Errno, "left over: {}", out.describe());
        check_message(mode, point, &out, settled.0);
        if let (Point::Asked(_), Reached::Before) = (point, reached) {
            let obeys = out.stderr.contains("SIGTERM") && matches!(settled.0, "OLD" | "SAME");
            assert!(obeys, "it continued after SIGTERM: {}", out.describe());
        }
        fixture.begin();
        return settled;
    }
    (MISSED, "two runs did not reach this call")
}

/// Whether a run reached its point before or after the turning point of [`turning_point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// The run did not reach the point.
    Never,
    /// The run reached the point before the turning point.
    Before,
    After,
}

/// Runs the action and injects the fault at the point.
fn run(fixture: &Fixture, mode: Mode, point: &Point) -> (Out, Reached) {
    let mut reached = Reached::Never;
    let mut now = Reached::Before;
    let out = match point {
        Point::Call(wanted, _) | Point::Asked(wanted) => fixture.run(&mut |call, pid| {
            if call.to_string() == turning_point(fixture.action()) {
                now = Reached::After;
            }
            if !call.is(wanted) {
                return Fate::Made;
            }
            reached = now;
            inject_at_call(fixture, mode, error_of(point), pid)
        }),
        Point::Child(wanted, delay) => {
            let mut blow = None;
            let out = fixture.run(&mut |call, pid| {
                if call.is(wanted) {
                    blow = Some(kill_child(pid, call.process, *delay, mode == Mode::Both));
                }
                Fate::Made
            });
            if blow.is_some_and(|blow| blow.join().unwrap()) {
                reached = now;
            }
            out
        }
        Point::End => {
            reached = Reached::After;
            fixture.run_alone()
        }
    };
    if let (Point::End, Mode::Power(_, flush)) = (point, mode) {
        fixture.cut_power(flush, None);
    }
    (out, reached)
}

fn error_of(point: &Point) -> Option<Errno> {
    if let Point::Call(_, error) = point { *error } else { None }
}

fn inject_at_call(fixture: &Fixture, mode: Mode, error: Option<Errno>, pid: Pid) -> Fate {
    match (mode, error) {
        (_, Some(error)) => return Fate::FailsAlone(error),
        (Mode::Term, _) => {
            kill(pid, Signal::SIGTERM).unwrap();
            return Fate::Release;
        }
        (Mode::Power(_, flush), _) => fixture.cut_power(flush, Some(pid)),
        _ => kill(pid, Signal::SIGKILL).unwrap(),
    }
    Fate::Killed
}

/// Checks that a run that was not killed reports the correct outcome, without a panic.
fn check_message(mode: Mode, point: &Point, out: &Out, outcome: &str) {
    out.assert_no_panic();
    match out.status.code() {
        None => {
            assert!(matches!(mode, Mode::Kill | Mode::Both | Mode::Power(..)), "it died: {}", out.describe())
        }
        Some(0) => assert!(matches!(outcome, "NEW" | "PLUS"), "the run reported success: {}", out.describe()),
        Some(code @ (1 | 2)) => {
            assert!(out.stderr.contains("Next:"), "no next step: {}", out.describe());
            if let (1, Point::Call(call, Some(error))) = (code, point) {
                check_cause(out, call, *error);
            }
        }
        // An interrupt is not a failure: it needs no next step, and the old data is as it was.
        Some(143) if matches!(mode, Mode::Term) => {
            assert!(matches!(outcome, "OLD" | "SAME"), "interrupted, with {outcome}: {}", out.describe());
            assert!(out.stderr.contains("interrupted by SIGTERM. State: "), "{}", out.describe());
        }
        // The dynamic loader failed, before our program started.
        Some(127) => {
            assert!(matches!(outcome, "OLD" | "SAME") && out.stdout.is_empty(), "{}", out.describe())
        }
        Some(code) => panic!("exit status {code}: {}", out.describe()),
    }
}

/// Checks that a failure names the step and the error, in the words of the system or of the failed tool.
fn check_cause(out: &Out, call: &Call, error: Errno) {
    let words = std::io::Error::from_raw_os_error(error as i32).to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    // libc reports this error if it cannot start a thread.
    let expected = if call.name == "clone3" && error == Errno::ENOMEM {
        "Resource temporarily unavailable"
    } else {
        words
    };
    let failure = out.stderr.rsplit_once("failed: ").map_or("", |(_, failure)| failure);
    let cause = failure.split(" State:").next().unwrap_or_default();
    let at = [expected, &format!("{error:?}: ")].into_iter().find_map(|word| cause.find(word));
    assert!(
        at.is_some_and(|at| at > 0),
        "the message has no step or does not contain {expected:?}: {}",
        out.describe()
    );
}

/// Kills a child process after a delay, and our process too if `both` is set. The thread returns whether one
/// was killed.
fn kill_child(ours: Pid, child: Option<Pid>, delay: Duration, both: bool) -> thread::JoinHandle<bool> {
    let child = child.and_then(|child| rustix::process::Pid::from_raw(child.as_raw())).unwrap();
    // Opens a pidfd, because the process id may be reused during the delay.
    let child = pidfd_open(child, PidfdFlags::empty()).unwrap();
    thread::spawn(move || {
        sleep(delay);
        let struck = pidfd_send_signal(&child, rustix::process::Signal::KILL).is_ok();
        let struck_us = both && kill(ours, Signal::SIGKILL).is_ok();
        struck || struck_us
    })
}
