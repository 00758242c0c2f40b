//! Requests for an access token to a service that knows the identity of this machine or workload.
//!
//! Every wait is bounded, and ends on a signal. It must never print a token, or an answer that may contain one.

use super::access_token::AccessToken;
use super::http::{describe_error, header};
use super::server::encode_query;
use super::token_answer::parse_token;
use super::token_error::TokenError;
use crate::system::interrupt;
use crate::system::secret::Secret;
use anyhow::{Result, bail};
use jiff::Timestamp;
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode};
use ureq::{Agent, RequestBuilder};

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
    /// What is requested, in messages.
    pub what: &'static str,
    /// The identity in messages, such as `the managed identity of this machine`.
    pub identity: &'a str,
    /// The URL of the service, in messages.
    pub server: &'a str,
    /// The path at the service, and the query.
    pub path: &'a str,
    pub method: Method<'a>,
    /// A header of the request. Usually it shows that no redirect and no browser has caused the request.
    pub header: Option<(&'static str, &'static str)>,
    /// The header that proves the identity.
    pub secret_header: Option<(&'static str, &'a Secret)>,
    /// The header and its value that the answer must have.
    pub answer_header: Option<(&'static str, &'static str)>,
    /// Returns whether a refusal with this status and code says that the service is busy, in addition to [`BUSY`].
    pub is_busy: &'a dyn Fn(u16, &str) -> bool,
    /// Returns advice for the operator about a status, or about a service that does not answer. Empty if no advice is known.
    pub advice: &'a dyn Fn(Option<u16>) -> String,
}

/// How a request is sent.
pub(in crate::store) enum Method<'a> {
    Get,
    /// Without a body.
    Put,
    /// With a form.
    Post(Form<'a>),
}

/// The fields of a form, not encoded.
pub(in crate::store) struct Form<'a> {
    pub fields: &'a [(&'a str, &'a str)],
    /// The name and the value of the field that proves the identity.
    pub proof: (&'a str, &'a Secret),
}

impl Form<'_> {
    fn encode(&self) -> String {
        let mut fields: Vec<_> =
            self.fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let (name, proof) = self.proof;
        fields.push((name, proof.reveal().to_owned()));
        encode_query(&fields)
    }
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

impl<'a> TokenRequest<'a> {
    /// A `GET` without headers. `identity` and `server` are its names in messages.
    pub fn get(agent: &'a Agent, identity: &'a str, server: &'a str, path: &'a str) -> Self {
        Self {
            agent,
            what: "a token",
            identity,
            server,
            path,
            method: Method::Get,
            header: None,
            secret_header: None,
            answer_header: None,
            is_busy: &|_, _| false,
            advice: &|_| String::new(),
        }
    }

    /// Requests an access token at `now`.
    ///
    /// # Errors
    /// Fails as [`Self::send_for`] does.
    pub fn send(&self, now: Timestamp) -> Result<AccessToken> {
        self.send_for(&|body| parse_token(body, now))
    }

    /// Sends the request, and returns what `parse` finds in the answer. The error of `parse` must quote nothing of it.
    ///
    /// # Errors
    /// Fails if the service does not answer or refuses. The message has the service's own words and the next step.
    pub fn send_for<T>(&self, parse: &dyn Fn(&[u8]) -> Result<T, String>) -> Result<T> {
        let mut attempts = 1;
        loop {
            interrupt::check()?;
            let failure = match self.attempt(parse) {
                Ok(found) => return Ok(found),
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
        let Self { what, identity, server, .. } = self;
        let tried = if attempts > 1 { format!(", tried {attempts} times") } else { String::new() };
        let advice = match (self.advice)(failure.status).as_str() {
            "" => String::new(),
            advice => format!("; {advice}"),
        };
        format!("requesting {what} of {identity} from {server}: {}{tried}{advice}", failure.message)
    }

    fn attempt<T>(&self, parse: &dyn Fn(&[u8]) -> Result<T, String>) -> Result<T, Failure> {
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
        parse(&body).map_err(|message| Failure { message, status: Some(200), attempts: 1 })
    }

    fn transmit(&self) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let url = format!("{}{}", self.server, self.path);
        match &self.method {
            Method::Get => self.with_headers(self.agent.get(url)).call(),
            Method::Put => self.with_headers(self.agent.put(url)).send_empty(),
            Method::Post(form) => {
                let request = self.with_headers(self.agent.post(url));
                let request = request.header("content-type", "application/x-www-form-urlencoded");
                request.send(form.encode().as_bytes())
            }
        }
    }

    fn with_headers<B>(&self, mut request: RequestBuilder<B>) -> RequestBuilder<B> {
        if let Some((name, value)) = self.header {
            request = request.header(name, value);
        }
        if let Some((name, secret)) = self.secret_header {
            request = request.header(name, secret.reveal());
        }
        request
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
        let mut text = String::from_utf8_lossy(body).into_owned();
        // A service may repeat the request in its answer.
        for secret in self.secrets() {
            text = text.replace(secret.reveal(), "…");
        }
        let error = TokenError::parse(&text);
        let message = match error.describe() {
            words if words.is_empty() => format!("it returned status {status}"),
            words => format!("it returned {words} (status {status})"),
        };
        let is_busy = BUSY.contains(&status) || (self.is_busy)(status, &error.code);
        Failure { message, status: Some(status), attempts: if is_busy { ATTEMPTS } else { 1 } }
    }

    /// Returns the secrets of the request, which are not empty.
    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let proof = match &self.method {
            Method::Post(form) => Some(form.proof.1),
            Method::Get | Method::Put => None,
        };
        let header = self.secret_header.map(|(_, secret)| secret);
        [proof, header].into_iter().flatten().filter(|secret| !secret.reveal().is_empty())
    }
}
