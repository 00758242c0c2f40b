//! S3 as a [`Service`]: signed requests, and errors as XML documents.

use super::credential_source::CredentialSource;
use super::endpoint::Endpoint;
use super::sign::{Unsigned, signature};
use crate::store::cloud::http::header;
use crate::store::cloud::server::encode_query;
use crate::store::cloud::service::{Authorized, ErrorDocument, Request, Service};
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use ureq::http::HeaderMap;

/// The access to one bucket.
#[derive(Debug)]
pub(super) struct S3Service {
    endpoint: Endpoint,
    source: CredentialSource,
}

/// The XML document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct S3ErrorDocument {
    code: String,
    message: String,
    request_id: String,
    region: String,
    bucket_name: String,
}

impl S3Service {
    pub fn new(endpoint: Endpoint, source: CredentialSource) -> Self {
        Self { endpoint, source }
    }

    /// Returns whether the signature has to cover the body. Other programs do not let it if TLS protects the body, or if
    /// the body does not leave this machine: to hash each part takes longer than to send it. A checksum in the request
    /// must protect the body then, and what was uploaded is read back anyway.
    fn must_sign_body(&self, request: &Request<'_>) -> bool {
        let has_checksum = request.headers.iter().any(|(name, _)| *name == "content-md5");
        !has_checksum || !(self.endpoint.server.is_tls() || self.endpoint.server.is_loopback())
    }
}

impl Service for S3Service {
    fn name(&self) -> &'static str {
        "S3"
    }

    fn server(&self) -> String {
        self.endpoint.server.url()
    }

    fn authorize(&self, request: &Request<'_>, now: Timestamp) -> Result<Authorized> {
        let credentials = self.source.credentials(now)?;
        let path = self.endpoint.path(request.key);
        let mut headers = vec![("host", self.endpoint.server.host().to_owned())];
        headers.extend(request.headers.iter().cloned());
        let unsigned = Unsigned {
            method: request.method,
            path: &path,
            query: &request.query,
            headers: &headers,
            body: self.must_sign_body(request).then_some(request.body),
            region: self.endpoint.region(),
        };
        headers.extend(signature(&unsigned, &credentials, now));
        let url = self.endpoint.server.url_of(&path, &encode_query(&request.query));
        Ok(Authorized { url, headers })
    }

    fn discard_token(&self, sent: Timestamp) -> bool {
        self.source.discard_session(sent)
    }

    fn parse_error(&self, headers: &HeaderMap, body: &[u8]) -> ErrorDocument {
        let text = String::from_utf8_lossy(body);
        let document: S3ErrorDocument = quick_xml::de::from_str(&text).unwrap_or_default();
        let or_header = |text: String, name: &str| match text.is_empty() {
            true => header(headers, name).to_owned(),
            false => text,
        };
        let is_ours = document.bucket_name == self.endpoint.bucket();
        ErrorDocument {
            code: document.code,
            message: document.message,
            request_id: or_header(document.request_id, "x-amz-request-id"),
            region: or_header(document.region, "x-amz-bucket-region"),
            other_bucket: if is_ours { String::new() } else { document.bucket_name },
        }
    }

    fn advice(&self, code: &str) -> &'static str {
        match code {
            "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
                "the session of this access key has expired; provide a new key and token"
            }
            "InvalidAccessKeyId" | "XAdminUserNotFound" | "NoSuchUser" => {
                "the server does not know this access key; use another"
            }
            "SignatureDoesNotMatch" => {
                "the secret does not belong to this access key, or the region is wrong"
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cloud::error::RequestError;
    use crate::store::s3::Credentials;
    use crate::system::secret::Secret;

    fn service(endpoint: &str, bucket: &str) -> S3Service {
        let credentials = Credentials { access_key: "a".into(), secret: Secret::new("b"), token: None };
        let endpoint = Endpoint::new(Some(endpoint), None, bucket, None, true).unwrap();
        S3Service::new(endpoint, CredentialSource::Environment(credentials))
    }

    fn response_about(bucket: &str, status: u16, body: &str, date: &str) -> RequestError {
        let mut headers = HeaderMap::new();
        headers.insert("date", date.parse().unwrap());
        let now = "2026-11-20T20:30:00Z".parse().unwrap();
        let service = service("https://minio:9000", bucket);
        RequestError::from_response(&service, status, &headers, body.as_bytes(), now)
    }

    fn response(status: u16, body: &str, date: &str) -> RequestError {
        response_about("backups", status, body, date)
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
        let error =
            RequestError::without_response("http://127.0.0.1:1".to_owned(), &refused).after_attempts(5);
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
            let error = response(403, &body, "").to_string();
            let start =
                format!("https://minio:9000 returned {code} (status 403, bucket other, request tx1); ");
            assert!(error.starts_with(&start) && error.contains(words), "{error}");
            let same = response_about("other", 403, &body, "").to_string();
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
            let error = RequestError::from_response(
                &service("http://minio:9000", "b"),
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
}
