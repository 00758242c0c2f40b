//! The URL of a storage server.

use crate::error::Refusal;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The characters that are encoded in a query: all but letters, digits and `-._~`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a path, slashes stay as well.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// A server: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Server {
    scheme: &'static str,
    /// Host and port, as in the header `Host`.
    host: String,
}

impl Server {
    /// Parses `https://HOST[:PORT]`. Plain http is allowed to this machine itself, and to other servers only with
    /// `allow_http`.
    ///
    /// # Errors
    /// Refuses any other endpoint.
    pub fn parse(endpoint: &str, allow_http: bool) -> Result<Self, Refusal> {
        let endpoint = endpoint.trim().trim_end_matches('/');
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
        if !is_host_and_port(host) {
            return Err(Refusal::new(
                format!("endpoint {endpoint:?} has no valid host and port"),
                "write https://HOST, or https://HOST:PORT with a port from 1 to 65535",
            ));
        }
        if scheme == "http" && !allow_http && !is_loopback(host) {
            return Err(Refusal::new(
                format!("{endpoint} is plain http: archives would be sent unencrypted"),
                "use https, or set allow-http: true if you trust every machine on the network",
            ));
        }
        Ok(Self { scheme, host: host.to_owned() })
    }

    /// Returns the server with the host `name.HOST`, if this one has the host `HOST`.
    pub fn subdomain(self, name: &str) -> Self {
        Self { host: format!("{name}.{}", self.host), ..self }
    }

    /// Returns the value of the header `Host`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns whether it is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Returns whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Returns its URL, without a path.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    /// Returns the URL of an encoded path and query.
    pub fn url_of(&self, path: &str, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{path}{mark}{query}", self.scheme, self.host)
    }
}

/// Encodes a path. Slashes stay.
pub(in crate::store) fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Encodes the name or the value of a query parameter.
pub(in crate::store) fn encode_query_part(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// Encodes and sorts a query, as it is both signed and sent.
pub(in crate::store) fn encode_query(pairs: &[(&str, String)]) -> String {
    let pair =
        |(name, value): &(&str, String)| format!("{}={}", encode_query_part(name), encode_query_part(value));
    let mut encoded: Vec<String> = pairs.iter().map(pair).collect();
    encoded.sort();
    encoded.join("&")
}

/// Returns a name of the server that is the same for all spellings of its URL: without scheme and default port. Two DNS
/// names of one server give two names.
pub(in crate::store) fn server_name(endpoint: &str) -> String {
    let endpoint = endpoint.trim().trim_end_matches('/').to_lowercase();
    let (scheme, server) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (server, ""),
    };
    let host = host.trim_end_matches('.');
    let is_default =
        port.is_empty() || (scheme, port) == ("https", "443") || (scheme, port) == ("http", "80");
    let host = if is_loopback(&format!("{host}:0")) { "localhost" } else { host };
    if is_default { host.to_owned() } else { format!("{host}:{port}") }
}

/// Returns whether a text is a name or an address, perhaps with a port. An IPv6 address is in brackets.
fn is_host_and_port(text: &str) -> bool {
    let (is_address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!name.is_empty() && !name.contains(['[', ']']), port)
        }
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_query_is_sorted_and_fully_encoded() {
        assert_eq!(
            encode_query(&[("prefix", "a/b c".into()), ("list-type", "2".into())]),
            "list-type=2&prefix=a%2Fb%20c"
        );
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
            assert_eq!(Server::parse(endpoint, allow_http).is_ok(), accepted, "{endpoint}");
        }
    }
    #[test]
    fn a_port_is_a_number_or_left_out() {
        for (endpoint, accepted) in [
            ("https://minio", true),
            ("https://minio:9000/", true),
            ("https://[fd00::1]", true),
            ("https://[fd00::1]:9000", true),
            ("https://minio:", false),
            ("http://127.0.0.1:", false),
            ("https://[fd00::1]:", false),
            ("https://minio:0", false),
            ("https://minio:65536", false),
            ("https://minio:http", false),
            ("https://minio:9000:9000", false),
            ("https://:9000", false),
            ("https://fd00::1", false),
            ("https://[minio]", false),
            ("https://[fd00::1", false),
            ("https://mi]nio", false),
        ] {
            assert_eq!(Server::parse(endpoint, false).is_ok(), accepted, "{endpoint}");
        }
    }
}
