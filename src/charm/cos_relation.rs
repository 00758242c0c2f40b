//! The relation `cos-agent`: gives an observability agent on this machine the scrape jobs, alert rules and dashboard of the unit.
//!
//! The format is that of the charm library `charms.grafana_agent.v0.cos_agent`: one JSON document in the data of the unit. All
//! units write the same rules and dashboard, because the agent takes those of an arbitrary unit. Must never write anything that
//! changes from hook to hook: the agent reloads when it does.

use crate::archive::xz;
use crate::juju::{Databag, Juju, Scope};
use crate::system::secret::Secret;
use anyhow::{Context, Result};
use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

/// The endpoint in `metadata.yaml`.
const COS_ENDPOINT: &str = "cos-agent";
/// The key of the document.
const KEY: &str = "config";
/// The name of the charm.
const CHARM: &str = "etcd";
const ALERTS: &str = include_str!("../../monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../../monitoring/dashboard.json");
/// Identifies the dashboard: the first 20 bytes of the SHAKE-256 hash of `etcd-monitoring/dashboard.json`, as `DashboardPath40UID`
/// in the Python package cosl makes it of the charm and the path.
const DASHBOARD_UID: &str = "1b2d23a95636b6eea6d97c6a9170423d9f67ceec";

/// The place of a unit in Juju, by which its metrics and alerts are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology<'a> {
    /// The name of the model.
    pub model: &'a str,
    /// The UUID of the model.
    pub model_uuid: &'a str,
    /// The name of the unit.
    pub unit: &'a str,
}

/// The loopback ports of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsPorts {
    /// That of etcd.
    pub etcd: u16,
    /// That of the backups.
    pub backups: u16,
}

impl Topology<'_> {
    fn application(&self) -> &str {
        self.unit.split('/').next().unwrap_or(self.unit)
    }
}

/// Returns the relations with agents, except the one that is `broken`: being removed.
///
/// # Errors
/// If `relation-ids` fails.
pub fn relations(juju: &Juju, broken: Option<&str>) -> Result<Vec<String>> {
    let mut relations = juju.relation_ids(COS_ENDPOINT)?;
    relations.retain(|id| Some(id.as_str()) != broken);
    Ok(relations)
}

/// Writes the document into each of these relations in which it has changed.
///
/// # Errors
/// If a hook tool fails.
pub fn publish(
    juju: &Juju,
    relations: &[String],
    topology: &Topology<'_>,
    ports: MetricsPorts,
) -> Result<()> {
    if relations.is_empty() {
        return Ok(());
    }
    let wanted = config(topology, ports)?.to_string();
    for relation in relations {
        if is_new(&juju.unit_data(relation, topology.unit)?, &wanted) {
            let pairs = [(KEY.to_owned(), wanted.clone())].into();
            juju.set_relation_data(relation, Scope::Unit, &pairs)?;
        }
    }
    Ok(())
}

fn is_new(ours: &Databag, wanted: &str) -> bool {
    ours.get(KEY).map(Secret::reveal) != Some(wanted)
}

/// Returns the document.
fn config(topology: &Topology<'_>, ports: MetricsPorts) -> Result<Value> {
    Ok(json!({
        "metrics_alert_rules": alert_rules(topology)?,
        "log_alert_rules": {},
        "dashboards": [dashboard()?],
        "metrics_scrape_jobs": [
            scrape_job(topology, "backups", ports.backups),
            scrape_job(topology, "etcd", ports.etcd),
        ],
        "log_slots": [],
        "subordinate": null,
        "tracing_protocols": null,
    }))
}

/// Returns a job of Prometheus. Without the label `instance`, the targets of all units would have the same one.
fn scrape_job(topology: &Topology<'_>, name: &str, port: u16) -> Value {
    json!({
        "job_name": format!("{}_{name}", topology.application()),
        "metrics_path": "/metrics",
        "static_configs": [{
            "targets": [format!("127.0.0.1:{port}")],
            "labels": {"instance": topology.unit},
        }],
    })
}

