//! Errors of requests to a storage service: the server's code, message and request id, and advice for the operator.

use super::http::{Cause, describe_error, header, parse_date};
use super::service::Service;
use crate::store::ErrorScope;
use crate::system::text::replace_control;
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::time::Duration;
use ureq::http::HeaderMap;

/// What Go's server, nginx and Apache answer to plain HTTP if they expect TLS.
const TLS_EXPECTED: [&str; 3] = [
    "Client sent an HTTP request to an HTTPS server",
    "The plain HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled server port",
];
/// A larger difference between the clocks may be the reason for a refusal. Azure accepts 15 minutes, and Google less.
const MAX_SKEW: Duration = Duration::from_secs(4 * 60);
/// A longer text is a proxy's page rather than a message.
const MAX_MESSAGE: usize = 300;

/// A request that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestError {
    /// The URL of the server, without bucket and key.
    server: String,
    /// The name of the protocol, such as `S3`.
    service: &'static str,
    /// The HTTP status, or 0 without a response.
    status: u16,
    /// The server's code, such as `AccessDenied`.
    code: String,
    /// Advice about this code. Empty if no advice is known.
    code_advice: &'static str,
    message: String,
    request_id: String,
    /// The bucket's region, if the server names one.
    region: String,
    /// The bucket that the server names, if it is not the configured one.
    other_bucket: String,
    /// Why there is no response.
    cause: Cause,
    /// Whether the response is a web page instead of a document of the protocol.
    is_page: bool,
    /// The time by which our clock is ahead of the server's clock.
    clock_ahead: SignedDuration,
    /// The pause that the server asks for.
    retry_after: Option<Duration>,
    attempts: u32,
    /// Whether the reason is known, so that no advice is needed.
    is_explained: bool,
}

/// Returns whether a body is an error document although the status is 200: the server starts its response to a
/// completion before it has finished.
pub(in crate::store) fn is_error_document(method: &str, body: &[u8]) -> bool {
    method == "POST" && std::str::from_utf8(body).is_ok_and(|text| root_element(text) == Some("Error"))
}

/// Returns the name of the root element of an XML document, or of a web page.
pub(in crate::store) fn root_element(text: &str) -> Option<&str> {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let inner = rest.strip_prefix('<')?;
        if !inner.starts_with(['?', '!']) {
            return inner.split(|c: char| c.is_whitespace() || "/>".contains(c)).next();
        }
        let end = if inner.starts_with("!--") { "-->" } else { ">" };
        rest = inner.split_once(end)?.1.trim_start();
    }
}

/// Returns whether a response is a web page, as the console of an S3 server or another web server sends. The part of
/// an object, which is status 206, may hold anything.
pub(in crate::store) fn is_page(method: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    match (method, status) {
        // A proxy in front of a server that does not answer sends a page too.
        (_, 206 | 500..) => false,
        ("HEAD", 200..300) => header(headers, "content-type").starts_with("text/html"),
        _ => root_element(&start).is_some_and(|name| name.eq_ignore_ascii_case("html")),
    }
}

impl RequestError {
    /// The error of a request that got no response from `server`.
    pub(in crate::store) fn without_response(server: String, error: &ureq::Error) -> Self {
        let (cause, message) = describe_error(error);
        Self { server, message, cause, ..Self::default() }
    }

