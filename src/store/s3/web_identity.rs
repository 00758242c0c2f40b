//! A role that trusts the token of this workload (web identity): for pods in Kubernetes, "IAM roles for service accounts"
//! (IRSA). The security token service (STS) exchanges the token for the session of the role.
//!
//! Source: "AssumeRoleWithWebIdentity" in the AWS Security Token Service API Reference.

use super::environment::WebIdentityVariables;
use super::role_session::{RoleSession, SessionAnswer};
use crate::error::Refusal;
use crate::store::cloud::error::root_element;
use crate::store::cloud::secret_file::read_token;
use crate::store::cloud::server::Server;
use crate::store::cloud::token_request::{Form, Method, TokenRequest};
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use std::path::PathBuf;
use ureq::Agent;

/// The version of the service's interface.
const VERSION: &str = "2011-06-15";
/// The root of its answer.
const ANSWER: &str = "AssumeRoleWithWebIdentityResponse";
/// The name of the session in Amazon's logs, if no other is set.
const SESSION_NAME: &str = "etcd-backup";
/// The code of a service that could not reach the provider of the token. The documentation recommends to repeat the request.
const PROVIDER_UNREACHABLE: &str = "IDPCommunicationError";

/// A role, and the token that it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebIdentity {
    role_arn: String,
    session_name: String,
    /// The file with the token of the workload. Kubernetes replaces it before the token ends.
    token_file: PathBuf,
    /// The security token service.
    pub server: Server,
}

/// The names and values that describe a role, not checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct WebIdentityNames<'a> {
    pub role_arn: &'a str,
    pub session_name: Option<&'a str>,
    pub token_file: &'a PathBuf,
    /// The URL of the security token service. The default is Amazon's in the region.
    pub endpoint: Option<&'a str>,
    pub region: &'a str,
}

impl WebIdentity {
    /// Checks the names of a role.
    ///
    /// # Errors
    /// Refuses names that cannot be those of a role, a session and a server.
    pub fn new(names: WebIdentityNames<'_>) -> Result<Self, Refusal> {
        let WebIdentityNames { role_arn, session_name, token_file, endpoint, region } = names;
        let session_name = session_name.unwrap_or(SESSION_NAME);
        let is_arn = role_arn.starts_with("arn:")
            && role_arn.contains(":role/")
            && role_arn.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_arn {
            return Err(Refusal::new(
                format!("role-arn {role_arn:?} is not the ARN of a role"),
                "write it as arn:aws:iam::ACCOUNT:role/NAME",
            ));
        }
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
        if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(is_allowed) {
            return Err(Refusal::new(
                format!("role-session-name {session_name:?} is not the name of a session"),
                "write 2 to 64 letters, digits and characters of _+=,.@-",
            ));
        }
        Ok(Self {
            role_arn: role_arn.to_owned(),
            session_name: session_name.to_owned(),
            token_file: token_file.clone(),
            server: token_service(endpoint, region)?,
        })
    }

    /// The role that the environment names. `region` is used if the environment names no region.
    ///
    /// # Errors
    /// Refuses variables that cannot be used.
    pub fn from_environment(variables: &WebIdentityVariables, region: &str) -> Result<Self, Refusal> {
        let names = WebIdentityNames {
            role_arn: &variables.role_arn,
            session_name: variables.session_name.as_deref(),
            token_file: &variables.token_file,
            endpoint: variables.endpoint.as_deref(),
            region: variables.region.as_deref().unwrap_or(region),
        };
        Self::new(names).map_err(|refusal| {
            let reason =
                format!("AWS_WEB_IDENTITY_TOKEN_FILE in the environment cannot be used: {}", refusal.reason);
            Refusal { reason, ..refusal }
        })
    }
}

/// Returns the security token service. Only TLS, or this machine itself, keeps the token of the workload secret.
fn token_service(endpoint: Option<&str>, region: &str) -> Result<Server, Refusal> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let usual = format!("https://sts.{region}.{domain}");
    let text = endpoint.unwrap_or(&usual);
    let server = Server::parse(text, true).ok();
    server.filter(|server| server.is_tls() || server.is_loopback()).ok_or_else(|| {
        Refusal::new(
            format!("sts-endpoint {text:?} is not the URL of a security token service"),
            format!("write it as {usual}: with https, and without a path"),
        )
    })
}

/// A role, and how its sessions are requested.
#[derive(Debug)]
pub(super) struct WebIdentityRole {
    identity: WebIdentity,
    agent: Agent,
    /// The URL of the security token service.
    server: String,
}

impl WebIdentityRole {
    /// The role that `identity` describes. `agent` reaches its security token service.
    pub fn new(identity: WebIdentity, agent: Agent) -> Self {
        let server = identity.server.url();
        Self { identity, agent, server }
    }

    /// Requests an access key at `now`. The token of the workload is read as it is now.
    ///
    /// # Errors
    /// Fails if the token cannot be read, and if the service does not answer or refuses.
    pub fn session(&self, now: Timestamp) -> Result<RoleSession> {
        let WebIdentity { role_arn, session_name, token_file, .. } = &self.identity;
        let token = read_token(token_file, "the web identity token file")?;
        TokenRequest {
            what: "an access key",
            method: Method::Post(Form {
                fields: &[
                    ("Action", "AssumeRoleWithWebIdentity"),
                    ("Version", VERSION),
                    ("RoleArn", role_arn.as_str()),
                    ("RoleSessionName", session_name.as_str()),
                ],
                proof: ("WebIdentityToken", &token),
            }),
            is_busy: &|_, code| code == PROVIDER_UNREACHABLE,
            advice: &advice,
            ..TokenRequest::get(&self.agent, &format!("the role {role_arn}"), &self.server, "/")
        }
        .send_for(&|body| parse_session(body).session(now))
    }
}