/// Returns the alert rules, with the labels by which Prometheus restricts them to this application. The names of the groups are
/// those that the Python package cosl gives.
fn alert_rules(topology: &Topology<'_>) -> Result<Value> {
    let mut rules: Value = serde_yaml::from_str(ALERTS).context("reading the alert rules")?;
    let application = topology.application();
    let labels = [
        ("juju_model", topology.model),
        ("juju_model_uuid", topology.model_uuid),
        ("juju_application", application),
        ("juju_charm", CHARM),
    ];
    let short_uuid = topology.model_uuid.get(..8).unwrap_or(topology.model_uuid);
    for group in rules["groups"].as_array_mut().context("the alert rules have no groups")? {
        let name = group["name"].as_str().context("a group of alert rules has no name")?;
        let name = format!("{}_{short_uuid}_{application}_{name}_rules", topology.model);
        group["name"] = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != ':', "_").into();
        for rule in group["rules"].as_array_mut().into_iter().flatten() {
            let all = rule["labels"].as_object_mut().context("an alert rule has no labels")?;
            all.extend(labels.map(|(label, value)| (label.to_owned(), value.into())));
        }
    }
    Ok(rules)
}

/// Returns the dashboard, compressed as the other side expects it.
fn dashboard() -> Result<String> {
    let mut dashboard: Map<String, Value> =
        serde_json::from_str(DASHBOARD).context("reading the dashboard")?;
    dashboard.insert("uid".to_owned(), DASHBOARD_UID.into());
    let tags = dashboard.entry("tags").or_insert_with(|| json!([])).as_array_mut();
    tags.context("the tags of the dashboard are not a list")?.push(format!("charm: {CHARM}").into());
    let text = serde_json::to_string(&dashboard)?;
    Ok(Base64::encode_string(&xz::store(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TOPOLOGY: Topology<'_> =
        Topology { model: "prod-1", model_uuid: "6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162", unit: "etcd/0" };
    const PORTS: MetricsPorts = MetricsPorts { etcd: 2381, backups: 2382 };

    /// Run with `UPDATE_SCHEMAS=1` after a change of the alerts or the dashboard. `tests/integration/test_cos_agent.py` reads the
    /// file with the library of the other side.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test may write its data")]
    fn the_document_is_the_one_that_the_library_is_tested_with() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cos-agent.json");
        let text = format!("{:#}\n", config(&TOPOLOGY, PORTS).unwrap());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert!(std::fs::read_to_string(&file).unwrap() == text, "UPDATE_SCHEMAS=1");
    }

    #[test]
    fn writes_the_document_once() {
        let wanted = config(&TOPOLOGY, PORTS).unwrap().to_string();
        assert!(is_new(&Databag::new(), &wanted));
        let ours: Databag = [(KEY.to_owned(), Secret::new(wanted.clone()))].into();
        assert!(!is_new(&ours, &config(&TOPOLOGY, PORTS).unwrap().to_string()));
        let other_port = MetricsPorts { etcd: 9000, ..PORTS };
        assert!(is_new(&ours, &config(&TOPOLOGY, other_port).unwrap().to_string()));
    }

    #[test]
    fn units_differ_only_in_their_scrape_jobs() {
        let other = Topology { unit: "etcd/10", ..TOPOLOGY };
        let [mut one, mut two] = [TOPOLOGY, other].map(|topology| config(&topology, PORTS).unwrap());
        assert_eq!(one["metrics_scrape_jobs"][1]["static_configs"][0]["labels"]["instance"], "etcd/0");
        assert_eq!(two["metrics_scrape_jobs"][1]["static_configs"][0]["labels"]["instance"], "etcd/10");
        for config in [&mut one, &mut two] {
            config["metrics_scrape_jobs"] = Value::Null;
        }
        assert_eq!(one, two);
    }
}
