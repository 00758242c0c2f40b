//! Azure Blob Storage as a [`Service`]: requests with a signature, a SAS or a token, and errors as XML documents.

use super::credentials::{CredentialSource, Credentials};
use super::sign::{Unsigned, authorization};
use crate::store::cloud::http::{format_date, header};
use crate::store::cloud::server::{Server, encode_path, encode_query};
use crate::store::cloud::service::{Authorized, ErrorDocument, Request, Service};
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use ureq::http::HeaderMap;

/// The version of the protocol. Tokens need 2017-11-09 or a later one.
const VERSION: &str = "2020-10-02";

/// The access to one container.
#[derive(Debug)]
pub(super) struct AzureService {
    server: Server,
    account: String,
    /// The path of the container.
    container: String,
    source: CredentialSource,
}

/// The XML document of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AzureErrorDocument {
    code: String,
    message: String,
}

impl AzureService {
    /// Prepares access to the container at the path `container`.
    pub fn new(server: Server, account: &str, container: String, source: CredentialSource) -> Self {
        Self { server, account: account.to_owned(), container, source }
    }

    fn path(&self, key: &str) -> String {
        match key {
            "" => self.container.clone(),
            key => format!("{}/{}", self.container, encode_path(key)),
        }
    }
}

impl Service for AzureService {
    fn name(&self) -> &'static str {
        "Azure Blob Storage"
    }

    fn server(&self) -> String {
        self.server.url()
    }

    fn authorize(&self, request: &Request<'_>, now: Timestamp) -> Result<Authorized> {
        let path = self.path(request.key);
        let mut headers = request.headers.clone();
        headers.extend([("x-ms-version", VERSION.to_owned()), ("x-ms-date", format_date(now))]);
        let query = encode_query(&request.query);
        let query = match self.source.credentials(now)? {
            Credentials::Sas(token) if query.is_empty() => token.reveal().to_owned(),
            Credentials::Sas(token) => format!("{query}&{}", token.reveal()),
            Credentials::Token(token) => {
                headers.push(("authorization", format!("Bearer {}", token.reveal())));
                query
            }
            Credentials::Key(key) => {
                let unsigned = Unsigned {
                    method: request.method,
                    account: &self.account,
                    path: &path,
                    query: &request.query,
                    headers: &headers,
                    length: request.body.len(),
                };
                headers.push(("authorization", authorization(&unsigned, &key)?));
                query
            }
        };
        Ok(Authorized { url: self.server.url_of(&path, &query), headers })
    }

    fn discard_token(&self, sent: Timestamp) -> bool {
        match &self.source {
            CredentialSource::Identity(_, cache) => cache.discard(sent),
            CredentialSource::File(..) => false,
        }
    }

    fn parse_error(&self, headers: &HeaderMap, body: &[u8]) -> ErrorDocument {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}');
        let document: AzureErrorDocument = quick_xml::de::from_str(text).unwrap_or_default();
        let code = header(headers, "x-ms-error-code");
        // The server repeats the id and the time of the request in its message.
        let message = document.message.split("\nRequestId:").next().unwrap_or_default();
        ErrorDocument {
            code: if code.is_empty() { document.code } else { code.to_owned() },
            message: message.trim_end().trim_end_matches('.').to_owned(),
            request_id: header(headers, "x-ms-request-id").to_owned(),
            ..ErrorDocument::default()
        }
    }

    fn advice(&self, code: &str) -> &'static str {
        let has_identity = matches!(self.source, CredentialSource::Identity(..));
        match code {
            "AuthenticationFailed" | "InvalidAuthenticationInfo" if has_identity => {
                "the account does not accept the token of the identity: it must be in a subscription of the identity's tenant, \
                 and be reached over https"
            }
            "AuthorizationPermissionMismatch" if has_identity => {
                "give the identity the role Storage Blob Data Contributor on the container; a new role takes some minutes to \
                 apply"
            }
            "AuthenticationFailed" => {
                "the key is not one of this account, or the SAS has expired or was altered; write a valid one into its file"
            }
            "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "AuthorizationResourceTypeMismatch"
            | "AuthorizationServiceMismatch"
            | "InsufficientAccountPermissions" => {
                "the key must be one of this account, or the SAS must allow read, create, write, delete and list \
                 (sp=rcwdl) in this container; the account's network rules must allow this machine"
            }
            "KeyBasedAuthenticationNotPermitted" => {
                "the account does not allow keys: use managed-identity, federated-token-file, or sas-file with a user \
                 delegation SAS"
            }
            "ContainerNotFound" | "ContainerDisabled" => {
                "create the container, or correct account, container or endpoint"
            }
            "AccountIsDisabled" => "the account is disabled; ask the owner of the subscription",
            "ServerBusy" | "OperationTimedOut" => "the server is busy; try again later",
            "BlobArchived" | "BlobBeingRehydrated" => {
                "move the blob from the archive tier to a tier that can be read"
            }
            _ => "",
        }
    }
}
