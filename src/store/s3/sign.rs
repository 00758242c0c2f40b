//! Signatures of requests: AWS Signature Version 4, in the header `Authorization`, over the whole body.
//!
//! In the header and not in the URL: URLs stand in the logs of proxies and servers, and a signed one is a key for a while.

use super::credentials::Credentials;
use super::place::encoded;
use crate::system::digest::hex;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

/// What is signed.
#[derive(Debug)]
pub struct Unsigned<'a> {
    /// `GET`, `PUT`…
    pub method: &'a str,
    /// The path, encoded once.
    pub path: &'a str,
    /// The query's names and values, not encoded.
    pub query: &'a [(&'a str, String)],
    /// `Host`, and all that begins with `x-amz-` but what is added here; names in lower case.
    pub headers: &'a [(&'a str, String)],
    /// The body.
    pub body: &'a [u8],
    /// For the signature; Amazon's names of regions, and most often `us-east-1` elsewhere.
    pub region: &'a str,
}

/// A query as it is signed and sent: encoded, in order.
pub fn query(pairs: &[(&str, String)]) -> String {
    let mut encoded: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name, false), encoded(value, false)))
        .collect();
    encoded.sort();
    encoded.join("&")
}

/// The headers to send besides those given: date, hash of the body, session token, signature.
pub fn signature(what: &Unsigned<'_>, by: &Credentials, now: Timestamp) -> Vec<(&'static str, String)> {
    let now = now.to_zoned(TimeZone::UTC);
    let (date, time) = (now.strftime("%Y%m%d").to_string(), now.strftime("%Y%m%dT%H%M%SZ").to_string());
    let body = hex(&Sha256::digest(what.body));
    let mut added = vec![("x-amz-content-sha256", body.clone()), ("x-amz-date", time.clone())];
    if let Some(token) = &by.token {
        added.push(("x-amz-security-token", token.reveal().to_owned()));
    }
    let mut headers: Vec<(&str, &str)> =
        what.headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical =
        format!("{}\n{}\n{}\n{lines}\n{names}\n{body}", what.method, what.path, query(what.query));
    let scope = format!("{date}/{}/s3/aws4_request", what.region);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let first = format!("AWS4{}", by.secret.reveal());
    let key = [date.as_str(), what.region, "s3", "aws4_request"]
        .iter()
        .fold(first.into_bytes(), |key, word| mac(&key, word.as_bytes()));
    let signature = hex(&mac(&key, to_sign.as_bytes()));
    added.push((
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            by.access_key
        ),
    ));
    added
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::secret::Secret;

    /// Amazon's own examples: "Signature Calculations for the Authorization Header", Amazon S3 API Reference.
    fn amazons(
        method: &str,
        path: &str,
        query: &[(&str, String)],
        more: &[(&str, &str)],
        body: &[u8],
    ) -> String {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            token: None,
            expires: None,
        };
        let mut headers = vec![("host", "examplebucket.s3.amazonaws.com".to_owned())];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let what = Unsigned { method, path, query, headers: &headers, body, region: "us-east-1" };
        let signed = signature(&what, &credentials, "2013-05-24T00:00:00Z".parse().unwrap());
        let (_, authorization) = signed.into_iter().find(|(name, _)| *name == "authorization").unwrap();
        authorization.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_amazons_examples() {
        assert_eq!(
            amazons("GET", "/test.txt", &[], &[("range", "bytes=0-9")], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            amazons(
                "PUT",
                "/test%24file.text",
                &[],
                &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                b"Welcome to Amazon S3."
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            amazons("GET", "/", &[("lifecycle", String::new())], &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            amazons("GET", "/", &[("prefix", "J".into()), ("max-keys", "2".into())], &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn a_query_is_in_order_and_encoded_whole() {
        assert_eq!(
            query(&[("prefix", "a/b c".into()), ("list-type", "2".into())]),
            "list-type=2&prefix=a%2Fb%20c"
        );
    }
}
