//! Stand-ins for the services that know the identity of a machine or a workload, and for a storage service that accepts
//! their tokens. Azure and Google cannot be reached from the tests, so that the stand-ins answer as their documentation
//! describes; each names the page.

use crate::common::loopback::{Answer, Loopback, Received, answer};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The client id of the only identity that [`azure_metadata`] and [`login_server`] know.
pub const CLIENT_ID: &str = "6a9bfd9c-0000-4000-8000-0123456789ab";
/// The tenant that [`login_server`] knows.
pub const TENANT_ID: &str = "72f988bf-0000-4000-8000-0123456789ab";

/// Returns the `index`th token, or the last one.
fn pick<'a>(tokens: &'a [String], index: &AtomicUsize) -> &'a str {
    let index = index.fetch_add(1, Ordering::Relaxed);
    &tokens[index.min(tokens.len() - 1)]
}

fn owned(tokens: &[&str]) -> Vec<String> {
    assert!(!tokens.is_empty());
    tokens.iter().map(|token| (*token).to_owned()).collect()
}

/// Starts a stand-in for Azure's instance metadata service, which gives out these tokens, one after the other.
///
/// Source: "How to use managed identities for Azure resources on an Azure VM to acquire an access token". The text for an
/// unknown identity is the one that the service gives (troubleshooting guide of Azure's SDKs: status 400).
pub fn azure_metadata(tokens: &[&str]) -> Loopback {
    let (tokens, index) = (owned(tokens), AtomicUsize::new(0));
    Loopback::start(move |request| {
        let resource = "resource=https%3A%2F%2Fstorage.azure.com%2F";
        let path = "GET /metadata/identity/oauth2/token?";
        let selects = |line: &str| match line.split("client_id=").nth(1) {
            Some(id) => id.starts_with(CLIENT_ID),
            None => true,
        };
        match request.line.as_str() {
            _ if !request.has("metadata: true") => {
                refusal(400, "bad_request_102", "Required metadata header not specified")
            }
            line if !line.starts_with(path) || !line.contains("api-version=2018-02-01") => answer(404, ""),
            line if !line.contains(resource) => refusal(400, "invalid_resource", "AADSTS50001: not found"),
            line if !selects(line) => refusal(400, "invalid_request", "Identity not found"),
            _ => answer(
                200,
                format!(
                    "{{\"access_token\": \"{}\", \"refresh_token\": \"\", \"expires_in\": \"3599\", \"expires_on\": \
                     \"4102444800\", \"not_before\": \"1506480273\", \"resource\": \"https://storage.azure.com/\", \
                     \"token_type\": \"Bearer\"}}",
                    pick(&tokens, &index)
                ),
            ),
        }
    })
}

/// Starts a stand-in for Microsoft's login server, which gives out these tokens to the owner of the `assertion` that
/// `accepted` names.
///
/// Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow", third case.
pub fn login_server(tokens: &[&str], accepted: &'static str) -> Loopback {
    let (tokens, index) = (owned(tokens), AtomicUsize::new(0));
    Loopback::start(move |Received { line, body, .. }| {
        let has = |field: &str| body.split('&').any(|pair| pair == field);
        let type_is_right =
            has("client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
        if *line != format!("POST /{TENANT_ID}/oauth2/v2.0/token") {
            return refusal(400, "invalid_request", "AADSTS90002: Tenant not found. Trace ID: 1");
        }
        let scope = has("scope=https%3A%2F%2Fstorage.azure.com%2F.default");
        if !(type_is_right && scope && has("grant_type=client_credentials")) {
            return refusal(
                400,
                "invalid_request",
                "AADSTS900144: The request body is incomplete. Trace ID: 1",
            );
        }
        if !(has(&format!("client_id={CLIENT_ID}")) && has(&format!("client_assertion={accepted}"))) {
            let sent =
                body.split('&').find_map(|pair| pair.strip_prefix("client_assertion=")).unwrap_or_default();
            let words = format!(
                "AADSTS700213: No matching federated identity record found for presented assertion {sent}. Trace ID: 1"
            );
            return refusal(401, "invalid_client", &words);
        }
        let token = pick(&tokens, &index);
        answer(
            200,
            format!(
                "{{\"token_type\": \"Bearer\", \"expires_in\": 3599, \"ext_expires_in\": 3599, \"access_token\": \
                 \"{token}\"}}"
            ),
        )
    })
}

/// Starts a stand-in for Google's metadata server, which gives out these tokens, one after the other.
///
/// Source: "About VM metadata" and "Authenticate workloads to Google Cloud APIs using service accounts".
pub fn google_metadata(tokens: &[&str]) -> Loopback {
    let (tokens, index) = (owned(tokens), AtomicUsize::new(0));
    Loopback::start(move |request| {
        let flavor = "Metadata-Flavor: Google\r\n".to_owned();
        let path = "GET /computeMetadata/v1/instance/service-accounts/default/token";
        match request.line.as_str() {
            _ if !request.has("metadata-flavor: Google") => {
                Some((403, flavor, "<!DOCTYPE html><title>Error 403 (Forbidden)!!1</title>".to_owned()))
            }
            line if line != path => Some((404, flavor, String::new())),
            _ => {
                let token = pick(&tokens, &index);
                let body =
                    format!("{{\"access_token\":\"{token}\",\"expires_in\":3599,\"token_type\":\"Bearer\"}}");
                Some((200, flavor, body))
            }
        }
    })
}

/// Starts a stand-in for Azure Blob Storage: an empty container for requests with this token. Others are refused as an
/// ended token is.
///
/// Source: "List Blobs" and "Authorize with Microsoft Entra ID" in the documentation of Azure Storage.
pub fn azure_storage(token: &'static str) -> Loopback {
    storage(
        token,
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"backups\"><Blobs />\
         <NextMarker /></EnumerationResults>",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>InvalidAuthenticationInfo</Code><Message>Server failed to \
         authenticate the request. Please refer to the information in the www-authenticate header.\nRequestId:1</Message>\
         </Error>",
    )
}

/// Starts a stand-in for Google Cloud Storage: an empty bucket for requests with this token.
///
/// Source: "Objects: list" and "HTTP status and error codes for JSON" in the documentation of Cloud Storage.
pub fn google_storage(token: &'static str) -> Loopback {
    storage(
        token,
        "{\"kind\": \"storage#objects\"}",
        "{\"error\": {\"errors\": [{\"domain\": \"global\", \"reason\": \"authError\", \"message\": \"Invalid \
         Credentials\", \"locationType\": \"header\", \"location\": \"Authorization\"}], \"code\": 401, \"message\": \
         \"Invalid Credentials\"}}",
    )
}

fn storage(token: &'static str, list: &'static str, refusal: &'static str) -> Loopback {
    Loopback::start(move |request| match request.has(&format!("authorization: Bearer {token}")) {
        true => answer(200, list),
        false => answer(401, refusal),
    })
}

fn refusal(status: u16, error: &str, description: &str) -> Answer {
    answer(status, format!("{{\"error\":\"{error}\",\"error_description\":\"{description}\"}}"))
}
