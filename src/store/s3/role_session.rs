//! The session of a role: a temporary access key, and when it ends.
//!
//! An error must never quote the answer of a service, because it contains the secret.

use super::credentials::Credentials;
use crate::store::cloud::access_token::Temporary;
use crate::store::cloud::token_answer::{check_end, is_token};
use crate::system::secret::Secret;
use jiff::Timestamp;
use serde::Deserialize;

/// A temporary access key, and when it ends.
#[derive(Debug, Clone)]
pub(super) struct RoleSession {
    pub credentials: Credentials,
    end: Timestamp,
}

impl Temporary for RoleSession {
    fn end(&self) -> Timestamp {
        self.end
    }
}

/// A temporary access key as Amazon's services write it, in JSON and in XML.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SessionAnswer {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: String,
    expiration: String,
}

impl SessionAnswer {
    /// Parses a JSON document with the names of the metadata service and of the endpoint of containers.
    pub fn from_json(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Returns the session.
    ///
    /// # Errors
    /// Refuses an answer that is not complete, and a session that has ended.
    pub fn session(self, now: Timestamp) -> Result<RoleSession, String> {
        let Self { access_key_id, secret_access_key, token, expiration } = self;
        if ![&access_key_id, &secret_access_key, &token].into_iter().all(|text| is_token(text)) {
            return Err("its answer contains no access key".to_owned());
        }
        let Ok(end) = expiration.parse() else {
            return Err("its answer does not say when the access key ends".to_owned());
        };
        check_end("access key", end, now)?;
        let credentials = Credentials {
            access_key: access_key_id,
            secret: Secret::new(secret_access_key),
            token: Some(Secret::new(token)),
        };
        Ok(RoleSession { credentials, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers of "Container credential provider" (AWS SDKs and Tools Reference Guide), and of the metadata service
    /// ("Retrieve security credentials from instance metadata", Amazon EC2 User Guide).
    #[test]
    fn a_session_is_read_as_each_service_writes_it() {
        let now = "2017-05-17T14:09:54Z".parse().unwrap();
        for answer in [
            "{\"AccessKeyId\": \"AK\", \"Expiration\": \"2017-05-17T15:09:54Z\", \"RoleArn\": \"TASK_ROLE_ARN\", \
             \"SecretAccessKey\": \"canary\", \"Token\": \"canary-token\"}",
            "{\"Code\": \"Success\", \"LastUpdated\": \"2012-04-26T16:39:16Z\", \"Type\": \"AWS-HMAC\", \"AccessKeyId\": \
             \"AK\", \"SecretAccessKey\": \"canary\", \"Token\": \"canary-token\", \"Expiration\": \
             \"2017-05-17T15:09:54Z\"}",
        ] {
            let session = SessionAnswer::from_json(answer.as_bytes()).session(now).unwrap();
            assert_eq!(session.credentials.access_key, "AK");
            assert_eq!(session.credentials.token.as_ref().unwrap().reveal(), "canary-token");
            assert_eq!(now.duration_until(session.end()).as_secs(), 3600);
            assert!(!format!("{session:?}").contains("canary"));
        }
    }

    #[test]
    fn an_answer_without_a_valid_session_is_refused_and_not_quoted() {
        let key = "\"AccessKeyId\": \"AK\", \"SecretAccessKey\": \"canary\", \"Token\": \"canary\"";
        let now = Timestamp::from_second(1000).unwrap();
        for (answer, words) in [
            ("canary".to_owned(), "contains no access key"),
            (
                "{\"AccessKeyId\": \"AK\", \"SecretAccessKey\": \"canary\"}".to_owned(),
                "contains no access key",
            ),
            (
                "{\"AccessKeyId\": \"AK\", \"SecretAccessKey\": \"canary\", \"Token\": \"canary\\r\\nx: y\"}"
                    .to_owned(),
                "contains no access key",
            ),
            (format!("{{{key}}}"), "does not say when the access key ends"),
            (format!("{{{key}, \"Expiration\": \"canary\"}}"), "does not say when the access key ends"),
            (format!("{{{key}, \"Expiration\": \"1970-01-01T00:16:40Z\"}}"), "correct the clock"),
        ] {
            let message = SessionAnswer::from_json(answer.as_bytes()).session(now).unwrap_err();
            assert!(message.contains(words) && !message.contains("canary"), "{answer}: {message}");
        }
    }
}
