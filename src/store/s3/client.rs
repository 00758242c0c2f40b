//! Requests to a bucket: signed, sent, and repeated if that may help.
//!
//! It must never hold more than one part in memory, or print a signed header.

use super::credentials::{CredentialSource, Credentials};
use super::endpoint::Endpoint;
use super::error::{S3Error, is_error_document};
use super::http::{header, read_timeout};
use super::sign::{Unsigned, encode_query, signature};
use crate::system::clock::Clock;
use crate::system::{interrupt, random};
use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, SendBody};

/// The number of attempts before the failure of a request is reported.
const ATTEMPTS: u32 = 5;
/// The longest pause before the second attempt. It doubles from attempt to attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// The longest pause before any attempt, also if the server asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// The largest response body: two parts and some XML.
const MAX_RESPONSE: u64 = 17 << 20;
/// A temporary access key is fetched again if it expires sooner than this.
const MIN_KEY_LIFETIME: SignedDuration = SignedDuration::from_mins(5);

/// Sends requests to one bucket.
#[derive(Debug)]
pub(super) struct S3Client {
    endpoint: Endpoint,
    source: CredentialSource,
    agent: Agent,
    credentials: Mutex<Option<Credentials>>,
    clock: Clock,
}

/// A request.
#[derive(Default)]
pub(super) struct S3Request<'a> {
    /// `GET`, `PUT`…
    pub method: &'static str,
    /// The key of the object. Empty for the bucket.
    pub key: &'a str,
    /// Names and values of the query, not encoded.
    pub query: Vec<(&'static str, String)>,
    /// Headers. Their names are in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: &'a [u8],
    /// Called with the number of bytes of the body that were sent. Starts again with each attempt.
    pub on_sent: Option<&'a dyn Fn(u64)>,
}

/// A response that is not an error.
#[derive(Debug)]
pub(super) struct S3Response {
    headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl S3Response {
    /// Returns the value of a header. Empty if the response has no such header.
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// Parses the body as XML.
    pub fn xml<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let text = std::str::from_utf8(&self.body).context("the server's response is not text")?;
        quick_xml::de::from_str(text).context("the server's response is not the XML that S3 defines")
    }
}

impl S3Client {
    /// Creates a client. Its signatures have the time of `clock`.
    pub fn new(endpoint: Endpoint, source: CredentialSource, agent: Agent, clock: Clock) -> Self {
        Self { endpoint, source, agent, credentials: Mutex::new(None), clock }
    }

    /// Sends a request up to [`ATTEMPTS`] times. The server's own error is an [`S3Error`].
    pub fn send(&self, request: &S3Request<'_>) -> Result<S3Response> {
        let mut attempts = 1;
        loop {
            let error = match self.attempt(request)? {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if attempts == ATTEMPTS || !error.is_temporary() {
                return Err(error.after_attempts(attempts).into());
            }
            interrupt::sleep(pause(attempts, error.retry_after())?)?;
            attempts += 1;
        }
    }

    /// Sends a request once, even if an interrupt is pending: for cleaning up.
    pub fn send_despite_interrupt(&self, request: &S3Request<'_>) -> Result<S3Response> {
        let _deferred = interrupt::defer();
        Ok(self.attempt(request)??)
    }

    /// Sends a request once. The outer error is one that no further attempt can avoid.
    fn attempt(&self, request: &S3Request<'_>) -> Result<Result<S3Response, S3Error>> {
        interrupt::check()?;
        let now = self.clock.now();
        let credentials = self.credentials(now)?;
        let path = self.endpoint.path(request.key);
        let mut headers = vec![("host", self.endpoint.host().to_owned())];
        headers.extend(request.headers.iter().cloned());
        let unsigned = Unsigned {
            method: request.method,
            path: &path,
            query: &request.query,
            headers: &headers,
            body: request.body,
            region: self.endpoint.region(),
        };
        headers.extend(signature(&unsigned, &credentials, now));
        let url = self.endpoint.url(&path, &encode_query(&request.query));
        let server = self.endpoint.server();
        let response = match transmit(&self.agent, request, &url, &headers) {
            Ok(response) => response,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(S3Error::without_response(server, &error)));
            }
        };
        let (parts, body) = response.into_parts();
        let body = match read_body(body) {
            Ok(body) => body,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(S3Error::without_response(server, &ureq::Error::Io(error))));
            }
        };
        if parts.status.is_success() && !is_error_document(request.method, &body) {
            return Ok(Ok(S3Response { headers: parts.headers, body }));
        }
        Ok(Err(S3Error::from_response(server, parts.status.as_u16(), &parts.headers, &body, now)))
    }

    fn credentials(&self, now: Timestamp) -> Result<Credentials> {
        let Ok(mut cached) = self.credentials.lock() else { bail!("another thread of this program failed") };
        let expires_soon = |credentials: &Credentials| {
            credentials.expires.is_some_and(|end| now.duration_until(end) < MIN_KEY_LIFETIME)
        };
        if let Some(credentials) = cached.as_ref().filter(|credentials| !expires_soon(credentials)) {
            return Ok(credentials.clone());
        }
        Ok(cached.insert(self.source.credentials()?).clone())
    }
}