    /// The error in a response of `service` that arrived at `now`.
    pub(in crate::store) fn from_response(
        service: &dyn Service,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Self {
        let (server, text) = (service.server(), String::from_utf8_lossy(body));
        if status == 400
            && server.starts_with("http:")
            && TLS_EXPECTED.iter().any(|words| text.contains(words))
        {
            let message = "the server speaks TLS at this port".to_owned();
            return Self { server, message, cause: Cause::SpeaksTls, ..Self::default() };
        }
        let document = service.parse_error(headers, body);
        let date = parse_date(header(headers, "date"));
        Self {
            server,
            service: service.name(),
            status,
            code_advice: service.advice(&document.code),
            code: one_line(&document.code),
            message: one_line(&document.message),
            request_id: one_line(&document.request_id),
            region: one_line(&document.region),
            other_bucket: one_line(&document.other_bucket),
            cause: Cause::Other,
            is_page: false,
            clock_ahead: date.map_or(SignedDuration::ZERO, |date| now.duration_since(date)),
            retry_after: header(headers, "retry-after").parse().ok().map(Duration::from_secs),
            attempts: 1,
            is_explained: false,
        }
    }

    /// Returns the same error, for a response that is a web page or not.
    pub(in crate::store) fn of_page(self, is_page: bool) -> Self {
        Self { is_page, ..self }
    }

    /// Returns the same error, after a number of attempts.
    pub(in crate::store) fn after_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Returns the same error without advice, because its reason is known.
    pub(in crate::store) fn explained(self) -> Self {
        Self { is_explained: true, ..self }
    }

    /// Returns how long the server asks us to wait.
    pub(in crate::store) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns whether the same request may succeed a little later.
    pub(in crate::store) fn is_temporary(&self) -> bool {
        const CODES: [&str; 11] = [
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "InternalError",
            "ServiceUnavailable",
            "RequestTimeout",
            "OperationAborted",
            // Two conditional requests at the same time. The AWS documentation recommends to repeat them.
            "ConditionalRequestConflict",
            "BadDigest",
            "XAmzContentSHA256Mismatch",
            // Azure's.
            "Md5Mismatch",
        ];
        let by_status = match self.status {
            0 => matches!(self.cause, Cause::Other | Cause::Stalled | Cause::HungUp),
            status => [408, 429, 500, 502, 503, 504].contains(&status),
        };
        by_status || CODES.contains(&self.code.as_str())
    }

    /// Returns whether the server was silent for too long.
    pub(in crate::store) fn is_stall(&self) -> bool {
        self.cause == Cause::Stalled
    }

    /// Returns whether the request got no response at all.
    pub(in crate::store) fn is_unreachable(&self) -> bool {
        self.status == 0
    }

    /// Returns whether the object does not exist.
    pub(in crate::store) fn is_absent(&self) -> bool {
        self.status == 404
            && !self.is_page
            && ["", "NoSuchKey", "BlobNotFound", "noSuchObject"].contains(&self.code.as_str())
    }

    /// Returns whether the requested object, version or upload does not exist.
    pub(in crate::store) fn is_not_found(&self) -> bool {
        self.status == 404
    }

    /// Returns whether the server does not implement the request.
    pub(in crate::store) fn is_not_implemented(&self) -> bool {
        self.status == 501 || self.code == "NotImplemented"
    }

    /// Returns whether the server refused this request, and will refuse it again.
    pub(in crate::store) fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status) && !self.is_page && !self.is_temporary()
    }

    /// Returns whether the server did not accept the access token of the request. S3 has a status of its own for that
    /// only if there is no code ("Error responses", Amazon S3 API Reference).
    pub(in crate::store) fn is_unauthorized(&self) -> bool {
        const CODES: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];
        self.status == 401 || CODES.contains(&self.code.as_str())
    }

    /// Returns whether the server gave this code.
    pub(in crate::store) fn has_code(&self, code: &str) -> bool {
        self.code == code
    }

    /// Returns whether the server refused without a code, as in every response to a `HEAD`.
    pub(in crate::store) fn has_no_code(&self) -> bool {
        (300..500).contains(&self.status) && self.code.is_empty()
    }

    /// Returns whether a condition of the request was not met: the name is taken, or the object was replaced.
    pub(in crate::store) fn is_precondition_failed(&self) -> bool {
        self.status == 412 || ["PreconditionFailed", "BlobAlreadyExists"].contains(&self.code.as_str())
    }

    /// Returns advice for the operator. Empty if no advice is known.
    fn advice(&self) -> String {
        if self.is_explained {
            return String::new();
        }
        let host = || self.server.split_once("://").map_or(&*self.server, |(_, host)| host);
        match self.cause {
            Cause::SpeaksNoTls => return format!("write http://{} in endpoint, or correct its port", host()),
            Cause::SpeaksTls => return format!("write https://{} in endpoint", host()),
            Cause::HungUp if self.server.starts_with("http:") => {
                return format!("if it expects TLS at this port, write https://{} in endpoint", host());
            }
            Cause::OtherName => {
                return "write a name in endpoint that the certificate contains, or give the server a certificate for \
                        this name"
                    .to_owned();
            }
            Cause::Certificate
                if self.message.contains("expired") || self.message.contains("not valid yet") =>
            {
                return "renew the server's certificate, or correct this machine's clock".to_owned();
            }
            Cause::Certificate => {
                return "if an authority of your own signed the server's certificate, name it in ca"
                    .to_owned();
            }
            Cause::Stalled => {
                return "the destination's stall-timeout sets how long it may be silent".to_owned();
            }
            Cause::HungUp | Cause::Abandoned | Cause::Other => {}
        }
        if self.is_page {
            return format!(
                "this is not an {} endpoint: correct endpoint, which may be the port of a console",
                self.service
            );
        }
        match self.code.as_str() {
            // Azure and Google give no other code for a wrong clock.
            "AuthenticationFailed" | "authError" if self.clock_ahead.unsigned_abs() < MAX_SKEW => {
                self.code_advice.to_owned()
            }
            "RequestTimeTooSkewed" | "RequestExpired" | "AuthenticationFailed" | "authError" => {
                let side = if self.clock_ahead.is_negative() { "behind" } else { "ahead of" };
                let difference = round_duration(self.clock_ahead.unsigned_abs());
                format!("this machine's clock is {difference} {side} the server's; correct it")
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" if !self.region.is_empty() => {
                format!("the bucket is in region {0}; set region: {0}", self.region)
            }
            _ => self.code_advice.to_owned(),
        }
    }
}

