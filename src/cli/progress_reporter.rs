//! Prints the progress of a command: a line that is redrawn in a terminal, lines in a pipe, or lines in the log of a Juju
//! action.
//!
//! Never fails a command, and never delays etcd's return: a stopped terminal, a full pipe or an agent that hangs must not. In
//! a terminal, a thread of its own prints. Otherwise nothing is printed in a critical region; it is printed afterwards.

use crate::juju::Juju;
use crate::progress::Progress;
use crate::system::interrupt;
use crate::system::text::replace_control;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two updates of the line in a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// Time between two lines on bytes in the log of an action, which Juju keeps.
const LOG: Duration = Duration::from_secs(30);
/// A step that is shorter shows no time.
const SHORT: Duration = Duration::from_secs(1);

/// Prints the progress of a command.
pub(super) struct Reporter<'a> {
    sink: Sink<'a>,
    step: Step,
    /// When bytes were last printed.
    printed: Instant,
    /// Lines that were reported in a critical region and are not printed yet.
    waiting: Vec<String>,
}

/// The current step.
#[derive(Debug, Clone)]
struct Step {
    name: String,
    began: Instant,
    /// The bytes that are done, and those that are expected.
    bytes: Option<(u64, Option<u64>)>,
}

impl Step {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), began: Instant::now(), bytes: None }
    }
}

