//! Signatures of requests: AWS Signature Version 4, in the header `Authorization`, over the body too unless another checksum
//! protects it.
//!
//! They are never put into the URL: proxies and servers log URLs, and a signed one grants access for a while.

use super::credentials::Credentials;
use crate::store::cloud::server::encode_query;
use crate::system::digest::{hex, hmac_sha256};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

/// What stands in place of the hash of a body that the signature does not cover.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A request before it is signed.
#[derive(Debug)]
pub(super) struct Unsigned<'a> {
    /// `GET`, `PUT`…
    pub method: &'a str,
    /// The path, encoded once.
    pub path: &'a str,
    /// Names and values of the query, not encoded.
    pub query: &'a [(&'a str, String)],
    /// `Host`, and all headers that begin with `x-amz-`, except those that [`signature`] adds. Names are in lower case.
    pub headers: &'a [(&'a str, String)],
    /// The body. `None` if the signature does not cover it.
    pub body: Option<&'a [u8]>,
    /// The region in the signature: Amazon's name of it, and `us-east-1` for most other servers.
    pub region: &'a str,
}

/// Returns the headers to send in addition to the given ones: date, hash of the body, session token and signature.
pub(super) fn signature(
    request: &Unsigned<'_>,
    credentials: &Credentials,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let now = now.to_zoned_datetime(TimeZone::UTC);
    let (date, time) = (now.strftime("%Y%m%d").to_string(), now.strftime("%Y%m%dT%H%M%SZ").to_string());
    let body = request.body.map_or(UNSIGNED.to_owned(), |body| hex(&Sha256::digest(body)));
    let mut added = vec![("x-amz-content-sha256", body.clone()), ("x-amz-date", time.clone())];
    if let Some(token) = &credentials.token {
        added.push(("x-amz-security-token", token.reveal().to_owned()));
    }
    let mut headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_str())));
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let query = encode_query(request.query);
    let canonical = format!("{}\n{}\n{query}\n{lines}\n{names}\n{body}", request.method, request.path);
    let scope = format!("{date}/{}/s3/aws4_request", request.region);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let secret = format!("AWS4{}", credentials.secret.reveal());
    let key = [date.as_str(), request.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, word| hmac_sha256(&key, word.as_bytes()));
    let signature = hex(&hmac_sha256(&key, to_sign.as_bytes()));
    let access_key = &credentials.access_key;
    added.push((
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
    ));
    added
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::secret::Secret;

    /// Signs an example from "Signature Calculations for the Authorization Header", Amazon S3 API Reference.
    fn sign_example(
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
        };
        let mut headers = vec![("host", "examplebucket.s3.amazonaws.com".to_owned())];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let request =
            Unsigned { method, path, query, headers: &headers, body: Some(body), region: "us-east-1" };
        let signed = signature(&request, &credentials, "2013-05-24T00:00:00Z".parse().unwrap());
        let (_, authorization) = signed.into_iter().find(|(name, _)| *name == "authorization").unwrap();
        authorization.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn signatures_match_amazons_examples() {
        assert_eq!(
            sign_example("GET", "/test.txt", &[], &[("range", "bytes=0-9")], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            sign_example(
                "PUT",
                "/test%24file.text",
                &[],
                &[("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                b"Welcome to Amazon S3."
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            sign_example("GET", "/", &[("lifecycle", String::new())], &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            sign_example("GET", "/", &[("prefix", "J".into()), ("max-keys", "2".into())], &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }
}
