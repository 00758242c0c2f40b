//! Access tokens for Azure Storage: those of the managed identity of this machine, and those of an application or a managed
//! identity that trusts the tokens of this workload (workload identity).
//!
//! Sources: "How to use managed identities for Azure resources on an Azure VM to acquire an access token", and "Microsoft
//! identity platform and the OAuth 2.0 client credentials flow", third case: a federated credential.

use crate::store::cloud::access_token::AccessToken;
use crate::store::cloud::metadata::{self, MetadataServices};
use crate::store::cloud::secret_file::read_token;
use crate::store::cloud::server::{Server, encode_query};
use crate::store::cloud::token_request::{Form, Method, TokenRequest};
use anyhow::Result;
use jiff::Timestamp;
use std::path::PathBuf;
use ureq::Agent;

/// What a token is for: the storage accounts of every Azure cloud.
const RESOURCE: &str = "https://storage.azure.com/";
/// The same for the login server: all that the identity may do there.
const SCOPE: &str = "https://storage.azure.com/.default";
/// The kind of proof in a request to the login server (RFC 7523).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An application or a managed identity that trusts the tokens of this workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkloadIdentity {
    pub client_id: String,
    pub tenant_id: String,
    /// The file with the token of the workload. Kubernetes replaces it before the token ends.
    pub token_file: PathBuf,
    /// The login server.
    pub authority: Server,
}

/// An identity, and how its tokens are requested.
#[derive(Debug)]
pub(super) struct Identity {
    kind: Kind,
    agent: Agent,
    /// The URL of the service that gives out tokens.
    server: String,
}

#[derive(Debug)]
enum Kind {
    /// The identity of this machine, or the one of its identities with this client id.
    Managed(Option<String>),
    Workload(WorkloadIdentity),
}

impl Identity {
    /// The identity of this machine. If it has several, `client_id` selects one.
    pub fn managed(client_id: Option<String>, services: &MetadataServices) -> Self {
        Self { kind: Kind::Managed(client_id), agent: metadata::agent(), server: services.azure_url() }
    }

    /// The identity of this workload. `agent` reaches its login server.
    pub fn workload(identity: WorkloadIdentity, agent: Agent) -> Self {
        let server = identity.authority.url();
        Self { kind: Kind::Workload(identity), agent, server }
    }

    /// Requests a token at `now`.
    ///
    /// # Errors
    /// Fails if the service does not answer or refuses, and if the token of the workload cannot be read.
    pub fn token(&self, now: Timestamp) -> Result<AccessToken> {
        match &self.kind {
            Kind::Managed(client_id) => self.managed_token(client_id.as_deref(), now),
            Kind::Workload(identity) => self.workload_token(identity, now),
        }
    }

    fn managed_token(&self, client_id: Option<&str>, now: Timestamp) -> Result<AccessToken> {
        let mut query = vec![("api-version", "2018-02-01".to_owned()), ("resource", RESOURCE.to_owned())];
        query.extend(client_id.map(|id| ("client_id", id.to_owned())));
        let identity = match client_id {
            Some(id) => format!("the managed identity {id}"),
            None => "the managed identity of this machine".to_owned(),
        };
        let path = format!("/metadata/identity/oauth2/token?{}", encode_query(&query));
        TokenRequest {
            header: Some(("metadata", "true")),
            // The service may be being updated.
            is_busy: &|status, _| status == 404,
            advice: &|status| advice_for_managed(client_id, status),
            ..TokenRequest::get(&self.agent, &identity, &self.server, &path)
        }
        .send(now)
    }

    fn workload_token(&self, identity: &WorkloadIdentity, now: Timestamp) -> Result<AccessToken> {
        let WorkloadIdentity { client_id, tenant_id, .. } = identity;
        let assertion = read_token(&identity.token_file, "the federated token file")?;
        let (name, path) =
            (format!("the workload identity {client_id}"), format!("/{tenant_id}/oauth2/v2.0/token"));
        TokenRequest {
            method: Method::Post(Form {
                fields: &[
                    ("client_assertion_type", ASSERTION_TYPE),
                    ("client_id", client_id.as_str()),
                    ("grant_type", "client_credentials"),
                    ("scope", SCOPE),
                ],
                proof: ("client_assertion", &assertion),
            }),
            advice: &advice_for_workload,
            ..TokenRequest::get(&self.agent, &name, &self.server, &path)
        }
        .send(now)
    }
}

/// Returns advice about a status of the metadata service. Status 400 says that the machine has no such identity. Other
/// clouds have their metadata service at the same address, and refuse the path or demand a token of their own.
fn advice_for_managed(client_id: Option<&str>, status: Option<u16>) -> String {
    match (status, client_id) {
        (None | Some(401 | 403 | 404), _) => {
            "only a machine in Azure has a managed identity; elsewhere, set key-file, sas-file or \
                      federated-token-file instead"
                .to_owned()
        }
        (Some(400), Some(id)) => format!(
            "assign the identity to this machine with `az vm identity assign --resource-group GROUP --name MACHINE \
             --identities IDENTITY`, or correct client-id, which is {id}"
        ),
        (Some(400), None) => {
            "create the identity of this machine with `az vm identity assign --resource-group GROUP --name \
                              MACHINE`; if the machine has several, select one with client-id"
                .to_owned()
        }
        _ => String::new(),
    }
}

/// Returns advice about a status of the login server.
fn advice_for_workload(status: Option<u16>) -> String {
    match status {
        None => "this machine must reach the login server, which authority-host names".to_owned(),
        Some(400..500) => {
            "tenant-id and client-id must name an identity, and that identity needs a federated credential \
                           with the issuer, the subject and the audience of the token in federated-token-file"
                .to_owned()
        }
        Some(_) => String::new(),
    }
}
