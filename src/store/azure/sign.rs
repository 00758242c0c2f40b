//! Signatures of requests: Azure's "Shared Key", in the header `Authorization`.
//!
//! Source: "Authorize with Shared Key" in the documentation of Azure Storage.

use crate::system::digest::hmac_sha256;
use crate::system::secret::Secret;
use anyhow::{Context, Result};
use base64ct::{Base64, Encoding};

/// The headers whose values are signed, in this order. The length of the body is between the second and the third.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// A request before it is signed.
pub(super) struct Unsigned<'a> {
    /// `GET`, `PUT`…
    pub method: &'a str,
    pub account: &'a str,
    /// The path, encoded as it is sent.
    pub path: &'a str,
    /// Names and values of the query, not encoded. The names are in lower case.
    pub query: &'a [(&'static str, String)],
    /// The headers. Their names are in lower case.
    pub headers: &'a [(&'static str, String)],
    /// The length of the body in bytes.
    pub length: usize,
}

/// Returns the value of the header `Authorization`. The key is in Base64.
///
/// # Errors
/// Fails if the key is not in Base64.
pub(super) fn authorization(request: &Unsigned<'_>, key: &Secret) -> Result<String> {
    let key = Base64::decode_vec(key.reveal()).ok().context("the key of the account is not in Base64")?;
    let signature = hmac_sha256(&key, string_to_sign(request).as_bytes());
    Ok(format!("SharedKey {}:{}", request.account, Base64::encode_string(&signature)))
}

fn string_to_sign(request: &Unsigned<'_>) -> String {
    let value = |wanted: &str| match (wanted, request.length) {
        ("content-length", 0) => String::new(),
        ("content-length", length) => length.to_string(),
        _ => request
            .headers
            .iter()
            .find(|(name, _)| *name == wanted)
            .map_or_else(String::new, |(_, value)| value.clone()),
    };
    let mut lines = vec![request.method.to_owned()];
    lines.extend(SIGNED.into_iter().map(value));
    let mut own: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    lines.extend(own.into_iter().map(|(name, value)| format!("{name}:{}", value.trim())));
    lines.push(format!("/{}{}", request.account, request.path));
    let mut query: Vec<_> = request.query.iter().collect();
    query.sort_unstable();
    lines.extend(query.into_iter().map(|(name, value)| format!("{name}:{value}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        all.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    /// The example of "Authorize with Shared Key" in the documentation of Azure Storage.
    #[test]
    fn the_text_to_sign_is_that_of_azures_example() {
        let headers =
            headers(&[("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")]);
        let request = Unsigned {
            method: "GET",
            account: "myaccount",
            path: "/mycontainer",
            query: &[
                ("restype", "container".to_owned()),
                ("comp", "metadata".to_owned()),
                ("timeout", "20".to_owned()),
            ],
            headers: &headers,
            length: 0,
        };
        assert_eq!(
            string_to_sign(&request),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }

    #[test]
    fn conditions_and_checksums_are_signed() {
        let headers = headers(&[
            ("if-none-match", "*"),
            ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
            ("x-ms-meta-sha256", "00ff"),
            ("x-ms-date", "D"),
        ]);
        let request = Unsigned {
            method: "PUT",
            account: "etcd",
            path: "/etcd/backups/a%20b",
            query: &[],
            headers: &headers,
            length: 7,
        };
        assert_eq!(
            string_to_sign(&request),
            "PUT\n\n\n7\n1B2M2Y8AsgTpgAmY7PhCfg==\n\n\n\n\n*\n\n\nx-ms-date:D\nx-ms-meta-sha256:00ff\n\
             /etcd/etcd/backups/a%20b"
        );
    }
}
