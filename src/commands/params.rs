//! What the caller asked for: declared parameters, well typed, defaults inserted.
//!
//! Refuses whatever was not declared, and never guesses: a misspelt `skip-backup` must not become a restore with
//! other parameters than its user meant.

use super::bug;
use super::declared::{Declaration, Kind, Param, Value};
use crate::error::{ActionError, Refusal};
use std::collections::BTreeMap;

/// The parameters of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    values: BTreeMap<String, Value>,
}

impl Params {
    /// From what was typed in a terminal: `key=value` words.
    pub fn from_words<'a>(
        declaration: &Declaration,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Refusal> {
        let mut given = BTreeMap::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| no_value(declaration, word))?;
            let param = declared(declaration, name)?;
            let value = from_word(param, value).ok_or_else(|| badly_typed(declaration, param))?;
            insert(declaration, &mut given, param, value)?;
        }
        Ok(Self::with_defaults(declaration, given))
    }

    /// From Juju's map.
    pub fn from_map(
        declaration: &Declaration,
        map: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, Refusal> {
        let mut given = BTreeMap::new();
        for (name, value) in map {
            let param = declared(declaration, name)?;
            let value = from_json(param, value).ok_or_else(|| badly_typed(declaration, param))?;
            insert(declaration, &mut given, param, value)?;
        }
        Ok(Self::with_defaults(declaration, given))
    }

    fn with_defaults(declaration: &Declaration, mut given: BTreeMap<String, Value>) -> Self {
        for param in &declaration.params {
            given.entry(param.name.clone()).or_insert_with(|| param.default.clone());
        }
        Self { values: given }
    }

    /// The value of a parameter declared as text. Fails only on a bug.
    pub fn text(&self, name: &str) -> Result<&str, ActionError> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(undeclared("text", name)),
        }
    }

    /// The value of a parameter declared as `true` or `false`. Fails only on a bug.
    pub fn flag(&self, name: &str) -> Result<bool, ActionError> {
        match self.values.get(name) {
            Some(Value::Flag(flag)) => Ok(*flag),
            _ => Err(undeclared("boolean", name)),
        }
    }

    /// The value of a parameter declared as a whole number. Fails only on a bug.
    pub fn number(&self, name: &str) -> Result<u64, ActionError> {
        match self.values.get(name) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(undeclared("integer", name)),
        }
    }
}

fn undeclared(kind: &str, name: &str) -> ActionError {
    bug::stop(&format!("actions.yaml declares no {kind} parameter {name}"), false)
}

fn insert(
    declaration: &Declaration,
    given: &mut BTreeMap<String, Value>,
    param: &Param,
    value: Value,
) -> Result<(), Refusal> {
    // A file name with a newline in it would break every line that we print it in, and a NUL every program.
    if matches!(&value, Value::Text(text) if text.chars().any(char::is_control)) {
        return Err(refusal(declaration, format!("parameter {} contains a control character", param.name)));
    }
    match given.insert(param.name.clone(), value) {
        None => Ok(()),
        Some(_) => Err(refusal(declaration, format!("parameter {} is given twice", param.name))),
    }
}

fn from_word(param: &Param, word: &str) -> Option<Value> {
    match param.kind {
        Kind::Text | Kind::Word => Some(Value::Text(word.to_owned())),
        Kind::Flag => word.parse().ok().map(Value::Flag),
        // Without a sign: `parse` takes a plus.
        Kind::Number if word.bytes().all(|byte| byte.is_ascii_digit()) => {
            word.parse().ok().map(Value::Number)
        }
        Kind::Number => None,
    }
}

fn from_json(param: &Param, value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    match (param.kind, value) {
        (Kind::Text | Kind::Word, Json::String(text)) => Some(Value::Text(text.clone())),
        (Kind::Word, Json::Number(number)) => whole(number).map(|number| Value::Text(number.to_string())),
        (Kind::Word, Json::Bool(flag)) => Some(Value::Text(if *flag { "on" } else { "off" }.to_owned())),
        (Kind::Flag, Json::Bool(flag)) => Some(Value::Flag(*flag)),
        (Kind::Number, Json::Number(number)) => whole(number).map(Value::Number),
        _ => None,
    }
}

