//! The service account of this machine, with tokens from the metadata server: that of a virtual machine, or that of a
//! pod in a cluster with workload identity.
//!
//! Source: "Authenticate workloads to Google Cloud APIs using service accounts" in the documentation of Compute Engine.

use crate::store::cloud::access_token::AccessToken;
use crate::store::cloud::metadata::{self, MetadataServices};
use crate::store::cloud::token_request::TokenRequest;
use anyhow::Result;
use jiff::Timestamp;
use ureq::Agent;

/// The path of the token of the machine's own account.
const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// The header that a request must have, and that an answer of the metadata server has too.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

/// The service account of this machine.
#[derive(Debug)]
pub(super) struct InstanceServiceAccount {
    agent: Agent,
    /// The URL of the metadata server.
    server: String,
}

impl InstanceServiceAccount {
    /// The account that the metadata server knows.
    pub fn new(services: &MetadataServices) -> Self {
        Self { agent: metadata::agent(), server: services.google_url() }
    }

    /// Requests a token at `now`.
    ///
    /// # Errors
    /// Fails if the metadata server does not answer or refuses, or if another server answers.
    pub fn token(&self, now: Timestamp) -> Result<AccessToken> {
        let identity = "the service account of this machine";
        TokenRequest {
            header: Some(FLAVOR),
            answer_header: Some(FLAVOR),
            advice: &advice,
            ..TokenRequest::get(&self.agent, identity, &self.server, TOKEN_PATH)
        }
        .send(now)
    }
}

/// Returns advice about a status of the metadata server.
fn advice(status: Option<u16>) -> String {
    let advice = match status {
        None => {
            "only a machine in Google Cloud has a metadata server; elsewhere, set credentials-file instead"
        }
        Some(404) => {
            "stop this machine, and give it a service account with `gcloud compute instances set-service-account MACHINE \
             --service-account EMAIL --scopes cloud-platform`"
        }
        Some(403) => {
            "in a cluster with workload identity, the Kubernetes service account needs the role Workload Identity User \
             (roles/iam.workloadIdentityUser) on the Google service account"
        }
        Some(_) => "",
    };
    advice.to_owned()
}
