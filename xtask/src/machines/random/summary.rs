//! The outcome of the steps, for the table in the documents.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The outcome of a step.
pub struct Outcome {
    /// Whether the accident has happened.
    pub has_accident: bool,
    /// The rounds of `update-status` until all invariants were true.
    pub updates: usize,
    /// The longest time without an acknowledged write, if a majority was connected all the time.
    pub pause: Option<Duration>,
}

/// The summary of steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    steps: usize,
    accidents: usize,
    updates: usize,
    pause: Duration,
    /// The writes that etcd has acknowledged, all of which are there.
    pub writes: usize,
}

impl Summary {
    /// Adds another sequence, or a part of this one.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.accidents += other.accidents;
        self.updates = self.updates.max(other.updates);
        self.pause = self.pause.max(other.pause);
        self.writes += other.writes;
    }
}

impl Summary {
    /// Returns the summary as JSON.
    pub fn to_json(&self) -> Value {
        let Self { steps, accidents, updates, pause, writes } = self;
        let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        json!({
            "steps": steps, "accidents": accidents, "updates": updates, "milliseconds": milliseconds, "writes": writes,
        })
    }

    /// Reads a summary.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {text}"));
        let count = |name: &str| Ok::<_, anyhow::Error>(usize::try_from(number(name)?)?);
        Ok(Self {
            steps: count("steps")?,
            accidents: count("accidents")?,
            updates: count("updates")?,
            pause: Duration::from_millis(number("milliseconds")?),
            writes: count("writes")?,
        })
    }
}

impl From<&Outcome> for Summary {
    fn from(outcome: &Outcome) -> Self {
        Self {
            steps: 1,
            accidents: usize::from(outcome.has_accident),
            updates: outcome.updates,
            pause: outcome.pause.unwrap_or_default(),
            writes: 0,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, accidents, updates, pause, writes } = self;
        write!(
            f,
            "{steps} steps with {accidents} accidents; all {writes} acknowledged writes kept; at most {updates} rounds of \
             update-status; longest pause with all members connected {} ms",
            pause.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_steps_and_sequences() {
        let step = |has_accident, updates, pause: Option<u64>| {
            Summary::from(&Outcome { has_accident, updates, pause: pause.map(Duration::from_millis) })
        };
        let mut one = Summary { writes: 10, ..Summary::default() };
        one.add(&step(true, 1, Some(300)));
        one.add(&step(false, 3, None));
        let mut all = Summary { writes: 5, ..step(true, 2, Some(700)) };
        all.add(&one);
        assert_eq!(Summary::from_json(&all.to_json().to_string()).unwrap(), all);
        assert_eq!(
            all.to_string(),
            "3 steps with 2 accidents; all 15 acknowledged writes kept; at most 3 rounds of update-status; longest pause \
             with all members connected 700 ms"
        );
    }
}
