//! Stand-ins for the services of Amazon that give out the access keys of roles, and for a bucket that accepts them. They
//! answer as Amazon's documentation describes; each names the page.

use crate::common::loopback::{Answer, Loopback, Received, answer};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The only role that [`token_service`] knows.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/etcd-backup";
/// The id of the access key of every session, which is not secret.
const ACCESS_KEY: &str = "ASIAIOSFODNN7EXAMPLE";
/// The secret of every session. It must not appear in any output.
const SECRET: &str = "canary-secret";
/// When every session ends.
const END: &str = "2099-01-01T00:00:00Z";

/// Returns the `index`th session token, or the last one.
fn pick(sessions: &[&'static str], index: &AtomicUsize) -> &'static str {
    let index = index.fetch_add(1, Ordering::Relaxed);
    sessions[index.min(sessions.len() - 1)]
}

/// Starts a stand-in for the security token service, which gives out these sessions, one after the other, to the owner of the
/// web identity token `accepted`.
///
/// Source: "AssumeRoleWithWebIdentity" and "Common errors" in the AWS Security Token Service API Reference.
pub fn token_service(sessions: &'static [&'static str], accepted: &'static str) -> Loopback {
    let index = AtomicUsize::new(0);
    Loopback::start(move |Received { line, body, .. }| {
        let value = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        if line != "POST /"
            || value("Action") != Some("AssumeRoleWithWebIdentity")
            || value("Version") != Some("2011-06-15")
        {
            return refusal(400, "InvalidAction", "Could not find operation");
        }
        let role = value("RoleArn").unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
        if role != ROLE || value("RoleSessionName").is_none_or(|name| name.len() < 2) {
            return refusal(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
        }
        match value("WebIdentityToken") {
            Some(token) if token == accepted => answer(200, session(pick(sessions, &index), END)),
            token => {
                let words = format!(
                    "No OpenIDConnect provider found in your account for the token {}",
                    token.unwrap_or_default()
                );
                refusal(400, "InvalidIdentityToken", &words)
            }
        }
    })
}

/// Returns the answer of the security token service with a session that ends at `end`.
pub fn session(token: &str, end: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Audience>sts.amazonaws.com</Audience><AssumedRoleUser>\
         <Arn>arn:aws:sts::123456789012:assumed-role/etcd-backup/etcd-backup</Arn><AssumedRoleId>AROA:etcd-backup\
         </AssumedRoleId></AssumedRoleUser><Credentials><SessionToken>{token}</SessionToken><SecretAccessKey>{SECRET}\
         </SecretAccessKey><Expiration>{end}</Expiration><AccessKeyId>{ACCESS_KEY}</AccessKeyId></Credentials>\
         </AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
         </AssumeRoleWithWebIdentityResponse>"
    )
}

/// Returns a refusal of the security token service.
pub fn refusal(status: u16, code: &str, message: &str) -> Answer {
    answer(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

/// Starts a stand-in for the endpoint of a container, which gives out these sessions, one after the other, to the owner of the
/// token `accepted`.
///
/// Source: "Container credential provider" in the AWS SDKs and Tools Reference Guide.
pub fn container_endpoint(sessions: &'static [&'static str], accepted: &'static str) -> Loopback {
    let index = AtomicUsize::new(0);
    Loopback::start(move |request| match request.line.as_str() {
        _ if !request.has(&format!("authorization: {accepted}")) => answer(
            400,
            format!(
                "{{\"code\": \"AccessDeniedException\", \"message\": \"Invalid token {}\"}}",
                request
                    .head
                    .lines()
                    .find_map(|line| line.strip_prefix("authorization: "))
                    .unwrap_or_default()
            ),
        ),
        "GET /v1/credentials" => {
            let token = pick(sessions, &index);
            answer(200, document(token, "\"AccountId\": \"123456789012\""))
        }
        _ => answer(404, "404 page not found"),
    })
}

/// Starts a stand-in for the metadata service of a machine, which gives out these sessions, one after the other.
///
/// Source: "Use the Instance Metadata Service to access instance metadata" and "Retrieve security credentials from instance
/// metadata" in the Amazon EC2 User Guide.
pub fn metadata_service(sessions: &'static [&'static str], role: Option<&'static str>) -> Loopback {
    let index = AtomicUsize::new(0);
    let token = "canary-metadata";
    Loopback::start(move |request| {
        let roles = "GET /latest/meta-data/iam/security-credentials/";
        let has_lifetime = request.head.contains("x-aws-ec2-metadata-token-ttl-seconds: ");
        match (request.line.as_str(), role) {
            ("PUT /latest/api/token", _) if has_lifetime => answer(200, token),
            ("PUT /latest/api/token", _) => answer(400, ""),
            _ if !request.has(&format!("x-aws-ec2-metadata-token: {token}")) => answer(401, ""),
            (line, Some(role)) if line == roles => answer(200, role),
            (line, Some(role)) if line == format!("{roles}{role}") => {
                answer(200, document(pick(sessions, &index), "\"Code\": \"Success\", \"Type\": \"AWS-HMAC\""))
            }
            _ => answer(404, ""),
        }
    })
}

/// Returns a JSON document with a session, and `more`.
fn document(token: &str, more: &str) -> String {
    format!(
        "{{{more}, \"AccessKeyId\": \"{ACCESS_KEY}\", \"SecretAccessKey\": \"{SECRET}\", \"Token\": \"{token}\", \
         \"Expiration\": \"{END}\"}}"
    )
}

/// Starts a stand-in for a bucket that is empty for requests with this session token, which the signature covers. Others are
/// refused as an ended session is.
///
/// Source: "ListObjectsV2" and "Error responses" in the Amazon S3 API Reference.
pub fn bucket(token: &'static str) -> Loopback {
    Loopback::start(move |request| {
        let is_signed = request.head.contains(&format!("Credential={ACCESS_KEY}/"))
            && request.head.contains(";x-amz-security-token, Signature=");
        match is_signed && request.has(&format!("x-amz-security-token: {token}")) {
            true => answer(
                200,
                "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>backups</Name>\
                 <KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>",
            ),
            false => answer(
                400,
                "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
            ),
        }
    })
}
