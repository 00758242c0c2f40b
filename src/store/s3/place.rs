//! Where a bucket is, and the URL of each of its objects.
//!
//! Must never guess the region of a server that is not Amazon's: signatures are made for it.

use crate::error::Refusal;
use serde::Deserialize;
use std::fmt::Write as _;

/// How a bucket is named in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// `https://ENDPOINT/BUCKET/KEY`: what most servers other than Amazon's want.
    Path,
    /// `https://BUCKET.ENDPOINT/KEY`.
    Host,
}

/// A bucket on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    scheme: &'static str,
    /// Host, and port if any, as the header `Host` has it.
    host: String,
    /// What stands before every key in a path: empty, or `/BUCKET`.
    prefix: String,
    /// For the signature.
    pub region: String,
    /// The bucket's name.
    pub bucket: String,
}

impl Place {
    /// The bucket at `endpoint`, or at Amazon's of the region. Plain http goes over the network only where `plain` allows it.
    pub fn new(
        endpoint: Option<&str>,
        region: Option<&str>,
        bucket: &str,
        style: Option<Style>,
        plain: bool,
    ) -> Result<Self, Refusal> {
        let amazon = format!("https://s3.{}.amazonaws.com", region.unwrap_or("us-east-1"));
        let endpoint = endpoint.unwrap_or(&amazon).trim().trim_end_matches('/');
        let (scheme, host) = server(endpoint, plain)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.chars().all(fits) {
            return Err(no(
                &format!("bucket {bucket:?} is no name of a bucket"),
                "give the bucket's name alone",
            ));
        }
        let by_host = style.unwrap_or(match host.ends_with(".amazonaws.com") && !bucket.contains('.') {
            true => Style::Host,
            false => Style::Path,
        });
        let (host, prefix) = match by_host {
            Style::Host => (format!("{bucket}.{host}"), String::new()),
            Style::Path => (host.to_owned(), format!("/{bucket}")),
        };
        let region = region.unwrap_or("us-east-1").to_owned();
        Ok(Self { scheme, host, prefix, region, bucket: bucket.to_owned() })
    }

    /// What the header `Host` says.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is spoken to by TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// The path of an object, or of the bucket for an empty key, as it is signed and sent.
    pub fn path(&self, key: &str) -> String {
        format!("{}/{}", self.prefix, encoded(key, true))
    }

    /// The URL of a path with a query that is encoded already.
    pub fn url(&self, path: &str, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{path}{mark}{query}", self.scheme, self.host)
    }
}

fn server(endpoint: &str, plain: bool) -> Result<(&'static str, &str), Refusal> {
    let (scheme, host) = match endpoint.split_once("://") {
        Some(("https", host)) => ("https", host),
        Some(("http", host)) => ("http", host),
        _ => {
            return Err(no(
                &format!("endpoint {endpoint:?} is no URL"),
                "give it as https://HOST or https://HOST:PORT",
            ));
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(fits) {
        let next = "give it as https://HOST or https://HOST:PORT, without user, path or bucket";
        return Err(no(&format!("endpoint {endpoint:?} is more than a server"), next));
    }
    if scheme == "http" && !plain && !is_loopback(host) {
        let next = "use https, or write allow-http: true where the network is yours alone";
        return Err(no(&format!("{endpoint} would carry every Secret in clear"), next));
    }
    Ok((scheme, host))
}

/// A name of the server at `endpoint` that is the same for all spellings of it: without scheme and default port, and of all
/// of Amazon's endpoints, as names of buckets are unique there. Two names of one server that only its DNS knows stay two.
pub(super) fn server_name(endpoint: Option<&str>) -> String {
    const AMAZON: &str = ".amazonaws.com";
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
    name == "localhost"
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn no(reason: &str, next: &str) -> Refusal {
    Refusal::new(reason, next)
}

/// Percent-encodes as the signature wants it: all but letters, digits and `-._~`, and slashes where they are to stay.
pub fn encoded(text: &str, slashes_stay: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes_stay && byte == b'/');
        if plain {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_by_path_or_by_host() {
        let amazon = Place::new(None, Some("eu-central-1"), "b", None, false).unwrap();
        assert_eq!(amazon.url(&amazon.path("a/b c"), ""), "https://b.s3.eu-central-1.amazonaws.com/a/b%20c");
        let dotted = Place::new(None, None, "b.c", None, false).unwrap();
        assert_eq!(dotted.url(&dotted.path("k"), ""), "https://s3.us-east-1.amazonaws.com/b.c/k");
        let own = Place::new(Some("https://minio:9000/"), None, "b", None, false).unwrap();
        assert_eq!(own.url(&own.path(""), "list-type=2"), "https://minio:9000/b/?list-type=2");
        let host = Place::new(Some("https://minio:9000"), None, "b", Some(Style::Host), false).unwrap();
        assert_eq!(host.url(&host.path("k"), ""), "https://b.minio:9000/k");
    }

    #[test]
    fn plain_http_leaves_the_machine_only_where_allowed() {
        for (endpoint, plain, taken) in [
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
            assert_eq!(Place::new(Some(endpoint), None, "b", None, plain).is_ok(), taken, "{endpoint}");
        }
        for bucket in ["", "a/b", "..", "a b"] {
            assert!(Place::new(None, None, bucket, None, false).is_err(), "{bucket}");
        }
    }
}