/// Where progress goes.
enum Sink<'a> {
    /// A line for each step.
    Lines(Box<dyn Write + 'a>),
    /// A terminal. The thread that prints starts with the first report: signals must be blocked before.
    Screen(Option<Screen>),
    /// The log of the action, until a line fails.
    ActionLog(Option<&'a Juju>),
    /// Nowhere, except for warnings.
    OnlyWarnings(Box<dyn Write + 'a>),
}

impl<'a> Reporter<'a> {
    /// Reports to standard error.
    pub(super) fn to_stderr() -> Self {
        let stderr = std::io::stderr();
        Self::new(if stderr.is_terminal() { Sink::Screen(None) } else { Sink::Lines(Box::new(stderr)) })
    }

    /// Reports to the log of the action.
    pub(super) fn to_action_log(juju: &'a Juju) -> Self {
        Self::new(Sink::ActionLog(Some(juju)))
    }

    /// Reports only warnings, to standard error.
    pub(super) fn only_warnings() -> Self {
        Self::new(Sink::OnlyWarnings(Box::new(std::io::stderr())))
    }

    fn new(sink: Sink<'a>) -> Self {
        Self { sink, step: Step::new(""), printed: Instant::now(), waiting: Vec::new() }
    }

    /// Takes a report from a command.
    pub(super) fn report(&mut self, progress: Progress<'_>) {
        self.report_at(progress, Instant::now(), interrupt::deferred());
    }

    /// Prints what is still waiting, and clears the line that is redrawn.
    pub(super) fn finish(&mut self) {
        if let Sink::Screen(screen) = &mut self.sink {
            if let Some(screen) = screen.take() {
                screen.finish();
            }
        } else {
            self.print_waiting();
        }
    }

    fn report_at(&mut self, progress: Progress<'_>, now: Instant, critical: bool) {
        if matches!(self.sink, Sink::OnlyWarnings(_)) && !matches!(progress, Progress::Warning(_)) {
            return;
        }
        match progress {
            Progress::Step(step) => {
                self.step = Step { name: step.to_owned(), began: now, bytes: None };
                self.printed = now;
                self.waiting.push(printable(step));
            }
            Progress::Message(message) => self.waiting.push(printable(message)),
            Progress::Warning(warning) => self.waiting.push(format!("warning: {}", printable(warning))),
            Progress::Bytes { done, expected } => self.step.bytes = Some((done, expected)),
        }
        if let Sink::Screen(screen) = &mut self.sink {
            screen.get_or_insert_with(Screen::start).show(&mut self.waiting, &self.step);
        } else if !critical {
            self.print_waiting();
            self.log_bytes(now);
        }
    }

    fn print_waiting(&mut self) {
        for line in self.waiting.drain(..) {
            self.sink.line(&line);
        }
    }

    fn log_bytes(&mut self, now: Instant) {
        let is_log = matches!(self.sink, Sink::ActionLog(Some(_)));
        if let (true, Some((done, expected))) = (is_log, self.step.bytes)
            && now.duration_since(self.printed) >= LOG
        {
            self.printed = now;
            let passed = now.duration_since(self.step.began);
            let line = format!("{}: {}", printable(&self.step.name), amount(done, expected, passed));
            self.sink.line(&line);
        }
    }
}

impl Sink<'_> {
    fn line(&mut self, line: &str) {
        match self {
            Self::Lines(out) | Self::OnlyWarnings(out) => {
                let _ = writeln!(out, "{line}");
            }
            Self::ActionLog(juju) => {
                // An agent that does not take this line will not take the next, and each attempt may take its full time
                // limit.
                if juju.is_some_and(|juju| juju.log_progress(line).is_err()) {
                    *juju = None;
                }
            }
            Self::Screen(_) => {}
        }
    }
}

/// A terminal, and the thread that prints to it. The command only stores what is to be printed, and never waits.
struct Screen {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    lines: Vec<String>,
    step: Option<Step>,
    is_finished: bool,
}

impl Screen {
    fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || of_thread.print());
        // Without a thread there is no progress; the command goes on.
        Self { shared, thread: thread.ok() }
    }

    fn show(&self, lines: &mut Vec<String>, step: &Step) {
        let mut content = self.shared.content.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !lines.is_empty();
        content.lines.append(lines);
        content.step = Some(step.clone());
        drop(content);
        if is_new {
            self.shared.changed.notify_one();
        }
    }

    fn finish(self) {
        self.shared.content.lock().unwrap_or_else(PoisonError::into_inner).is_finished = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn print(&self) {
        loop {
            let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.changed.wait_timeout_while(content, REDRAW, |content| {
                content.lines.is_empty() && !content.is_finished
            });
            let (mut content, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let (lines, step, is_finished) =
                (std::mem::take(&mut content.lines), content.step.clone(), content.is_finished);
            drop(content);
            let mut text = String::from("\r\x1b[K");
            for line in lines {
                text += &format!("{line}\n");
            }
            if let Some(status) = step.filter(|_| !is_finished).and_then(|step| status(&step, Instant::now()))
            {
                text += &format!("  {status}");
            }
            let mut stderr = std::io::stderr().lock();
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
            if is_finished {
                return;
            }
        }
    }
}

/// The line below a step that runs: its bytes and the time that it takes.
fn status(step: &Step, now: Instant) -> Option<String> {
    let passed = now.duration_since(step.began);
    if passed < SHORT && step.bytes.is_none() {
        return None;
    }
    let elapsed = format!("{} s", passed.as_secs());
    let Some((done, expected)) = step.bytes else { return Some(elapsed) };
    let left = expected.and_then(|expected| seconds_left(done, expected, passed));
    let left = left.map(|seconds| format!(", {seconds} s left")).unwrap_or_default();
    Some(format!("{}{left} ({elapsed})", amount(done, expected, passed)))
}

/// Returns how many seconds the rest takes at the rate so far, if that is known.
fn seconds_left(done: u64, expected: u64, passed: Duration) -> Option<u128> {
    let rest = u128::from(expected.checked_sub(done)?);
    (done > 0 && passed >= SHORT).then(|| rest * passed.as_millis() / u128::from(done) / 1000 + 1)
}

fn printable(line: &str) -> String {
    replace_control(line, '\u{fffd}')
}

/// `12.0 MiB of 68.0 MiB (17 %), 45.1 MiB/s`: short enough for any terminal, and without what is not known.
fn amount(done: u64, expected: Option<u64>, passed: Duration) -> String {
    let mut text = size(done);
    // An estimate that was exceeded is not shown.
    if let Some(of) = expected.filter(|of| *of > 0 && done <= *of) {
        let percent = u128::from(done) * 100 / u128::from(of);
        text.push_str(&format!(" of {} ({percent} %)", size(of)));
    }
    let rate = u128::from(done) * 1000 / passed.as_millis().max(1);
    if passed >= Duration::from_secs(1) {
        text.push_str(&format!(", {}/s", size(u64::try_from(rate).unwrap_or(u64::MAX))));
    }
    text
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::juju::tests::FakeAgent;

    const STEP: Progress<'_> = Progress::Step("saving the snapshot");

    fn bytes(done: u64) -> Progress<'static> {
        Progress::Bytes { done, expected: Some(200 << 20) }
    }

    /// Reports to a pipe: each report with whether it is made in a critical region.
    fn piped(reports: &[(bool, Progress<'_>)]) -> String {
        let mut text = Vec::new();
        let mut reporter = Reporter::new(Sink::Lines(Box::new(&mut text)));
        for (critical, progress) in reports {
            reporter.report_at(*progress, Instant::now(), *critical);
        }
        reporter.finish();
        drop(reporter);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_pipe_gets_only_the_steps() {
        assert_eq!(piped(&[(false, STEP), (false, bytes(1))]), "saving the snapshot\n");
    }

    #[test]
    fn a_warning_is_printed_even_if_no_progress_is() {
        let mut text = Vec::new();
        let mut reporter = Reporter::new(Sink::OnlyWarnings(Box::new(&mut text)));
        for progress in [STEP, bytes(1), Progress::Message("recovered"), Progress::Warning("not verified")] {
            reporter.report_at(progress, Instant::now(), false);
        }
        reporter.finish();
        drop(reporter);
        assert_eq!(String::from_utf8(text).unwrap(), "warning: not verified\n");
    }

    #[test]
    fn in_a_pipe_lines_of_a_critical_region_are_printed_after_it() {
        let mut text = Vec::new();
        let mut reporter = Reporter::new(Sink::Lines(Box::new(&mut text)));
        reporter.report_at(STEP, Instant::now(), true);
        assert_eq!(reporter.waiting.len(), 1);
        drop(reporter);
        assert!(text.is_empty());
        let text = piped(&[(true, STEP), (true, Progress::Step("starting\netcd")), (false, bytes(1))]);
        assert_eq!(text, "saving the snapshot\nstarting\u{fffd}etcd\n");
    }

    #[test]
    fn a_terminal_shows_bytes_rate_and_time() {
        let (step, second) = (Step::new("saving"), Duration::from_secs(1));
        assert_eq!(status(&step, step.began + second / 2), None);
        assert_eq!(status(&step, step.began + 5 * second).as_deref(), Some("5 s"));
        let step = Step { bytes: Some((50 << 20, Some(200 << 20))), ..step };
        let line = status(&step, step.began + 5 * second).unwrap();
        assert_eq!(line, "50.0 MiB of 200.0 MiB (25 %), 10.0 MiB/s, 16 s left (5 s)");
    }

    #[test]
    fn the_log_of_an_action_gets_bytes_every_half_minute() {
        let agent = FakeAgent::new();
        let juju = agent.juju();
        let mut reporter = Reporter::to_action_log(&juju);
        let start = Instant::now();
        reporter.report_at(STEP, start, false);
        for seconds in 0..61 {
            let now = start + Duration::from_secs(seconds);
            reporter.report_at(bytes(seconds << 20), now, false);
        }
        reporter.finish();
        assert_eq!(
            agent.calls(),
            "action-log [--] [saving the snapshot]\n\
             action-log [--] [saving the snapshot: 30.0 MiB of 200.0 MiB (15 %), 1.0 MiB/s]\n\
             action-log [--] [saving the snapshot: 60.0 MiB of 200.0 MiB (30 %), 1.0 MiB/s]\n"
        );
    }

    #[test]
    fn a_log_that_fails_once_is_left_alone() {
        let agent = FakeAgent::new().fails("action-log", 1, "ERROR gone\n");
        let juju = agent.juju();
        let mut reporter = Reporter::to_action_log(&juju);
        for _ in 0..3 {
            reporter.report_at(STEP, Instant::now(), false);
        }
        assert_eq!(agent.calls().lines().count(), 1);
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut reporter = Reporter::new(Sink::Lines(Box::new(writer)));
        reporter.report_at(STEP, Instant::now(), false);
        reporter.finish();
    }

    #[test]
    fn amounts_leave_out_what_is_not_known() {
        let second = Duration::from_secs(1);
        assert_eq!(amount(5, None, Duration::ZERO), "5 B");
        assert_eq!(amount(2048, Some(1024), second), "2.0 KiB, 2.0 KiB/s");
        assert_eq!(amount(512, Some(1024), second), "512 B of 1.0 KiB (50 %), 512 B/s");
        assert_eq!(size(u64::MAX), "15.9 EiB");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(size((1 << 20) - 1), "1023.9 KiB");
    }
}