/// A whole number, which Juju may have made a floating one of on its way through its database.
fn whole(number: &serde_json::Number) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64()?;
    let floated = number.is_f64() && float.fract() == 0.0 && (0.0..=EXACT).contains(&float);
    number.as_u64().or_else(|| floated.then_some(float as u64))
}

fn declared<'a>(declaration: &'a Declaration, name: &str) -> Result<&'a Param, Refusal> {
    declaration.param(name).ok_or_else(|| {
        let nearest = nearest(declaration, name)
            .map(|nearest| format!(" (did you mean {nearest}?)"))
            .unwrap_or_default();
        refusal(declaration, format!("unknown parameter {}{nearest}", shown(name)))
    })
}

fn badly_typed(declaration: &Declaration, param: &Param) -> Refusal {
    refusal(declaration, format!("parameter {} must be {}", param.name, param.kind))
}

fn no_value(declaration: &Declaration, word: &str) -> Refusal {
    let reason = match declaration.param(word) {
        Some(param) => format!("parameter {word} has no value; it must be {}", param.kind),
        None => format!("{} is not of the form name=value", shown(word)),
    };
    refusal(declaration, reason)
}

fn refusal(declaration: &Declaration, reason: String) -> Refusal {
    let names: Vec<&str> = declaration.params.iter().map(|p| p.name.as_str()).collect();
    let with = match names.as_slice() {
        [] => "without parameters".to_owned(),
        _ => format!("with parameters out of {}", names.join(", ")),
    };
    Refusal::new(reason, format!("run {} again, {with}", declaration.name))
}

/// What somebody typed, fit to be shown: printable, and not without end.
pub(super) fn shown(word: &str) -> String {
    const LONGEST: usize = 60;
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = word.chars().take(LONGEST).map(printable).collect();
    if word.chars().count() > LONGEST {
        shown.push('…');
    }
    if shown.is_empty() {
        shown.push_str("\"\"");
    }
    shown
}

