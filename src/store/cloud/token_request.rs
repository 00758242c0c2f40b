//! Requests for an access token to a service that knows the identity of this machine or workload.
//!
//! Every wait is bounded, and ends on a signal. It must never print a token, or an answer that may contain one.

use super::access_token::AccessToken;
use super::error::{one_line, root_element};
use super::http::{describe_error, header};
use super::server::encode_query;
use crate::system::interrupt;
use crate::system::secret::Secret;
use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};

/// The number of attempts if the service is busy. Microsoft recommends five, and others fewer.
const ATTEMPTS: u32 = 5;
/// The number of attempts if the service does not answer.
const UNANSWERED_ATTEMPTS: u32 = 2;
/// The pause before the second attempt. It doubles from attempt to attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The statuses of a service that is busy, or that is being updated (410, of Azure).
const BUSY: [u16; 7] = [408, 410, 429, 500, 502, 503, 504];
/// The most bytes read of an answer. Answers are smaller than ten kilobytes.
const MAX_ANSWER: u64 = 64 << 10;

/// A request for a token.
pub(in crate::store) struct TokenRequest<'a> {
    pub agent: &'a Agent,
    /// The identity in messages, such as `the managed identity of this machine`.
    pub identity: &'a str,
    /// The URL of the service, in messages.
    pub server: &'a str,
    /// The path at the service, and the query.
    pub path: &'a str,
    /// The header of the request that shows that no redirect and no browser has caused it.
    pub header: Option<(&'static str, &'static str)>,
    /// The header and its value that the answer must have.
    pub answer_header: Option<(&'static str, &'static str)>,
    /// A form to send. Without one, the request is a `GET`.
    pub form: Option<Form<'a>>,
    /// Whether status 404 says that the service is being updated.
    pub is_busy_if_not_found: bool,
    /// Returns advice for the operator about a status, or about a service that does not answer. Empty if no advice is known.
    pub advice: &'a dyn Fn(Option<u16>) -> String,
}

/// The fields of a form, not encoded.
pub(in crate::store) struct Form<'a> {
    pub fields: &'a [(&'a str, &'a str)],
    /// The name and the value of the field that proves the identity.
    pub proof: (&'a str, &'a Secret),
}

/// Why a service gave no token.
#[derive(Debug)]
struct Failure {
    message: String,
    /// The status, if there was an answer.
    status: Option<u16>,
    /// The number of attempts after which this failure is final.
    attempts: u32,
}

/// The answer of a service: RFC 6749, section 5.1. Azure writes numbers as texts, and adds `expires_on`.
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

/// The answer of a service that refuses: RFC 6749, section 5.2.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorAnswer {
    error: String,
    error_description: String,
}

