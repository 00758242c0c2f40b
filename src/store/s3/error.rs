//! Errors of a bucket: the server's code, message and request id, and advice for the operator.

use super::http::{describe_error, header, parse_date};
use crate::system::text::replace_control;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use ureq::http::HeaderMap;

/// The beginning of an S3 error document.
const ROOT_ELEMENT: &[u8] = b"<Error>";
/// A longer text is a proxy's page rather than a message.
const MAX_MESSAGE: usize = 300;

/// A request that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Error {
    /// The URL of the server, without bucket and key.
    server: String,
    /// The HTTP status, or 0 without a response.
    status: u16,
    /// S3's code, such as `AccessDenied`.
    code: String,
    message: String,
    request_id: String,
    /// The bucket's region, if the server names one.
    region: String,
    /// The time by which our clock is ahead of the server's clock.
    clock_ahead: SignedDuration,
    /// The pause that the server asks for.
    retry_after: Option<Duration>,
    attempts: u32,
}

/// The XML document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorDocument {
    code: String,
    message: String,
    request_id: String,
    region: String,
}

/// Returns whether a body is an error document although the status is 200: the server starts its response to a
/// completion before it has finished.
pub(super) fn is_error_document(method: &str, body: &[u8]) -> bool {
    let start = &body[..body.len().min(512)];
    method == "POST" && start.windows(ROOT_ELEMENT.len()).any(|window| window == ROOT_ELEMENT)
}

impl S3Error {
    /// The error of a request that got no response from `server`.
    pub(super) fn without_response(server: String, error: &ureq::Error) -> Self {
        Self { server, message: describe_error(error), ..Self::default() }
    }

    /// The error in a response that arrived at `now`.
    pub(super) fn from_response(
        server: String,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Self {
        let text = String::from_utf8_lossy(body);
        let document: ErrorDocument = quick_xml::de::from_str(&text).unwrap_or_default();
        let or_header = |text: String, name: &str| match text.is_empty() {
            true => header(headers, name).to_owned(),
            false => text,
        };
        let date = parse_date(header(headers, "date"));
        Self {
            server,
            status,
            code: one_line(&document.code),
            message: one_line(&document.message),
            request_id: one_line(&or_header(document.request_id, "x-amz-request-id")),
            region: one_line(&or_header(document.region, "x-amz-bucket-region")),
            clock_ahead: date.map_or(SignedDuration::ZERO, |date| now.duration_since(date)),
            retry_after: header(headers, "retry-after").parse().ok().map(Duration::from_secs),
            attempts: 1,
        }
    }

    /// Returns the same error, after a number of attempts.
    pub(super) fn after_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Returns how long the server asks us to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns whether the same request may succeed a little later.
    pub(super) fn is_temporary(&self) -> bool {
        const CODES: [&str; 10] = [
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
        ];
        let by_status = [0, 429, 500, 502, 503, 504].contains(&self.status);
        (by_status && !self.is_about_certificate()) || CODES.contains(&self.code.as_str())
    }

    /// Returns whether the request got no response at all.
    pub(super) fn is_unreachable(&self) -> bool {
        self.status == 0
    }

    /// Returns whether the object does not exist.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404 && ["", "NoSuchKey"].contains(&self.code.as_str())
    }