/// The declared name that is the most like `name`, if one is like it at all: at most half of it is wrong.
pub(super) fn nearest<'a>(declaration: &'a Declaration, name: &str) -> Option<&'a str> {
    let length = name.chars().count();
    let names = declaration.params.iter().map(|param| param.name.as_str());
    names
        .filter(|known| known.len().abs_diff(length) * 2 <= known.len().max(length))
        .map(|known| (distance(known, name), known))
        .filter(|(distance, known)| distance * 2 <= known.len().max(length))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters must be put in, left out, changed or swapped with their neighbour to make `b` of `a`
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let changed = above[j] + usize::from(x != y);
            let mut best = changed.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                let earlier: &Vec<usize> = &before;
                best = best.min(earlier[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn restore() -> Declaration {
        Declaration::of("restore").unwrap()
    }

    fn word(word: &str) -> Result<Params, Refusal> {
        Params::from_words(&restore(), [word])
    }

    #[test]
    fn defaults_are_inserted() {
        let params = Params::from_words(&restore(), ["skip-backup=true"]).unwrap();
        assert_eq!(params.text("target").unwrap(), "/home/ubuntu/etcd-snapshots");
        assert!(params.flag("skip-backup").unwrap());
        assert!(!params.flag("plan").unwrap());
    }

    #[test]
    fn a_wrong_name_in_our_own_code_is_a_failure_and_no_panic() {
        let params = Params::from_words(&restore(), []).unwrap();
        let stop = params.text("tarqet").unwrap_err();
        assert!(stop.to_string().starts_with("failed: bug: "), "{stop}");
        assert!(params.flag("target").is_err());
        assert!(params.number("target").is_err());
    }

    #[test]
    fn what_is_not_declared_is_refused_by_name() {
        for (given, reason) in [
            ("skip-bakcup=true", "unknown parameter skip-bakcup (did you mean skip-backup?)"),
            ("skip_backup=true", "unknown parameter skip_backup (did you mean skip-backup?)"),
            ("Target=/x", "unknown parameter Target (did you mean target?)"),
            ("zzz=1", "unknown parameter zzz"),
            ("=1", "unknown parameter \"\""),
            ("skip-backup=yes", "parameter skip-backup must be true or false"),
            ("skip-backup=", "parameter skip-backup must be true or false"),
            ("plan", "parameter plan has no value; it must be true or false"),
            ("/tmp/x", "/tmp/x is not of the form name=value"),
            ("target=/a\n/b", "parameter target contains a control character"),
            ("target=/a\0", "parameter target contains a control character"),
        ] {
            assert_eq!(word(given).unwrap_err().reason, reason, "{given:?}");
        }
        let twice = Params::from_words(&restore(), ["plan=true", "plan=true"]);
        assert_eq!(twice.unwrap_err().reason, "parameter plan is given twice");
    }

    #[test]
    fn a_refusal_lists_the_declared_names() {
        let refusal = word("zzz=1").unwrap_err();
        assert!(refusal.next.contains("target, skip-backup, snapshot"));
    }

    #[test]
    fn jujus_map_is_held_to_the_declared_types() {
        let read = |map: serde_json::Value| Params::from_map(&restore(), map.as_object().unwrap());
        let params = read(json!({"skip-backup": true, "target": "/x=y"})).unwrap();
        assert!(params.flag("skip-backup").unwrap());
        assert_eq!(params.text("target").unwrap(), "/x=y");
        for (map, reason) in [
            (json!({"skip-backup": "true"}), "parameter skip-backup must be true or false"),
            (json!({"target": 1}), "parameter target must be text"),
            (json!({"target": null}), "parameter target must be text"),
            (json!({"bump-revision": [1]}), "parameter bump-revision must be a word or a number"),
            (json!({"command": "x"}), "unknown parameter command"),
        ] {
            assert_eq!(read(map).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn a_word_that_juju_read_as_something_else_is_a_word_again() {
        let param = Param {
            name: "bump".to_owned(),
            kind: Kind::Word,
            default: Value::Text(String::new()),
            description: String::new(),
        };
        for (json, word) in [
            (json!(1000), "1000"),
            (json!(1e9), "1000000000"),
            (json!(false), "off"),
            (json!("auto"), "auto"),
        ] {
            assert_eq!(from_json(&param, &json), Some(Value::Text(word.to_owned())));
        }
        for bad in [json!([1]), json!(-1), json!(1.5), json!(1e300), json!(null)] {
            assert_eq!(from_json(&param, &bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_is_whole_and_has_no_sign() {
        let param = Param {
            name: "n".to_owned(),
            kind: Kind::Number,
            default: Value::Number(0),
            description: String::new(),
        };
        assert_eq!(from_word(&param, "7"), Some(Value::Number(7)));
        for bad in ["", "-1", "+1", "1.0", "0x1", "99999999999999999999"] {
            assert_eq!(from_word(&param, bad), None, "{bad:?}");
        }
        assert_eq!(from_json(&param, &json!(-1)), None);
        assert_eq!(from_json(&param, &json!(1.5)), None);
    }

    proptest! {
        #[test]
        fn any_text_comes_through_a_word_unchanged(value in "[^\\p{Cc}]{0,40}") {
            let params = word(&format!("target={value}")).unwrap();
            prop_assert_eq!(params.text("target").unwrap(), value);
        }

        #[test]
        fn no_word_panics(given in any::<String>()) {
            let _ = word(&given);
        }

        #[test]
        fn one_slip_of_the_finger_still_finds_the_name(which in 0_usize..7, at in 0_usize..32, c in "[a-z_-]") {
            let restore = restore();
            let name = &restore.params[which].name;
            let mut typed = name.clone();
            typed.insert_str(at % (name.len() + 1), &c);
            prop_assert_eq!(nearest(&restore, &typed), Some(name.as_str()));
        }

        #[test]
        fn distance_is_symmetric_and_zero_only_to_itself(a in "[a-c]{0,6}", b in "[a-c]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
        }
    }
}
