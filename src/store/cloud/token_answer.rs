//! The answer of a service with an access token: RFC 6749, section 5.1.
//!
//! An error must never quote the answer.

use super::access_token::AccessToken;
use crate::system::secret::Secret;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// The answer. Azure writes numbers as texts, and adds `expires_on`.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    /// The number of seconds until the token ends.
    expires_in: Option<Seconds>,
    /// The number of seconds from the epoch until the token ends.
    expires_on: Option<Seconds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(i64),
    Text(String),
}

/// Returns the token in an answer. The error quotes nothing of it.
pub(super) fn parse_token(body: &[u8], now: Timestamp) -> Result<AccessToken, String> {
    let answer: Option<TokenAnswer> = serde_json::from_slice(body).ok();
    let Some(answer) = answer.filter(|answer| is_token(&answer.access_token)) else {
        return Err("its answer contains no token".to_owned());
    };
    let after = |seconds: i64| now.checked_add(SignedDuration::from_secs(seconds)).ok();
    let relative = answer.expires_in.and_then(Seconds::number).and_then(after);
    let absolute =
        answer.expires_on.and_then(Seconds::number).and_then(|second| Timestamp::from_second(second).ok());
    let Some(end) = [relative, absolute].into_iter().flatten().min() else {
        return Err("its answer does not say when the token ends".to_owned());
    };
    check_end("token", end, now)?;
    Ok(AccessToken { secret: Secret::new(answer.access_token), end })
}

/// Returns whether a text can be sent as a token.
pub(in crate::store) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Refuses a token, called `what`, that has ended.
pub(in crate::store) fn check_end(what: &str, end: Timestamp, now: Timestamp) -> Result<(), String> {
    if end > now {
        return Ok(());
    }
    Err(format!("its {what} ended at {end}, and this machine's clock is at {now}; correct the clock"))
}

impl Seconds {
    fn number(self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers are those of "Use managed identities on a virtual machine to acquire access token" (Azure), "Access token
    /// response" (Microsoft identity platform), and "Access tokens" (Compute Engine).
    #[test]
    fn a_token_is_read_as_each_service_writes_it() {
        let now = Timestamp::from_second(1_506_480_573).unwrap();
        for (answer, lifetime) in [
            (
                "{\"access_token\": \"eyJ0eXAi\", \"refresh_token\": \"\", \"expires_in\": \"3599\", \"expires_on\": \
                 \"1506484173\", \"not_before\": \"1506480273\", \"resource\": \"https://storage.azure.com/\", \
                 \"token_type\": \"Bearer\"}",
                3599,
            ),
            (
                "{\"token_type\": \"Bearer\", \"expires_in\": 3599, \"ext_expires_in\": 3599, \"access_token\": \"eyJ0eXAi\"}",
                3599,
            ),
            ("{\"access_token\":\"eyJ0eXAi\",\"expires_in\":3175,\"token_type\":\"Bearer\"}", 3175),
            // The earlier end counts.
            ("{\"access_token\":\"eyJ0eXAi\",\"expires_in\":\"86399\",\"expires_on\":\"1506480673\"}", 100),
        ] {
            let token = parse_token(answer.as_bytes(), now).unwrap();
            assert_eq!(token.secret.reveal(), "eyJ0eXAi");
            assert_eq!(now.duration_until(token.end).as_secs(), lifetime, "{answer}");
        }
    }

    #[test]
    fn an_answer_without_a_valid_token_is_refused_and_not_quoted() {
        let now = Timestamp::from_second(1000).unwrap();
        for (answer, words) in [
            ("canary", "contains no token"),
            ("{\"access_token\": [\"canary\"]}", "contains no token"),
            ("{\"access_token\": \"\", \"expires_in\": 1}", "contains no token"),
            ("{\"access_token\": \"canary\\r\\nx: y\", \"expires_in\": 1}", "contains no token"),
            ("{\"access_token\": \"canary\"}", "does not say when the token ends"),
            ("{\"access_token\": \"canary\", \"expires_in\": \"soon\"}", "does not say when the token ends"),
            (
                "{\"access_token\": \"canary\", \"expires_in\": 9223372036854775807}",
                "does not say when the token ends",
            ),
            ("{\"access_token\": \"canary\", \"expires_in\": 0}", "correct the clock"),
            (
                "{\"access_token\": \"canary\", \"expires_in\": 60, \"expires_on\": 999}",
                "its token ended at 1970-01-01T00:16:39Z",
            ),
        ] {
            let message = parse_token(answer.as_bytes(), now).unwrap_err();
            assert!(message.contains(words) && !message.contains("canary"), "{answer}: {message}");
        }
    }
}