    /// Returns whether the requested object, version or upload does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == 404
    }

    /// Returns whether the server does not implement the request.
    pub(super) fn is_not_implemented(&self) -> bool {
        self.status == 501 || self.code == "NotImplemented"
    }

    /// Returns whether the server refused this request, and will refuse it again.
    pub(super) fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status) && !self.is_temporary()
    }

    /// Returns whether the server refused without a code, as in every response to a `HEAD`.
    pub(super) fn has_no_code(&self) -> bool {
        (300..500).contains(&self.status) && self.code.is_empty()
    }

    /// Returns whether a condition of the request was not met: the name is taken, or the object was replaced.
    pub(super) fn is_precondition_failed(&self) -> bool {
        self.status == 412 || self.code == "PreconditionFailed"
    }

    fn is_about_certificate(&self) -> bool {
        self.message.starts_with("TLS: ")
    }

    /// Returns advice for the operator. Empty if no advice is known.
    fn advice(&self) -> String {
        match self.code.as_str() {
            "RequestTimeTooSkewed" | "RequestExpired" => {
                let side = if self.clock_ahead.is_negative() { "behind" } else { "ahead of" };
                let difference = round_duration(self.clock_ahead.unsigned_abs());
                format!("this machine's clock is {difference} {side} the server's; correct it")
            }
            "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
                "the session of this access key has expired; provide a new key and token".to_owned()
            }
            "InvalidAccessKeyId" => "the server does not know this access key; use another".to_owned(),
            "SignatureDoesNotMatch" => {
                "the secret does not belong to this access key, or the region is wrong".to_owned()
            }
            "AccessDenied" | "AllAccessDisabled" => {
                "the access key lacks a permission, or an object lock forbids this; the key needs s3:ListBucket and \
                 s3:ListBucketMultipartUploads on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject and \
                 s3:AbortMultipartUpload on its objects"
                    .to_owned()
            }
            "NoSuchBucket" => "create the bucket, or correct bucket, endpoint or style".to_owned(),
            "SlowDown" | "SlowDownRead" | "SlowDownWrite" => {
                "the server is busy; try again later".to_owned()
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" if !self.region.is_empty() => {
                format!("the bucket is in region {0}; set region: {0}", self.region)
            }
            "EntityTooLarge" | "XMinioStorageFull" | "QuotaExceeded" => {
                "free space on the server, or raise its quota".to_owned()
            }
            _ if self.is_about_certificate() => {
                "if an authority of your own signed the server's certificate, name it in ca".to_owned()
            }
            _ => String::new(),
        }
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
fn one_line(text: &str) -> String {
    replace_control(&text.trim().chars().take(MAX_MESSAGE).collect::<String>(), ' ')
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, status, code, message, request_id, .. } = self;
        match (status, code.as_str(), request_id.as_str()) {
            (0, ..) => write!(f, "{server}: {message}")?,
            (_, "", _) => write!(f, "{server} returned status {status}")?,
            (.., "") => write!(f, "{server} returned {code}: {message} (status {status})")?,
            _ => write!(f, "{server} returned {code}: {message} (status {status}, request {request_id})")?,
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

impl std::error::Error for S3Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str, date: &str) -> S3Error {
        let mut headers = HeaderMap::new();
        headers.insert("date", date.parse().unwrap());
        let now = "2026-11-20T20:30:00Z".parse().unwrap();
        S3Error::from_response("https://minio:9000".to_owned(), status, &headers, body.as_bytes(), now)
    }

    #[test]
    fn errors_name_the_server_its_words_and_what_to_do() {
        let body = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between \
                    the request time and the current time is too large.</Message><RequestId>4442587FB7D0A2F9</RequestId>\
                    <HostId>x</HostId></Error>";
        let error = response(403, body, "Fri, 20 Nov 2026 20:00:00 GMT");
        assert_eq!(
            error.to_string(),
            "https://minio:9000 returned RequestTimeTooSkewed: The difference between the request time and the current \
             time is too large. (status 403, request 4442587FB7D0A2F9); this machine's clock is 30 min ahead of the \
             server's; correct it"
        );
        assert!(!error.is_temporary());
        let page = response(502, "<html>a proxy's page</html>", "");
        assert_eq!(page.to_string(), "https://minio:9000 returned status 502");
        assert!(page.is_temporary());
        let code = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        assert!(response(409, &code("ConditionalRequestConflict"), "").is_temporary());
        assert!(!response(409, &code("BucketAlreadyExists"), "").is_temporary());
        assert!(response(404, "", "").is_absent());
        assert!(!response(404, "<Error><Code>NoSuchBucket</Code></Error>", "").is_absent());
    }

    #[test]
    fn a_server_that_does_not_respond_is_named() {
        let refused = ureq::Error::Io(std::io::Error::from_raw_os_error(111));
        let error = S3Error::without_response("http://127.0.0.1:1".to_owned(), &refused).after_attempts(5);
        assert_eq!(error.to_string(), "http://127.0.0.1:1: Connection refused, tried 5 times");
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
