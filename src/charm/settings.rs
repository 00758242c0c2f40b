//! The charm's configuration, checked: what `config.yaml` declares, in the ranges that etcd takes.
//!
//! Must never mend a value: a wrong one is told by its name, and etcd goes on as it was.

use crate::stop::Refusal;
use serde_json::{Map, Value};

/// The longest election timeout that etcd takes, in milliseconds (etcd, server/embed/config.go, `maxElectionMs`).
const LONGEST_ELECTION: u64 = 50_000;

/// What the operator wants of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For clients.
    pub port: u16,
    /// For other members.
    pub management_port: u16,
    /// Of the snap.
    pub channel: String,
    /// In milliseconds.
    pub heartbeat: u64,
    /// In milliseconds.
    pub election: u64,
    /// In transactions; `None` leaves it to etcd.
    pub snapshot_count: Option<u64>,
    /// In bytes; `None` leaves it to etcd.
    pub quota: Option<u64>,
    /// Hours, or a time; `0` for none.
    pub retention: String,
}

impl Settings {
    /// Reads what `config-get` tells.
    pub fn read(options: &Map<String, Value>) -> Result<Self, Refusal> {
        let settings = Self {
            port: port(options, "port")?,
            management_port: port(options, "management-port")?,
            channel: text(options, "channel", "TRACK/RISK, such as 3.4/stable", is_channel)?,
            heartbeat: number(options, "heartbeat-interval", 1, LONGEST_ELECTION / 5)?,
            election: number(options, "election-timeout", 1, LONGEST_ELECTION)?,
            snapshot_count: some(number(options, "snapshot-count", 0, u64::from(u32::MAX))?),
            quota: some(number(options, "quota-backend-bytes", 0, i64::MAX.unsigned_abs())?),
            retention: text(
                options,
                "auto-compaction-retention",
                "0, hours, or a time such as 30m",
                is_time,
            )?,
        };
        if settings.port == settings.management_port {
            let given = settings.port.to_string();
            return Err(refusal("management-port", &given, "another port than port"));
        }
        if settings.election < 5 * settings.heartbeat {
            let least = format!("at least five times heartbeat-interval, {} or more", 5 * settings.heartbeat);
            return Err(refusal("election-timeout", &settings.election.to_string(), &least));
        }
        Ok(settings)
    }
}

fn some(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number > 0)
}

fn port(options: &Map<String, Value>, name: &str) -> Result<u16, Refusal> {
    let number = number(options, name, 1, u64::from(u16::MAX))?;
    u16::try_from(number).map_err(|_| refusal(name, &number.to_string(), "a port"))
}

fn number(options: &Map<String, Value>, name: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    let given = options.get(name).unwrap_or(&Value::Null);
    match given.as_u64() {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(refusal(name, &given.to_string(), &format!("a number from {least} to {most}"))),
    }
}

fn text(
    options: &Map<String, Value>,
    name: &str,
    form: &str,
    fits: fn(&str) -> bool,
) -> Result<String, Refusal> {
    let given = options.get(name).unwrap_or(&Value::Null);
    match given.as_str() {
        Some(text) if fits(text) => Ok(text.to_owned()),
        _ => Err(refusal(name, &given.to_string(), form)),
    }
}

fn refusal(name: &str, given: &str, form: &str) -> Refusal {
    let given: String = given.chars().filter(|c| !c.is_control()).take(40).collect();
    Refusal::new(
        format!("option {name} is {given} and must be {form}"),
        format!("juju config APPLICATION {name}=VALUE"),
    )
}

/// `track/risk`, `risk` or `track/risk/branch`. It becomes an argument, so nothing else may be in it.
fn is_channel(text: &str) -> bool {
    const RISKS: [&str; 4] = ["stable", "candidate", "beta", "edge"];
    let plain = |part: &&str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with('-')
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.iter().all(plain)
        && match parts.as_slice() {
            [risk] => RISKS.contains(risk),
            [_, risk] | [_, risk, _] => RISKS.contains(risk),
            _ => false,
        }
}

/// What etcd takes for a retention: hours, or one of Go's durations in whole numbers.
fn is_time(text: &str) -> bool {
    let number =
        |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    number(text) || ["h", "m", "s"].iter().any(|unit| text.strip_suffix(unit).is_some_and(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a unit is told that nobody configured: the defaults of `config.yaml`.
    fn defaults() -> Map<String, Value> {
        let declared: Value = serde_yaml::from_str(include_str!("../../config.yaml")).unwrap();
        let options = declared["options"].as_object().unwrap();
        options.iter().map(|(name, option)| (name.clone(), option["default"].clone())).collect()
    }

    fn with(changes: &[(&str, Value)]) -> Result<Settings, Refusal> {
        let mut options = defaults();
        options.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Settings::read(&options)
    }

    #[test]
    fn the_defaults_are_good_and_every_option_is_declared() {
        let settings = with(&[]).unwrap();
        assert_eq!((settings.port, settings.management_port), (2379, 2380));
        assert_eq!((settings.snapshot_count, settings.quota), (None, None));
        // The text in `backup` is judged by itself: a slip in it is no reason to leave etcd alone.
        for name in defaults().keys().filter(|name| *name != "backup") {
            let mut options = defaults();
            options.remove(name);
            let refusal = Settings::read(&options).unwrap_err();
            assert!(refusal.reason.starts_with(&format!("option {name} is null")), "{refusal}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_by_the_name_of_its_option() {
        for (name, values) in [
            ("port", vec![json!(0), json!(65536), json!(-1), json!("2379"), json!(1.5)]),
            ("management-port", vec![json!(0), json!(2379)]),
            (
                "channel",
                vec![json!(""), json!("stable; rm"), json!("--classic"), json!("3.4"), json!("a/b/c/d")],
            ),
            ("heartbeat-interval", vec![json!(0), json!(10_001)]),
            ("election-timeout", vec![json!(499), json!(50_001)]),
            ("snapshot-count", vec![json!(-1)]),
            ("quota-backend-bytes", vec![json!(-1), json!("2G")]),
            ("auto-compaction-retention", vec![json!(""), json!("1d"), json!("-1"), json!("h"), json!(1)]),
        ] {
            for value in values {
                let refusal = with(&[(name, value.clone())]).unwrap_err();
                assert!(refusal.reason.starts_with(&format!("option {name} is ")), "{value}: {refusal}");
                assert!(refusal.next.contains(name), "{refusal}");
            }
        }
    }

    #[test]
    fn what_etcd_takes_is_taken() {
        for (name, value) in [
            ("port", json!(65535)),
            ("channel", json!("edge")),
            ("channel", json!("3.4/candidate/fix-1")),
            ("election-timeout", json!(50_000)),
            ("quota-backend-bytes", json!(8_589_934_592_u64)),
            ("auto-compaction-retention", json!("30m")),
            ("auto-compaction-retention", json!("8")),
        ] {
            assert!(with(&[(name, value.clone())]).is_ok(), "{name}={value}");
        }
    }
}
