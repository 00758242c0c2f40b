//! Requests to a storage service: authorized, sent, and repeated if that may help.
//!
//! It must never hold more than one part in memory, or print a header or a URL that authorizes a request.

use super::error::{RequestError, is_error_document, is_page, one_line, root_element};
use super::http::{Http, header};
use super::service::{Authorized, OnSent, Request, Service};
use super::transport::OnSignal;
use crate::system::clock::Clock;
use crate::system::{interrupt, random};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use std::io::{self, Read};
use std::time::Duration;
use ureq::http;
use ureq::http::{HeaderMap, StatusCode};

/// The number of attempts before the failure of a request is reported.
const ATTEMPTS: u32 = 5;
/// The number of attempts if the server does not answer: each takes as long as the server may be silent.
const STALLED_ATTEMPTS: u32 = 2;
/// The longest pause before the second attempt. It doubles from attempt to attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(feature = "fuzz") { 0 } else { 400 });
/// The longest pause before any attempt, also if the server asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_millis(if cfg!(feature = "fuzz") { 0 } else { 20_000 });
/// The largest response body: two parts and some XML.
const MAX_RESPONSE: u64 = 17 << 20;
/// Documents, and what some servers call them instead: moto, as Amazon's first interface did.
const OTHER_NAMES: [(&str, &str); 1] = [("VersioningConfiguration", "GetBucketVersioningResponse")];

/// Sends requests to one bucket.
#[derive(Debug)]
pub(in crate::store) struct Client {
    service: Box<dyn Service>,
    http: Http,
    clock: Clock,
}

/// A response that is not an error.
#[derive(Debug)]
pub(in crate::store) struct Response {
    service: &'static str,
    status: StatusCode,
    headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the value of a header. Empty if the response has no such header.
    pub fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Parses the body as the XML document `root`, or as one with a name that some servers give it.
    ///
    /// # Errors
    /// Fails if the body is another document: the server did not answer this request.
    pub fn xml<T: serde::de::DeserializeOwned>(&self, root: &str) -> Result<T> {
        let is_expected = |name: &str| {
            name == root || OTHER_NAMES.iter().any(|(known, other)| (*known, *other) == (root, name))
        };
        let text = std::str::from_utf8(&self.body).context("the server's answer is not text")?;
        let text = text.trim_start_matches('\u{feff}');
        match root_element(text) {
            Some(name) if is_expected(name) => quick_xml::de::from_str(text)
                .with_context(|| format!("the server's answer is not the XML that {} defines", self.service)),
            Some(other) => bail!(
                "the server answered with the document {:?} instead of {root}; check bucket, endpoint and style",
                one_line(other)
            ),
            None => bail!("the server's answer is not an {} document; check the endpoint", self.service),
        }
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// Fails if the body is something else: the server did not answer this request.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).ok().with_context(|| {
            format!("the server's answer is not the JSON that {} defines; check the endpoint", self.service)
        })
    }
}

impl Client {
    /// Creates a client. Its requests have the time of `clock`.
    pub fn new(service: Box<dyn Service>, http: Http, clock: Clock) -> Self {
        Self { service, http, clock }
    }

    /// Returns the protocol of the server.
    pub fn service(&self) -> &dyn Service {
        &*self.service
    }

    /// Sends a request up to [`ATTEMPTS`] times, or up to [`STALLED_ATTEMPTS`] times if the server does not answer. If the
    /// server does not accept the access token, the request is sent once more with a new one. The server's own error is an
    /// [`RequestError`].
    pub fn send(&self, request: &Request<'_>) -> Result<Response> {
        let mut attempts = 1;
        let mut may_renew = true;
        loop {
            let now = self.clock.now();
            let error = match self.attempt(request, now, OnSignal::Stop)? {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.is_unauthorized() && may_renew && self.service.discard_token(now) {
                may_renew = false;
                continue;
            }
            let limit = if error.is_stall() { STALLED_ATTEMPTS } else { ATTEMPTS };
            if attempts >= limit || !error.is_temporary() {
                return Err(error.after_attempts(attempts).into());
            }
            interrupt::sleep(pause(attempts, error.retry_after())?)?;
            attempts += 1;
        }
    }

    /// Sends a request once, even if a signal has arrived: for cleaning up. After a signal, all such requests together
    /// have less than a second.
    pub fn send_despite_interrupt(&self, request: &Request<'_>) -> Result<Response> {
        Ok(self.attempt(request, self.clock.now(), OnSignal::CleanUp)??)
    }

    /// Sends a request once, at `now`. The outer error is one that no further attempt can avoid.
    fn attempt(
        &self,
        request: &Request<'_>,
        now: Timestamp,
        on_signal: OnSignal,
    ) -> Result<Result<Response, RequestError>> {
        let check = || if on_signal == OnSignal::Stop { interrupt::check() } else { Ok(()) };
        check()?;
        let server = self.service.server();
        let response = self.transmit(request, now, on_signal)?;
        let received = response.and_then(|response| {
            let (parts, body) = response.into_parts();
            Ok((parts, read_body(body)?))
        });
        let (parts, body) = match received {
            Ok(received) => received,
            Err(error) => {
                check()?;
                return Ok(Err(RequestError::without_response(server, &error)));
            }
        };
        let is_success =
            self.service.is_success(request, parts.status) && !is_error_document(request.method, &body);
        let is_page = is_page(request.method, parts.status.as_u16(), &parts.headers, &body);
        if is_success && !is_page {
            let (service, status) = (self.service.name(), parts.status);
            return Ok(Ok(Response { service, status, headers: parts.headers, body }));
        }
        let error =
            RequestError::from_response(&*self.service, parts.status.as_u16(), &parts.headers, &body, now);
        Ok(Err(error.of_page(is_page)))
    }

    /// Authorizes and sends a request. Returns the head of the response, or why there is none.
    fn transmit(
        &self,
        request: &Request<'_>,
        now: Timestamp,
        on_signal: OnSignal,
    ) -> Result<Result<http::Response<ureq::Body>, ureq::Error>> {
        let Authorized { url, headers } = self.service.authorize(request, now)?;
        let mut builder = http::Request::builder().method(request.method).uri(url);
        for (name, value) in &headers {
            builder = builder.header(*name, value.as_str());
        }
        if !matches!(request.method, "PUT" | "POST") {
            return Ok(self.http.send(builder, on_signal));
        }
        let mut body = RequestBody { rest: request.body, size: request.body.len(), on_sent: request.on_sent };
        let builder = builder.header("content-length", request.body.len());
        Ok(self.http.send_body(builder, &mut body, request.is_joining, on_signal))
    }

    /// Returns the time of requests.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A request body that reports how much of it was sent.
struct RequestBody<'a> {
    rest: &'a [u8],
    size: usize,
    on_sent: Option<&'a OnSent<'a>>,
}

impl Read for RequestBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The bytes of the previous calls have been sent by now.
        if let Some(on_sent) = self.on_sent {
            on_sent((self.size - self.rest.len()) as u64)?;
        }
        self.rest.read(buffer)
    }
}

/// Reads the body of a response, which may not be larger than a part.
fn read_body(body: ureq::Body) -> Result<Vec<u8>, ureq::Error> {
    // A buffer that grows while it is read may become twice as large as the body.
    let announced = body.content_length().unwrap_or(0).min(MAX_RESPONSE);
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    body.into_with_config().limit(MAX_RESPONSE).reader().read_to_end(&mut bytes)?;
    Ok(bytes)
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
