//! The outcome of `check-config`.

use super::{Render, Style};
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::check_config::{Check, Level, Outcome};

impl Render for Outcome {
    fn juju(&self) -> Results {
        let mut results = Results::default();
        if let Some(status) = self.status {
            results.set(key!("check-config.status"), status.as_str());
        }
        for (key, level) in
            [(key!("check-config.errors"), Level::Error), (key!("check-config.warnings"), Level::Warning)]
        {
            let lines: Vec<String> =
                self.of(level).map(|check| format!("{}: {}", check.name, sentence(check))).collect();
            if !lines.is_empty() {
                results.set(key, lines.join(" "));
            }
        }
        if !self.checks.is_empty() {
            results.set(key!("check-config.checks"), self.checks.iter().map(line).collect::<String>());
        }
        if let Some(next) = &self.next_run {
            results.set(key!("check-config.next-run"), &**next);
        }
        results
    }

    fn text(&self, _: Style) -> String {
        let mut text: String = self.checks.iter().map(line).collect();
        if let Some(next) = &self.next_run {
            text += &format!("\nThe next scheduled run is at {next}.\n");
        }
        if self.status.is_some() {
            let count = |level, noun: &str| match self.of(level).count() {
                1 => format!("1 {noun}"),
                number => format!("{number} {noun}s"),
            };
            let (ok, all) = (self.of(Level::Ok).count(), self.checks.len());
            let (warnings, errors) = (count(Level::Warning, "warning"), count(Level::Error, "error"));
            text += &format!("\n{all} checks: {ok} ok, {warnings}, {errors}\n");
        }
        text
    }

    fn exit_status(&self) -> Option<u8> {
        self.status.map(|status| match status {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Error => 2,
        })
    }
}

impl Outcome {
    fn of(&self, level: Level) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(move |check| check.level == level)
    }
}

/// Returns the line of a check.
fn line(check: &Check) -> String {
    format!("{:<7}  {}: {}\n", check.level.as_str(), check.name, sentence(check))
}

/// Returns the message of a check, and the next step if there is one.
fn sentence(check: &Check) -> String {
    let message = check.message.trim_end().replace('\n', " ");
    match &check.next {
        Some(next) => format!("{message}. Next: {}.", next.trim_end_matches('.')),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_line_for_each_check_and_the_exit_status_is_the_worst_level() {
        let check = |level, next: Option<&str>| Check {
            name: "hooks".to_owned(),
            level,
            message: "no\nnewline".to_owned(),
            next: next.map(str::to_owned),
        };
        let checks = vec![check(Level::Ok, None), check(Level::Error, Some("do it."))];
        let outcome =
            Outcome { status: Some(Level::Error), checks, next_run: Some("2026-01-01T00:00:00Z".to_owned()) };
        let text = "ok       hooks: no newline\nerror    hooks: no newline. Next: do it.\n\n\
                    The next scheduled run is at 2026-01-01T00:00:00Z.\n\n2 checks: 1 ok, 0 warnings, 1 error\n";
        assert_eq!(outcome.text(Style::default()), text);
        assert_eq!(outcome.exit_status(), Some(2));
        assert_eq!(Outcome::default().exit_status(), None);
    }
}
