//! Words and Juju's JSON become typed parameters, defaults included.
//!
//! Refuses whatever is not declared and never guesses: a misspelt `skip-backup` must not become a restore with other
//! parameters than its user meant.

use super::params::{Params, Value};
use super::schema::{Action, Kind, Param};
use crate::error::{Refusal, Subcommand, did_you_mean};
use crate::system::text::replace_control;
use std::collections::BTreeMap;

/// The parameters that may be given several times. Their values are separated by commas.
const REPEATABLE: [&str; 1] = ["label"];
/// The text parameter that may be empty. An empty text means for all others that they are not given, as Juju gives them by
/// default. In a terminal it comes from an unset variable in a script, which would then restore without the check, prune all
/// archives, or import all keys.
const MAY_BE_EMPTY: &str = "note";
/// The parameter with which `restore` only recovers an interrupted run.
const RECOVER: &str = "recover";

/// Collects the parameters of one call.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    action: &'a Action,
    /// What to type to see the parameters.
    help: String,
    given: BTreeMap<String, Value>,
}

impl<'a> Collector<'a> {
    /// Starts without any. `help` is the command that shows which parameters there are.
    pub fn new(action: &'a Action, help: &str) -> Self {
        Self { action, help: format!("run `{help}`"), given: BTreeMap::new() }
    }

    /// Adds the parameter `name` with the text `value`.
    ///
    /// # Errors
    /// Refuses a name that is not declared or was given before, and a value of another type.
    pub fn add_text(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let param = self.declared(name)?;
        let is_text = matches!(param.kind, Kind::Text | Kind::Word) && param.allowed.is_empty();
        if value.is_empty() && is_text && name != MAY_BE_EMPTY {
            return Err(self.refusal(format!("parameter {name} is empty")));
        }
        let value = from_text(param, value).ok_or_else(|| self.badly_typed(param))?;
        self.insert(param, value)
    }

    /// Adds all parameters of Juju's JSON map.
    ///
    /// # Errors
    /// As [`Self::add_text`].
    pub fn add_json(&mut self, map: &serde_json::Map<String, serde_json::Value>) -> Result<(), Refusal> {
        for (name, value) in map {
            let param = self.declared(name)?;
            let value = from_json(param, value).ok_or_else(|| self.badly_typed(param))?;
            self.insert(param, value)?;
        }
        Ok(())
    }

    /// Returns the parameters, with the defaults of those that were not given.
    ///
    /// # Errors
    /// Refuses other parameters than `site` with `recover`, because a recovery does not use them.
    pub fn finish(self) -> Result<Params, Refusal> {
        let default = |param: &Param| (param.name.clone(), param.default.clone());
        let mut all: BTreeMap<String, Value> = self.action.params.iter().map(default).collect();
        let recovers = self.given.get(RECOVER) == Some(&Value::Flag(true));
        let is_unused = |(name, value): (&String, &Value)| {
            ![RECOVER, "site"].contains(&&**name) && all.get(name) != Some(value)
        };
        if recovers && self.given.iter().any(is_unused) {
            let next = Subcommand::new("restore").flag("recover").to_string();
            return Err(Refusal::new("recover takes no other parameter except site", next));
        }
        all.extend(self.given);
        Ok(all.into_iter().collect())
    }

    fn declared(&self, name: &str) -> Result<&'a Param, Refusal> {
        self.action.param(name).ok_or_else(|| {
            let nearest = did_you_mean(name, self.action.params.iter().map(|param| &*param.name));
            let hint = nearest.map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default();
            self.refusal(format!("unknown parameter {}{hint}", printable(name)))
        })
    }

    fn insert(&mut self, param: &Param, value: Value) -> Result<(), Refusal> {
        let name = &param.name;
        if let Value::Text(text) = &value {
            // A newline in a file name would break every line that it is printed in, and a NUL every program.
            if text.chars().any(char::is_control) {
                return Err(self.refusal(format!("parameter {name} contains a control character")));
            }
            if !param.allowed.is_empty() && !param.allowed.contains(text) {
                let hint = did_you_mean(text, param.allowed.iter().map(String::as_str));
                let next = match hint {
                    Some(nearest) => format!("did you mean {name}={nearest}?"),
                    None => format!("give {}", alternatives(&param.allowed)),
                };
                let next = next.trim_end_matches('?').to_owned();
                return Err(Refusal::new(
                    format!("{name} is {text:?}, not {}", alternatives(&param.allowed)),
                    next,
                ));
            }
        }
        if REPEATABLE.contains(&&**name)
            && let (Some(Value::Text(all)), Value::Text(text)) = (self.given.get_mut(name), &value)
        {
            all.push(',');
            all.push_str(text);
            return Ok(());
        }
        match self.given.insert(name.clone(), value) {
            None => Ok(()),
            Some(_) => Err(self.refusal(format!("parameter {name} is given twice"))),
        }
    }

    fn badly_typed(&self, param: &Param) -> Refusal {
        let Param { name, kind, .. } = param;
        let hint = match kind {
            Kind::Word => format!("; if Juju reads it as something else, quote it: {name}='\"...\"'"),
            _ => String::new(),
        };
        self.refusal(format!("parameter {name} must be {kind}{hint}"))
    }

    fn refusal(&self, reason: String) -> Refusal {
        Refusal::new(reason, &*self.help)
    }
}