/// Returns the access key in an answer. It is empty if the answer is another document.
fn parse_session(body: &[u8]) -> SessionAnswer {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Answer {
        assume_role_with_web_identity_result: AnswerResult,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct AnswerResult {
        credentials: SessionAnswer,
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    let is_answer = root_element(text) == Some(ANSWER);
    let answer: Answer = is_answer.then(|| quick_xml::de::from_str(text).ok()).flatten().unwrap_or_default();
    answer.assume_role_with_web_identity_result.credentials
}

/// Returns advice about a status of the security token service.
fn advice(status: Option<u16>) -> String {
    let advice = match status {
        None => "this machine must reach the security token service; sts-endpoint names another one",
        Some(400..500) => {
            "the trust policy of the role must accept the issuer, the subject and the audience of the token in \
             web-identity-token-file"
        }
        Some(_) => "",
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cloud::access_token::Temporary;

    fn names<'a>(role_arn: &'a str, file: &'a PathBuf) -> WebIdentityNames<'a> {
        let (session_name, endpoint) = (None, None);
        WebIdentityNames { role_arn, session_name, token_file: file, endpoint, region: "eu-central-1" }
    }

    const ROLE: &str = "arn:aws:iam::123456789012:role/FederatedWebIdentityRole";

    #[test]
    fn the_token_service_is_that_of_the_region() {
        for (region, endpoint, url) in [
            ("eu-central-1", None, "https://sts.eu-central-1.amazonaws.com"),
            ("us-gov-west-1", None, "https://sts.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", None, "https://sts.cn-north-1.amazonaws.com.cn"),
            ("us-east-1", Some("https://minio:9000/"), "https://minio:9000"),
            ("us-east-1", Some("http://127.0.0.1:9000"), "http://127.0.0.1:9000"),
        ] {
            assert_eq!(token_service(endpoint, region).unwrap().url(), url);
        }
        for endpoint in ["http://10.0.0.1", "sts.amazonaws.com", "https://sts.amazonaws.com/path"] {
            let refusal = token_service(Some(endpoint), "us-east-1").unwrap_err().to_string();
            assert!(refusal.contains("is not the URL of a security token service"), "{refusal}");
        }
    }

    #[test]
    fn refuses_what_cannot_name_a_role_or_a_session() {
        let file = PathBuf::from("/t");
        assert_eq!(WebIdentity::new(names(ROLE, &file)).unwrap().session_name, "etcd-backup");
        for arn in ["", "backup", "arn:aws:iam::123456789012:user/a", "arn:aws:iam::1:role/a b"] {
            let refusal = WebIdentity::new(names(arn, &file)).unwrap_err().to_string();
            assert!(refusal.contains("is not the ARN of a role"), "{refusal}");
        }
        for name in ["", "a", "a b", "a/b"] {
            let refusal =
                WebIdentity::new(WebIdentityNames { session_name: Some(name), ..names(ROLE, &file) });
            assert!(refusal.unwrap_err().to_string().contains("is not the name of a session"), "{name}");
        }
    }

    /// The answer is that of "AssumeRoleWithWebIdentity" (AWS STS API Reference).
    #[test]
    fn a_session_is_read_from_the_documented_answer() {
        let answer = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n\
                      <AssumeRoleWithWebIdentityResult>\n\
                      <SubjectFromWebIdentityToken>amzn1.account.AF6RHO7KZU5XRVQJGXK6HB56KR2A</SubjectFromWebIdentityToken>\n\
                      <Audience>client.5498841531868486423.1548@apps.example.com</Audience>\n\
                      <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/FederatedWebIdentityRole/app1</Arn>\n\
                      <AssumedRoleId>AROACLKWSDQRAOEXAMPLE:app1</AssumedRoleId></AssumedRoleUser>\n\
                      <Credentials>\n<SessionToken>AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE</SessionToken>\n\
                      <SecretAccessKey>wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY</SecretAccessKey>\n\
                      <Expiration>2014-10-24T23:00:23Z</Expiration>\n<AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId>\n\
                      </Credentials>\n<SourceIdentity>SourceIdentityValue</SourceIdentity>\n\
                      <Provider>www.amazon.com</Provider>\n</AssumeRoleWithWebIdentityResult>\n\
                      <ResponseMetadata><RequestId>ad4156e9-bce1-11e2-82e6-6b6efEXAMPLE</RequestId></ResponseMetadata>\n\
                      </AssumeRoleWithWebIdentityResponse>\n";
        let now = "2014-10-24T22:00:23Z".parse().unwrap();
        let session = parse_session(answer.as_bytes()).session(now).unwrap();
        assert_eq!(session.credentials.access_key, "ASgeIAIOSFODNN7EXAMPLE");
        assert_eq!(session.credentials.secret.reveal(), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY");
        let token = session.credentials.token.as_ref().unwrap();
        assert_eq!(token.reveal(), "AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE");
        assert_eq!(session.end().to_string(), "2014-10-24T23:00:23Z");
        for other in ["<html>canary</html>", "", "canary", "<AssumeRoleResponse/>"] {
            let message = parse_session(other.as_bytes()).session(now).unwrap_err();
            assert_eq!(message, "its answer contains no access key");
        }
    }
}
