//! The server of an S3 bucket, and the path of each of its objects.
//!
//! The region of a server other than Amazon's is never guessed, because signatures contain it.

use crate::error::Refusal;
use crate::store::cloud::server::{self, Server, encode_path};
use serde::Deserialize;

/// The domain of Amazon S3.
const AMAZON: &str = ".amazonaws.com";
/// Amazon's default region, and the one that most other servers accept.
const DEFAULT_REGION: &str = "us-east-1";

/// The position of the bucket in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressingStyle {
    /// `https://ENDPOINT/BUCKET/KEY`: required by most servers other than Amazon S3.
    Path,
    /// `https://BUCKET.ENDPOINT/KEY`.
    Host,
}

/// A bucket on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub server: Server,
    /// The prefix of every key in a path: empty, or `/BUCKET`.
    prefix: String,
    region: String,
    bucket: String,
}

impl Endpoint {
    /// Makes the endpoint of a bucket at `endpoint`, or at Amazon's server of the region.
    ///
    /// # Errors
    /// Refuses an endpoint that cannot be used, and a bucket's name that cannot be one.
    pub fn new(
        endpoint: Option<&str>,
        region: Option<&str>,
        bucket: &str,
        style: Option<AddressingStyle>,
        allow_http: bool,
    ) -> Result<Self, Refusal> {
        let region = region.unwrap_or(DEFAULT_REGION).to_owned();
        let amazon = format!("https://s3.{region}{AMAZON}");
        let server = Server::parse(endpoint.unwrap_or(&amazon), allow_http)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.chars().all(is_allowed) {
            return Err(Refusal::new(
                format!("bucket {bucket:?} is not the name of a bucket"),
                "give only the bucket's name, of letters, digits, hyphens and dots",
            ));
        }
        let style = style.unwrap_or(match server.host().ends_with(AMAZON) && !bucket.contains('.') {
            true => AddressingStyle::Host,
            false => AddressingStyle::Path,
        });
        let (server, prefix) = match style {
            AddressingStyle::Host => (server.subdomain(bucket), String::new()),
            AddressingStyle::Path => (server, format!("/{bucket}")),
        };
        Ok(Self { server, prefix, region, bucket: bucket.to_owned() })
    }

    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the region in signatures.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Returns the encoded path of an object, or of the bucket for an empty key.
    pub fn path(&self, key: &str) -> String {
        format!("{}/{}", self.prefix, encode_path(key))
    }
}

/// Returns a name of the server that is the same for all spellings of its URL, and one for all Amazon endpoints, because
/// bucket names are unique there.
pub(super) fn server_name(endpoint: Option<&str>) -> String {
    let name = server::server_name(endpoint.unwrap_or(AMAZON));
    if name.ends_with(AMAZON) { AMAZON.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_in_the_path_or_the_host() {
        let url =
            |endpoint: &Endpoint, key: &str, query: &str| endpoint.server.url_of(&endpoint.path(key), query);
        let amazon = Endpoint::new(None, Some("eu-central-1"), "b", None, false).unwrap();
        assert_eq!(url(&amazon, "a/b c", ""), "https://b.s3.eu-central-1.amazonaws.com/a/b%20c");
        let dotted = Endpoint::new(None, None, "b.c", None, false).unwrap();
        assert_eq!(url(&dotted, "k", ""), "https://s3.us-east-1.amazonaws.com/b.c/k");
        let own = Endpoint::new(Some("https://minio:9000/"), None, "b", None, false).unwrap();
        assert_eq!(url(&own, "", "list-type=2"), "https://minio:9000/b/?list-type=2");
        assert_eq!(own.server.url(), "https://minio:9000");
        let style = Some(AddressingStyle::Host);
        let host = Endpoint::new(Some("https://minio:9000"), None, "b", style, false).unwrap();
        assert_eq!(url(&host, "k", ""), "https://b.minio:9000/k");
    }

    #[test]
    fn refuses_what_is_not_the_name_of_a_bucket() {
        for bucket in ["", "a/b", "..", "a b"] {
            assert!(Endpoint::new(None, None, bucket, None, false).is_err(), "{bucket}");
        }
    }
}
