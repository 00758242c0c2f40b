//! The charm's options: those that `config.yaml` declares, checked against the ranges that etcd accepts.
//!
//! Must never correct a value: an invalid option is reported by name, and etcd keeps running as it is.

use super::cos_relation::MetricsPorts;
use crate::error::Refusal;
use serde_json::{Map, Value};

/// The longest election timeout that etcd accepts, in milliseconds (etcd, server/embed/config.go, `maxElectionMs`).
const MAX_ELECTION_TIMEOUT: u64 = 50_000;

/// The options of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The port for clients.
    pub port: u16,
    /// The port for other members.
    pub management_port: u16,
    /// The ports of metrics on loopback.
    pub metrics: MetricsPorts,
    /// The channel of the snap.
    pub channel: String,
    /// Time between heartbeats, in milliseconds.
    pub heartbeat_interval: u64,
    /// Time without a heartbeat after which an election starts, in milliseconds.
    pub election_timeout: u64,
    /// Transactions between two snapshots of etcd's log; `None` for etcd's default.
    pub snapshot_count: Option<u64>,
    /// The largest size of the database, in bytes; `None` for etcd's default.
    pub quota_backend_bytes: Option<u64>,
    /// How much history etcd keeps: a number of hours, or a duration such as `30m`; `0` to keep all.
    pub auto_compaction_retention: String,
}

impl Options {
    /// Reads the options from the output of `config-get`. etcd on this machine cannot listen below `lowest_port`.
    ///
    /// # Errors
    /// Names the first option that is invalid.
    pub fn read(options: &Map<String, Value>, lowest_port: u16) -> Result<Self, Refusal> {
        let parsed = Self {
            port: port(options, "port", lowest_port)?,
            management_port: port(options, "management-port", lowest_port)?,
            metrics: metrics_ports(options, lowest_port)?,
            channel: text(options, "channel", "TRACK/RISK, such as 3.4/stable", is_channel)?,
            heartbeat_interval: number(options, "heartbeat-interval", 1, MAX_ELECTION_TIMEOUT / 5)?,
            election_timeout: number(options, "election-timeout", 1, MAX_ELECTION_TIMEOUT)?,
            snapshot_count: nonzero(number(options, "snapshot-count", 0, u64::from(u32::MAX))?),
            quota_backend_bytes: nonzero(number(options, "quota-backend-bytes", 0, i64::MAX.unsigned_abs())?),
            auto_compaction_retention: text(
                options,
                "auto-compaction-retention",
                "0, a number of hours, or a duration such as 30m",
                is_duration,
            )?,
        };
        if parsed.port == parsed.management_port {
            let given = parsed.port.to_string();
            return Err(refusal("management-port", &given, "different from the option port"));
        }
        let MetricsPorts { etcd, backups } = parsed.metrics;
        if etcd == backups
            || [parsed.port, parsed.management_port].iter().any(|port| [etcd, backups].contains(port))
        {
            let form = "a port that, like the next one, is neither port nor management-port";
            return Err(refusal("metrics-port", &etcd.to_string(), form));
        }
        if parsed.election_timeout < 5 * parsed.heartbeat_interval {
            let least = format!("at least five times heartbeat-interval, {}", 5 * parsed.heartbeat_interval);
            return Err(refusal("election-timeout", &parsed.election_timeout.to_string(), &least));
        }
        Ok(parsed)
    }
}

/// Returns the ports of metrics in the output of `config-get`.
///
/// # Errors
/// If the option is not a port.
pub fn metrics_ports(options: &Map<String, Value>, lowest_port: u16) -> Result<MetricsPorts, Refusal> {
    let etcd = port(options, "metrics-port", lowest_port)?;
    Ok(MetricsPorts { etcd, backups: etcd.saturating_add(1) })
}

fn nonzero(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number > 0)
}

fn port(options: &Map<String, Value>, name: &str, lowest: u16) -> Result<u16, Refusal> {
    let number = number(options, name, lowest.into(), u64::from(u16::MAX))?;
    u16::try_from(number).map_err(|_| refusal(name, &number.to_string(), "a port number"))
}

