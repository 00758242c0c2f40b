//! The server of a bucket, and the URL of each of its objects.
//!
//! The region of a server other than Amazon's is never guessed, because signatures contain it.

use crate::error::Refusal;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// The characters that Signature Version 4 encodes in a query: all but letters, digits and `-._~`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a path, slashes stay as well.
const PATH: &AsciiSet = &QUERY.remove(b'/');
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
    scheme: &'static str,
    /// Host and port, as in the header `Host`.
    host: String,
    /// The prefix of every key in a path: empty, or `/BUCKET`.
    prefix: String,
    region: String,
    bucket: String,
}

impl Endpoint {
    /// Makes the endpoint of a bucket at `endpoint`, or at Amazon's server of the region. Plain http is allowed to this
    /// machine itself, and to other servers only with `allow_http`.
    ///
    /// # Errors
    /// Refuses an endpoint that is not `https://HOST[:PORT]`, and a bucket's name that cannot be one.
    pub fn new(
        endpoint: Option<&str>,
        region: Option<&str>,
        bucket: &str,
        style: Option<AddressingStyle>,
        allow_http: bool,
    ) -> Result<Self, Refusal> {
        let region = region.unwrap_or(DEFAULT_REGION).to_owned();
        let amazon = format!("https://s3.{region}{AMAZON}");
        let endpoint = endpoint.unwrap_or(&amazon).trim().trim_end_matches('/');
        let (scheme, host) = parse(endpoint, allow_http)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.chars().all(is_allowed) {
            return Err(Refusal::new(
                format!("bucket {bucket:?} is not the name of a bucket"),
                "give only the bucket's name, of letters, digits, hyphens and dots",
            ));
        }
        let style = style.unwrap_or(match host.ends_with(AMAZON) && !bucket.contains('.') {
            true => AddressingStyle::Host,
            false => AddressingStyle::Path,
        });
        let (host, prefix) = match style {
            AddressingStyle::Host => (format!("{bucket}.{host}"), String::new()),
            AddressingStyle::Path => (host.to_owned(), format!("/{bucket}")),
        };
        Ok(Self { scheme, host, prefix, region, bucket: bucket.to_owned() })
    }

    /// Returns the value of the header `Host`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the region in signatures.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Returns the server's URL, without bucket and key, for messages.
    pub fn server(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    /// Returns whether it is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Returns whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns the encoded path of an object, or of the bucket for an empty key.
    pub fn path(&self, key: &str) -> String {
        format!("{}/{}", self.prefix, utf8_percent_encode(key, PATH))
    }

    /// Returns the URL of an encoded path and query.
    pub fn url(&self, path: &str, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{path}{mark}{query}", self.scheme, self.host)
    }
}

/// Encodes the name or the value of a query parameter.
pub(super) fn encode_query_part(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// Splits a server's URL into its scheme and its host.
fn parse(endpoint: &str, allow_http: bool) -> Result<(&'static str, &str), Refusal> {
    let (scheme, host) = match endpoint.split_once("://") {
        Some(("https", host)) => ("https", host),
        Some(("http", host)) => ("http", host),
        _ => ("", ""),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(is_allowed) {
        return Err(Refusal::new(
            format!("endpoint {endpoint:?} must be https://HOST[:PORT] only"),
            "leave out user, path and bucket",
        ));
    }
    if scheme == "http" && !allow_http && !is_loopback(host) {
        return Err(Refusal::new(
            format!("{endpoint} is plain http: archives would be sent unencrypted"),
            "use https, or set allow-http: true if you trust every machine on the network",
        ));
    }
    Ok((scheme, host))
}

/// Returns a name of the server that is the same for all spellings of its URL: without scheme and default port, and one
/// for all Amazon endpoints, because bucket names are unique there. Two DNS names of one server give two names.
pub(super) fn server_name(endpoint: Option<&str>) -> String {
    let endpoint = endpoint.unwrap_or(AMAZON).trim().trim_end_matches('/').to_lowercase();
    let (scheme, server) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (server, ""),
    };
    let host = host.trim_end_matches('.');
    let is_default =
        port.is_empty() || (scheme, port) == ("https", "443") || (scheme, port) == ("http", "80");
    let host = match host {
        host if host.ends_with(AMAZON) => AMAZON,
        host if is_loopback(&format!("{host}:0")) => "localhost",
        host => host,
    };
    if is_default { host.to_owned() } else { format!("{host}:{port}") }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_in_the_path_or_the_host() {
        let amazon = Endpoint::new(None, Some("eu-central-1"), "b", None, false).unwrap();
        assert_eq!(amazon.url(&amazon.path("a/b c"), ""), "https://b.s3.eu-central-1.amazonaws.com/a/b%20c");
        let dotted = Endpoint::new(None, None, "b.c", None, false).unwrap();
        assert_eq!(dotted.url(&dotted.path("k"), ""), "https://s3.us-east-1.amazonaws.com/b.c/k");
        let own = Endpoint::new(Some("https://minio:9000/"), None, "b", None, false).unwrap();
        assert_eq!(own.url(&own.path(""), "list-type=2"), "https://minio:9000/b/?list-type=2");
        assert_eq!(own.server(), "https://minio:9000");
        let style = Some(AddressingStyle::Host);
        let host = Endpoint::new(Some("https://minio:9000"), None, "b", style, false).unwrap();
        assert_eq!(host.url(&host.path("k"), ""), "https://b.minio:9000/k");
    }

    #[test]
    fn every_byte_is_encoded_as_signatures_require() {
        for byte in 0..=127_u8 {
            let text = char::from(byte).to_string();
            let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let encoded = if is_plain { text.clone() } else { format!("%{byte:02X}") };
            assert_eq!(encode_query_part(&text), encoded);
        }
        assert_eq!(encode_query_part("é/"), "%C3%A9%2F");
    }

    #[test]
    fn plain_http_leaves_the_machine_only_if_allowed() {
        for (endpoint, allow_http, accepted) in [
            ("http://127.0.0.1:9000", false, true),
            ("http://localhost", false, true),
            ("http://[::1]:9000", false, true),
            ("http://10.0.0.1:9000", false, false),
            ("http://127.0.0.1.evil.example", false, false),
            ("http://10.0.0.1:9000", true, true),
            ("ftp://a", true, false),
            ("minio:9000", true, false),
            ("https://user:word@minio", true, false),
            ("https://minio/bucket", true, false),
        ] {
            assert_eq!(
                Endpoint::new(Some(endpoint), None, "b", None, allow_http).is_ok(),
                accepted,
                "{endpoint}"
            );
        }
        for bucket in ["", "a/b", "..", "a b"] {
            assert!(Endpoint::new(None, None, bucket, None, false).is_err(), "{bucket}");
        }
    }
}
