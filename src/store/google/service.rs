//! Google Cloud Storage as a [`Service`]: requests with a token of a service account, and errors as JSON documents.

use super::credentials::TokenSource;
use crate::store::Blob;
use crate::store::cloud::access_token::TokenCache;
use crate::store::cloud::http::header;
use crate::store::cloud::server::{Server, encode_query, encode_query_part};
use crate::store::cloud::service::{Authorized, ErrorDocument, NamesAndValues, Request, Service};
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use ureq::http::{HeaderMap, StatusCode};

/// The part of a query that marks a request of an upload. Such requests have another path.
pub(super) const UPLOAD_TYPE: &str = "uploadType";

/// The access to one bucket.
#[derive(Debug)]
pub(super) struct GoogleService {
    server: Server,
    bucket: String,
    source: TokenSource,
    token: TokenCache,
}

/// The JSON document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GoogleErrorDocument {
    error: GoogleError,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GoogleError {
    message: String,
    errors: Vec<GoogleErrorReason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GoogleErrorReason {
    reason: String,
}

impl GoogleService {
    /// Prepares access to `bucket` with tokens of `source`.
    pub fn new(server: Server, bucket: &str, source: TokenSource) -> Self {
        Self { server, bucket: bucket.to_owned(), source, token: TokenCache::default() }
    }

    fn path(&self, request: &Request<'_>) -> String {
        let bucket = encode_query_part(&self.bucket);
        match request.key {
            _ if is_upload(request) => format!("/upload/storage/v1/b/{bucket}/o"),
            "" => format!("/storage/v1/b/{bucket}/o"),
            key => format!("/storage/v1/b/{bucket}/o/{}", encode_query_part(key)),
        }
    }
}

fn is_upload(request: &Request<'_>) -> bool {
    request.query.iter().any(|(name, _)| *name == UPLOAD_TYPE)
}

impl Service for GoogleService {
    fn name(&self) -> &'static str {
        "Google Cloud Storage"
    }

    fn server(&self) -> String {
        self.server.url()
    }

    fn authorize(&self, request: &Request<'_>, now: Timestamp) -> Result<Authorized> {
        let mut headers = request.headers.clone();
        let token = self.token.get(now, || self.source.token(now))?;
        headers.push(("authorization", format!("Bearer {}", token.secret.reveal())));
        let url = self.server.url_of(&self.path(request), &encode_query(&request.query));
        Ok(Authorized { url, headers })
    }

    fn discard_token(&self, sent: Timestamp) -> bool {
        self.token.discard(sent)
    }

    fn parse_error(&self, headers: &HeaderMap, body: &[u8]) -> ErrorDocument {
        let document: GoogleErrorDocument = serde_json::from_slice(body).unwrap_or_default();
        let message = document.error.message;
        let reason = document.error.errors.into_iter().next().unwrap_or_default().reason;
        // Google gives the same reason for a missing bucket and a missing object.
        let code = match reason.as_str() {
            "notFound" if message.contains("bucket does not exist") => "noSuchBucket".to_owned(),
            "notFound" => "noSuchObject".to_owned(),
            _ => reason,
        };
        ErrorDocument {
            code,
            message: message.trim_end().trim_end_matches('.').to_owned(),
            request_id: header(headers, "x-guploader-uploadid").to_owned(),
            ..ErrorDocument::default()
        }
    }

    fn advice(&self, code: &str) -> &'static str {
        let is_instance = matches!(self.source, TokenSource::Instance(_));
        match code {
            "authError" | "unauthorized" if is_instance => {
                "the service account of this machine is disabled or was deleted; enable it with `gcloud iam service-accounts \
                 enable EMAIL`"
            }
            "forbidden" | "insufficientPermissions" if is_instance => {
                "give the service account of this machine the role Storage Object User (roles/storage.objectUser) on the \
                 bucket, and the machine the access scope cloud-platform, which needs a stop"
            }
            "authError" | "unauthorized" => {
                "the key of the service account is not valid, or was deleted; create a new one for the credentials-file"
            }
            "forbidden" | "insufficientPermissions" => {
                "give the service account the role Storage Object User (roles/storage.objectUser) on the bucket"
            }
            "noSuchBucket" => "create the bucket, or correct bucket or endpoint",
            "accountDisabled" | "userProjectAccountProblem" => {
                "the account is disabled, or its billing has a problem"
            }
            "rateLimitExceeded" | "userRateLimitExceeded" | "backendError" => {
                "the server is busy; try again later"
            }
            _ => "",
        }
    }

    /// Google's ETags are not accepted as a condition in its JSON interface, so the generation takes their place.
    fn read_condition(&self, etag: &str) -> NamesAndValues {
        let mut query = vec![("alt", "media".to_owned())];
        if !etag.is_empty() {
            query.push(("ifGenerationMatch", etag.to_owned()));
        }
        NamesAndValues { query, headers: Vec::new() }
    }

    /// Generation 0 is that of no object.
    fn write_condition(&self, before: Option<&Blob>) -> NamesAndValues {
        let generation = before.map_or("0", |before| &before.etag);
        let query = (!generation.is_empty()).then(|| ("ifGenerationMatch", generation.to_owned()));
        NamesAndValues { query: query.into_iter().collect(), headers: Vec::new() }
    }

    /// In an upload, status 308 says that the bytes have arrived, and more are expected.
    fn is_success(&self, request: &Request<'_>, status: StatusCode) -> bool {
        status.is_success() || (is_upload(request) && status == StatusCode::PERMANENT_REDIRECT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cloud::error::RequestError;

    fn error(status: u16, body: &str) -> RequestError {
        let server = Server::parse("https://storage.googleapis.com", false).unwrap();
        let service = GoogleService::new(server, "backups", TokenSource::Key("/k".into()));
        let now = "2026-11-20T20:30:00Z".parse().unwrap();
        RequestError::from_response(&service, status, &HeaderMap::new(), body.as_bytes(), now)
    }

    /// The documents are those of "HTTP status and error codes for JSON" in the documentation.
    #[test]
    fn errors_name_the_servers_words_and_what_to_do() {
        let body = |reason: &str, message: &str| {
            format!(
                "{{\"error\": {{\"errors\": [{{\"domain\": \"global\", \"reason\": \"{reason}\", \"message\": \
                 \"{message}\"}}], \"code\": 1, \"message\": \"{message}\"}}}}"
            )
        };
        let bucket = error(404, &body("notFound", "The specified bucket does not exist."));
        assert!(!bucket.is_absent());
        assert_eq!(
            bucket.to_string(),
            "https://storage.googleapis.com returned noSuchBucket: The specified bucket does not exist (status 404); \
             create the bucket, or correct bucket or endpoint"
        );
        assert!(error(404, &body("notFound", "No such object: backups/a")).is_absent());
        assert!(error(404, "No such object: backups/a").is_absent());
        assert!(error(412, &body("conditionNotMet", "x")).is_precondition_failed());
        assert!(error(429, &body("rateLimitExceeded", "x")).is_temporary());
        let forbidden =
            error(403, &body("forbidden", "a@b does not have storage.objects.create access")).to_string();
        assert!(forbidden.contains("roles/storage.objectUser"), "{forbidden}");
    }

    #[test]
    fn only_an_upload_may_be_incomplete() {
        let server = Server::parse("https://storage.googleapis.com", false).unwrap();
        let service = GoogleService::new(server, "backups", TokenSource::Key("/k".into()));
        let request = |query| Request { method: "PUT", key: "a/b c", query, ..Request::default() };
        let (upload, other) = (request(vec![(UPLOAD_TYPE, "resumable".to_owned())]), request(Vec::new()));
        assert!(service.is_success(&upload, StatusCode::PERMANENT_REDIRECT));
        assert!(!service.is_success(&other, StatusCode::PERMANENT_REDIRECT));
        assert_eq!(service.path(&upload), "/upload/storage/v1/b/backups/o");
        assert_eq!(service.path(&other), "/storage/v1/b/backups/o/a%2Fb%20c");
    }
}