/// `balanced or small`.
fn alternatives(all: &[String]) -> String {
    match all {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn from_text(param: &Param, text: &str) -> Option<Value> {
    match param.kind {
        Kind::Text | Kind::Word => Some(Value::Text(text.to_owned())),
        Kind::Flag => flag(text).map(Value::Flag),
        // `parse` would accept a plus sign.
        Kind::Number if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().map(Value::Number)
        }
        Kind::Number => None,
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
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

/// Reads a whole number, which Juju's database may have turned into a floating-point number.
fn whole(number: &serde_json::Number) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64()?;
    let is_whole = number.is_f64() && float.fract() == 0.0 && (0.0..=EXACT).contains(&float);
    number.as_u64().or_else(|| is_whole.then_some(float as u64))
}

/// Returns what somebody typed in printable form, shortened if it is long.
pub(super) fn printable(word: &str) -> String {
    const LONGEST: usize = 60;
    let mut text = replace_control(&word.chars().take(LONGEST).collect::<String>(), '\u{fffd}');
    if word.chars().count() > LONGEST {
        text.push('…');
    }
    if text.is_empty() {
        text.push_str("\"\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn restore() -> Action {
        Action::read("restore").unwrap()
    }

    fn from_words(words: &[(&str, &str)]) -> Result<Params, Refusal> {
        let action = restore();
        let mut collector = Collector::new(&action, "restore --help");
        words.iter().try_for_each(|(name, value)| collector.add_text(name, value))?;
        collector.finish()
    }

    fn from_map(map: &serde_json::Value) -> Result<Params, Refusal> {
        let action = restore();
        let mut collector = Collector::new(&action, "restore --help");
        collector.add_json(map.as_object().unwrap())?;
        collector.finish()
    }

    #[test]
    fn defaults_are_inserted() {
        let params = from_words(&[("skip-backup", "true")]).unwrap();
        assert_eq!(params.text("bump-revision").unwrap(), "auto");
        assert!(params.flag("skip-backup").unwrap());
        assert!(!params.flag("plan").unwrap());
    }

    #[test]
    fn an_empty_text_is_refused_unless_juju_gives_its_default() {
        for name in ["expected-sha256", "target", "snapshot"] {
            let refusal = from_words(&[(name, "")]).unwrap_err();
            assert_eq!(refusal.reason, format!("parameter {name} is empty"));
        }
        assert!(from_map(&json!({"expected-sha256": ""})).is_ok());
    }

    #[test]
    fn yes_and_no_are_accepted_in_every_usual_spelling() {
        for (text, expected) in [("true", true), ("True", true), ("yes", true), ("1", true), ("on", true)]
            .into_iter()
            .chain([("false", false), ("No", false), ("0", false), ("OFF", false)])
        {
            assert_eq!(from_words(&[("plan", text)]).unwrap().flag("plan").unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_declared_is_refused_by_name() {
        for (name, value, reason) in [
            ("skip-bakcup", "true", "unknown parameter skip-bakcup (did you mean skip-backup?)"),
            ("skip_backup", "true", "unknown parameter skip_backup (did you mean skip-backup?)"),
            ("Target", "/x", "unknown parameter Target (did you mean target?)"),
            ("zzz", "1", "unknown parameter zzz"),
            ("", "1", "unknown parameter \"\""),
            ("skip-backup", "perhaps", "parameter skip-backup must be true or false"),
            ("skip-backup", "", "parameter skip-backup must be true or false"),
            ("target", "/a\n/b", "parameter target contains a control character"),
            ("target", "/a\0", "parameter target contains a control character"),
        ] {
            let refusal = from_words(&[(name, value)]).unwrap_err();
            assert_eq!((refusal.reason.as_str(), refusal.next.as_str()), (reason, "run `restore --help`"));
        }
        let twice = from_words(&[("plan", "true"), ("plan", "true")]);
        assert_eq!(twice.unwrap_err().reason, "parameter plan is given twice");
    }

    #[test]
    fn a_value_that_is_not_allowed_is_refused_with_the_allowed_ones() {
        let action = Action::read("snapshot").unwrap();
        let refused = |value| Collector::new(&action, "").add_text("compression", value).unwrap_err();
        assert_eq!(refused("smal").next, "did you mean compression=small");
        assert_eq!(refused("zstd").next, "give balanced or small");
        assert_eq!(refused("zstd").reason, "compression is \"zstd\", not balanced or small");
    }

    #[test]
    fn a_recovery_takes_only_site() {
        assert!(
            from_words(&[("recover", "true"), ("site", "etcd.service")]).unwrap().flag("recover").unwrap()
        );
        // Juju gives every parameter, with its default.
        let defaults = json!({"recover": true, "target": "", "plan": false, "bump-revision": "auto"});
        assert!(from_map(&defaults).unwrap().flag("recover").unwrap());
        let refusal = from_map(&json!({"recover": true, "plan": true})).unwrap_err();
        assert_eq!(refusal.reason, "recover takes no other parameter except site");
    }

    #[test]
    fn jujus_map_is_held_to_the_declared_types() {
        let params = from_map(&json!({"skip-backup": true, "target": "/x=y"})).unwrap();
        assert!(params.flag("skip-backup").unwrap());
        assert_eq!(params.text("target").unwrap(), "/x=y");
        for (map, reason) in [
            (json!({"skip-backup": "true"}), "parameter skip-backup must be true or false"),
            (json!({"identity-file": 1}), "parameter identity-file must be text"),
            (
                json!({"target": null}),
                "parameter target must be text or a number; if Juju reads it as something else, quote it: target='\"...\"'",
            ),
            (
                json!({"bump-revision": [1]}),
                "parameter bump-revision must be text or a number; if Juju reads it as something else, quote it: bump-revision='\"...\"'",
            ),
            (json!({"command": "x"}), "unknown parameter command"),
        ] {
            assert_eq!(from_map(&map).unwrap_err().reason, reason);
        }
    }

    fn param(kind: Kind, default: Value) -> Param {
        Param { name: "n".to_owned(), kind, default, allowed: Vec::new(), description: String::new() }
    }

    #[test]
    fn a_word_that_juju_read_as_another_type_is_a_word_again() {
        let param = param(Kind::Word, Value::Text(String::new()));
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
        let param = param(Kind::Number, Value::Number(0));
        assert_eq!(from_text(&param, "7"), Some(Value::Number(7)));
        for bad in ["", "-1", "+1", "1.0", "0x1", "99999999999999999999"] {
            assert_eq!(from_text(&param, bad), None, "{bad:?}");
        }
        assert_eq!(from_json(&param, &json!(-1)), None);
        assert_eq!(from_json(&param, &json!(1.5)), None);
    }

    proptest! {
        #[test]
        fn any_text_comes_through_unchanged(value in "[^\\p{Cc}]{1,40}") {
            let params = from_words(&[("target", &value)]).unwrap();
            prop_assert_eq!(params.text("target").unwrap(), value);
        }

        #[test]
        fn no_word_panics(name in any::<String>(), value in any::<String>()) {
            let _ = from_words(&[(&name, &value)]);
        }

        #[test]
        fn one_typing_error_still_finds_the_name(which in 0_usize..7, at in 0_usize..32, c in "[a-z_-]") {
            let restore = restore();
            let name = &restore.params[which].name;
            let mut typed = name.clone();
            typed.insert_str(at % (name.len() + 1), &c);
            let names = restore.params.iter().map(|param| &*param.name);
            prop_assert_eq!(did_you_mean(&typed, names), Some(name.as_str()));
        }

    }
}
