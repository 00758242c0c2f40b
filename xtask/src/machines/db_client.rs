//! An application that uses etcd by the relation `db`, as `kubernetes-control-plane` does: it reads the data of an arbitrary
//! unit, and restarts its servers when that changes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use fake_juju::model::{Databag, Model};

use super::deployment::APPLICATION;

/// The name of the application.
pub const NAME: &str = "kubernetes-control-plane";
/// The keys of the interface `etcd`.
const KEYS: [&str; 5] = ["connection_string", "version", "client_ca", "client_cert", "client_key"];

/// The application.
pub struct DbClient {
    relation: u64,
    /// The texts that each unit has published, in their order.
    texts: BTreeMap<String, Vec<Databag>>,
}

impl DbClient {
    /// Relates the application to etcd.
    pub fn relate(model: &mut Model) -> Self {
        let relation = model.relate(&[(APPLICATION, "db"), (NAME, "etcd")]);
        Self { relation, texts: BTreeMap::new() }
    }

    /// Reads the data of all units. It must be complete or missing, and name endpoints in a stable order.
    pub fn look(&mut self, model: &Model) -> Result<()> {
        for unit in model.units(APPLICATION) {
            let text = self.read(model, &unit)?;
            let texts = self.texts.entry(unit).or_default();
            if !text.is_empty() && texts.last() != Some(&text) {
                texts.push(text);
            } else {
                ensure!(!text.is_empty() || texts.is_empty(), "the data for clients is gone");
            }
        }
        Ok(())
    }

    fn read(&self, model: &Model, unit: &str) -> Result<Databag> {
        let mut text = model.data(self.relation, unit);
        text.retain(|key, _| KEYS.contains(&key.as_str()));
        ensure!(text.is_empty() || text.len() == KEYS.len(), "{unit} publishes only {:?}", text.keys());
        for (key, value) in &text {
            ensure!(!value.is_empty() && value != "None", "{unit} publishes {value:?} as {key}");
        }
        if let Some(list) = text.get("connection_string") {
            let urls: Vec<&str> = list.split(',').collect();
            ensure!(urls.is_sorted() && urls.iter().all(|url| url.starts_with("https://")), "{list}");
        }
        Ok(text)
    }

    /// Checks that all units publish the same text, which names exactly these addresses. Returns it.
    pub fn check(&self, model: &Model, addresses: &[&str]) -> Result<Databag> {
        let mut urls: Vec<String> =
            addresses.iter().map(|address| format!("https://{address}:2379")).collect();
        urls.sort();
        let text = self.check_same(model, &model.units(APPLICATION))?.context("there is no unit")?;
        let list = &text["connection_string"];
        ensure!(*list == urls.join(","), "clients get {list}, not {urls:?}");
        Ok(text)
    }

    /// Checks that these units publish the same complete text. Returns it, or `None` without a unit.
    pub fn check_same(&self, model: &Model, units: &[String]) -> Result<Option<Databag>> {
        let texts = units.iter().map(|unit| self.read(model, unit)).collect::<Result<Vec<_>>>()?;
        let Some(first) = texts.first() else { return Ok(None) };
        ensure!(texts.iter().all(|text| text == first), "the units publish different data for clients");
        ensure!(!first.is_empty(), "no data for clients is published");
        Ok(Some(first.clone()))
    }

    /// Returns how often the text of a unit has changed after it was first published.
    pub fn changes(&self, unit: &str) -> usize {
        self.texts.get(unit).map_or(0, |texts| texts.len().saturating_sub(1))
    }

    /// Checks that a unit has published for clients before its own address was in the list.
    pub fn check_published_before_joining(&self, unit: &str, address: &str) -> Result<()> {
        let first = self.texts.get(unit).and_then(|texts| texts.first());
        let list = first.and_then(|text| text.get("connection_string")).context("no data is published")?;
        ensure!(!list.contains(&format!("//{address}:")), "{unit} published only after it had joined");
        Ok(())
    }
}