fn transmit(
    agent: &Agent,
    request: &S3Request<'_>,
    url: &str,
    headers: &[(&str, String)],
) -> Result<Response<ureq::Body>, ureq::Error> {
    let mut builder = Request::builder().method(request.method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, value.as_str());
    }
    if !matches!(request.method, "PUT" | "POST") {
        let configured = agent.configure_request(builder.body(())?);
        return agent.run(configured.timeout_per_read(Some(read_timeout(request.method))).build());
    }
    let mut body = RequestBody { rest: request.body, size: request.body.len(), on_sent: request.on_sent };
    let builder = builder.header("content-length", request.body.len());
    agent.run(builder.body(SendBody::from_reader(&mut body))?)
}

/// A request body that ends early on an interrupt, because a part takes minutes on a slow link.
struct RequestBody<'a> {
    rest: &'a [u8],
    size: usize,
    on_sent: Option<&'a dyn Fn(u64)>,
}

impl Read for RequestBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        fail_if_interrupted()?;
        // The bytes of the previous calls have been sent by now.
        if let Some(on_sent) = self.on_sent {
            on_sent((self.size - self.rest.len()) as u64);
        }
        self.rest.read(buffer)
    }
}

fn read_body(body: ureq::Body) -> io::Result<Vec<u8>> {
    let mut reader = body.into_with_config().limit(MAX_RESPONSE).reader();
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        fail_if_interrupted()?;
        match reader.read(&mut chunk)? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

fn fail_if_interrupted() -> io::Result<()> {
    match interrupt::requested() {
        Some(_) => Err(io::Error::other("interrupted")),
        None => Ok(()),
    }
}

/// Returns the pause after a number of attempts: the one that the server asks for, or one that doubles each time. Half
/// of it is random, so that many units do not retry at the same time.
fn pause(attempts: u32, retry_after: Option<Duration>) -> Result<Duration> {
    let longest = FIRST_PAUSE.saturating_mul(1 << (attempts - 1)).min(MAX_PAUSE);
    let random = random::below(u64::try_from(longest.as_millis())?)?;
    let own = longest / 2 + Duration::from_millis(random / 2);
    Ok(retry_after.unwrap_or(own).min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_limited() {
        for attempts in 1..12 {
            let longest = FIRST_PAUSE.saturating_mul(1 << (attempts - 1)).min(MAX_PAUSE);
            let pause = pause(attempts, None).unwrap();
            assert!(pause >= longest / 2 && pause <= longest, "{attempts}: {pause:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(7))).unwrap(), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(7000))).unwrap(), MAX_PAUSE);
    }
}
