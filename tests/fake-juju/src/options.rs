//! The options of a charm, as `juju config` sets them.

use serde_json::{Map, Value};

/// Returns all options of `config.yaml` with their defaults, and `changes` in place of them.
///
/// # Errors
/// As Juju reports them: if an option does not exist, or a value has another type. Juju does not convert a number in a YAML
/// file to text.
pub fn set(config: &str, changes: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let config: Value = serde_yaml::from_str(config).map_err(|error| error.to_string())?;
    let none = Map::new();
    let declared = config.get("options").and_then(Value::as_object).unwrap_or(&none);
    let mut all: Map<String, Value> = declared
        .iter()
        .map(|(name, option)| (name.clone(), option.get("default").cloned().unwrap_or_default()))
        .collect();
    for (name, value) in changes {
        let option = declared.get(&name).ok_or_else(|| format!("unknown option {name:?}"))?;
        let kind = option.get("type").and_then(Value::as_str).unwrap_or("string");
        let fits = match kind {
            "int" => value.is_i64() || value.is_u64(),
            "float" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => value.is_string(),
        };
        if !fits {
            return Err(format!("option {name:?} expected {kind}, got {value}"));
        }
        all.insert(name, value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_checked_by_their_type() {
        let config = "options: {port: {type: int, default: 1}, keep: {type: string, default: '0'}}";
        let set = |name: &str, value: Value| set(config, Map::from_iter([(name.to_owned(), value)]));
        assert_eq!(set("port", json!(2)).unwrap()["port"], 2);
        assert_eq!(set("port", json!(2)).unwrap()["keep"], "0");
        assert_eq!(set("keep", json!(8)).unwrap_err(), "option \"keep\" expected string, got 8");
        assert!(set("port", json!("2")).is_err() && set("prot", json!(2)).is_err());
    }
}