/// Returns how much of a store an error affects.
pub(in crate::store) fn scope_of(error: &anyhow::Error) -> ErrorScope {
    match error.downcast_ref::<RequestError>() {
        Some(cause) if cause.is_absent() => ErrorScope::NotFound,
        Some(cause) if cause.is_precondition_failed() => ErrorScope::Changed,
        Some(cause) if cause.is_refusal() => ErrorScope::Blob,
        Some(cause) if cause.is_unreachable() => ErrorScope::Unreachable,
        _ => ErrorScope::Store,
    }
}

/// Rounds a duration to its largest unit.
fn round_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Returns a server's text on one line, and cut to a reasonable length.
pub(in crate::store) fn one_line(text: &str) -> String {
    replace_control(&text.trim().chars().take(MAX_MESSAGE).collect::<String>(), ' ')
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, status, code, message, .. } = self;
        match (status, code.as_str()) {
            (0, _) => write!(f, "{server}: {message}")?,
            (_, "") if self.is_page => write!(f, "{server} answered with a web page (status {status})")?,
            (_, "") => write!(f, "{server} returned status {status}")?,
            _ => {
                let message = if message.is_empty() { String::new() } else { format!(": {message}") };
                let bucket = match self.other_bucket.as_str() {
                    "" => String::new(),
                    bucket => format!(", bucket {bucket}"),
                };
                let request = match self.request_id.as_str() {
                    "" => String::new(),
                    id => format!(", request {id}"),
                };
                write!(f, "{server} returned {code}{message} (status {status}{bucket}{request})")?;
            }
        }
        if self.attempts > 1 {
            write!(f, ", tried {} times", self.attempts)?;
        }
        match self.advice().as_str() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}

impl std::error::Error for RequestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_document_is_found() {
        for (text, root) in [
            ("<?xml version=\"1.0\"?>\n\n<!-- a > b --><Error><Code/></Error>", Some("Error")),
            (" <ListBucketResult xmlns=\"x\">", Some("ListBucketResult")),
            ("<A/>", Some("A")),
            ("<!DOCTYPE html>\n<HTML lang=en>", Some("HTML")),
            ("{}", None),
            ("", None),
            ("<?xml", None),
        ] {
            assert_eq!(root_element(text), root, "{text}");
        }
    }

    #[test]
    fn an_error_document_is_an_error_despite_its_status() {
        assert!(is_error_document(
            "POST",
            b"<?xml version=\"1.0\"?>\n\n<Error><Code>InternalError</Code></Error>"
        ));
        assert!(!is_error_document("POST", b"<CompleteMultipartUploadResult/>"));
        assert!(!is_error_document("GET", b"<Error>"));
    }
}