impl TokenRequest<'_> {
    /// Requests a token at `now`.
    ///
    /// # Errors
    /// Fails if the service does not answer or refuses. The message has the service's own words and the next step.
    pub fn send(&self, now: Timestamp) -> Result<AccessToken> {
        let mut attempts = 1;
        loop {
            interrupt::check()?;
            let failure = match self.attempt(now) {
                Ok(token) => return Ok(token),
                Err(failure) => failure,
            };
            interrupt::check()?;
            if attempts >= failure.attempts {
                bail!("{}", self.describe(&failure, attempts));
            }
            interrupt::sleep(FIRST_PAUSE.saturating_mul(1 << (attempts - 1)))?;
            attempts += 1;
        }
    }

    fn describe(&self, failure: &Failure, attempts: u32) -> String {
        let Self { identity, server, .. } = self;
        let tried = if attempts > 1 { format!(", tried {attempts} times") } else { String::new() };
        let advice = match (self.advice)(failure.status).as_str() {
            "" => String::new(),
            advice => format!("; {advice}"),
        };
        format!("requesting a token of {identity} from {server}: {}{tried}{advice}", failure.message)
    }

    fn attempt(&self, now: Timestamp) -> Result<AccessToken, Failure> {
        let unanswered = |error: &ureq::Error| Failure {
            message: describe_error(error).1,
            status: None,
            attempts: UNANSWERED_ATTEMPTS,
        };
        let mut response = self.transmit().map_err(|error| unanswered(&error))?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.map_err(|error| unanswered(&error))?;
        self.check_origin(response.headers())?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response.status().as_u16(), &body));
        }
        parse_token(&body, now).map_err(|message| Failure { message, status: Some(200), attempts: 1 })
    }

    fn transmit(&self) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let url = format!("{}{}", self.server, self.path);
        let Some(Form { fields, proof: (name, proof) }) = &self.form else {
            let request = self.agent.get(url);
            return match self.header {
                Some((name, value)) => request.header(name, value).call(),
                None => request.call(),
            };
        };
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        fields.push((*name, proof.reveal().to_owned()));
        let request = self.agent.post(url).header("content-type", "application/x-www-form-urlencoded");
        request.send(encode_query(&fields).as_bytes())
    }

    /// Refuses an answer that does not come from the service.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        match self.answer_header {
            Some((name, value)) if header(headers, name) != value => Err(Failure {
                message: format!("another server answered: the answer lacks the header {name}: {value}"),
                status: None,
                attempts: 1,
            }),
            _ => Ok(()),
        }
    }

    fn refused(&self, status: u16, body: &[u8]) -> Failure {
        let text = String::from_utf8_lossy(body);
        // A service may repeat the request in its answer.
        let text = match &self.form {
            Some(Form { proof: (_, proof), .. }) => text.replace(proof.reveal(), "…"),
            None => text.into_owned(),
        };
        let message = match describe_refusal(&text) {
            words if words.is_empty() => format!("it returned status {status}"),
            words => format!("it returned {words} (status {status})"),
        };
        let is_busy = BUSY.contains(&status) || (status == 404 && self.is_busy_if_not_found);
        Failure { message, status: Some(status), attempts: if is_busy { ATTEMPTS } else { 1 } }
    }
}

/// Returns a service's words about a refusal: the code and the description, or a text that is not a web page.
fn describe_refusal(text: &str) -> String {
    let answer: ErrorAnswer = serde_json::from_str(text).unwrap_or_default();
    // Microsoft appends the ids and the time of the request.
    let description = answer.error_description.split("\r\n").next().unwrap_or_default();
    let description = one_line(description.split(" Trace ID:").next().unwrap_or_default());
    let is_plain_text = root_element(text).is_none() && !text.trim_start().starts_with('{');
    match (one_line(&answer.error).as_str(), description.trim_end_matches('.')) {
        ("", "") if is_plain_text => one_line(text).trim_end_matches('.').to_owned(),
        ("", words) | (words, "") => words.to_owned(),
        (code, description) => format!("{code}: {description}"),
    }
}

/// Returns the token in an answer. The error quotes nothing of it.
fn parse_token(body: &[u8], now: Timestamp) -> Result<AccessToken, String> {
    let answer: Option<TokenAnswer> = serde_json::from_slice(body).ok();
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
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
    if end <= now {
        return Err(format!(
            "its token ended at {end}, and this machine's clock is at {now}; correct the clock"
        ));
    }
    Ok(AccessToken { secret: Secret::new(answer.access_token), end })
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

    #[test]
    fn a_refusal_is_reported_in_the_words_of_the_service() {
        for (text, words) in [
            (
                "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}",
                "invalid_request: Identity not found",
            ),
            (
                "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS700213: No matching federated identity record \
                 found for presented assertion subject 'a'. Trace ID: 1 Correlation ID: 2 Timestamp: 3\"}",
                "invalid_client: AADSTS700213: No matching federated identity record found for presented assertion subject 'a'",
            ),
            (
                "{\"error\":\"invalid_scope\",\"error_description\":\"AADSTS70011: The scope isn't valid.\\r\\nTrace ID: 1\\r\\n\"}",
                "invalid_scope: AADSTS70011: The scope isn't valid",
            ),
            (
                "Unable to generate access token; IAM returned 403 Forbidden: denied.\n",
                "Unable to generate access token; IAM returned 403 Forbidden: denied",
            ),
            ("<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", ""),
            ("{\"message\": \"x\"}", ""),
            ("{\"error\": \"unknown\"}", "unknown"),
            ("", ""),
        ] {
            assert_eq!(describe_refusal(text), words);
        }
    }
}
