//! The parameters of an action, from the words after `juju run UNIT ACTION` or a file, checked against `actions.yaml`.

use crate::words;
use serde_json::{Map, Value};

/// Reads `KEY=VALUE` words as `juju run` does.
///
/// # Errors
/// If a word has another form, or its value is not YAML.
pub fn from_words<'a>(given: impl IntoIterator<Item = &'a str>) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    for word in given {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("argument {word:?} must be of the form key.key.key...=value"))?;
        if !is_key(key) {
            return Err(format!(
                "key {key:?} must start and end with lowercase alphanumeric, and contain only lowercase alphanumeric \
                 and hyphens"
            ));
        }
        all.insert(key.to_owned(), words::read(value)?);
    }
    Ok(all)
}

/// Checks `given` against the schema of `action` in the text of `actions.yaml`, and adds the defaults.
///
/// # Errors
/// As Juju reports them: if the action does not exist, or the schema does not allow a parameter.
pub fn check(
    actions: &str,
    action: &str,
    mut given: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let actions: Value = serde_yaml::from_str(actions).map_err(|error| error.to_string())?;
    let schema = actions.get(action).ok_or_else(|| format!("action {action:?} not defined"))?;
    let none = Map::new();
    let known = schema.get("params").and_then(Value::as_object).unwrap_or(&none);
    let mut errors: Vec<String> = Vec::new();
    for (name, value) in &given {
        match known.get(name) {
            Some(declared) => errors.extend(violation(name, value, declared)),
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                errors.push(format!("(root) : additional property {name:?} is not allowed, given {value}"));
            }
            None => {}
        }
    }
    if !errors.is_empty() {
        return Err(format!("validation failed: {}", errors.join("; ")));
    }
    for (name, declared) in known {
        if let Some(default) = declared.get("default") {
            given.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
    Ok(given)
}

/// Returns in which way the value is not what `declared` allows.
fn violation(name: &str, value: &Value, declared: &Value) -> Option<String> {
    let types = match declared.get("type") {
        Some(Value::Array(types)) => types.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    if !types.is_empty() && !types.iter().filter_map(Value::as_str).any(|kind| is_a(value, kind)) {
        let types: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
        return Some(format!("(root).{name} : must be of type {}, given {value}", types.join(" or ")));
    }
    let allowed = declared.get("enum").and_then(Value::as_array)?;
    (!allowed.contains(value)).then(|| {
        format!(
            "(root).{name} : must match one of the enum values {}, given {value}",
            Value::from(allowed.clone())
        )
    })
}

/// Whether a value has this type of JSON schema. A floating-point number without fraction is an integer.
fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Whether `key` matches `^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`.
fn is_key(key: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    key.starts_with(is_plain) && key.ends_with(is_plain) && key.chars().all(|c| is_plain(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: &str = "
stop:
  additionalProperties: false
  params:
    name: {type: string, default: ''}
    id: {type: [string, integer, boolean], default: auto}
    fast: {type: boolean, default: false}
    limit: {type: integer, default: 5}
    kind: {type: string, default: a, enum: [a, b]}
";

    fn enqueue(given: &[&str]) -> Result<Map<String, Value>, String> {
        check(ACTIONS, "stop", from_words(given.iter().copied())?)
    }

    #[test]
    fn parameters_are_checked_and_completed() {
        let all = enqueue(&["id=1234", "fast=yes", "limit=31e6"]).unwrap();
        assert_eq!((&all["id"], &all["fast"], &all["name"]), (&1234.into(), &true.into(), &"".into()));
        for (word, reason) in [
            ("name=1234", "validation failed: (root).name : must be of type string, given 1234"),
            ("fast=1", "must be of type boolean, given 1"),
            ("limit=1.5", "must be of type integer, given 1.5"),
            ("kind=c", "must match one of the enum values [\"a\",\"b\"], given \"c\""),
            ("nam=x", "additional property \"nam\" is not allowed"),
            ("fast", "must be of the form key.key.key...=value"),
            ("Fast=true", "must start and end with lowercase alphanumeric"),
        ] {
            let error = enqueue(&[word]).unwrap_err();
            assert!(error.contains(reason), "{word}: {error}");
        }
        assert!(enqueue(&["name=\"1234\""]).is_ok());
        assert!(check(ACTIONS, "start", Map::new()).is_err());
    }
}
