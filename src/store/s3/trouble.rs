//! What a bucket says no with: its code, its message and its request id, and what an operator does about it.

use super::wire::{header, words};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use ureq::http::HeaderMap;

/// A request that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The HTTP status, or 0 where no answer came.
    pub status: u16,
    /// S3's code: `AccessDenied`.
    pub code: String,
    message: String,
    request_id: String,
    /// The bucket's region, where the server names another.
    region: String,
    /// By how much our clock is ahead of the server's.
    ahead: SignedDuration,
    /// How long the server asks us to wait.
    pub(super) retry_after: Option<Duration>,
    /// How often it was tried.
    tries: u32,
}

/// S3's error document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Told {
    code: String,
    message: String,
    request_id: String,
    region: String,
}

const ROOT: &[u8] = b"<Error>";
/// Longer words than this are no message but a page.
const LONGEST: usize = 300;

impl Trouble {
    /// Whether a body is an error document although the status says otherwise: a completion answers 200 before it is done.
    pub(super) fn is_in(method: &str, body: &[u8]) -> bool {
        let head = &body[..body.len().min(512)];
        method == "POST" && head.windows(ROOT.len()).any(|at| at == ROOT)
    }

    /// No answer came.
    pub(super) fn on_the_way(error: &ureq::Error) -> Self {
        Self { message: words(error).to_string(), ..Self::default() }
    }

    /// An answer came at `now` that is an error.
    pub(super) fn told(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        let text = String::from_utf8_lossy(body);
        let told: Told = quick_xml::de::from_str(&text).unwrap_or_default();
        let date = jiff::fmt::rfc2822::parse(header(headers, "date")).map(|date| date.timestamp());
        let first = |told: String, header_name: &str| match told.is_empty() {
            true => header(headers, header_name).to_owned(),
            false => told,
        };
        Self {
            status,
            code: plain(&told.code),
            message: plain(&told.message),
            request_id: plain(&first(told.request_id, "x-amz-request-id")),
            region: plain(&first(told.region, "x-amz-bucket-region")),
            ahead: date.map_or(SignedDuration::ZERO, |date| now.duration_since(date)),
            retry_after: header(headers, "retry-after").parse().ok().map(Duration::from_secs),
            tries: 1,
        }
    }

    /// The same, after so many tries.
    pub(super) fn after(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn may_pass(&self) -> bool {
        const CODES: [&str; 10] = [
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "InternalError",
            "ServiceUnavailable",
            "RequestTimeout",
            "OperationAborted",
            // Two at a time; AWS says to try again.
            "ConditionalRequestConflict",
            "BadDigest",
            "XAmzContentSHA256Mismatch",
        ];
        let passing = [0, 429, 500, 502, 503, 504].contains(&self.status);
        (passing && !self.is_certificate()) || CODES.contains(&self.code.as_str())
    }

    /// Whether there is no such object.
    pub fn is_absent(&self) -> bool {
        self.status == 404 && ["", "NoSuchKey"].contains(&self.code.as_str())
    }

    /// Whether the server said no to this very request, and will the next time.
    pub(super) fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status) && !self.may_pass()
    }

    /// Whether the server said no and nothing more.
    pub(super) fn is_mute(&self) -> bool {
        (300..500).contains(&self.status) && self.code.is_empty()
    }

    /// Whether the name is taken.
    pub fn is_taken(&self) -> bool {
        self.status == 412 || self.code == "PreconditionFailed"
    }

    fn is_certificate(&self) -> bool {
        self.message.starts_with("TLS: ")
    }

    /// What to do about it.
    fn advice(&self) -> String {
        let clock = || match self.ahead {
            ahead if ahead.is_negative() => format!("{}s behind", ahead.unsigned_abs().as_secs()),
            ahead => format!("{}s ahead of", ahead.unsigned_abs().as_secs()),
        };
        match self.code.as_str() {
            "RequestTimeTooSkewed" | "RequestExpired" => {
                format!("this machine's clock is {} the server's: set it right", clock())
            }
            "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
                "the session of this access key has ended: put a fresh key and token in its place".to_owned()
            }
            "InvalidAccessKeyId" => "the server does not know this access key: put another in its place".to_owned(),
            "SignatureDoesNotMatch" => {
                "the secret is not the one of this access key, or the region is another".to_owned()
            }
            "AccessDenied" | "AllAccessDisabled" => {
                "the access key may not do this, or an object lock forbids it: it needs s3:ListBucket and \
                 s3:ListBucketMultipartUploads on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject and \
                 s3:AbortMultipartUpload on its objects"
                    .to_owned()
            }
            "NoSuchBucket" => "make the bucket, or correct bucket, endpoint or style".to_owned(),
            "SlowDown" | "SlowDownRead" | "SlowDownWrite" => "the server is busy: try later".to_owned(),
            "PermanentRedirect" | "AuthorizationHeaderMalformed" if !self.region.is_empty() => {
                format!("the bucket is in region {}: write that", self.region)
            }
            "EntityTooLarge" | "XMinioStorageFull" | "QuotaExceeded" => "make room there".to_owned(),
            _ if self.is_certificate() => {
                "if the server's certificate is of an authority of your own, name that in ca".to_owned()
            }
            _ => String::new(),
        }
    }
}

