//! The settings that the option `backup` adds to the bucket of the relation `s3-credentials`, such as its retention policy:
//! the related application does not provide them. No input or output.
//!
//! Must never let the option change the name or the endpoint of the bucket. A destination has the shape
//! `{keep: POLICY, s3: {bucket: NAME, encryption: …}}`.

use crate::inventory::retention::Policy;
use crate::settings::{DESTINATIONS_KEY, Destination};
use crate::store::s3::S3Config;
use serde_json::{Map, Value, json};

/// The name of the relation's bucket among the destinations.
pub const DESTINATION: &str = "s3";
/// The key of the retention policy in a destination.
const KEEP: &str = "keep";
/// The key of the bucket's settings in a destination.
const BUCKET: &str = "s3";
/// The settings that the option can set in [`BUCKET`].
const BUCKET_SETTINGS: [&str; 5] = ["encryption", "kms-key", "proxy", "allow-http", "stall-timeout"];

/// The settings in the option `backup` for the relation's bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelationOverrides {
    keep: Option<Value>,
    bucket_settings: Map<String, Value>,
}

impl RelationOverrides {
    /// Removes the overrides from `settings`, the parsed option `backup`, and returns them.
    ///
    /// # Errors
    /// If they contain a setting that is not allowed or invalid. The text is for the operator.
    pub fn take(settings: &mut Map<String, Value>) -> Result<Self, String> {
        let Some(Value::Object(destinations)) = settings.get_mut(DESTINATIONS_KEY) else {
            return Ok(Self::default());
        };
        let Some(given) = destinations.remove(DESTINATION) else { return Ok(Self::default()) };
        if destinations.is_empty() {
            settings.remove(DESTINATIONS_KEY);
        }
        let overrides = Self::from_destination(&given);
        // What got lost on the way there and back is not allowed.
        if overrides.as_written() != given {
            let allowed = BUCKET_SETTINGS.map(|name| format!("{BUCKET}.{name}")).join(", ");
            return Err(format!(
                "destination {DESTINATION} comes from the relation; the option can set only {KEEP}, {allowed} in it"
            ));
        }
        overrides.check().map_err(|reason| format!("destination {DESTINATION}: {reason}"))?;
        Ok(overrides)
    }

    /// Returns the overrides in `destination`, and ignores its other settings.
    pub fn from_destination(destination: &Value) -> Self {
        let bucket = destination.get(BUCKET).and_then(Value::as_object);
        let is_override = |name: &str| BUCKET_SETTINGS.contains(&name);
        let settings = bucket.into_iter().flatten().filter(|(name, _)| is_override(name));
        Self {
            keep: destination.get(KEEP).cloned(),
            bucket_settings: settings.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// Returns the settings of a bucket with these overrides in place of any that it had.
    pub fn apply_to_bucket(&self, bucket: Map<String, Value>) -> Map<String, Value> {
        let others = bucket.into_iter().filter(|(name, _)| !BUCKET_SETTINGS.contains(&name.as_str()));
        others.chain(self.bucket_settings.clone()).collect()
    }

    /// Wraps the settings of a bucket, with the overrides already applied, in a destination with the retention policy.
    pub fn destination(&self, bucket: Map<String, Value>) -> Value {
        let mut destination = Map::from_iter([(BUCKET.to_owned(), Value::Object(bucket))]);
        destination.extend(self.keep.clone().map(|keep| (KEEP.to_owned(), keep)));
        Value::Object(destination)
    }

    /// Returns the destination `old`, with these overrides in place of its own.
    pub fn replace_in(&self, old: &Value) -> Value {
        let bucket = old.get(BUCKET).and_then(Value::as_object).cloned().unwrap_or_default();
        self.destination(self.apply_to_bucket(bucket))
    }

    /// Returns the overrides as an operator writes them in the option.
    fn as_written(&self) -> Value {
        match self.destination(self.bucket_settings.clone()) {
            Value::Object(mut destination) if self.bucket_settings.is_empty() => {
                destination.remove(BUCKET);
                Value::Object(destination)
            }
            destination => destination,
        }
    }

    /// Checks the overrides with a made-up bucket.
    fn check(&self) -> Result<(), String> {
        let keep = self.keep.clone().map(serde_json::from_value::<Policy>).transpose();
        keep.map_err(|error| error.to_string())?;
        let bucket = self.apply_to_bucket(Map::from_iter([("bucket".to_owned(), json!("placeholder"))]));
        let _: Destination =
            serde_json::from_value(self.destination(bucket.clone())).map_err(|error| error.to_string())?;
        let bucket: S3Config =
            serde_json::from_value(Value::Object(bucket)).map_err(|error| error.to_string())?;
        bucket.check().map_err(|refusal| refusal.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> Result<(RelationOverrides, Map<String, Value>), String> {
        let mut all: Map<String, Value> = serde_yaml::from_str(text).unwrap();
        RelationOverrides::take(&mut all).map(|overrides| (overrides, all))
    }

    #[test]
    fn adds_retention_and_encryption_to_the_relations_bucket() {
        let text = "keep: {last: 1}\ndestinations:\n  s3: {keep: {last: 7}, s3: {encryption: kms, kms-key: K}}\n  \
                    nfs: {directory: /d}\n";
        let (overrides, rest) = take(text).unwrap();
        assert_eq!(
            Value::Object(rest),
            json!({"keep": {"last": 1}, "destinations": {"nfs": {"directory": "/d"}}})
        );
        let bucket = Map::from_iter([("bucket".to_owned(), json!("b")), ("proxy".to_owned(), json!("x"))]);
        let destination = overrides.destination(overrides.apply_to_bucket(bucket));
        let expected =
            json!({"s3": {"bucket": "b", "encryption": "kms", "kms-key": "K"}, "keep": {"last": 7}});
        assert_eq!(destination, expected);
        assert_eq!(RelationOverrides::from_destination(&destination), overrides);
        assert_eq!(RelationOverrides::default().replace_in(&destination), json!({"s3": {"bucket": "b"}}));
        assert_eq!(take("destinations: {s3: {keep: {last: 7}}}").unwrap().0.bucket_settings, Map::new());
        assert_eq!(take("schedule: {when: '@daily'}").unwrap().0, RelationOverrides::default());
    }

    #[test]
    fn refuses_to_change_the_bucket_and_invalid_settings() {
        for (text, reason) in [
            ("destinations: {s3: {s3: {bucket: b}}}", "comes from the relation"),
            ("destinations: {s3: {directory: /d}}", "comes from the relation"),
            ("destinations: {s3: 7}", "comes from the relation"),
            ("destinations: {s3: {s3: {endpoint: 'https://else'}}}", "comes from the relation"),
            ("destinations: {s3: {keep: {latest: 7}}}", "unknown field `latest`"),
            ("destinations: {s3: {s3: {kms-key: K}}}", "kms-key is only used with encryption"),
            ("destinations: {s3: {s3: {encryption: rot13}}}", "unknown variant"),
            ("destinations: {s3: {s3: {proxy: 'socks5://proxy:1080'}}}", "proxy"),
        ] {
            let error = take(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
