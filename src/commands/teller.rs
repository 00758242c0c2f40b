//! What becomes of a walk's progress: lines on standard error, or lines in the action's log.
//!
//! Never fails the walk, and in a critical region neither prints nor starts anything: a terminal that is stopped, a
//! pipe that nobody reads or an agent that hangs must not hold up etcd while it is down. What is told there waits.

use crate::juju::Juju;
use crate::progress::Progress;
use crate::system::interrupt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line of a terminal is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);
/// How often the log of an action, which is kept, gets a line on bytes.
const LOG: Duration = Duration::from_secs(30);

/// Listens to a walk.
pub(super) struct Teller<'a> {
    ear: Ear<'a>,
    /// The running step.
    step: String,
    /// When it began, and when bytes were last told of it.
    began: Instant,
    told: Instant,
    /// Steps that were told in a critical region.
    waiting: Vec<String>,
}

/// Who hears it.
enum Ear<'a> {
    /// Lines, and between them a line that is drawn again and again, where `redraws`.
    Stream { out: Box<dyn Write + 'a>, redraws: bool, drawn: bool },
    /// The log of the action, until it fails once.
    Log(Option<&'a Juju>),
}

impl<'a> Teller<'a> {
    /// Tells it on standard error.
    pub(super) fn on_stderr() -> Self {
        let stderr = std::io::stderr();
        let redraws = stderr.is_terminal();
        Self::to(Ear::Stream { out: Box::new(stderr), redraws, drawn: false })
    }

    /// Tells it in the log of the action.
    pub(super) fn in_log(juju: &'a Juju) -> Self {
        Self::to(Ear::Log(Some(juju)))
    }

    fn to(ear: Ear<'a>) -> Self {
        let now = Instant::now();
        Self { ear, step: String::new(), began: now, told: now, waiting: Vec::new() }
    }

    /// Hears what a walk says.
    pub(super) fn hear(&mut self, progress: Progress<'_>) {
        self.hear_at(progress, Instant::now(), interrupt::deferred());
    }

    /// Tells what still waits, and leaves a clean line.
    pub(super) fn finish(&mut self) {
        self.catch_up();
        self.ear.clear();
    }

    fn hear_at(&mut self, progress: Progress<'_>, now: Instant, critical: bool) {
        match progress {
            Progress::Step(step) => {
                step.clone_into(&mut self.step);
                (self.began, self.told) = (now, now);
                self.waiting.push(printable(step));
            }
            Progress::Message(message) => self.waiting.push(printable(message)),
            Progress::Bytes { .. } => {}
        }
        if critical {
            return;
        }
        self.catch_up();
        if let Progress::Bytes { done, expected } = progress {
            self.bytes(done, expected.unwrap_or(0), now);
        }
    }

    fn catch_up(&mut self) {
        for line in self.waiting.drain(..) {
            self.ear.line(&line);
        }
    }

    fn bytes(&mut self, done: u64, of: u64, now: Instant) {
        let pause = match &self.ear {
            Ear::Stream { redraws: true, .. } => REDRAW,
            Ear::Log(Some(_)) => LOG,
            _ => return,
        };
        if now.duration_since(self.told) < pause {
            return;
        }
        self.told = now;
        let passed = now.duration_since(self.began);
        self.ear.bytes(&self.step, &amount(done, of, passed));
    }
}

impl Ear<'_> {
    fn line(&mut self, line: &str) {
        self.clear();
        match self {
            Self::Stream { out, .. } => {
                let _ = writeln!(out, "{line}");
            }
            Self::Log(juju) => {
                // An agent that fails to take one line will not take the next, and each try may cost its deadline.
                if juju.is_some_and(|juju| juju.log_progress(line).is_err()) {
                    *juju = None;
                }
            }
        }
    }

    fn bytes(&mut self, step: &str, amount: &str) {
        match self {
            Self::Stream { out, drawn, .. } => {
                let _ = write!(out, "\r  {amount}\x1b[K").and_then(|()| out.flush());
                *drawn = true;
            }
            Self::Log(_) => self.line(&format!("{}: {amount}", printable(step))),
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

    /// Plays progress to a stream, each with its time in milliseconds and whether it is told in a critical region.
    fn played(redraws: bool, told: &[(u64, bool, Progress<'_>)]) -> String {
        let mut text = Vec::new();
        let mut teller = Teller::to(Ear::Stream { out: Box::new(&mut text), redraws, drawn: false });
        let start = Instant::now();
        for (millis, critical, progress) in told {
            teller.hear_at(*progress, start + Duration::from_millis(*millis), *critical);
        }
        teller.finish();
        drop(teller);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_pipe_gets_the_steps_alone() {
        let text = played(false, &[(0, false, STEP), (5000, false, bytes(1))]);
        assert_eq!(text, "saving the snapshot\n");
    }

    #[test]
    fn a_terminal_gets_a_line_drawn_ten_times_a_second_and_cleared_at_the_end() {
        let mut told = vec![(0, false, STEP)];
        told.extend((0..2000).map(|millis| (millis, false, bytes(millis << 16))));
        let text = played(true, &told);
        assert_eq!(text.matches("\r  ").count(), 19, "{text:?}");
        assert!(text.contains("118.7 MiB of 200.0 MiB (59 %), 62.5 MiB/s"), "{text:?}");
        assert!(text.ends_with("\r\x1b[K"), "{text:?}");
    }

    #[test]
    fn nothing_is_told_in_a_critical_region_and_all_steps_after_it() {
        let mut teller_text = Vec::new();
        let mut teller =
            Teller::to(Ear::Stream { out: Box::new(&mut teller_text), redraws: true, drawn: false });
        let now = Instant::now();
        teller.hear_at(STEP, now, true);
        teller.hear_at(bytes(1 << 20), now + Duration::from_secs(9), true);
        assert_eq!(teller.waiting.len(), 1);
        drop(teller);
        assert!(teller_text.is_empty());
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
        let mut teller = Teller::in_log(&juju);
        let start = Instant::now();
        teller.hear_at(STEP, start, false);
        for seconds in 0..61 {
            let now = start + Duration::from_secs(seconds);
            teller.hear_at(bytes(seconds << 20), now, false);
        }
        teller.finish();
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
        let mut teller = Teller::in_log(&juju);
        for _ in 0..3 {
            teller.hear_at(STEP, Instant::now(), false);
        }
        assert_eq!(agent.calls().lines().count(), 1);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut teller = Teller::to(Ear::Stream { out: Box::new(writer), redraws: true, drawn: false });
        teller.hear_at(STEP, Instant::now(), false);
        teller.finish();
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
