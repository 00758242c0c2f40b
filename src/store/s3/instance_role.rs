//! The role of this machine in Amazon EC2, with access keys from the metadata service in its version 2: the token that it
//! requires prevents request forgery.
//!
//! Source: "Use the Instance Metadata Service to access instance metadata" in the Amazon EC2 User Guide.

use super::role_session::{RoleSession, SessionAnswer};
use crate::store::cloud::metadata::{self, MetadataServices};
use crate::store::cloud::token_answer::is_token;
use crate::store::cloud::token_request::{Method, TokenRequest};
use crate::system::secret::Secret;
use anyhow::Result;
use jiff::Timestamp;
use ureq::Agent;

/// The path of a token of the metadata service.
const TOKEN_PATH: &str = "/latest/api/token";
/// The header of a request for such a token: how many seconds it is valid.
const TOKEN_LIFETIME: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "300");
/// The header with such a token.
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// The path of the name of the role, and, with this name, of its access key.
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// The role of this machine.
#[derive(Debug)]
pub(super) struct InstanceRole {
    agent: Agent,
    /// The URL of the metadata service.
    server: String,
}

impl InstanceRole {
    /// The role that the metadata service knows.
    pub fn new(services: &MetadataServices) -> Self {
        Self { agent: metadata::agent(), server: services.amazon_url() }
    }

    /// Requests an access key at `now`.
    ///
    /// # Errors
    /// Fails if the metadata service does not answer or refuses, or if the machine has no role.
    pub fn session(&self, now: Timestamp) -> Result<RoleSession> {
        let token = TokenRequest {
            method: Method::Put,
            header: Some(TOKEN_LIFETIME),
            ..self.request(TOKEN_PATH, None)
        };
        let token = token.send_for(&parse_token)?;
        let role = self.request(ROLE_PATH, Some(&token)).send_for(&parse_role)?;
        let path = format!("{ROLE_PATH}{role}");
        self.request(&path, Some(&token)).send_for(&|body| SessionAnswer::from_json(body).session(now))
    }

    fn request<'a>(&'a self, path: &'a str, token: Option<&'a Secret>) -> TokenRequest<'a> {
        TokenRequest {
            what: "an access key",
            secret_header: token.map(|token| (TOKEN_HEADER, token)),
            advice: &advice,
            ..TokenRequest::get(&self.agent, "the role of this machine", &self.server, path)
        }
    }
}

fn parse_token(body: &[u8]) -> Result<Secret, String> {
    let text = std::str::from_utf8(body).unwrap_or_default().trim();
    if is_token(text) { Ok(Secret::new(text)) } else { Err("its answer contains no token".to_owned()) }
}

/// Returns the name of the first role.
fn parse_role(body: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let name = text.lines().next().unwrap_or_default().trim();
    // The characters of a role's name ("IAM and AWS STS quotas").
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    let is_name = !name.is_empty() && name.chars().all(is_allowed);
    if is_name { Ok(name.to_owned()) } else { Err("its answer names no role".to_owned()) }
}

/// Returns advice about a status of the metadata service. Status 404 says that the machine has no role. Other clouds have
/// their metadata service at the same address, and refuse the path.
fn advice(status: Option<u16>) -> String {
    let advice = match status {
        None | Some(400 | 401 | 403 | 405) => {
            "only a machine in Amazon EC2 has such a role; elsewhere, set credentials-file or web-identity-token-file instead"
        }
        Some(200 | 404) => {
            "give this machine a role with `aws ec2 associate-iam-instance-profile --instance-id ID --iam-instance-profile \
             Name=PROFILE`"
        }
        Some(_) => "",
    };
    advice.to_owned()
}