/// A server's words on one line, and not without end.
fn plain(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(LONGEST).map(printable).collect()
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.code.as_str()) {
            (0, _) => f.write_str(&self.message)?,
            (status, "") => write!(f, "S3 answers with status {status}")?,
            (status, code) => write!(f, "S3 says {code}: {} (status {status}", self.message)?,
        }
        match (self.code.as_str(), self.request_id.as_str()) {
            ("", _) => {}
            (_, "") => f.write_str(")")?,
            (_, id) => write!(f, ", request {id})")?,
        }
        if self.tries > 1 {
            write!(f, ", {} times", self.tries)?;
        }
        let advice = self.advice();
        if !advice.is_empty() {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Trouble {}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str, date: &str) -> Trouble {
        let mut headers = HeaderMap::new();
        headers.insert("date", date.parse().unwrap());
        Trouble::told(status, &headers, body.as_bytes(), "2026-11-20T20:30:00Z".parse().unwrap())
    }

    #[test]
    fn errors_are_in_the_servers_words_with_what_to_do() {
        let body = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between \
                    the request time and the current time is too large.</Message><RequestId>4442587FB7D0A2F9</RequestId>\
                    <HostId>x</HostId></Error>";
        let trouble = told(403, body, "Fri, 20 Nov 2026 20:00:00 GMT");
        assert_eq!(
            trouble.to_string(),
            "S3 says RequestTimeTooSkewed: The difference between the request time and the current time is too large. \
             (status 403, request 4442587FB7D0A2F9); this machine's clock is 1800s ahead of the server's: set it right"
        );
        assert!(!trouble.may_pass());
        let page = told(502, "<html>a proxy's page</html>", "");
        assert_eq!(page.to_string(), "S3 answers with status 502");
        assert!(page.may_pass());
        let code = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        assert!(told(409, &code("ConditionalRequestConflict"), "").may_pass());
        assert!(!told(409, &code("BucketAlreadyExists"), "").may_pass());
        assert!(told(404, "", "").is_absent());
        assert!(!told(404, "<Error><Code>NoSuchBucket</Code></Error>", "").is_absent());
    }

    #[test]
    fn an_error_behind_a_good_status_is_one() {
        assert!(Trouble::is_in(
            "POST",
            b"<?xml version=\"1.0\"?>\n\n<Error><Code>InternalError</Code></Error>"
        ));
        assert!(!Trouble::is_in("POST", b"<CompleteMultipartUploadResult/>"));
        assert!(!Trouble::is_in("GET", b"<Error>"));
    }
}
