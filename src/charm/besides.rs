//! What the option `backup` says of the relation's bucket: all that is not for its other side to know. Pure.
//!
//! Must never let it say which bucket that is, or where.

use crate::catalog::retention::Policy;
use crate::settings::{DESTINATIONS, Destination};
use crate::store::s3::Description;
use serde_json::{Map, Value, json};

/// What the relation's bucket is called among the destinations.
pub const DESTINATION: &str = "s3";
/// What may be said of the destination.
const KEEP: &str = "keep";
/// And of its bucket, under [`BUCKET`].
const OF_BUCKET: [&str; 4] = ["encryption", "kms-key", "proxy", "allow-http"];
const BUCKET: &str = "s3";

/// What is said besides the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Besides {
    keep: Option<Value>,
    of_bucket: Map<String, Value>,
}

impl Besides {
    /// Takes it out of a whole file of settings; nothing where that says none of it. The error says what does not belong there.
    pub fn take(settings: &mut Map<String, Value>) -> Result<Self, String> {
        let Some(Value::Object(all)) = settings.get_mut(DESTINATIONS) else { return Ok(Self::default()) };
        let Some(said) = all.remove(DESTINATION) else { return Ok(Self::default()) };
        if all.is_empty() {
            settings.remove(DESTINATIONS);
        }
        let besides = Self::of(&said);
        if besides.as_said() != said {
            return Err(format!(
                "{DESTINATION} is the relation's destination, of which can be said {KEEP}, and under {BUCKET} {} and {}",
                OF_BUCKET[..3].join(", "),
                OF_BUCKET[3]
            ));
        }
        besides.check().map_err(|why| format!("destination {DESTINATION}: {why}"))?;
        Ok(besides)
    }

    /// What a destination that is written down has of it.
    pub fn of(destination: &Value) -> Self {
        let bucket = destination.get(BUCKET).and_then(Value::as_object);
        let said = bucket.into_iter().flatten().filter(|(name, _)| OF_BUCKET.contains(&name.as_str()));
        Self {
            keep: destination.get(KEEP).cloned(),
            of_bucket: said.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// The bucket that the relation describes, and this.
    pub fn bucket(&self, described: Map<String, Value>) -> Map<String, Value> {
        let theirs = described.into_iter().filter(|(name, _)| !OF_BUCKET.contains(&name.as_str()));
        theirs.chain(self.of_bucket.clone()).collect()
    }

    /// The whole destination of a bucket.
    pub fn destination(&self, bucket: Map<String, Value>) -> Value {
        let mut whole = Map::from_iter([(BUCKET.to_owned(), Value::Object(bucket))]);
        whole.extend(self.keep.clone().map(|keep| (KEEP.to_owned(), keep)));
        Value::Object(whole)
    }

    /// A destination that was written down before, with this in place of what was said then.
    pub fn instead(&self, old: &Value) -> Value {
        let bucket = old.get(BUCKET).and_then(Value::as_object).cloned().unwrap_or_default();
        self.destination(self.bucket(bucket))
    }

    fn as_said(&self) -> Value {
        match self.destination(self.of_bucket.clone()) {
            Value::Object(mut whole) if self.of_bucket.is_empty() => {
                whole.remove(BUCKET);
                Value::Object(whole)
            }
            whole => whole,
        }
    }

    /// As far as it can be checked without the bucket that it is about.
    fn check(&self) -> Result<(), String> {
        let keep = self.keep.clone().map(serde_json::from_value::<Policy>).transpose();
        keep.map_err(|error| error.to_string())?;
        let some = self.bucket(Map::from_iter([("bucket".to_owned(), json!("some"))]));
        let _: Destination =
            serde_json::from_value(self.destination(some.clone())).map_err(|error| error.to_string())?;
        let some: Description =
            serde_json::from_value(Value::Object(some)).map_err(|error| error.to_string())?;
        some.check().map_err(|refusal| refusal.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Result<(Besides, Map<String, Value>), String> {
        let mut all: Map<String, Value> = serde_yaml::from_str(text).unwrap();
        Besides::take(&mut all).map(|besides| (besides, all))
    }

    #[test]
    fn what_is_not_the_other_sides_to_say_goes_with_its_bucket() {
        let text = "keep: {last: 1}\ndestinations:\n  s3: {keep: {last: 7}, s3: {encryption: kms, kms-key: K}}\n  \
                    nfs: {directory: /d}\n";
        let (besides, rest) = taken(text).unwrap();
        assert_eq!(
            Value::Object(rest),
            json!({"keep": {"last": 1}, "destinations": {"nfs": {"directory": "/d"}}})
        );
        let theirs = Map::from_iter([("bucket".to_owned(), json!("b")), ("proxy".to_owned(), json!("x"))]);
        let whole = besides.destination(besides.bucket(theirs));
        let expected =
            json!({"s3": {"bucket": "b", "encryption": "kms", "kms-key": "K"}, "keep": {"last": 7}});
        assert_eq!(whole, expected);
        assert_eq!(Besides::of(&whole), besides);
        assert_eq!(Besides::default().instead(&whole), json!({"s3": {"bucket": "b"}}));
        assert_eq!(taken("destinations: {s3: {keep: {last: 7}}}").unwrap().0.of_bucket, Map::new());
        assert_eq!(taken("schedule: {when: '@daily'}").unwrap().0, Besides::default());
    }

    #[test]
    fn the_bucket_itself_and_nonsense_are_refused() {
        for (text, why) in [
            ("destinations: {s3: {s3: {bucket: b}}}", "the relation's destination"),
            ("destinations: {s3: {directory: /d}}", "the relation's destination"),
            ("destinations: {s3: 7}", "the relation's destination"),
            ("destinations: {s3: {s3: {endpoint: 'https://else'}}}", "the relation's destination"),
            ("destinations: {s3: {keep: {latest: 7}}}", "unknown field `latest`"),
            ("destinations: {s3: {s3: {kms-key: K}}}", "kms-key is only used with encryption"),
            ("destinations: {s3: {s3: {encryption: rot13}}}", "unknown variant"),
            ("destinations: {s3: {s3: {proxy: 'socks5://proxy:1080'}}}", "proxy"),
        ] {
            let refused = taken(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