fn number(options: &Map<String, Value>, name: &str, min: u64, max: u64) -> Result<u64, Refusal> {
    let given = options.get(name).unwrap_or(&Value::Null);
    match given.as_u64() {
        Some(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(refusal(name, &given.to_string(), &format!("a number from {min} to {max}"))),
    }
}

fn text(
    options: &Map<String, Value>,
    name: &str,
    form: &str,
    is_valid: fn(&str) -> bool,
) -> Result<String, Refusal> {
    let given = options.get(name).unwrap_or(&Value::Null);
    match given.as_str() {
        Some(text) if is_valid(text) => Ok(text.to_owned()),
        _ => Err(refusal(name, &given.to_string(), form)),
    }
}

fn refusal(name: &str, given: &str, form: &str) -> Refusal {
    let given: String = given.chars().filter(|c| !c.is_control()).take(40).collect();
    Refusal::new(
        format!("option {name} is {given}, but must be {form}"),
        format!("juju config APPLICATION {name}=VALUE"),
    )
}

/// Whether `text` is `risk`, `track/risk` or `track/risk/branch`. It becomes an argument, so other characters are refused.
fn is_channel(text: &str) -> bool {
    const RISKS: [&str; 4] = ["stable", "candidate", "beta", "edge"];
    let is_plain = |part: &&str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with('-')
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.iter().all(is_plain)
        && match parts.as_slice() {
            [risk] => RISKS.contains(risk),
            [_, risk] | [_, risk, _] => RISKS.contains(risk),
            _ => false,
        }
}

/// The longest duration of Go, 2^63-1 ns, in seconds. From a longer one etcd computes a time in the past, or does not start.
const MAX_DURATION: u64 = i64::MAX.unsigned_abs() / 1_000_000_000;

/// Whether etcd accepts `text` as a retention: a number of hours, or a Go duration of one whole number and unit.
fn is_duration(text: &str) -> bool {
    let fits = |number: &str, seconds: u64| {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number && number.parse::<u64>().is_ok_and(|number| number <= MAX_DURATION / seconds)
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

    /// The output of `config-get` if no option was changed: the defaults of `config.yaml`.
    fn defaults() -> Map<String, Value> {
        let declared: Value = serde_yaml::from_str(include_str!("../../config.yaml")).unwrap();
        let options = declared["options"].as_object().unwrap();
        options.iter().map(|(name, option)| (name.clone(), option["default"].clone())).collect()
    }

    fn with(changes: &[(&str, Value)]) -> Result<Options, Refusal> {
        let mut options = defaults();
        options.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Options::read(&options, 1024)
    }

    #[test]
    fn accepts_the_defaults_and_requires_every_option() {
        let options = with(&[]).unwrap();
        assert_eq!((options.port, options.management_port), (2379, 2380));
        assert_eq!((options.snapshot_count, options.quota_backend_bytes), (None, None));
        // `backup` is checked elsewhere: an error in it must not keep the charm from managing etcd.
        for name in defaults().keys().filter(|name| *name != "backup") {
            let mut options = defaults();
            options.remove(name);
            let refusal = Options::read(&options, 1024).unwrap_err();
            assert!(refusal.reason.starts_with(&format!("option {name} is null")), "{refusal}");
        }
    }

    #[test]
    fn names_the_option_with_an_invalid_value() {
        for (name, values) in [
            (
                "port",
                vec![json!(0), json!(80), json!(1023), json!(65536), json!(-1), json!("2379"), json!(1.5)],
            ),
            ("management-port", vec![json!(0), json!(1023), json!(2379)]),
            ("metrics-port", vec![json!(0), json!(1023), json!(2378), json!(2380), json!(65535)]),
            (
                "channel",
                vec![json!(""), json!("stable; rm"), json!("--classic"), json!("3.4"), json!("a/b/c/d")],
            ),
            ("heartbeat-interval", vec![json!(0), json!(10_001)]),
            ("election-timeout", vec![json!(499), json!(50_001)]),
            ("snapshot-count", vec![json!(-1)]),
            ("quota-backend-bytes", vec![json!(-1), json!("2G")]),
            ("auto-compaction-retention", vec![json!(""), json!("1d"), json!("-1"), json!("h"), json!(1)]),
            // Just longer than Go's longest duration.
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
    fn accepts_every_value_that_etcd_accepts() {
        for (name, value) in [
            ("port", json!(65535)),
            ("port", json!(1024)),
            ("metrics-port", json!(65534)),
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
    fn an_etcd_that_runs_as_root_may_use_any_port() {
        let mut options = defaults();
        options.insert("port".into(), json!(443));
        assert!(Options::read(&options, 1024).unwrap_err().reason.contains("from 1024 to 65535"));
        assert_eq!(Options::read(&options, 1).unwrap().port, 443);
    }
}
