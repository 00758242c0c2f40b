//! Errors of a bucket: the server's code, message and request id, and advice for the operator.

use super::http::{Cause, describe_error, header, parse_date};
use crate::system::text::replace_control;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use ureq::http::HeaderMap;

/// What Go's server, nginx and Apache answer to plain HTTP if they expect TLS.
const TLS_EXPECTED: [&str; 3] = [
    "Client sent an HTTP request to an HTTPS server",
    "The plain HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled server port",
];
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
    /// The bucket that the server names, if it is not the configured one.
    other_bucket: String,
    /// Why there is no response.
    cause: Cause,
    /// Whether the response is a web page instead of an S3 document.
    is_page: bool,
    /// The time by which our clock is ahead of the server's clock.
    clock_ahead: SignedDuration,
    /// The pause that the server asks for.
    retry_after: Option<Duration>,
    attempts: u32,
    /// Whether the reason is known, so that no advice is needed.
    is_explained: bool,
}

/// The XML document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorDocument {
    code: String,
    message: String,
    request_id: String,
    region: String,
    bucket_name: String,
}

/// Returns whether a body is an error document although the status is 200: the server starts its response to a
/// completion before it has finished.
pub(super) fn is_error_document(method: &str, body: &[u8]) -> bool {
    method == "POST" && std::str::from_utf8(body).is_ok_and(|text| root_element(text) == Some("Error"))
}

/// Returns the name of the root element of an XML document, or of a web page.
pub(super) fn root_element(text: &str) -> Option<&str> {
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
pub(super) fn is_page(method: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    match (method, status) {
        // A proxy in front of a server that does not answer sends a page too.
        (_, 206 | 500..) => false,
        ("HEAD", 200..300) => header(headers, "content-type").starts_with("text/html"),
        _ => root_element(&start).is_some_and(|name| name.eq_ignore_ascii_case("html")),
    }
}

impl S3Error {
    /// The error of a request that got no response from `server`.
    pub(super) fn without_response(server: String, error: &ureq::Error) -> Self {
        let (cause, message) = describe_error(error);
        Self { server, message, cause, ..Self::default() }
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
        if status == 400
            && server.starts_with("http:")
            && TLS_EXPECTED.iter().any(|words| text.contains(words))
        {
            let message = "the server speaks TLS at this port".to_owned();
            return Self { server, message, cause: Cause::SpeaksTls, ..Self::default() };
        }
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
            other_bucket: one_line(&document.bucket_name),
            cause: Cause::Other,
            is_page: false,
            clock_ahead: date.map_or(SignedDuration::ZERO, |date| now.duration_since(date)),
            retry_after: header(headers, "retry-after").parse().ok().map(Duration::from_secs),
            attempts: 1,
            is_explained: false,
        }
    }

    /// Returns the same error, for a response that is a web page or not.
    pub(super) fn of_page(self, is_page: bool) -> Self {
        Self { is_page, ..self }
    }

    /// Returns the same error, without the bucket that the server names if that is the configured one.
    pub(super) fn about_bucket(mut self, bucket: &str) -> Self {
        if self.other_bucket == bucket {
            self.other_bucket.clear();
        }
        self
    }

    /// Returns the same error, after a number of attempts.
    pub(super) fn after_attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Returns the same error without advice, because its reason is known.
    pub(super) fn explained(self) -> Self {
        Self { is_explained: true, ..self }
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
        let by_status = match self.status {
            0 => matches!(self.cause, Cause::Other | Cause::Stalled | Cause::HungUp),
            status => [429, 500, 502, 503, 504].contains(&status),
        };
        by_status || CODES.contains(&self.code.as_str())
    }

    /// Returns whether the server was silent for too long.
    pub(super) fn is_stall(&self) -> bool {
        self.cause == Cause::Stalled
    }

    /// Returns whether the request got no response at all.
    pub(super) fn is_unreachable(&self) -> bool {
        self.status == 0
    }

    /// Returns whether the object does not exist.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404 && !self.is_page && ["", "NoSuchKey"].contains(&self.code.as_str())
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
        (400..500).contains(&self.status) && !self.is_page && !self.is_temporary()
    }

    /// Returns whether the server refused without a code, as in every response to a `HEAD`.
    pub(super) fn has_no_code(&self) -> bool {
        (300..500).contains(&self.status) && self.code.is_empty()
    }

    /// Returns whether a condition of the request was not met: the name is taken, or the object was replaced.
    pub(super) fn is_precondition_failed(&self) -> bool {
        self.status == 412 || self.code == "PreconditionFailed"
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
            return "this is not an S3 endpoint: correct endpoint, which may be the port of a console"
                .to_owned();
        }
        match self.code.as_str() {
            "RequestTimeTooSkewed" | "RequestExpired" => {
                let side = if self.clock_ahead.is_negative() { "behind" } else { "ahead of" };
                let difference = round_duration(self.clock_ahead.unsigned_abs());
                format!("this machine's clock is {difference} {side} the server's; correct it")
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" if !self.region.is_empty() => {
                format!("the bucket is in region {0}; set region: {0}", self.region)
            }
            code => advice_for(code).to_owned(),
        }
    }
}

