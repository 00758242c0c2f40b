//! The role of a container in Amazon ECS or of a pod in Amazon EKS (EKS Pod Identity), with access keys from an endpoint on
//! the same machine.
//!
//! Source: "Container credential provider" in the AWS SDKs and Tools Reference Guide. It must never send the token of the
//! container to another machine without TLS.

use super::environment::ContainerVariables;
use super::role_session::{RoleSession, SessionAnswer};
use crate::error::Refusal;
use crate::store::cloud::http::login_agent;
use crate::store::cloud::metadata;
use crate::store::cloud::secret_file::read_token;
use crate::store::cloud::server::Server;
use crate::store::cloud::token_answer::is_token;
use crate::store::cloud::token_request::TokenRequest;
use crate::system::secret::Secret;
use anyhow::Result;
use jiff::Timestamp;
use ureq::Agent;

/// The endpoints without TLS that Amazon's tools accept in addition to loopback: that of Amazon ECS, and those of EKS Pod
/// Identity. They are link-local.
const LINK_LOCAL: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The role of this container.
#[derive(Debug)]
pub(super) struct ContainerRole {
    agent: Agent,
    /// The URL of the endpoint, without a path.
    server: String,
    /// The path at the endpoint. In Amazon ECS it is secret.
    path: Secret,
    variables: ContainerVariables,
}

impl ContainerRole {
    /// The role that the environment names.
    ///
    /// # Errors
    /// Refuses a URL that is not that of such an endpoint.
    pub fn new(variables: &ContainerVariables) -> Result<Self> {
        let (server, path) = parse_url(&variables.url)?;
        let agent = if server.is_tls() { login_agent(None, None, true)? } else { metadata::agent() };
        Ok(Self { agent, server: server.url(), path: Secret::new(path), variables: variables.clone() })
    }

    /// Requests an access key at `now`. The token of the container is read as it is now.
    ///
    /// # Errors
    /// Fails if the token cannot be read, and if the endpoint does not answer or refuses.
    pub fn session(&self, now: Timestamp) -> Result<RoleSession> {
        let token = self.token()?;
        TokenRequest {
            what: "an access key",
            secret_header: token.as_ref().map(|token| ("authorization", token)),
            advice: &advice,
            ..TokenRequest::get(&self.agent, "the role of this container", &self.server, self.path.reveal())
        }
        .send_for(&|body| SessionAnswer::from_json(body).session(now))
    }

    fn token(&self) -> Result<Option<Secret>, Refusal> {
        match (&self.variables.token_file, &self.variables.token) {
            (Some(file), _) => read_token(file, "the container authorization token file").map(Some),
            (None, Some(token)) if !is_token(token.reveal()) => Err(Refusal::new(
                "AWS_CONTAINER_AUTHORIZATION_TOKEN in the environment is not a token",
                "set AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE to a file with the token",
            )),
            (None, token) => Ok(token.clone()),
        }
    }
}

/// Splits a URL into the server and the path.
fn parse_url(url: &str) -> Result<(Server, String), Refusal> {
    let host = url.find("://").map_or(0, |at| at + 3);
    let at = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| host + at);
    let (server, path) = url.split_at_checked(at).unwrap_or((url, ""));
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let server = Server::parse(server, true).ok();
    let server = server.filter(|server| is_path && is_allowed(server)).ok_or_else(|| {
        Refusal::new(
            "the URL of the container's access keys in the environment is neither https nor on this machine",
            "correct AWS_CONTAINER_CREDENTIALS_FULL_URI, or set credentials-file in the destination",
        )
    })?;
    Ok((server, if path.is_empty() { "/".to_owned() } else { path.to_owned() }))
}

fn is_allowed(server: &Server) -> bool {
    let host = server.host();
    let is_link_local = LINK_LOCAL.iter().any(|allowed| {
        host.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    });
    server.is_tls() || server.is_loopback() || is_link_local
}

/// Returns advice about a status of the endpoint.
fn advice(status: Option<u16>) -> String {
    let advice = match status {
        None => "in Amazon EKS, the add-on eks-pod-identity-agent must run on this node",
        Some(400..500) => {
            "in Amazon EKS, the service account of the pod needs an association with a role \
             (`aws eks create-pod-identity-association`)"
        }
        Some(_) => "",
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_sent_only_over_tls_or_on_this_machine() {
        for (url, server, path) in [
            ("http://169.254.170.23/v1/credentials", "http://169.254.170.23", "/v1/credentials"),
            ("http://[fd00:ec2::23]/v1/credentials", "http://[fd00:ec2::23]", "/v1/credentials"),
            (
                "http://169.254.170.2/v2/credentials/0-1?id=2",
                "http://169.254.170.2",
                "/v2/credentials/0-1?id=2",
            ),
            ("http://localhost:8080/get-credentials", "http://localhost:8080", "/get-credentials"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "/"),
            ("https://keys.example/a", "https://keys.example", "/a"),
        ] {
            let (found, found_path) = parse_url(url).unwrap();
            assert_eq!((found.url().as_str(), found_path.as_str()), (server, path));
        }
        for url in [
            "http://10.0.0.1/canary",
            "http://169.254.170.2.evil.example/canary",
            "http://169.254.170.234/canary",
            "http://keys.example/canary",
            "ftp://127.0.0.1/canary",
            "/canary",
            "",
            "http://127.0.0.1/can ary",
        ] {
            let refusal = parse_url(url).unwrap_err().to_string();
            assert!(refusal.contains("neither https nor on this machine"), "{url}");
            assert!(!refusal.contains("ary"), "{refusal}");
        }
    }
}
