//! The charm's configuration, checked: what `config.yaml` declares, in the ranges that etcd takes.
//!
//! Must never mend a value: a wrong one is told by its name, and etcd goes on as it was.

use crate::error::Refusal;
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
    /// Reads what `config-get` tells. No port below `least_port` can be had by the etcd of this machine.
    pub fn read(options: &Map<String, Value>, least_port: u16) -> Result<Self, Refusal> {
        let settings = Self {
            port: port(options, "port", least_port)?,
            management_port: port(options, "management-port", least_port)?,
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

fn port(options: &Map<String, Value>, name: &str, least: u16) -> Result<u16, Refusal> {
    let number = number(options, name, least.into(), u64::from(u16::MAX))?;
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

/// The longest of Go's durations, 2^63-1 ns, in seconds: of a longer one etcd makes a time in the past, or does not start.
const LONGEST: u64 = i64::MAX.unsigned_abs() / 1_000_000_000;

/// What etcd takes for a retention: hours, or one of Go's durations in whole numbers.
fn is_time(text: &str) -> bool {
    let fits = |number: &str, seconds: u64| {
        let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        plain && number.parse::<u64>().is_ok_and(|number| number <= LONGEST / seconds)
    };
    let units = [("h", 3600), ("m", 60), ("s", 1)];
    let in_unit = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let (number, seconds) = in_unit.unwrap_or((text, 3600));
    fits(number, seconds)
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
        Settings::read(&options, 1024)
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
            let refusal = Settings::read(&options, 1024).unwrap_err();
            assert!(refusal.reason.starts_with(&format!("option {name} is null")), "{refusal}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_by_the_name_of_its_option() {
        for (name, values) in [
            (
                "port",
                vec![json!(0), json!(80), json!(1023), json!(65536), json!(-1), json!("2379"), json!(1.5)],
            ),
            ("management-port", vec![json!(0), json!(1023), json!(2379)]),
            (
                "channel",
                vec![json!(""), json!("stable; rm"), json!("--classic"), json!("3.4"), json!("a/b/c/d")],
            ),
            ("heartbeat-interval", vec![json!(0), json!(10_001)]),
            ("election-timeout", vec![json!(499), json!(50_001)]),
            ("snapshot-count", vec![json!(-1)]),
            ("quota-backend-bytes", vec![json!(-1), json!("2G")]),
            ("auto-compaction-retention", vec![json!(""), json!("1d"), json!("-1"), json!("h"), json!(1)]),
            // One more than Go's longest duration.
            (
                "auto-compaction-retention",
                vec![
                    json!("2562048"),
                    json!("2562048h"),
                    json!("153722868m"),
                    json!("9223372037s"),
                    json!("99999999999999999999"),
                ],
            ),
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
            ("port", json!(1024)),
            ("channel", json!("edge")),
            ("channel", json!("3.4/candidate/fix-1")),
            ("election-timeout", json!(50_000)),
            ("quota-backend-bytes", json!(8_589_934_592_u64)),
            ("auto-compaction-retention", json!("30m")),
            ("auto-compaction-retention", json!("8")),
            ("auto-compaction-retention", json!("2562047")),
            ("auto-compaction-retention", json!("2562047h")),
            ("auto-compaction-retention", json!("153722867m")),
            ("auto-compaction-retention", json!("9223372036s")),
        ] {
            assert!(with(&[(name, value.clone())]).is_ok(), "{name}={value}");
        }
    }

    #[test]
    fn an_etcd_that_is_root_may_have_any_port() {
        let mut options = defaults();
        options.insert("port".into(), json!(443));
        assert!(Settings::read(&options, 1024).unwrap_err().reason.contains("from 1024 to 65535"));
        assert_eq!(Settings::read(&options, 1).unwrap().port, 443);
    }
}
