//! Prints the progress of a command: lines on standard error, or lines in the log of a Juju action.
//!
//! Never fails a command. In a critical region it neither prints nor starts anything: a stopped terminal, a full pipe or an
//! agent that hangs must not delay etcd's return. What is reported there is printed afterwards.

use crate::juju::Juju;
use crate::progress::Progress;
use crate::system::interrupt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two updates of the line in a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two lines on bytes in the log of an action, which Juju keeps.
const LOG: Duration = Duration::from_secs(30);

/// Prints the progress of a command.
pub(super) struct Reporter<'a> {
    sink: Sink<'a>,
    /// The current step.
    step: String,
    /// When the step began.
    began: Instant,
    /// When bytes were last reported.
    reported: Instant,
    /// Steps that were reported in a critical region and are not printed yet.
    waiting: Vec<String>,
}

/// Where progress goes.
enum Sink<'a> {
    /// To a stream: a line for each step and, if `redraws`, a line with bytes that is drawn again and again.
    Stream { out: Box<dyn Write + 'a>, redraws: bool, drawn: bool },
    /// To the log of the action, until a line fails.
    ActionLog(Option<&'a Juju>),
    /// Nowhere.
    Silent,
}

impl<'a> Reporter<'a> {
    /// Reports to standard error.
    pub(super) fn to_stderr() -> Self {
        let stderr = std::io::stderr();
        let redraws = stderr.is_terminal();
        Self::new(Sink::Stream { out: Box::new(stderr), redraws, drawn: false })
    }

    /// Reports to the log of the action.
    pub(super) fn to_action_log(juju: &'a Juju) -> Self {
        Self::new(Sink::ActionLog(Some(juju)))
    }

    /// Reports nothing.
    pub(super) fn silent() -> Self {
        Self::new(Sink::Silent)
    }

    fn new(sink: Sink<'a>) -> Self {
        let now = Instant::now();
        Self { sink, step: String::new(), began: now, reported: now, waiting: Vec::new() }
    }

    /// Takes a report from a command.
    pub(super) fn report(&mut self, progress: Progress<'_>) {
        self.report_at(progress, Instant::now(), interrupt::deferred());
    }

    /// Prints what is still waiting, and clears the line with bytes.
    pub(super) fn finish(&mut self) {
        self.print_waiting();
        self.sink.clear();
    }

    fn report_at(&mut self, progress: Progress<'_>, now: Instant, critical: bool) {
        match progress {
            Progress::Step(step) => {
                step.clone_into(&mut self.step);
                (self.began, self.reported) = (now, now);
                self.waiting.push(printable(step));
            }
            Progress::Message(message) => self.waiting.push(printable(message)),
            Progress::Bytes { .. } => {}
        }
        if critical {
            return;
        }
        self.print_waiting();
        if let Progress::Bytes { done, expected } = progress {
            self.bytes(done, expected.unwrap_or(0), now);
        }
    }

    fn print_waiting(&mut self) {
        for line in self.waiting.drain(..) {
            self.sink.line(&line);
        }
    }

    fn bytes(&mut self, done: u64, of: u64, now: Instant) {
        let pause = match &self.sink {
            Sink::Stream { redraws: true, .. } => REDRAW,
            Sink::ActionLog(Some(_)) => LOG,
            _ => return,
        };
        if now.duration_since(self.reported) < pause {
            return;
        }
        self.reported = now;
        let passed = now.duration_since(self.began);
        self.sink.bytes(&self.step, &amount(done, of, passed));
    }
}

impl Sink<'_> {
    fn line(&mut self, line: &str) {
        self.clear();
        match self {
            Self::Stream { out, .. } => {
                let _ = writeln!(out, "{line}");
            }
            Self::ActionLog(juju) => {
                // An agent that does not take this line will not take the next, and each attempt may take its full time limit.
                if juju.is_some_and(|juju| juju.log_progress(line).is_err()) {
                    *juju = None;
                }
            }
            Self::Silent => {}
        }
    }

    fn bytes(&mut self, step: &str, amount: &str) {
        match self {
            Self::Stream { out, drawn, .. } => {
                let _ = write!(out, "\r  {amount}\x1b[K").and_then(|()| out.flush());
                *drawn = true;
            }
            Self::ActionLog(_) => self.line(&format!("{}: {amount}", printable(step))),
            Self::Silent => {}
        }
    }

    fn clear(&mut self) {
        if let Self::Stream { out, drawn, .. } = self
            && std::mem::take(drawn)
        {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

fn printable(line: &str) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    line.chars().map(printable).collect()
}

/// `12.0 MiB of 68.0 MiB (17 %), 45.1 MiB/s`: short enough for any terminal, and without what is not known.
fn amount(done: u64, of: u64, passed: Duration) -> String {
    let mut text = size(done);
    // An estimate that was passed is none.
    if of > 0 && done <= of {
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

    /// Plays progress to a stream, each with its time in milliseconds and whether it is reports in a critical region.
    fn played(redraws: bool, reports: &[(u64, bool, Progress<'_>)]) -> String {
        let mut text = Vec::new();
        let mut reporter = Reporter::new(Sink::Stream { out: Box::new(&mut text), redraws, drawn: false });
        let start = Instant::now();
        for (millis, critical, progress) in reports {
            reporter.report_at(*progress, start + Duration::from_millis(*millis), *critical);
        }
        reporter.finish();
        drop(reporter);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_pipe_gets_the_steps_alone() {
        let text = played(false, &[(0, false, STEP), (5000, false, bytes(1))]);
        assert_eq!(text, "saving the snapshot\n");
    }

    #[test]
    fn a_terminal_gets_a_line_drawn_ten_times_a_second_and_cleared_at_the_end() {
        let mut reports = vec![(0, false, STEP)];
        reports.extend((0..2000).map(|millis| (millis, false, bytes(millis << 16))));
        let text = played(true, &reports);
        assert_eq!(text.matches("\r  ").count(), 19, "{text:?}");
        assert!(text.contains("118.7 MiB of 200.0 MiB (59 %), 62.5 MiB/s"), "{text:?}");
        assert!(text.ends_with("\r\x1b[K"), "{text:?}");
    }

    #[test]
    fn nothing_is_reports_in_a_critical_region_and_all_steps_after_it() {
        let mut reporter_text = Vec::new();
        let mut reporter =
            Reporter::new(Sink::Stream { out: Box::new(&mut reporter_text), redraws: true, drawn: false });
        let now = Instant::now();
        reporter.report_at(STEP, now, true);
        reporter.report_at(bytes(1 << 20), now + Duration::from_secs(9), true);
        assert_eq!(reporter.waiting.len(), 1);
        drop(reporter);
        assert!(reporter_text.is_empty());
        let text = played(
            true,
            &[
                (0, true, STEP),
                (9, true, Progress::Step("starting\netcd")),
                (10, false, Progress::Step("proving")),
            ],
        );
        assert_eq!(text, "saving the snapshot\nstarting\u{fffd}etcd\nproving\n");
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
    fn a_closed_pipe_is_no_failure() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut reporter = Reporter::new(Sink::Stream { out: Box::new(writer), redraws: true, drawn: false });
        reporter.report_at(STEP, Instant::now(), false);
        reporter.finish();
    }

    #[test]
    fn amounts_leave_out_what_is_not_known() {
        let second = Duration::from_secs(1);
        assert_eq!(amount(5, 0, Duration::ZERO), "5 B");
        assert_eq!(amount(2048, 1024, second), "2.0 KiB, 2.0 KiB/s");
        assert_eq!(amount(512, 1024, second), "512 B of 1.0 KiB (50 %), 512 B/s");
        assert_eq!(size(u64::MAX), "15.9 EiB");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(size((1 << 20) - 1), "1023.9 KiB");
    }
}