/// Returns advice for the codes that always mean the same. Empty for other codes.
fn advice_for(code: &str) -> &'static str {
    match code {
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            "the session of this access key has expired; provide a new key and token"
        }
        "InvalidAccessKeyId" | "XAdminUserNotFound" | "NoSuchUser" => {
            "the server does not know this access key; use another"
        }
        "SignatureDoesNotMatch" => "the secret does not belong to this access key, or the region is wrong",
        "AccessDenied" | "AllAccessDisabled" => {
            "the access key lacks a permission, or an object lock forbids this; the key needs s3:ListBucket and \
             s3:ListBucketMultipartUploads on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject and \
             s3:AbortMultipartUpload on its objects"
        }
        "UserSuspended" | "AccountProblem" => {
            "the server has suspended the owner of this access key; ask the server's administrator"
        }
        "NoSuchBucket" => "create the bucket, or correct bucket, endpoint or style",
        "SlowDown" | "SlowDownRead" | "SlowDownWrite" => "the server is busy; try again later",
        "EntityTooLarge" | "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => {
            "free space on the server, or raise its quota"
        }
        code if code.starts_with("KMS.")
            || code.starts_with("XMinioKMS")
            || code == "InvalidEncryptionAlgorithmError" =>
        {
            "check kms-key, and whether the server's key service is set up; or remove encryption from the destination"
        }
        _ => "",
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
pub(super) fn one_line(text: &str) -> String {
    replace_control(&text.trim().chars().take(MAX_MESSAGE).collect::<String>(), ' ')
}

impl fmt::Display for S3Error {
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
    fn every_code_that_is_known_has_advice() {
        for (code, words) in [
            ("NoSuchBucket", "create the bucket"),
            ("XAdminUserNotFound", "does not know this access key"),
            ("InsufficientStorage", "free space on the server"),
            ("UserSuspended", "has suspended the owner"),
            ("KMS.NotFoundException", "check kms-key"),
        ] {
            // Ceph sends no message.
            let body = format!(
                "<Error><Code>{code}</Code><BucketName>other</BucketName><RequestId>tx1</RequestId></Error>"
            );
            let error = response(403, &body, "").about_bucket("backups").to_string();
            let start =
                format!("https://minio:9000 returned {code} (status 403, bucket other, request tx1); ");
            assert!(error.starts_with(&start) && error.contains(words), "{error}");
            let same = response(403, &body, "").about_bucket("other").to_string();
            assert!(same.contains("(status 403, request tx1)"), "{same}");
        }
    }

    #[test]
    fn a_server_that_expects_tls_is_not_asked_again() {
        for body in [
            "Client sent an HTTP request to an HTTPS server.\n",
            "<html>The plain HTTP request was sent to \
                     HTTPS port</html>",
        ] {
            let now = Timestamp::UNIX_EPOCH;
            let error = S3Error::from_response(
                "http://minio:9000".into(),
                400,
                &HeaderMap::new(),
                body.as_bytes(),
                now,
            );
            assert_eq!(
                error.to_string(),
                "http://minio:9000: the server speaks TLS at this port; write https://minio:9000 in endpoint"
            );
            assert!(!error.is_temporary());
        }
    }

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
